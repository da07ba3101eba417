"""The commands that look over all executions: ls, usage, search, sql."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from events.errors import InvalidInput
from gateway.exits import told
from gateway.flags import Data, Json, Nats, loaded, place_of

if TYPE_CHECKING:
    from gateway.overview import Where

app = typer.Typer(rich_markup_mode=None)


def _text(flag: str, metavar: str, about: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=about)


Only = Annotated[str | None, _text("--user", "NAME", "Only this user's.")]
Agent = Annotated[str | None, _text("--agent", "NAME", "Only of this agent type.")]
Model = Annotated[str | None, _text("--model", "NAME", "Only on this model.")]
Since = Annotated[
    str | None,
    _text("--since", "TIME", "From then on: 2h, 7d, or 2026-12-01T09:00+01:00."),
]
Until = Annotated[str | None, _text("--until", "TIME", "Before then.")]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many.")
]
After = Annotated[
    str | None, _text("--after", "CURSOR", "Go on where another call ended.")
]


@app.command()
def ls(
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", metavar="STATUS", help="Only these; may be given several times."
        ),
    ] = None,
    user: Only = None,
    agent: Agent = None,
    model: Model = None,
    lane: Annotated[str | None, _text("--lane", "NAME", "Only of this lane.")] = None,
    parent: Annotated[
        str | None, _text("--parent", "ID", "Only the subagents of this one.")
    ] = None,
    error: Annotated[
        str | None, _text("--error", "CODE", "Only what failed by this.")
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option(
            "--meta",
            metavar="KEY=VALUE",
            help="Only with this metadata; may be given several times.",
        ),
    ] = None,
    text: Annotated[
        str | None, _text("--text", "TEXT", "Only with this in prompt or result.")
    ] = None,
    since: Annotated[
        str | None,
        _text("--since", "TIME", "Created then or later: 2h, 7d, or a date."),
    ] = None,
    until: Annotated[
        str | None, _text("--until", "TIME", "Created before then.")
    ] = None,
    updated_since: Annotated[
        str | None, _text("--updated-since", "TIME", "Last changed then or later.")
    ] = None,
    updated_until: Annotated[
        str | None, _text("--updated-until", "TIME", "Last changed before then.")
    ] = None,
    sort: Annotated[
        str | None,
        _text(
            "--sort",
            "BY",
            "created_at, updated_at, completed_at, steps, tokens or cost.  "
            "[created_at]",
        ),
    ] = None,
    *,
    asc: Annotated[
        bool, typer.Option("--asc", help="The smallest or oldest first.")
    ] = False,
    limit: Limit = None,
    after: After = None,
    count: Annotated[
        bool, typer.Option("--count", help="Only how many, by status.")
    ] = False,
    active: Annotated[
        bool, typer.Option("--active", help="Only how many are under way, by user.")
    ] = False,
    stuck: Annotated[
        bool, typer.Option("--stuck", help="What should have moved on, and why.")
    ] = False,
    awaiting: Annotated[
        str | None,
        _text("--awaiting", "TYPE", "What waits for this event type; all: for any."),
    ] = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """List the executions, newest first; of those that failed, why.

    Where a service runs its projector answers, up to date; otherwise the log is
    read, or with other flags than --status the read model in the data folder is
    brought up to date first. With --limit it says how to go on.

    \b
    Examples:
      wake ls
      wake ls --status failed --status cancelled --since 1d
      wake ls --meta ticket=4711 --sort cost --limit 20
      wake ls --count --user ada
      wake ls --stuck
      wake ls --awaiting ci.done
      wake ls --json | head -1
    """
    with told(as_json=as_json):
        from gateway import overview  # noqa: PLC0415 - not for --help
        from gateway.asked import Filters  # noqa: PLC0415 - not for --help

        filters = Filters(
            status=status or (),
            user=user,
            agent=agent,
            model=model,
            lane=lane,
            parent=parent,
            error=error,
            meta=meta or (),
            text=text,
            since=since,
            until=until,
            updated_since=updated_since,
            updated_until=updated_until,
            sort=sort,
            asc=asc,
            after=after,
        )
        where = _where(data, nats, limit, as_json=as_json)
        asked = filters.instead(
            count=count, active=active, stuck=stuck, awaiting=awaiting
        )
        if asked is None:
            overview.ls(where, filters)
        else:
            overview.show(where, *asked)


@app.command()
def usage(
    by: Annotated[
        str,
        _text("--by", "WHAT", "day, user, agent, model; several with commas."),
    ] = "day",
    user: Only = None,
    agent: Agent = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    *,
    limit: Limit = None,
    after: After = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Sum up what models were asked and what it cost, by day or otherwise.

    Days are those of UTC. Where a service runs its projector answers.

    \b
    Examples:
      wake usage
      wake usage --by user,model --since 30d
      wake usage --by day --user ada --json
    """
    with told(as_json=as_json):
        from gateway import overview, shown  # noqa: PLC0415 - not for --help
        from gateway.asked import grouped, made, when  # noqa: PLC0415 - not for --help
        from projections.queries import UsageRequest  # noqa: PLC0415 - not for --help

        names = grouped(by)
        request = made(
            UsageRequest,
            by=names,
            user=user,
            agent=agent,
            model=model,
            cursor=after,
            **{"from": when(since, "--since"), "to": when(until, "--until")},
        )
        where = _where(data, nats, limit, as_json=as_json)
        overview.show(where, "usage", request, shown.usage_by(names))


@app.command()
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="In any case.")],
    where_: Annotated[
        list[str] | None,
        typer.Option(
            "--in",
            metavar="WHERE",
            help="input, output or log; may be given several times.  [all]",
        ),
    ] = None,
    level: Annotated[
        str | None, _text("--level", "LEVEL", "Log lines of this level and above.")
    ] = None,
    user: Only = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    after: After = None,
    data: Data = None,
    nats: Nats = None,
    *,
    as_json: Json = False,
) -> None:
    """Find a text in prompts, results and log lines, the newest first.

    Of prompts and results their first 4,000 characters are searched. Where a
    service runs its projector answers.

    \b
    Examples:
      wake search "connection refused"
      wake search ticket-4711 --in input --in output
      wake search denied --in log --level warning --since 1d
    """
    with told(as_json=as_json):
        from gateway import overview, shown  # noqa: PLC0415 - not for --help
        from gateway.asked import made, when  # noqa: PLC0415 - not for --help
        from projections.queries import SearchRequest  # noqa: PLC0415 - not for --help

        request = made(
            SearchRequest,
            text=text,
            kinds=tuple(where_) if where_ else None,
            level=level,
            user=user,
            cursor=after,
            **{"from": when(since, "--since"), "to": when(until, "--until")},
        )
        where = _where(data, nats, limit, as_json=as_json)
        overview.show(where, "search", request, shown.FOUND)


@app.command()
def sql(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="One SELECT; - reads it from stdin.")
    ],
    *,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="At most so many rows.")
    ] = 1_000,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds it may take.")
    ] = 30.0,
    form: Annotated[
        str | None,
        _text("--format", "FORMAT", "table, json (a line each), csv or parquet."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write a file.  [stdout]"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file that is there.")
    ] = False,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Ask the read model by SQL (DuckDB's); nothing can be changed by it.

    Tables and views are described in docs/read-model.md. A file's name says its
    format, if --format does not. Where a service runs its projector answers.

    \b
    Examples:
      wake sql "SELECT status, count(*) FROM executions GROUP BY ALL"
      wake sql "FROM usage ORDER BY day" --format csv
      wake sql "FROM steps" --limit 1000000 --output steps.parquet
      wake sql - --json < question.sql
    """
    with told(as_json=as_json):
        from gateway import sql as asking  # noqa: PLC0415 - not for --help

        if as_json and form not in {None, "json"}:
            raise InvalidInput(f"--json and --format {form}: give one of them")
        settings = loaded(data=data).settings
        asking.sql(
            place_of(data, nats),
            settings,
            sys.stdin.read() if query == "-" else query,
            limit=limit,
            timeout=timeout,
            kind="json" if as_json else form,
            output=output,
            force=force,
        )


def _where(
    data: Path | None, nats: str | None, limit: int | None, *, as_json: bool
) -> "Where":
    from gateway.overview import Where  # noqa: PLC0415 - not for --help

    settings = loaded(data=data).settings
    return Where(place_of(data, nats), settings, limit, as_json)

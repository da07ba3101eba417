"""The commands about recurring starts: schedule add, ls, rm, pause, resume."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.exits import told
from gateway.flags import Data, Json, Nats, User, place_of

if TYPE_CHECKING:
    from services.requests import Answer

app = typer.Typer(
    help="Recurring starts: by cron expression or by interval.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")]


@app.command()
def add(
    name: Name,
    prompt: Annotated[str, typer.Argument(help="What the agent is to do each time.")],
    *,
    cron: Annotated[
        str | None,
        typer.Option(metavar="EXPR", help='Cron expression, as "0 9 * * 1-5".'),
    ] = None,
    tz: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="Time zone of --cron.  [UTC]"),
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Interval: 90s, 15m, 2h, 1d.")
    ] = None,
    overlap: Annotated[
        str,
        typer.Option(
            metavar="POLICY", help="If the run before goes on: skip, queue, parallel."
        ),
    ] = "skip",
    missed: Annotated[
        str,
        typer.Option(
            metavar="POLICY", help="If nobody served when it was due: once, skip."
        ),
    ] = "once",
    agent: Annotated[
        str, typer.Option(metavar="NAME", help="Agent type.")
    ] = "explorer",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model.  [the agent's]")
    ] = None,
    workspace: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Directory, one that the service allows."),
    ] = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Let a start recur; prints when the first run is.

    \b
    Examples:
      wake schedule add report "Report." --cron "0 9 * * 1-5" --tz Europe/Berlin
      wake schedule add watch "Look at the queue." --every 15m --overlap queue
    """
    with told(as_json=as_json):
        from events.names import check_id  # noqa: PLC0415 - see commanding
        from gateway import commanding, sending, times  # noqa: PLC0415 - see commanding

        check_id(name, "schedule")
        start = {
            "agent_type": agent,
            "input": prompt,
            "model": model,
            "workspace": commanding.absolute(workspace),
        }
        body = {
            "start": commanding.filled(start),
            "cron": cron,
            "every": None if every is None else int(times.seconds_of(every, "--every")),
            "time_zone": tz,
            "overlap": overlap,
            "missed": missed,
        }
        sent = commanding.filled(body)
        answer = sending.send(place_of(data, nats), user, name, "schedule", sent)
        _print(answer, as_json=as_json)


def _switch(
    verb: str, name: str, data: Any, nats: str | None, user: str, *, as_json: bool
) -> None:
    with told(as_json=as_json):
        from events.names import check_id  # noqa: PLC0415 - see commanding
        from gateway import sending  # noqa: PLC0415 - see commanding

        check_id(name, "schedule")
        answer = sending.send(place_of(data, nats), user, name, verb, {})
        _print(answer, as_json=as_json)


@app.command()
def rm(
    name: Name,
    *,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Remove a schedule; what it started goes on.

    \b
    Example:
      wake schedule rm report
    """
    _switch("unschedule", name, data, nats, user, as_json=as_json)


@app.command()
def pause(
    name: Name,
    *,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Let a schedule rest; times that pass meanwhile are not made up for.

    \b
    Example:
      wake schedule pause report
    """
    _switch("pause_schedule", name, data, nats, user, as_json=as_json)


@app.command()
def resume(
    name: Name,
    *,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Let a schedule go on with the next time to come.

    \b
    Example:
      wake schedule resume report
    """
    _switch("resume_schedule", name, data, nats, user, as_json=as_json)


@app.command()
def ls(
    *,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this user's.  [all]")
    ] = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """List the schedules: when they are due, and what became of the last time.

    \b
    Examples:
      wake schedule ls
      wake schedule ls --json
    """
    with told(as_json=as_json):
        from gateway import timetable  # noqa: PLC0415 - see commanding

        timetable.show(place_of(data, nats), user, as_json=as_json)


def _print(answer: "Answer", *, as_json: bool) -> None:
    from gateway.output import put, put_json  # noqa: PLC0415 - see commanding
    from gateway.wording import moment  # noqa: PLC0415 - see commanding

    if as_json:
        put_json(answer)
        return
    then = f", next run {moment(answer.next)}" if answer.next else ""
    put(f"{answer.execution} is {answer.status}{then}")

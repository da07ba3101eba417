"""The command line: ``wake``. What a command does is imported when it is called."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway import (
    accounting,
    commanding,
    looking,
    modelling,
    operating,
    scheduling,
    serving,
)
from gateway.exits import HELP, told
from gateway.flags import Data, Id, Json, Nats, User, place_of
from gateway.output import put, whole

if TYPE_CHECKING:
    from gateway.running import Display

app = typer.Typer(
    name="wake",
    help="Durable AI agents on NATS JetStream: every step in a log.",
    epilog=HELP,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(commanding.app)
app.add_typer(serving.app)
app.add_typer(operating.app)
app.add_typer(looking.app)
app.add_typer(modelling.app)
app.add_typer(scheduling.app, name="schedule")
app.add_typer(accounting.app)
app.add_typer(accounting.users, name="user")


def _show_version(asked: bool) -> None:  # noqa: FBT001 - typer's callback
    if asked:
        from importlib.metadata import (  # noqa: PLC0415 - only when asked
            PackageNotFoundError,
            version,
        )

        with told(as_json=False):
            try:
                put(f"wake {version('wakestream')}")
            except PackageNotFoundError:
                put("wake (not installed)")
        raise typer.Exit


@app.callback()
def _wake(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and end.",
        ),
    ] = False,
) -> None:
    del version  # its callback did the work


@app.command(epilog=HELP)
def run(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What the agent is to do; - reads it from stdin."),
    ] = None,
    *,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="ID", help="Go on with this execution."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Agent type.  [explorer]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model, as openai:NAME.  [the agent's]"),
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory the agent works in.  [.]"),
    ] = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Run an agent, or go on with one, and watch it.

    Ctrl-C cancels it in order, a second one kills it; SIGTERM leaves it to be
    resumed. With --json the progress goes to stderr, and the last line of stdout
    is one object: id, status, output, steps, tokens, finish_reason, cost, asks, error.

    \b
    Examples:
      wake run "Explore this repository and report what it is."
      wake run "Fix the failing test." --agent coder --model anthropic:NAME
      wake run - --json < prompt.txt
      wake run --resume 0193d5a0-7a5c-7000-8000-0123456789ab
    """
    with told(as_json=as_json):
        from gateway import orders, running  # noqa: PLC0415 - they import a lot

        place = place_of(data, nats)
        order = orders.ordered(
            _typed(prompt),
            resume=resume,
            agent=agent,
            model=model,
            workspace=workspace,
            user=user,
        )
        if resume is not None:
            place.check()
        code = running.run(order, place, _display(as_json=as_json), as_json=as_json)
    raise typer.Exit(int(code))


@app.command()
def show(
    execution: Id,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="WHEN",
            help="As it was at this version, or at a time: 2026-12-01T09:00+01:00.",
        ),
    ] = None,
    data: Data = None,
    nats: Nats = None,
    *,
    as_json: Json = False,
) -> None:
    """Show an execution as it is, or as it was.

    \b
    Examples:
      wake show 0193d5a0-7a5c-7000-8000-0123456789ab
      wake show 0193d5a0-7a5c-7000-8000-0123456789ab --at 3 --json
      wake show 0193d5a0-7a5c-7000-8000-0123456789ab --at 2026-12-01T09:00+01:00
    """
    with told(as_json=as_json):
        from gateway import reading  # noqa: PLC0415 - see run

        reading.show(place_of(data, nats), execution, at=at, as_json=as_json)


@app.command()
def watch(
    execution: Id, *, data: Data = None, nats: Nats = None, as_json: Json = False
) -> None:
    """Watch an execution that a service works on, live, until it ends.

    Ctrl-C ends the watching, not the execution. The exit code is that of the
    execution.

    \b
    Example:
      wake watch 0193d5a0-7a5c-7000-8000-0123456789ab
    """
    with told(as_json=as_json):
        from gateway import watching  # noqa: PLC0415 - see run

        place, display = place_of(data, nats), _display(as_json=as_json)
        code = watching.watch(place, execution, display, as_json=as_json)
    raise typer.Exit(int(code))


@app.command()
def events(
    execution: Id,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as it grows, until it ends.")
    ] = False,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show the history of an execution, a line for each commit.

    With --json each line is a commit exactly as it is stored.

    \b
    Examples:
      wake events 0193d5a0-7a5c-7000-8000-0123456789ab
      wake events 0193d5a0-7a5c-7000-8000-0123456789ab --json | tail -1
      wake events 0193d5a0-7a5c-7000-8000-0123456789ab --follow
    """
    with told(as_json=as_json):
        from gateway import reading  # noqa: PLC0415 - see run

        reading.events(place_of(data, nats), execution, follow=follow, as_json=as_json)


@app.command()
def logs(
    execution: Id,
    *,
    after: Annotated[
        int, typer.Option(metavar="N", min=0, help="Only lines with a larger id.")
    ] = 0,
    level: Annotated[
        str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = "debug",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as they are written.")
    ] = False,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show the log lines of an execution, this level and above.

    Each line has an id that grows; --after goes on where another call ended.

    \b
    Examples:
      wake logs 0193d5a0-7a5c-7000-8000-0123456789ab
      wake logs 0193d5a0-7a5c-7000-8000-0123456789ab --level warning --follow
    """
    with told(as_json=as_json):
        from gateway import lines  # noqa: PLC0415 - see run

        lines.logs(
            place_of(data, nats),
            execution,
            after=after,
            level=level,
            follow=follow,
            as_json=as_json,
        )


def _typed(prompt: str | None) -> str | None:
    """The prompt, or what stdin has for it."""
    if prompt != "-":
        return prompt
    return sys.stdin.buffer.read().decode(errors="surrogateescape")


def _display(*, as_json: bool) -> "Display":
    """Live in a terminal that can do it, else plain lines."""
    from gateway.plain import PlainDisplay  # noqa: PLC0415 - see run

    if as_json:
        return PlainDisplay(sys.stderr, result=False)
    if not sys.stdout.isatty() or os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return PlainDisplay()
    from gateway.display import TerminalDisplay  # noqa: PLC0415 - imports rich

    return TerminalDisplay()


def main(arguments: list[str] | None = None) -> None:
    """The console script ``wake``; always ends with SystemExit."""
    sys.stdout, sys.stderr = whole(sys.stdout), whole(sys.stderr)
    app(arguments, prog_name="wake")


if __name__ == "__main__":
    main()

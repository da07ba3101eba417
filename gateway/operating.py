"""The commands for whoever operates it: runners, recover, cleanup."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.exits import told
from gateway.flags import Config, Data, Json, Nats, loaded, place_of

app = typer.Typer(rich_markup_mode=None)


@app.command()
def runners(data: Data = None, nats: Nats = None, *, as_json: Json = False) -> None:
    """Show the runners that are there, and what each of them works on.

    They say so once a second; this listens for a little longer than that.

    \b
    Examples:
      wake runners
      wake runners --json
    """
    with told(as_json=as_json):
        from gateway import roll  # noqa: PLC0415 - imports what it needs

        roll.show(place_of(data, nats), as_json=as_json)


@app.command()
def recover(
    *,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", metavar="TIME", help="Silent for so long: 90s, 30m, 2h, 1d."
        ),
    ] = "30m",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be put back.")
    ] = False,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Put back what says that it is running and what nobody works on.

    In a healthy service there is nothing to find: runners that are gone are
    noticed by themselves. Work that waits for a free runner is not stuck.

    \b
    Examples:
      wake recover --dry-run
      wake recover --older-than 2h
    """
    with told(as_json=as_json):
        from gateway import roll, times  # noqa: PLC0415 - see runners

        seconds = times.seconds_of(older_than, "--older-than")
        roll.recover(place_of(data, nats), seconds, dry_run=dry_run, as_json=as_json)


@app.command()
def cleanup(
    *,
    days: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=36_500, help="Ended so long ago.  [30]"),
    ] = None,
    logs_days: Annotated[
        int | None,
        typer.Option(
            "--logs-days",
            metavar="N",
            min=0,
            max=36_500,
            help="Also delete log lines older than this.",
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep each history as a file there first."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    config: Config = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Delete executions that ended long ago, with all that belongs to them.

    History, log lines and the workspace, unless it was named at the start. What
    has not ended is never touched, nor a family of which one has not. It can be
    interrupted at any time: the next one goes on. Exit code 1 if something could
    not be deleted.

    \b
    Examples:
      wake cleanup --dry-run
      wake cleanup --days 7 --archive /var/backups/wake
    """
    with told(as_json=as_json):
        settings = loaded(data=data, config=config).settings
        from gateway import cleaning  # noqa: PLC0415 - see runners

        wanted = cleaning.Wanted(
            days=days, logs_days=logs_days, archive=archive, dry_run=dry_run
        )
        code = cleaning.clean(settings, nats, wanted, as_json=as_json)
    raise typer.Exit(int(code))

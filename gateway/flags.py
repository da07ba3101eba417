"""Flags that several commands have, and the place in the log that they lead to."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.composition import Place
    from gateway.configuration import Loaded
    from gateway.settings import Settings

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the log.  [.wake]"),
]
Nats = Annotated[
    str | None,
    typer.Option(
        "--nats",
        metavar="URL",
        help="Use this nats-server (nats://[USER:PASSWORD@]HOST:PORT; or WAKE_NATS) "
        "instead of one of its own on the data folder.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration (or WAKE_CONFIG).  [wakestream.toml]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON on stdout.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the execution.")]
User = Annotated[
    str, typer.Option(metavar="NAME", envvar="WAKE_USER", help="On whose behalf.")
]


def loaded(**flags: object) -> "Loaded":
    """Load what is in force; flags by their dotted names, dots as ``__``."""
    from gateway.configuration import load  # noqa: PLC0415 - not for --help

    given = {name.replace("__", "."): value for name, value in flags.items()}
    return load(given, os.environ, Path())


def place_of(data: Path | None, nats: str | None) -> "Place":
    """Say where the log is, by the flags and what is configured."""
    settings = loaded(data=data).settings
    return place_in(settings, nats, settings.nats.login)


def place_in(
    settings: "Settings",
    nats: str | None,
    login: tuple[str, str] | tuple[None, None],
) -> "Place":
    """Say where the log is, and as whom it is entered where that is configured."""
    from gateway.composition import Place  # noqa: PLC0415 - not for --help

    if nats is not None:
        return Place(settings.data, nats)
    url = settings.nats.url
    return Place(settings.data, None if url is None else str(url), login)

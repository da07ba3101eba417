"""The commands that serve: up, service; and what goes with it: token, config."""

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.exits import told
from gateway.flags import Config, Data, Json, Nats, User, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.parts import Name
    from gateway.settings import Settings
    from gateway.up import Started

app = typer.Typer(rich_markup_mode=None)

Lanes = Annotated[
    str | None,
    typer.Option("--lanes", metavar="LANES", help="Lanes to take from, with commas."),
]
Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", metavar="N", help="Executions worked on at once."),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit", metavar="S", help="End in order after so long.  [none]"
    ),
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        "--memory-limit",
        metavar="MIB",
        help="End in order when it is so large.  [none]",
    ),
]

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="N",
        min=0,
        max=65535,
        help="Serve HTTP there; 0 is any that is free.  [no HTTP]",
    ),
]
Host = Annotated[
    str | None,
    typer.Option("--host", metavar="HOST", help="Address to listen on.  [127.0.0.1]"),
]


@app.command()
def up(
    *,
    port: Port = None,
    host: Host = None,
    concurrency: Concurrency = None,
    time_limit: TimeLimit = None,
    memory_limit: MemoryLimit = None,
    config: Config = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Serve everything in one process, on a nats-server of its own or on --nats.

    Commands find it by the data folder. Ctrl-C and SIGTERM end it in order: what
    is in hand is seen to its next commit or given back; nothing is lost.

    \b
    Examples:
      wake up
      wake up --port 8787
      wake up --data /var/lib/wakestream
      wake up --nats nats://wake:PASSWORD@10.0.0.1:4222
    """
    with told(as_json=as_json):
        flags = {"data": data, "nats__url": nats, "config": config}
        limits = _limits(time_limit, memory_limit)
        options = {"runner__concurrency": concurrency, **_listen(host, port)}
        settings = loaded(**flags, **limits, **options).settings
        from gateway.up import everything, workspaces_here  # noqa: PLC0415 - all of it

        _serve(workspaces_here(settings), everything(settings), as_json=as_json)


@app.command()
def service(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="lifecycle, reactor, runner, projector, gateway.",
        ),
    ],
    *,
    port: Port = None,
    host: Host = None,
    lanes: Lanes = None,
    concurrency: Concurrency = None,
    time_limit: TimeLimit = None,
    memory_limit: MemoryLimit = None,
    config: Config = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Serve single services on a nats-server, for systemd and containers.

    Told to end (SIGTERM, Ctrl-C) or at a limit, it takes nothing new, sees what is in
    hand to its next commit or gives it back, and ends with 0.

    \b
    Examples:
      wake service lifecycle --nats nats://10.0.0.1:4222
      wake service runner --nats nats://10.0.0.1:4222 --lanes agents_long
      wake service runner --nats URL --concurrency 16 --time-limit 86400
      wake service gateway --nats URL --port 8787
    """
    with told(as_json=as_json):
        flags = {"data": data, "nats__url": nats, "config": config}
        options: dict[str, object] = {"runner__concurrency": concurrency}
        options |= {"runner__lanes": lanes, **_listen(host, port)}
        limits = _limits(time_limit, memory_limit)
        settings = loaded(**flags, **options, **limits).settings
        from gateway.up import checked  # noqa: PLC0415 - all it serves

        _serve(settings, checked(names, settings), as_json=as_json)


@app.command()
def token(
    *,
    user: User = "local",
    tier: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tier of the user.  [free]")
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="NAME", help="As admin; may be given again."),
    ] = None,
    lifetime: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long: 90s, 30m, 12h, 30d.")
    ] = "12h",
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Print a token for the gateway on this data folder, for development.

    It is signed with the gateway's secret: whoever can read that can be anybody.

    \b
    Examples:
      wake token --user ada --tier pro
      wake token --user root --role admin --for 10m
      curl -H "Authorization: Bearer $(wake token)" http://127.0.0.1:8787/api/agents
    """
    with told(as_json=as_json):
        from datetime import timedelta  # noqa: PLC0415 - not for --help

        from gateway import minting, times  # noqa: PLC0415 - not for --help

        long = timedelta(seconds=times.seconds_of(lifetime, "--for"))
        settings = loaded(data=data, config=config).settings
        minting.mint(settings, user, tier, roles or (), long, as_json=as_json)


@app.command("config")
def show_config(
    *,
    config: Config = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show what is configured, and where each value comes from.

    \b
    Examples:
      wake config
      wake config --config /etc/wakestream.toml --json
    """
    with told(as_json=as_json):
        from gateway.configuration import describe  # noqa: PLC0415 - not for --help
        from gateway.output import put  # noqa: PLC0415 - not for --help

        put(describe(loaded(data=data, nats__url=nats, config=config), as_json=as_json))


def _listen(host: str | None, port: int | None) -> dict[str, object]:
    """Say where to listen, by what was given of it; raises InvalidInput."""
    from events.errors import InvalidInput  # noqa: PLC0415 - not for --help

    if port is None:
        if host is not None:
            raise InvalidInput("--host goes with --port: name both")
        return {}
    if host is None:
        return {"gateway__listen": str(port)}
    return {"gateway__listen": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}


def _limits(seconds: float | None, mebibytes: int | None) -> dict[str, object]:
    return {"process__time_limit": seconds, "process__memory_limit": mebibytes}


def _serve(settings: "Settings", names: "tuple[Name, ...]", *, as_json: bool) -> None:
    import uvloop  # noqa: PLC0415 - not for --help

    from gateway import address  # noqa: PLC0415 - not for --help
    from gateway.composition import (  # noqa: PLC0415 - see up
        BRIEFLY,
        PATIENCE,
        Place,
        own_folder,
    )
    from gateway.up import Services  # noqa: PLC0415 - see up
    from services.telemetry import (  # noqa: PLC0415 - see up
        configure_logs,
        configure_traces,
        shutdown,
    )

    name = "wakestream" if len(names) > 1 else f"wakestream-{names[0]}"
    logs = settings.logs
    configure_logs(level=logs.level, as_json=logs.format == "json")
    configure_traces(settings.telemetry.otlp_endpoint, name)
    url = settings.nats.url
    place = Place(settings.data, None if url is None else str(url))
    # One that serves goes on doing so; one that is about to end is waited for.
    wait = BRIEFLY if address.read(settings.data) else PATIENCE
    try:
        with own_folder(place, wait=wait) as folder:
            started = _announced(settings, as_json=as_json)
            uvloop.run(Services(settings, names, started).run(folder))
    finally:
        shutdown()  # sends the last traces


def _announced(settings: "Settings", *, as_json: bool) -> "Callable[[Started], None]":
    """Say that it serves: to a person a few lines, to a program one object."""
    from gateway.output import put, put_json  # noqa: PLC0415 - not for --help
    from gateway.settings import public  # noqa: PLC0415 - not for --help

    def announce(started: "Started") -> None:
        url, keys = public(started.login.url), [str(key) for key in started.put_back]
        if as_json:
            told = {"listening": url, "data": str(settings.data), "put_back": keys}
            put_json({**told, "http": started.url} if started.url else told)
            return
        put(f"serving on {url}, data in {settings.data}; Ctrl-C ends it")
        if started.url:
            put(f"HTTP on {started.url}; a token for it: wake token --user NAME")
        if keys:
            put(f"put back what a dead process held: {', '.join(keys)}")
        if started.lacking:
            put(f"bash is not offered: {started.lacking}")
        put('try: wake start "Explore this directory." --workspace .')

    return announce

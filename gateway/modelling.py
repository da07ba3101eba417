"""The commands for the read model: rebuild, verify."""

from typing import Annotated

import typer

from events.errors import InvalidInput
from gateway.exits import told
from gateway.flags import Config, Data, Json, Nats, loaded

app = typer.Typer(rich_markup_mode=None)


@app.command()
def rebuild(
    config: Config = None,
    data: Data = None,
    nats: Nats = None,
    *,
    as_json: Json = False,
) -> None:
    """Build the read model anew from the log, beside the old one, and replace it.

    That also helps when its file is damaged: nothing is in it that is not in the
    log. A service goes on meanwhile, and answers from the old one.

    \b
    Examples:
      wake rebuild
      wake rebuild --data /var/lib/wakestream
    """
    with told(as_json=as_json):
        from gateway import viewing  # noqa: PLC0415 - imports what it needs

        settings = loaded(data=data, nats__url=nats, config=config).settings
        viewing.rebuild(settings, as_json=as_json)


@app.command()
def verify(
    *,
    read_model: Annotated[
        bool, typer.Option("--read-model", help="Every row against the log.")
    ] = False,
    config: Config = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Fold the log anew and compare every row of the read model with it.

    Names the first differences and ends with 1 if there are any; 0 if there are
    none.

    \b
    Examples:
      wake verify --read-model
      wake verify --read-model --json
    """
    with told(as_json=as_json):
        from gateway import viewing  # noqa: PLC0415 - imports what it needs

        if not read_model:
            raise InvalidInput("say what is to be verified: --read-model")
        settings = loaded(data=data, nats__url=nats, config=config).settings
        good = viewing.check(settings, as_json=as_json)
    raise typer.Exit(0 if good else 1)

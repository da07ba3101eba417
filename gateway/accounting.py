"""The commands about what users may start: limits; user set, ls, rm."""

from typing import Annotated

import typer

from gateway.exits import told
from gateway.flags import Config, Data, Json, Nats, User, loaded, place_in

app = typer.Typer(rich_markup_mode=None)
users = typer.Typer(
    help="Accounts: tier and roles of users who come without a token.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="USER", help="Who.")]


@app.command()
def limits(
    *,
    user: User = "local",
    config: Config = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show how far a user's limits are used, as the log has it now.

    Of which tier the user is, the account says (wake user), or the last token that
    the gateway saw, or limits.default_tier; a token may name another.

    \b
    Examples:
      wake limits
      wake limits --user alice --json
    """
    with told(as_json=as_json):
        settings = loaded(data=data, config=config).settings
        from gateway import rations  # noqa: PLC0415 - imports what it needs

        place = place_in(settings, nats, settings.nats.login)
        rations.limits(place, settings, user, as_json=as_json)


@users.command("set")
def set_user(
    user: Name,
    *,
    tier: Annotated[
        str | None,
        typer.Option(metavar="TIER", help="free, pro or enterprise.  [as it was]"),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE", help="As admin; may be given several times.  [as it was]"
        ),
    ] = None,
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Write a user's account down; what is not given stays as it is.

    It counts from the next command on. A tier that a token names goes before it.

    \b
    Examples:
      wake user set alice --tier pro
      wake user set root --tier enterprise --role admin
    """
    with told(as_json=as_json):
        settings = loaded(data=data).settings
        from gateway import rations  # noqa: PLC0415 - see limits

        place = place_in(settings, nats, settings.nats.login)
        rations.set_user(place, settings, user, tier, role, as_json=as_json)


@users.command("ls")
def list_users(*, data: Data = None, nats: Nats = None, as_json: Json = False) -> None:
    """List the accounts.

    \b
    Examples:
      wake user ls
      wake user ls --json
    """
    with told(as_json=as_json):
        settings = loaded(data=data).settings
        from gateway import rations  # noqa: PLC0415 - see limits

        place = place_in(settings, nats, settings.nats.login)
        rations.list_users(place, settings, as_json=as_json)


@users.command("rm")
def remove_user(
    user: Name, *, data: Data = None, nats: Nats = None, as_json: Json = False
) -> None:
    """Forget a user's account; executions and schedules stay.

    \b
    Example:
      wake user rm alice
    """
    with told(as_json=as_json):
        settings = loaded(data=data).settings
        from gateway import rations  # noqa: PLC0415 - see limits

        place = place_in(settings, nats, settings.nats.login)
        rations.remove_user(place, settings, user, as_json=as_json)

"""``wake limits`` and ``wake user``: what users may start, and who they are."""

from collections.abc import AsyncIterator, Iterator, Sequence
from math import ceil

import msgspec

from events.errors import InvalidInput, NotFound
from events.names import check_id
from events.quota import Report, Use
from gateway import admitting
from gateway.composition import Log, Place, with_log
from gateway.output import put, put_json
from gateway.settings import Settings
from gateway.wording import printable
from services.accounts import Account, Accounts


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    user: str
    tier: str
    roles: tuple[str, ...]


def limits(place: Place, settings: Settings, user: str, *, as_json: bool) -> None:
    """Print how far a user's limits are used; raises WakeError."""
    check_id(user, "user")
    place.check()

    async def asked(log: Log) -> Report:
        admission = await admitting.admission(log.wire, log.journal, settings)
        return await admission.limits(user, token=False)

    show(with_log(place, asked), as_json=as_json)


def show(report: Report, *, as_json: bool) -> None:
    """Print a report."""
    if as_json:
        put_json(report)
        return
    for line in _lines(report):
        put(line)


def set_user(
    place: Place,
    settings: Settings,
    user: str,
    tier: str | None,
    roles: list[str] | None,
    *,
    as_json: bool,
) -> None:
    """Write an account down and print it; raises WakeError."""
    check_id(user, "user")
    _check_tier(settings, tier)

    async def written(log: Log) -> Row:
        accounts = await admitting.accounts(log.wire, settings.nats.replicas)
        before = await accounts.find(user) or Account()
        account = Account(
            tier=before.tier if tier is None else tier,
            roles=before.roles if roles is None else tuple(dict.fromkeys(roles)),
        )
        await accounts.put(user, account)
        return _row(user, account)

    if tier is None and roles is None:
        raise InvalidInput("say what the account is to have: --tier or --role")
    _print([with_log(place, written)], as_json=as_json)


def list_users(place: Place, settings: Settings, *, as_json: bool) -> None:
    """Print the accounts; raises WakeError."""
    place.check()

    async def found(log: Log) -> list[Row]:
        accounts = await admitting.accounts(log.wire, settings.nats.replicas)
        return [row async for row in _rows(accounts)]

    _print(with_log(place, found), as_json=as_json)


def remove_user(place: Place, settings: Settings, user: str, *, as_json: bool) -> None:
    """Forget an account; raises NotFound and other WakeErrors."""
    check_id(user, "user")
    place.check()

    async def gone(log: Log) -> bool:
        accounts = await admitting.accounts(log.wire, settings.nats.replicas)
        return await accounts.remove(user)

    if not with_log(place, gone):
        raise NotFound(f"{user} has no account: wake user ls shows those there are")
    if as_json:
        put_json({"user": user, "removed": True})
    else:
        put(f"{user} has no account any more")


def _check_tier(settings: Settings, tier: str | None) -> None:
    known = admitting.tiers_of(settings.limits)
    if tier is not None and tier not in known:
        raise InvalidInput(f"no tier {tier!r:.80}; there are: {', '.join(known)}")


async def _rows(accounts: Accounts) -> AsyncIterator[Row]:
    for user in await accounts.users():
        account = await accounts.find(user)
        if account is not None:  # or it was removed since
            yield _row(user, account)


def _row(user: str, account: Account) -> Row:
    return Row(user=user, tier=account.tier, roles=account.roles)


def _print(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            put_json(row)
        return
    cells = [
        ("USER", "TIER", "ROLES"),
        *((row.user, row.tier or "-", ", ".join(row.roles) or "-") for row in rows),
    ]
    for line in _columns(cells):
        put(line)


def _lines(report: Report) -> Iterator[str]:
    if report.tier is None:
        yield f"{report.user} is of no tier: not limited"
        return
    yield f"{report.user} is {report.tier}"
    yield from _columns(
        [
            ("LIMIT", "USED", "OF", "LEFT", "AGAIN"),
            _cells("at a time", report.concurrent),
            _cells("within an hour", report.hourly),
        ]
    )


def _cells(name: str, use: Use) -> tuple[str, ...]:
    again = "-" if use.retry_after is None else f"in {ceil(use.retry_after)} s"
    if use.limit is None:
        return (name, "-", "no limit", "-", "-")
    return (name, str(use.used), str(use.limit), str(use.remaining), again)


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield printable("  ".join(padded)).rstrip()

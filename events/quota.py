"""What a user may start: pure decisions over the value of the bucket QUOTAS.

Of each user it is kept who was admitted and may not have ended yet, and how many
starts there were lately. It is written before what it admits is appended, on the
condition that nobody wrote meanwhile; nothing is ever taken back. What was admitted
and has ended is dropped when the room it takes is needed: ``standing`` says of each
what the log says of it. Times are seconds since 1970, and arguments.
"""

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from events.errors import Corrupt
from events.journal import Last
from events.names import QUOTAS

WINDOW = 3600.0
"""Seconds for which a start counts on the hourly limit."""

GRACE = 60.0
"""Seconds in which whoever was admitted is to be created; then it is given up."""

CLOSED = 86_400.0
"""Seconds after which nobody creates what was admitted any more."""

EXACT = 1024
"""Starts that are kept one by one; of more, those close together are kept as one."""

REPEATED = 256
"""Of who may have any number at a time, the last that are kept: so many may be asked
for again, as lifecycle has no more in hand, and are not to be counted again."""

SOON = 5.0
"""Seconds until it is worth to ask again when too many run: nobody knows their end."""

Standing = Literal["counts", "absent", "over"]
"""What the log says of an admitted one: it takes room; it was never created; no more.

``absent`` is to be closed before it is forgotten, or it might be created late.
"""


class Allotment(NamedTuple):
    """How much at a time and within an hour, 1 at least; None: as much as wanted."""

    concurrent: int | None = None
    hourly: int | None = None

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to count."""
        return self.concurrent is None and self.hourly is None


class Claim(NamedTuple):
    """What is to be admitted: a start (``after`` 0), or a retry of what ended there."""

    execution: str
    after: int = 0


class Admitted(msgspec.Struct, frozen=True, array_like=True):
    """An execution that may take room, since when, and behind which position."""

    execution: str
    at: float
    after: int = 0


class Starts(msgspec.Struct, frozen=True, array_like=True):
    """Some starts; the last of them was ``at``."""

    at: float
    count: Annotated[int, Meta(ge=1)] = 1


class Quota(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a user; ``tier`` is the last that somebody vouched for."""

    tier: str = ""
    admitted: tuple[Admitted, ...] = ()
    starts: tuple[Starts, ...] = ()


class Full(NamedTuple):
    """Too many run, as far as is known: these may have ended."""

    doubtful: tuple[Admitted, ...]


class Exhausted(NamedTuple):
    """Too many were started; so many seconds until that is no longer so."""

    retry_after: float


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """How far a limit is used; without one (``limit`` None) nothing is counted."""

    used: int | None
    limit: int | None
    remaining: int | None
    retry_after: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a user; ``tier`` None: nobody has given one, there is no limit."""

    user: str
    tier: str | None
    concurrent: Use
    hourly: Use


def current(quota: Quota, now: float) -> Quota:
    """What of it counts now.

    What lies ahead was written by a clock that went back since: it counts from now.
    """
    return msgspec.structs.replace(
        quota,
        admitted=tuple(_not_after(now, one) for one in quota.admitted),
        starts=tuple(
            _not_after(now, one) for one in quota.starts if one.at > now - WINDOW
        ),
    )


def ahead(quota: Quota, now: float) -> bool:
    """Whether some of it was written by a clock that went back since."""
    return any(at > now for at in _times(quota))


def _times(quota: Quota) -> list[float]:
    return [*(one.at for one in quota.admitted), *(one.at for one in quota.starts)]


_Timed = TypeVar("_Timed", Admitted, Starts)


def _not_after(now: float, one: _Timed) -> _Timed:
    return one if one.at <= now else msgspec.structs.replace(one, at=now)


def admit(
    quota: Quota, allotment: Allotment, claim: Claim, now: float
) -> Quota | Full | Exhausted:
    """Decide on a start; ``quota`` is what counts now. Asked twice, it counts once."""
    others = tuple(a for a in quota.admitted if a.execution != claim.execution)
    mine = Admitted(claim.execution, now, claim.after)
    if not _known(quota, claim):
        if allotment.hourly is not None:
            retry_after = _wait(quota.starts, allotment.hourly, now)
            if retry_after is not None:
                return Exhausted(retry_after)
            quota = msgspec.structs.replace(
                quota, starts=_counted(quota.starts, allotment.hourly, now)
            )
        if allotment.concurrent is not None and len(others) >= allotment.concurrent:
            return Full(others)
    if allotment.concurrent is None:
        others = tuple(a for a in others if a.at > now - GRACE)[1 - REPEATED :]
    return msgspec.structs.replace(quota, admitted=(*others, mine))


def _known(quota: Quota, claim: Claim) -> bool:
    return any(
        (one.execution, one.after) == (claim.execution, claim.after)
        for one in quota.admitted
    )


def _wait(starts: Sequence[Starts], limit: int, now: float) -> float | None:
    """Seconds until one more may be started; None: it may now."""
    left = sum(one.count for one in starts)
    wait = None
    for one in starts:
        if left < limit:
            break
        left, wait = left - one.count, one.at + WINDOW - now
    return wait


def _counted(starts: tuple[Starts, ...], limit: int, now: float) -> tuple[Starts, ...]:
    """Count one more; of a large limit, starts within some seconds are kept as one."""
    grain = WINDOW / EXACT
    last = starts[-1] if starts else None
    if limit > EXACT and last is not None and last.at // grain == now // grain:
        return (*starts[:-1], Starts(now, last.count + 1))
    return (*starts, Starts(now))


def standing(one: Admitted, last: Last | None, now: float) -> Standing:
    """Whether an admitted one takes room, by the last commit of its history."""
    age = now - one.at
    if last is None:
        if age < GRACE:
            return "counts"
        return "absent" if age < CLOSED else "over"
    if last.route != "finished":
        return "counts"
    # A retry was admitted behind that end, and is to be appended now.
    retried = last.position <= one.after
    return "counts" if retried and age < GRACE else "over"


def without(quota: Quota, gone: Collection[str]) -> Quota:
    """Leave out executions that take no room any more."""
    left = tuple(one for one in quota.admitted if one.execution not in gone)
    return msgspec.structs.replace(quota, admitted=left)


def use(used: int, limit: int | None, retry_after: float | None) -> Use:
    """Say how far a limit is used."""
    if limit is None:
        return Use(used=None, limit=None, remaining=None)
    remaining = max(0, limit - used)
    return Use(
        used=used,
        limit=limit,
        remaining=remaining,
        retry_after=None if remaining else retry_after,
    )


def uses(quota: Quota, allotment: Allotment, now: float) -> tuple[Use, Use]:
    """How far both limits are used; ``quota`` has only what counts now."""
    hourly = allotment.hourly
    wait = None if hourly is None else _wait(quota.starts, hourly, now)
    started = sum(one.count for one in quota.starts)
    return (
        use(len(quota.admitted), allotment.concurrent, SOON),
        use(started, hourly, wait),
    )


def encoded(quota: Quota) -> bytes:
    """Write it as JSON."""
    return msgspec.json.encode(quota)


def decoded(value: bytes, user: str) -> Quota:
    """Read it; an empty one is none. Raises Corrupt."""
    if not value:
        return Quota()
    try:
        quota = _quota.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _unreadable(user, str(error)) from error
    ordered = all(one.at <= later.at for one, later in pairwise(quota.starts))
    if not ordered or not all(0 <= at < math.inf for at in _times(quota)):
        raise _unreadable(user, "its times are not in order")
    return quota


def _unreadable(user: str, why: str) -> Corrupt:
    return Corrupt(
        f"what {user} may start cannot be read from the bucket {QUOTAS} ({why}): "
        f"delete the key {user} there, then it counts anew"
    )


_quota = msgspec.json.Decoder(Quota)

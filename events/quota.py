"""What a user may start: pure decisions over the value of the bucket QUOTAS.

Of each user it is kept who was admitted and may not have ended yet, and how many
starts there were lately. It is written before what it admits is appended, on the
condition that nobody wrote meanwhile; nothing is ever taken back. What was admitted
and has ended is dropped when the room it takes is needed: ``standing`` says of each
what the log says of it. Times are seconds since 1970, and arguments.
"""

from typing import Literal, NamedTuple

import msgspec

WINDOW = 3600.0
"""Seconds for which a start counts on the hourly limit."""

GRACE = 60.0
"""Seconds in which whoever was admitted is to be created; then it is given up."""

CLOSED = 86_400.0
"""Seconds after which nobody creates what was admitted any more."""

EXACT = 1024
"""Starts that are kept one by one; of more, those close together are kept as one."""

MOST_AT_ONCE = 1000
"""The largest limit of executions at a time: their ids have room in one value."""

SOON = 5.0
"""Seconds until it is worth to ask again when too many run: nobody knows their end."""

Standing = Literal["waits", "absent", "going", "ended"]
"""What the log says of it: nothing since it was admitted, nothing at all, or this."""

Which = Literal["concurrent", "hourly"]
"""The limits that there are."""


class Allotment(NamedTuple):
    """How much at a time and within an hour; None: as much as wanted."""

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
    count: int = 1


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

"""The port of timers: what is to be done at a time, each once.

A timer's id follows from what it says, so arming it twice is arming it once.
Whoever takes one that went off does what it says and then settles it; until then
it comes again. One that nobody wants any more goes off too, and is ignored.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Literal

import msgspec

from events.errors import TooLarge

LEASE = 30.0
"""Seconds after which a timer that was taken and not settled comes again."""

MAX_TIMER = 8 * 1024
"""Bytes of a timer: a few ids and a time."""

Kind = Literal["start", "wait", "request", "recurring", "housekeeping"]
"""What is due: a start, the deadline of a wait or of a request, a recurring start,
the daily clean-up."""


class Timer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be done at ``due``.

    ``about`` is an execution, or the name of a schedule; ``detail`` tells apart
    what else could be due for it at that time: a request, a revision.
    """

    user: str
    about: str
    kind: Kind
    due: datetime
    detail: str = ""

    @property
    def id(self) -> str:
        """The same for whoever arms the same timer."""
        when = self.due.astimezone(UTC).isoformat()
        name = f"{self.kind}\n{self.about}\n{self.detail}\n{when}"
        return blake2b(name.encode(), digest_size=16).hexdigest()

    def __str__(self) -> str:
        return f"{self.kind} of {self.user}/{self.about}"


Armed = tuple[str, str]
"""Whose timer, and its id."""


class Alarm(ABC):
    """A timer that went off, leased to whoever took it."""

    timer: Timer

    @abstractmethod
    async def done(self) -> None:
        """Never hand it out again; raises Unavailable if not confirmed."""

    @abstractmethod
    async def give_back(self, delay: float = 0.0) -> None:
        """Hand it out again after ``delay`` seconds."""


class Timers(ABC):
    """The timers of all users; any number of reactors may take."""

    @abstractmethod
    async def arm(self, timer: Timer) -> None:
        """Let it go off at its time, at once if that is past.

        Armed again while it waits: nothing happens. Armed again after it went
        off, it goes off again. Raises Unavailable, and TooLarge.
        """

    @abstractmethod
    async def cancel(self, timer: Timer) -> None:
        """Forget it if it has not gone off; raises Unavailable."""

    @abstractmethod
    async def armed(self) -> set[Armed]:
        """Return all that wait for their time now; raises Unavailable."""

    @abstractmethod
    async def take(self, limit: int, wait: float) -> list[Alarm]:
        """Lease up to ``limit`` that went off; none only after ``wait`` seconds (≤ 5).

        Raises Unavailable, OutcomeUnknown.
        """

    @abstractmethod
    async def close(self) -> None:
        """Take no more, and give back what arrived unasked."""


def check_size(timer: Timer, body: bytes) -> None:
    """Raise TooLarge for a timer that no adapter would take."""
    if len(body) > MAX_TIMER:
        raise TooLarge(f"{timer} has {len(body):,} bytes; allowed: {MAX_TIMER:,}")


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@dataclass
class _Rung:
    timer: Timer
    due: datetime


class MemoryTimers(Timers):
    """All in one process: the same promises, nothing stored. ``clock`` tells."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._armed: dict[Armed, Timer] = {}
        self._rung: list[_Rung] = []
        self._stirred = asyncio.Event()

    async def arm(self, timer: Timer) -> None:
        """Let it go off at its time."""
        check_size(timer, msgspec.json.encode(timer))
        self._armed.setdefault((timer.user, timer.id), timer)
        self.touch()

    async def cancel(self, timer: Timer) -> None:
        """Forget it if it has not gone off."""
        self._armed.pop((timer.user, timer.id), None)

    async def armed(self) -> set[Armed]:
        """Return all that wait for their time now."""
        self._ring()
        return set(self._armed)

    def touch(self) -> None:
        """Let whoever waits look again: a timer was armed, or the clock went on."""
        self._stirred.set()

    async def take(self, limit: int, wait: float) -> list[Alarm]:
        """Lease up to ``limit`` that went off."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while not self._due():
                    await self._later()
        taken = self._due()[:limit]
        for rung in taken:
            rung.due = self._clock() + timedelta(seconds=LEASE)
        return [MemoryAlarm(self, rung) for rung in taken]

    async def _later(self) -> None:
        """Wait until somebody touches it, or the next one is due."""
        times = [timer.due for timer in self._armed.values()]
        times += [rung.due for rung in self._rung]
        left = min(times, default=None)
        seconds = None if left is None else (left - self._clock()).total_seconds()
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()

    def _ring(self) -> None:
        now = self._clock()
        for name, timer in list(self._armed.items()):
            if timer.due <= now:
                self._rung.append(_Rung(self._armed.pop(name), timer.due))

    def _due(self) -> list[_Rung]:
        self._ring()
        now = self._clock()
        return [rung for rung in self._rung if rung.due <= now]

    def settle(self, rung: _Rung, delay: float | None) -> None:
        """Hand it out again after ``delay`` seconds, or never."""
        if delay is not None:
            rung.due = self._clock() + timedelta(seconds=delay)
        elif rung in self._rung:
            self._rung.remove(rung)
        self.touch()

    async def close(self) -> None:
        """Nothing arrives unasked here."""


class MemoryAlarm(Alarm):
    """One that went off."""

    def __init__(self, timers: MemoryTimers, rung: _Rung) -> None:
        self.timer = rung.timer
        self._timers, self._rung = timers, rung

    async def done(self) -> None:
        """Never hand it out again."""
        self._timers.settle(self._rung, None)

    async def give_back(self, delay: float = 0.0) -> None:
        """Hand it out again after ``delay`` seconds."""
        self._timers.settle(self._rung, delay)

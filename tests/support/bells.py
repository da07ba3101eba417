"""Timers under test, in memory or on a real server."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from nats_server import take_away

from events.names import SCHEDULES
from events.timers import Alarm, MemoryTimers, Timer, Timers
from events.timerstream import JetStreamTimers
from events.wire import Wire


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def timer(seconds: float = 0.0, about: str = "run-1", **more: Any) -> Timer:
    """A deadline in so many seconds."""
    due = now() + timedelta(seconds=seconds)
    return Timer(**{"user": "ada", "about": about, "kind": "wait", "due": due, **more})


class Bell(ABC):
    """No timers at all, at first."""

    timers: Timers

    @abstractmethod
    async def again(self) -> Timers:
        """Open the same timers as another process would."""

    @abstractmethod
    async def left(self) -> int:
        """How many there are: that wait, or went off and are not settled."""

    async def rung(self, timers: Timers | None = None) -> Alarm:
        """Wait for one that goes off."""
        while True:
            for alarm in await (timers or self.timers).take(1, 5.0):
                return alarm

    async def silent(self, seconds: float = 0.4) -> bool:
        """Say whether nothing goes off for longer than the server may be late."""
        return await self.timers.take(1, seconds) == []


class MemoryBell(Bell):
    """In memory."""

    def __init__(self) -> None:
        self.timers: MemoryTimers = MemoryTimers()

    async def again(self) -> Timers:
        """Memory is shared."""
        return self.timers

    async def left(self) -> int:
        """How many there are."""
        return len(self.timers._armed) + len(self.timers._rung)


class JetStreamBell(Bell):
    """On a real server, each process with its own connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.opened: list[JetStreamTimers] = []

    async def open(self) -> None:
        """Begin with nothing, whatever an earlier test left."""
        wire = await Wire.connect(self._url)
        await take_away(wire, SCHEDULES)
        await wire.close()
        self.timers: JetStreamTimers = await self.again()

    async def again(self) -> JetStreamTimers:
        """Connect as another process."""
        timers = await JetStreamTimers.open(await Wire.connect(self._url))
        self.opened.append(timers)
        return timers

    async def left(self) -> int:
        """How many there are."""
        return int((await self.info())["state"]["messages"])

    async def info(self) -> Any:
        """What the server says of the stream."""
        wire = self.timers._wire
        return msgspec.json.decode(await wire.api(f"STREAM.INFO.{SCHEDULES}"))

    async def close(self) -> None:
        """Close every connection."""
        for timers in self.opened:
            await timers._wire.close()

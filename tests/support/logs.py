"""A log under test, in memory or on a real server, with time that can pass."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec
from nats_server import take_away

from events.errors import OutcomeUnknown
from events.jetstream import JetStreamJournal
from events.journal import Journal, Work, WorkQueue
from events.memory import MemoryJournal
from events.names import BLOBS_STREAM, EVENTS, LANES
from events.wire import ApiError, Wire


class Log(ABC):
    """``brief`` is a lease that may run out within a test, in seconds.

    ``pause`` is how long to wait for something before time is let go on.
    """

    brief: ClassVar[float]
    pause: ClassVar[float]
    journal: Journal

    @abstractmethod
    async def again(self) -> Journal:
        """Open the same log as another process would."""

    @abstractmethod
    async def tick(self, seconds: float) -> None:
        """Let time go on; on a real server it does so by itself."""

    async def redelivered(self, queue: WorkQueue, renewed: Work | None = None) -> Work:
        """Wait until work is handed out again, while one work is renewed."""
        while True:
            if renewed:
                await renewed.renew()
            if works := await queue.fetch(1, self.pause):
                return works[0]
            await self.tick(self.brief / 10)


class MemoryLog(Log):
    """A journal in memory whose clock is the test's."""

    brief = 30.0
    pause = 0.001

    def __init__(self) -> None:
        self.now = 0.0
        self.journal: MemoryJournal = MemoryJournal(clock=lambda: self.now)

    async def again(self) -> Journal:
        """Memory is shared."""
        return self.journal

    async def tick(self, seconds: float) -> None:
        """Turn the clock."""
        self.now += seconds
        await self.journal.touch()


class JetStreamLog(Log):
    """An empty log on a real server."""

    brief = 2.0
    pause = 0.05

    def __init__(self, url: str) -> None:
        self._url = url
        self._wires: list[Wire] = []

    async def open(self) -> None:
        """Begin with nothing, whatever an earlier test left."""
        wire = await self.wire()
        for stream in (EVENTS, BLOBS_STREAM):
            await take_away(wire, stream)
        self.journal: JetStreamJournal = await JetStreamJournal.open(wire)

    async def wire(self) -> Wire:
        """Connect once more."""
        wire = await Wire.connect(self._url)
        self._wires.append(wire)
        return wire

    async def again(self) -> JetStreamJournal:
        """Connect as another process."""
        return await JetStreamJournal.open(await self.wire())

    async def tick(self, seconds: float) -> None:
        """Nothing to do."""

    async def consumers(self) -> list[str]:
        """Names of all consumers the server keeps for readers, lanes left out."""
        answer = await self.journal.wire.api(f"CONSUMER.NAMES.{EVENTS}")
        names = msgspec.json.decode(answer)["consumers"] or []
        lanes = {f"runners-{lane}" for lane in LANES}
        return [name for name in names if name not in lanes]

    async def readers(self, count: int) -> None:
        """Wait until so many followers have a consumer."""
        while len(await self.consumers()) != count:  # noqa: ASYNC110 - the server's
            await asyncio.sleep(0.01)

    async def info(self) -> dict[str, Any]:
        """What the server says of the stream."""
        answer = await self.journal.wire.api(f"STREAM.INFO.{EVENTS}")
        info: dict[str, Any] = msgspec.json.decode(answer)
        return info

    async def close(self) -> None:
        """Close every connection."""
        for wire in self._wires:
            await wire.close()


async def back(journal: JetStreamJournal) -> None:
    """Wait until a server that was restarted answers."""
    while True:
        try:
            await journal.wire.api(f"STREAM.INFO.{EVENTS}")
        except (ApiError, OutcomeUnknown):
            await asyncio.sleep(0.02)
        else:
            return

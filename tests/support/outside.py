"""Triggers under test, in memory or on a real server, and who publishes them."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import nats
from nats.aio.client import Client
from nats_server import take_away

from events.names import TRIGGERS
from events.triggers import MemoryTriggers, Posted, Triggers
from events.triggerstream import JetStreamTriggers
from events.wire import Wire


class Outside(ABC):
    """An empty log of triggers, and a stranger who may send anything."""

    triggers: Triggers

    @abstractmethod
    async def again(self) -> Triggers:
        """Open the same triggers as another process would."""

    @abstractmethod
    async def send(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send something as a stranger would, past our checks."""


class MemoryOutside(Outside):
    """In memory."""

    def __init__(self) -> None:
        self.triggers: MemoryTriggers = MemoryTriggers()

    async def again(self) -> Triggers:
        """Memory is shared."""
        return self.triggers

    async def send(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Keep it."""
        await self.triggers.post(subject, body, headers)


class JetStreamOutside(Outside):
    """On a real server."""

    def __init__(self, url: str, stranger: Client) -> None:
        self._url, self._stranger = url, stranger
        self._wires: list[Wire] = []

    @classmethod
    @asynccontextmanager
    async def empty(cls, url: str) -> "AsyncIterator[JetStreamOutside]":
        """Begin with nothing, whatever an earlier test left."""
        stranger = await nats.connect(url)
        outside = cls(url, stranger)
        wire = await outside.wire()
        await take_away(wire, TRIGGERS)
        outside.triggers = await JetStreamTriggers.open(wire)
        try:
            yield outside
        finally:
            await stranger.close()
            for opened in outside._wires:
                await opened.close()

    async def wire(self) -> Wire:
        """Connect once more."""
        wire = await Wire.connect(self._url)
        self._wires.append(wire)
        return wire

    async def again(self) -> JetStreamTriggers:
        """Connect as another process."""
        return await JetStreamTriggers.open(await self.wire())

    async def send(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish it and wait until it is stored."""
        await self._stranger.request(
            subject, body, headers=dict(headers) if headers else None, timeout=10
        )


async def collect(triggers: Triggers, count: int, after: int = 0) -> list[Posted]:
    """Follow until so many came."""
    found: list[Posted] = []
    async with aclosing(triggers.follow(after=after)) as runs:
        async for run in runs:
            found += run
            if len(found) >= count:
                return found
    raise AssertionError

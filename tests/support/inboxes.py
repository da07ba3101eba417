"""Commands under test, in memory or on a real server, and clients that are lost."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import msgspec
import pytest
from nats_server import take_away

from events import pinned
from events.errors import Unavailable, WakeError
from events.inbox import Inbox, MemoryInbox, Order
from events.names import COMMANDS, LIFECYCLE, Key
from events.pinned import JetStreamInbox
from events.wire import Wire

KEY = Key("ada", "run-1")


class Box(ABC):
    """An empty inbox; ``inbox`` publishes and listens, and may take."""

    inbox: Inbox

    @abstractmethod
    async def lost(self) -> Inbox:
        """Lose the client that took; returns the one that takes from now on."""


class MemoryBox(Box):
    """In memory."""

    def __init__(self) -> None:
        self.inbox: MemoryInbox = MemoryInbox()

    async def lost(self) -> Inbox:
        """Hand out again."""
        self.inbox.redeliver()
        return self.inbox


class JetStreamBox(Box):
    """On a real server, each client with its own connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: list[JetStreamInbox] = []

    @classmethod
    @asynccontextmanager
    async def empty(cls, url: str) -> AsyncIterator[Self]:
        """Begin with nothing, whatever an earlier test left."""
        box = cls(url)
        try:
            await box.open()
            yield box
        finally:
            await box.close()

    async def open(self) -> None:
        """Take away what was there."""
        wire = await Wire.connect(self._url)
        await take_away(wire, COMMANDS)
        self.inbox: JetStreamInbox = await JetStreamInbox.open(wire)
        self._clients.append(self.inbox)

    async def client(self) -> JetStreamInbox:
        """Connect once more, also while the server is on its way back."""
        while True:
            with suppress(WakeError):
                client = JetStreamInbox(await Wire.connect(self._url))
                self._clients.append(client)
                return client
            await asyncio.sleep(0.02)

    async def lost(self) -> JetStreamInbox:
        """Kill the connection of the client that took, for good."""
        await kill(self.inbox)
        self.inbox = await self.client()
        return self.inbox

    async def consumer(self) -> Any:
        """What the server says of who takes."""
        while True:
            with suppress(WakeError):
                wire = (await self.client())._wire
                answer = await wire.api(f"CONSUMER.INFO.{COMMANDS}.{LIFECYCLE}")
                return msgspec.json.decode(answer)
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            await client._wire.close()


def cut(client: JetStreamInbox) -> None:
    """Break the connection without a word; nats-py connects again by itself."""
    transport = client._wire.client._transport
    if transport is not None and transport._io_writer is not None:
        transport._io_writer.transport.abort()


def deafen(client: JetStreamInbox) -> None:
    """Read nothing any more; what the server sends is lost with the connection."""
    transport = client._wire.client._transport
    assert transport is not None
    transport._io_writer.transport.pause_reading()


async def kill(client: JetStreamInbox) -> None:
    """End a client as kill -9 does: nothing is given back."""
    cut(client)
    await client._wire.close()


@contextmanager
def timed(*, lease: float = 0.3, pin: float = 0.25) -> Iterator[None]:
    """Let clients be missed after so many seconds, as long as the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pinned._consumer, "ack_wait", int(lease * 1e9))
        patch.setitem(pinned._consumer, "priority_timeout", int(pin * 1e9))
        patch.setattr(pinned, "PIN", pin)
        patch.setattr(pinned, "PULL", 0.1)
        yield


class Taker:
    """A client that takes and settles, one after the other, as lifecycle does.

    ``handled`` is shared by several: whose hands a command was in, and its position.
    """

    MOST = 8

    def __init__(
        self,
        inbox: JetStreamInbox,
        handled: list[tuple[object, int]],
        chance: random.Random,
    ) -> None:
        self.inbox, self._handled = inbox, handled
        self._chance = chance
        self._queue: asyncio.Queue[Order] = asyncio.Queue()
        self._going = asyncio.Event()
        self._going.set()
        self._task = asyncio.create_task(self._run())

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Do nothing meanwhile, as a process that is stopped."""
        self._going.clear()
        yield
        self._going.set()

    async def end(self) -> None:
        """Take no more."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work())
            while True:
                await self._going.wait()
                with suppress(Unavailable):
                    room = max(0, self.MOST - self._queue.qsize())
                    for order in await self.inbox.take(room, 0.2):
                        self._queue.put_nowait(order)
                await asyncio.sleep(0.01)

    async def _work(self) -> None:
        while True:
            order = await self._queue.get()
            await self._going.wait()
            if self.inbox.holds(order):
                self._handled.append((self, order.position))
            await self._settle(order)

    async def _settle(self, order: Order) -> None:
        while self.inbox.holds(order):
            await asyncio.sleep(self._chance.choice((0, 0, 0.005, 0.02)))
            await self._going.wait()
            with suppress(Unavailable):
                await self.inbox.done(order)


def firsts(handled: list[tuple[object, int]]) -> list[int]:
    """The positions in the order in which each was handled first."""
    return list(dict.fromkeys(position for _, position in handled))

"""Deltas on both adapters; what a restart and a stranger do to the real one."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from nats_server import NatsServer

from events.deltas import MAX_TEXT, Delta, Deltas, MemoryDeltas
from events.deltastream import NatsDeltas
from events.errors import OutcomeUnknown, Unavailable
from events.names import DELTAS, Key, delta_subject
from events.wire import ApiError, Wire

AT = datetime(2026, 1, 1, tzinfo=UTC)
KEY, OTHER = Key("ada", "one"), Key("bob", "two")


class Ear:
    """Hears deltas."""

    def __init__(self) -> None:
        self.heard: list[tuple[Key, Delta]] = []
        self._stirred = asyncio.Event()

    def __call__(self, key: Key, delta: Delta) -> None:
        """Hear one."""
        self.heard.append((key, delta))
        self._stirred.set()

    async def until(self, count: int) -> list[tuple[Key, Delta]]:
        """Wait until so many were heard."""
        async with asyncio.timeout(60):
            while len(self.heard) < count:
                self._stirred.clear()
                await self._stirred.wait()
        return self.heard


def piece(text: str, offset: int = 0) -> Delta:
    """Make one."""
    return Delta(at=AT, step=1, attempt=1, offset=offset, text=text)


@pytest.fixture
async def wire(own_server: NatsServer) -> AsyncIterator[Wire]:
    """A connection to a server that may be killed."""
    wire = await Wire.connect(own_server.url)
    yield wire
    await wire.close()


@pytest.fixture
async def nats_deltas(wire: Wire) -> AsyncIterator[Deltas]:
    """On a real server, and kept."""
    one = NatsDeltas(wire)
    keeping = asyncio.create_task(one.keep())
    await kept(one)
    yield one
    keeping.cancel()


@pytest.fixture
async def memory_deltas() -> Deltas:
    """In memory."""
    return MemoryDeltas()


@pytest.fixture(params=["memory", "nats"])
def deltas(request: pytest.FixtureRequest) -> Deltas:
    """Each adapter in turn."""
    chosen: Deltas = request.getfixturevalue(f"{request.param}_deltas")
    return chosen


async def kept(deltas: NatsDeltas) -> None:
    """Wait until the server keeps them."""
    async with asyncio.timeout(60):
        while True:
            try:
                await deltas._wire.api(f"STREAM.INFO.{DELTAS}")
            except (ApiError, OutcomeUnknown):
                await asyncio.sleep(0.01)
            else:
                return


async def stored(deltas: Deltas, count: int) -> list[tuple[Key, Delta]]:
    """Wait until so many are kept: nobody is told when; returns them."""
    async with asyncio.timeout(60):
        while True:
            ear = Ear()
            await deltas.kept(ear)
            if len(ear.heard) >= count:
                return ear.heard


async def test_they_are_heard_as_they_come(deltas: Deltas) -> None:
    """Whole, in their order, with whose they are."""
    ear, sent = Ear(), [(KEY, piece("Ö")), (OTHER, piece("x")), (KEY, piece("n", 1))]
    async with deltas.hear(ear):
        for key, delta in sent:
            await deltas.publish(key, delta)
        assert await ear.until(3) == sent
    await deltas.publish(KEY, piece("unheard"))
    assert ear.heard == sent


async def test_they_are_kept_for_who_comes_later(deltas: Deltas) -> None:
    """The oldest first."""
    sent = [(KEY, piece(str(number), number)) for number in range(9)]
    for key, delta in sent:
        await deltas.publish(key, delta)
    assert await stored(deltas, 9) == sent


async def test_the_longest_is_stored(deltas: Deltas) -> None:
    """Though each of its characters takes six bytes."""
    await deltas.publish(KEY, piece("\x01" * MAX_TEXT))
    [(_, delta)] = await stored(deltas, 1)
    assert len(delta.text) == MAX_TEXT


async def test_without_a_server_they_are_lost_and_nobody_waits(
    wire: Wire, own_server: NatsServer
) -> None:
    """And after it has come back they are heard again, and kept."""
    deltas, ear = NatsDeltas(wire), Ear()
    keeping = asyncio.create_task(deltas.keep())
    await kept(deltas)
    async with deltas.hear(ear):
        own_server.kill()
        async with asyncio.timeout(60):
            while wire.connected:  # noqa: ASYNC110 - the client's
                await asyncio.sleep(0.01)
        async with asyncio.timeout(1):
            for _ in range(1_000):
                await deltas.publish(KEY, piece("lost"))
        own_server.start()
        async with asyncio.timeout(60):
            while not wire.connected:  # noqa: ASYNC110 - the client's
                await asyncio.sleep(0.01)
        await kept(deltas)
        await deltas.publish(KEY, piece("heard"))
        assert await ear.until(1) == [(KEY, piece("heard"))]
        assert await stored(deltas, 1) == ear.heard
    keeping.cancel()


async def test_what_is_none_is_left_out(wire: Wire) -> None:
    """Whoever may publish there may publish anything."""
    deltas, ear = NatsDeltas(wire), Ear()
    async with deltas.hear(ear):
        for body in (b"", b"x", b"[]", b'{"step": 1}', b"\xff", b"[" * 5_000):
            await wire.send(delta_subject(KEY), body)
        await deltas.publish(KEY, piece("good"))
        assert await ear.until(1) == [(KEY, piece("good"))]


async def test_where_nothing_is_kept_nothing_is_known(wire: Wire) -> None:
    """A server without the stream has nothing; one that is away cannot be asked."""
    deltas, ear = NatsDeltas(wire), Ear()
    await deltas.kept(ear)
    assert ear.heard == []
    await wire.close()
    with pytest.raises(Unavailable, match="deltas cannot be read now"):
        await deltas.kept(ear)

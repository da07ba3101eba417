"""Presence and departures on a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from nats_server import NatsServer

from events.muster import NatsDepartures, NatsPresences
from events.names import runner_subject
from events.presence import Connection, Held, Presence
from events.wire import Wire
from services.process import this_process

ACCOUNTS = """
accounts {
  WAKE { jetstream: enabled, users: [{user: wake, password: w}] }
  SYS { users: [{user: system, password: s}] }
}
system_account: SYS
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with a system account."""
    server = NatsServer(tmp_path_factory.mktemp("muster"), ACCOUNTS)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def client(server: NatsServer, user: str = "wake") -> AsyncIterator[Wire]:
    """Connect."""
    wire = await Wire.connect(server.url, user=user, password=user[0])
    try:
        yield wire
    finally:
        await wire.close()


def presence(connection: Connection, *held: Held, runner: str = "r1") -> Presence:
    """What a runner says."""
    return Presence(
        runner=runner,
        instance="i1",
        connection=connection,
        process=this_process(),
        host="here",
        since=1.5,
        lanes=("agents",),
        concurrency=4,
        whole=True,
        took=held,
    )


async def test_what_a_runner_says_is_heard_by_another_client(
    server: NatsServer,
) -> None:
    """All of it, in order, with the connection it was said through."""
    heard: asyncio.Queue[Presence] = asyncio.Queue()
    async with client(server) as one, client(server) as two:
        mine = NatsPresences(one)
        said = presence(mine.connection, Held("ada", "run-1", 3))
        async with NatsPresences(two).hear(heard.put_nowait):
            await mine.tell(said)
            await mine.tell(presence(mine.connection))
            assert [await heard.get(), await heard.get()] == [
                said,
                presence(mine.connection),
            ]
        assert mine.connection != NatsPresences(two).connection


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"runner": "r1"}', b"\xff", b"[" * 10_000, b'{"runner": 3}'],
)
async def test_what_is_no_presence_is_left(server: NatsServer, body: bytes) -> None:
    """Also one that claims another's subject."""
    heard: asyncio.Queue[Presence] = asyncio.Queue()
    async with client(server) as one, client(server) as two:
        mine = NatsPresences(one)
        async with NatsPresences(two).hear(heard.put_nowait):
            await one.send(runner_subject("r1"), body)
            claimed = msgspec.json.encode(presence(mine.connection, runner="r1"))
            await one.send(runner_subject("r2"), claimed)
            await mine.tell(presence(mine.connection))
            assert (await heard.get()).runner == "r1"
            assert heard.empty()


async def test_the_server_tells_who_is_gone(server: NatsServer) -> None:
    """By the ids that the client has itself, the moment it closes."""
    gone: asyncio.Queue[Connection] = asyncio.Queue()
    async with (
        client(server, "system") as system,
        NatsDepartures(system).hear(gone.put_nowait),
    ):
        async with client(server) as one:
            who = NatsPresences(one).connection
            assert who.server
            assert who.client
        assert await gone.get() == who


async def test_without_a_connection_nothing_is_said(tmp_path: Path) -> None:
    """And nobody waits: it would be untrue by the time it is heard."""
    server = NatsServer(tmp_path, ACCOUNTS)
    server.start()
    async with client(server) as one:
        mine = NatsPresences(one)
        assert mine.connected
        server.kill()
        while mine.connected:  # noqa: ASYNC110 - the server's
            await asyncio.sleep(0.005)
        await mine.tell(presence(mine.connection))

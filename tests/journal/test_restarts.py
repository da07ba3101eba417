"""The server goes away under load, and comes back on what it stored."""

import asyncio

import pytest
from commits import commit
from logs import JetStreamLog
from nats_server import NatsServer

from events.commit import Recorded
from events.journal import Journal
from events.names import Key

WRITERS = 12
CRASHES = 4


async def keep_writing(
    journal: Journal, key: Key, end: asyncio.Event
) -> list[Recorded]:
    """Append one commit after the other; what is returned was acknowledged."""
    acknowledged: list[Recorded] = []
    last: Recorded | None = None
    while not end.is_set():
        last = await journal.append(
            commit(key, last), after=last.position if last else 0
        )
        acknowledged.append(last)
    return acknowledged


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_every_acknowledged_append_is_stored_exactly_once(
    own_log: JetStreamLog, own_server: NatsServer, how: str
) -> None:
    """Appends are in flight at every crash; none fails, none is lost or doubled."""
    end = asyncio.Event()
    keys = [Key("ada", f"writer-{n}") for n in range(WRITERS)]
    journals = [own_log.journal, await own_log.again()]
    async with asyncio.TaskGroup() as group:
        writers = [
            group.create_task(keep_writing(journals[n % 2], key, end))
            for n, key in enumerate(keys)
        ]
        for _ in range(CRASHES):
            await progress(own_log)
            getattr(own_server, how)()
            own_server.start()
        await progress(own_log)
        end.set()
    for key, writer in zip(keys, writers, strict=True):
        assert await own_log.journal.read(key) == writer.result()


async def progress(log: JetStreamLog) -> None:
    """Wait until 50 more commits are stored."""
    heard = asyncio.Event()
    count = 0

    def hear(_message: object) -> None:
        nonlocal count
        count += 1
        if count >= 50:
            heard.set()

    wire = await log.wire()
    await wire.subscribe("feed.>", hear)
    await heard.wait()
    await wire.close()


async def test_an_append_outlasts_a_server_that_is_away(
    own_log: JetStreamLog, own_server: NatsServer
) -> None:
    """It is tried until the server is back, within its patience."""
    own_server.stop()
    append = asyncio.create_task(own_log.journal.append(commit(), after=0))
    await asyncio.sleep(0)
    own_server.start()
    stored = await append
    assert await own_log.journal.read(stored.key) == [stored]

import asyncio
from typing import TYPE_CHECKING

import pytest
from commits import KEY, OTHER, write
from logs import JetStreamLog, Log, back
from nats_server import NatsServer

from events.names import ROUTES

if TYPE_CHECKING:
    from events.commit import Recorded


async def test_signals_and_ends_are_heard_and_nothing_else(log: Log) -> None:
    """What somebody must act upon while it is held, of every execution, in order."""
    heard: asyncio.Queue[Recorded] = asyncio.Queue()
    async with log.journal.hear(heard.put_nowait):
        written = await write(log.journal, KEY, [*ROUTES, "signal"])
        written += await write(log.journal, OTHER, ["agents", "finished"])
        expected = [r for r in written if r.route in ("signal", "finished")]
        assert [await heard.get() for _ in expected] == expected
    await write(log.journal, KEY, ["signal"], previous=written[len(ROUTES)])
    assert heard.empty()


async def test_who_may_have_missed_something_is_told(
    own_log: JetStreamLog, own_server: NatsServer
) -> None:
    """After each reconnect: what was appended in between was not heard."""
    missed = asyncio.Event()
    async with own_log.journal.hear(lambda _: None, missed.set):
        assert not missed.is_set()
        own_server.kill()
        own_server.start()
        await missed.wait()


async def test_work_is_heard_of_in_the_lanes_that_were_asked_for(log: Log) -> None:
    """Whose it is and where it stands, as soon as it is stored."""
    heard: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()

    def hear(lane: str, user: str, position: int) -> None:
        heard.put_nowait((lane, user, position))

    async with log.journal.hear_work(["agents", "agents_long"], hear):
        written = await write(log.journal, KEY, ROUTES)
        written += await write(log.journal, OTHER, ["agents"])
        expected = [
            (r.route, r.key.user, r.position)
            for r in written
            if r.route in ("agents", "agents_long")
        ]
        assert [await heard.get() for _ in expected] == expected
    await write(log.journal, OTHER, ["agents"], previous=written[-1])
    assert heard.empty()


async def test_another_process_is_heard(log: Log) -> None:
    """It does not matter over which connection a signal was appended."""
    other = await log.again()
    heard: asyncio.Queue[Recorded] = asyncio.Queue()
    async with log.journal.hear(heard.put_nowait):
        [signal] = await write(other, KEY, ["signal"])
        assert await heard.get() == signal


async def test_an_append_that_was_rejected_is_not_heard(log: Log) -> None:
    """Only what was stored is told: a lost race is no signal."""
    heard: asyncio.Queue[Recorded] = asyncio.Queue()
    async with log.journal.hear(heard.put_nowait):
        [first] = await write(log.journal, KEY, ["signal"])
        results = await asyncio.gather(
            *(write(log.journal, KEY, ["signal"], previous=first) for _ in range(4)),
            return_exceptions=True,
        )
        [second] = next(r for r in results if not isinstance(r, BaseException))
        [third] = await write(log.journal, KEY, ["signal"], previous=second)
        assert [await heard.get() for _ in range(3)] == [first, second, third]
        assert heard.empty()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_hearing_goes_on_after_a_restart_of_the_server(
    own_log: JetStreamLog, own_server: NatsServer, how: str
) -> None:
    """What is appended after it is back is heard."""
    heard: asyncio.Queue[Recorded] = asyncio.Queue()
    async with own_log.journal.hear(heard.put_nowait):
        getattr(own_server, how)()
        own_server.start()
        await back(own_log.journal)
        [signal] = await write(own_log.journal, KEY, ["signal"])
        assert await heard.get() == signal


async def test_what_cannot_be_read_does_not_deafen(
    jetstream_log: JetStreamLog,
) -> None:
    """A newer version's signal is passed over; the next one is heard."""
    journal = jetstream_log.journal
    heard: asyncio.Queue[Recorded] = asyncio.Queue()
    async with journal.hear(heard.put_nowait):
        newer = b'{"events":[{"type":"invented.v9"}]}'
        await journal.wire.request("events.ada.newer.signal", newer)
        [signal] = await write(journal, KEY, ["signal"])
        assert await heard.get() == signal

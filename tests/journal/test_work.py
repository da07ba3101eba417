import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from commits import KEY, OTHER, write
from logs import JetStreamLog, Log, back
from nats_server import NatsServer

from events.errors import Unavailable
from events.journal import Journal, Work, WorkQueue
from events.names import EVENTS, LANES, Key, lane_consumer
from events.spec import Lane

LONG = 60.0
BRIEFLY = 0.05


@asynccontextmanager
async def lane(
    journal: Journal,
    lease: float = LONG,
    *,
    lane: Lane = "agents",
    key: Key | None = None,
) -> AsyncIterator[WorkQueue]:
    """Open a lane and close it."""
    queue = await journal.work(lane, lease=lease, key=key)
    try:
        yield queue
    finally:
        await queue.close()


async def jobs(journal: Journal, count: int) -> list[Key]:
    """Make executions that are work, each with one commit."""
    keys = [Key("ada", f"job-{n}") for n in range(count)]
    for key in keys:
        await write(journal, key, ["agents"])
    return keys


async def fetch(queue: WorkQueue, count: int) -> list[Work]:
    """Fetch until there are ``count`` works."""
    works: list[Work] = []
    while len(works) < count:
        works += await queue.fetch(count - len(works), 1.0)
    return works


def keys_of(works: list[Work]) -> list[Key]:
    """Whose work it is."""
    return [work.recorded.key for work in works]


async def test_work_is_the_commits_of_a_lane(log: Log) -> None:
    """Each lane hands out its own commits, whole, and nothing else."""
    written = await write(log.journal, KEY, [*LANES, "log", "signal", "finished"])
    for number, name in enumerate(LANES):
        async with lane(log.journal, lane=name) as queue:
            [work] = await queue.fetch(10, 5.0)
            assert work.recorded == written[number]
            assert work.deliveries == 1
            assert await queue.fetch(10, BRIEFLY) == []


async def test_a_fetch_brings_at_most_what_was_asked(log: Log) -> None:
    """The rest stays for the next fetch, in order, none twice."""
    keys = await jobs(log.journal, 7)
    async with lane(log.journal) as queue:
        works = await fetch(queue, 3)
        works += await fetch(queue, 4)
        assert keys_of(works) == keys
        assert await queue.fetch(10, BRIEFLY) == []


async def test_a_fetch_that_waits_hears_of_new_work_at_once(log: Log) -> None:
    """Work that is appended later ends the wait; other commits do not."""
    async with lane(log.journal) as queue:
        assert await queue.fetch(5, BRIEFLY) == []
        waiting = asyncio.create_task(queue.fetch(5, 5.0))
        for _ in range(20):
            await asyncio.sleep(0)
        await write(log.journal, OTHER, ["log", "signal", "agents_long"])
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        await write(log.journal, KEY, ["agents"])
        assert keys_of(await waiting) == [KEY]


async def test_a_cancelled_fetch_swallows_nothing(log: Log) -> None:
    """What was on its way to a fetch that was given up is in the next one."""
    async with lane(log.journal) as queue:
        for number in range(5):
            waiting = asyncio.create_task(queue.fetch(1, 5.0))
            await asyncio.sleep(0)
            waiting.cancel()
            key = Key("ada", f"late-{number}")
            await write(log.journal, key, ["agents"])
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert keys_of(await fetch(queue, 1)) == [key]


async def test_work_whose_lease_ran_out_is_handed_out_again(log: Log) -> None:
    """The second delivery says that it is the second."""
    await jobs(log.journal, 1)
    async with lane(log.journal, log.brief) as queue:
        [first] = await fetch(queue, 1)
        again = await log.redelivered(queue)
        assert again.recorded == first.recorded
        assert (first.deliveries, again.deliveries) == (1, 2)
        await again.done()


async def test_renewed_work_stays_leased(log: Log) -> None:
    """Of two works, the one that is renewed does not come again, the other does."""
    await jobs(log.journal, 2)
    async with lane(log.journal, log.brief) as queue:
        kept, left = await fetch(queue, 2)
        again = await log.redelivered(queue, renewed=kept)
        assert again.recorded == left.recorded
        await kept.done()
        await again.done()


async def test_work_that_is_done_is_never_handed_out_again(log: Log) -> None:
    """Of two works, the one that is done stays away when leases run out."""
    await jobs(log.journal, 2)
    async with lane(log.journal, log.brief) as queue:
        done, left = await fetch(queue, 2)
        await done.done()
        again = await log.redelivered(queue)
        assert again.recorded == left.recorded
        await again.done()
        await log.tick(10 * log.brief)
        assert await queue.fetch(5, 2 * BRIEFLY) == []


async def test_work_given_back_is_handed_out_at_once(log: Log) -> None:
    """Long before its lease is over, and as another delivery."""
    await jobs(log.journal, 1)
    async with lane(log.journal) as queue:
        [work] = await fetch(queue, 1)
        await work.give_back()
        [again] = await fetch(queue, 1)
        assert again.deliveries == 2


async def test_work_given_back_with_a_delay_comes_after_it(log: Log) -> None:
    """Of two works given back, the one without a delay comes first."""
    await jobs(log.journal, 2)
    async with lane(log.journal) as queue:
        late, early = await fetch(queue, 2)
        await late.give_back(delay=log.brief)
        await early.give_back()
        [first] = await fetch(queue, 1)
        assert first.recorded == early.recorded
        second = await log.redelivered(queue)
        assert second.recorded == late.recorded


async def test_two_queues_share_one_lane(log: Log) -> None:
    """Every work goes to one of two runners, none to both."""
    keys = await jobs(log.journal, 30)
    other = await log.again()
    async with lane(log.journal) as one, lane(other) as two:
        works: list[Work] = []
        while len(works) < len(keys):
            for queue in (one, two):
                works += await queue.fetch(2, BRIEFLY)
        assert sorted(keys_of(works)) == sorted(keys)
        assert await one.fetch(5, BRIEFLY) == []


async def test_a_key_restricts_a_queue_to_one_execution(log: Log) -> None:
    """Other executions' work is left to others, and no id stands for another."""
    other = Key("bob", KEY.execution)
    for key in (KEY, OTHER, other, Key("ada-run", "1"), Key("ada", "run-1-x")):
        await write(log.journal, key, ["agents"])
    async with (
        lane(log.journal, key=KEY) as mine,
        lane(log.journal, key=other) as theirs,
    ):
        assert keys_of(await mine.fetch(10, 5.0)) == [KEY]
        assert keys_of(await theirs.fetch(10, 5.0)) == [other]
        assert await mine.fetch(10, BRIEFLY) == []


async def test_a_closed_queue_swallows_no_work(log: Log) -> None:
    """What it had asked for goes to another queue at once, not after a lease."""
    other = await log.again()
    async with lane(other) as next_queue:
        for number in range(5):
            async with lane(log.journal) as queue:
                waiting = asyncio.create_task(queue.fetch(8, 5.0))
                await asyncio.sleep(0.0)
                await queue.fetch(8, BRIEFLY)
                waiting.cancel()
                await asyncio.wait([waiting])
            key = Key("ada", f"next-{number}")
            await write(log.journal, key, ["agents"])
            assert keys_of(await fetch(next_queue, 1)) == [key]


async def test_work_that_arrives_while_a_queue_closes_is_given_back(log: Log) -> None:
    """Appended at the very moment of closing, it is at the next queue at once."""
    other = await log.again()
    for number in range(10):
        async with lane(log.journal) as queue:
            assert await queue.fetch(8, 0.01) == []  # asked for, and left standing
            key = Key("ada", f"closing-{number}")
            writing = asyncio.create_task(write(other, key, ["agents"]))
            await asyncio.sleep(0.0002 * number)
        await writing
        async with lane(other) as next_queue:
            [work] = await fetch(next_queue, 1)
            assert work.recorded.key == key
            await work.done()


async def test_an_old_holders_ack_counts_for_the_new_one(log: Log) -> None:
    """The log believes whoever speaks for a work: only fencing tells holders apart."""
    await jobs(log.journal, 1)
    async with lane(log.journal, log.brief) as queue:
        [zombie] = await fetch(queue, 1)
        await log.redelivered(queue)
        await zombie.done()
        await log.tick(10 * log.brief)
        assert await queue.fetch(1, 2 * BRIEFLY) == []


async def test_what_was_handed_out_is_remembered(log: Log) -> None:
    """The position of the newest work that anybody leased, 0 before the first."""
    [first] = await write(log.journal, KEY, ["agents"])
    assert await log.journal.handed_out("agents") == 0
    async with lane(log.journal) as queue:
        assert await log.journal.handed_out("agents") == 0
        [work] = await fetch(queue, 1)
        await work.done()
    await write(log.journal, OTHER, ["agents"])
    assert await log.journal.handed_out("agents") == first.position
    assert await log.journal.handed_out("agents", key=KEY) == 0


async def test_what_is_settled_for_good_is_known(log: Log) -> None:
    """Not what is leased, nor what was given back, nor anything beyond it."""
    await jobs(log.journal, 3)
    assert await log.journal.settled("agents") == 0
    async with lane(log.journal) as queue:
        works = await fetch(queue, 3)
        first, second, third = (work.recorded for work in works)
        await works[2].done()
        await works[1].give_back(60.0)
        assert await log.journal.settled("agents") == 0
        await works[0].done()
        assert first.position <= await log.journal.settled("agents") < second.position
        await works[1].done()
        assert await log.journal.settled("agents") == third.position


# ── JetStream only ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_queue_survives_a_restart_of_the_server(
    own_log: JetStreamLog, own_server: NatsServer, how: str
) -> None:
    """What it had asked for is asked for again; what it holds can be settled.

    A server that was killed may forget what it handed out just before.
    """
    async with lane(own_log.journal) as queue:
        [first] = await jobs(own_log.journal, 1)
        [held] = await fetch(queue, 1)
        waiting = asyncio.create_task(fetch(queue, 1))
        await asyncio.sleep(0)
        getattr(own_server, how)()
        own_server.start()
        await back(own_log.journal)
        await write(own_log.journal, OTHER, ["agents"])
        [work] = await waiting
        if work.recorded.key == first:
            assert work.deliveries == 1
            [work] = await fetch(queue, 1)
        assert work.recorded.key == OTHER
        await held.done()


async def test_a_queue_asks_for_no_more_than_it_was_told(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one of two requests runs out, the other is still counted."""
    monkeypatch.setattr("events.pull.MAX_WAIT", 0.3)
    journal = jetstream_log.journal
    async with lane(journal) as queue:
        assert await queue.fetch(5, 0.2) == []
        assert await queue.fetch(8, 0.2) == []  # three more; the five run out in it
        await jobs(journal, 20)
        works = await fetch(queue, 8)
        info = await journal.wire.api(
            f"CONSUMER.INFO.{EVENTS}.{lane_consumer('agents')}"
        )
        assert len(works) == 8
        assert msgspec.json.decode(info)["num_ack_pending"] == 8


async def test_what_is_asked_before_a_reconnect_is_known_is_asked_once(
    own_log: JetStreamLog, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than was asked for would lie here, and be nobody's, until its lease ends."""
    journal, other = own_log.journal, await own_log.again()
    known, asked = journal.wire.client._reconnected_cb, asyncio.Event()
    async with lane(journal) as queue:
        assert await queue.fetch(5, BRIEFLY) == []

        async def late() -> None:
            assert await queue.fetch(8, BRIEFLY) == []
            await known()
            asked.set()

        monkeypatch.setattr(journal.wire.client, "_reconnected_cb", late)
        own_server.kill()
        own_server.start()
        await asked.wait()
        assert await queue.fetch(8, BRIEFLY) == []
        await back(other)
        await jobs(other, 20)
        await fetch(queue, 8)
        info = await other.wire.api(f"CONSUMER.INFO.{EVENTS}.{lane_consumer('agents')}")
        assert msgspec.json.decode(info)["num_ack_pending"] == 8


async def test_work_that_cannot_be_read_does_not_stop_the_lane(
    jetstream_log: JetStreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer version's commit is left to a newer runner; the others' work goes on."""
    journal = jetstream_log.journal
    newer = b'{"events":[{"type":"invented.v9"}]}'
    await journal.wire.request("events.ada.newer.agents", newer)
    keys = await jobs(journal, 1)
    async with lane(journal) as queue:
        assert keys_of(await fetch(queue, 1)) == keys
    assert "upgrade wakestream" in caplog.text


async def test_a_lane_that_is_gone_is_unavailable(jetstream_log: JetStreamLog) -> None:
    """A fetch says so instead of asking in vain as fast as it can."""
    journal = jetstream_log.journal
    async with lane(journal) as queue:
        assert await queue.fetch(1, BRIEFLY) == []
        name = lane_consumer("agents")
        await journal.wire.api(f"CONSUMER.DELETE.{EVENTS}.{name}")
        with pytest.raises(Unavailable, match="gives no work now"):
            await queue.fetch(1, 5.0)


async def test_settling_on_a_server_that_hangs_is_unavailable(
    own_log: JetStreamLog, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not confirmed is told; nothing is settled in silence."""
    await jobs(own_log.journal, 1)
    queue = await own_log.journal.work("agents")
    [work] = await fetch(queue, 1)
    request = own_log.journal.wire.request
    monkeypatch.setattr(
        own_log.journal.wire, "request", lambda *a, **_: request(*a, wait=0.05)
    )
    own_server.freeze(frozen=True)
    with pytest.raises(Unavailable, match="not settled"):
        await work.done()
    own_server.freeze(frozen=False)
    await work.done()
    await queue.close()


async def test_a_queue_on_a_closed_connection_is_unavailable(
    jetstream_log: JetStreamLog,
) -> None:
    """It does not wait for work that can never come, and it can be closed."""
    wire = await jetstream_log.wire()
    queue = await type(jetstream_log.journal)(wire).work("agents")
    assert await queue.fetch(1, BRIEFLY) == []
    await wire.close()
    with pytest.raises(Unavailable, match="closed the connection for good"):
        await queue.fetch(1, 5.0)
    await queue.close()

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from commits import KEY, OTHER, commit, write
from logs import JetStreamLog, Log, back
from nats.aio.subscription import Subscription
from nats_server import NatsServer

from events.commit import Recorded
from events.errors import Unavailable
from events.feed import RUN
from events.names import EVENTS, ROUTES, Key, Route

Runs = AsyncGenerator[Sequence[Recorded], None]


async def take(runs: Runs, count: int) -> list[Recorded]:
    """Read until there are ``count`` commits; a run may bring more."""
    taken: list[Recorded] = []
    while len(taken) < count:
        taken.extend(await anext(runs))
    return taken


async def everything(runs: Runs) -> list[Recorded]:
    """Read to the end."""
    async with aclosing(runs):
        return [recorded async for run in runs for recorded in run]


async def test_from_the_start_every_commit_comes_in_order(log: Log) -> None:
    """All histories and routes, as they were appended."""
    written = await write(log.journal, KEY, ROUTES)
    written += await write(log.journal, OTHER, ROUTES)
    assert await everything(log.journal.follow(live=False)) == written


async def test_from_a_position_only_what_is_newer_comes(log: Log) -> None:
    """The cursor itself is not repeated."""
    written = await write(log.journal, KEY, ["log"] * 6)
    after = written[3].position
    assert await everything(log.journal.follow(after=after, live=False)) == written[4:]


async def test_of_one_key_nothing_else_comes(log: Log) -> None:
    """Other users' executions of the same id, and similar ids, stay out."""
    mine = await write(log.journal, KEY, ["agents"])
    await write(log.journal, OTHER, ROUTES)
    await write(log.journal, KEY._replace(user="eve"), ["log"])
    mine += await write(log.journal, KEY, ["log", "finished"], previous=mine[-1])
    await write(log.journal, KEY._replace(execution="run-11"), ["log"])
    assert await everything(log.journal.follow(key=KEY, live=False)) == mine


@pytest.mark.parametrize("key", [None, KEY])
async def test_until_now_ends_on_an_empty_log(log: Log, key: object) -> None:
    """There is nothing to wait for."""
    follow = log.journal.follow(key=KEY if key else None, live=False)
    assert await everything(follow) == []


async def test_until_now_ends_where_the_log_ended_when_it_began(log: Log) -> None:
    """What comes while it reads is not waited for."""
    written = await write(log.journal, KEY, ["log"] * 3)
    runs = log.journal.follow(live=False)
    async with aclosing(runs):
        got = list(await anext(runs))
        await write(log.journal, KEY, ["log"] * 3, previous=written[-1])
        got += [recorded async for run in runs for recorded in run]
    assert got == written


async def test_live_what_is_appended_later_comes_too(log: Log) -> None:
    """A follower that is at the end waits, and hears of each new commit."""
    written = await write(log.journal, KEY, ["agents"])
    async with aclosing(log.journal.follow()) as runs:
        assert await take(runs, 1) == written
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(runs))
            new = await write(log.journal, KEY, ["log"], previous=written[-1])
            assert list(await waiting) == new
            written += new


async def test_a_slow_reader_misses_nothing(log: Log) -> None:
    """More arrives between two of its reads than is asked for at a time."""
    async with aclosing(log.journal.follow()) as runs:
        written = await write(log.journal, KEY, ["agents"])
        got = list(await anext(runs))
        for _ in range(3):
            written += await write(
                log.journal, KEY, ["log"] * (RUN - 100), previous=written[-1]
            )
            got += await anext(runs)
        got += await take(runs, len(written) - len(got))
    assert got == written


async def test_two_readers_do_not_disturb_each_other(log: Log) -> None:
    """Each gets everything."""
    other = await log.again()
    written = await write(log.journal, KEY, ["log"] * 40)
    both = await asyncio.gather(
        everything(log.journal.follow(live=False)),
        everything(other.follow(live=False, after=written[9].position)),
    )
    assert both == [written, written[10:]]


# ── on JetStream: what a reader leaves, and what it survives ─────────────────


@pytest.mark.parametrize("how", ["close", "cancel", "end"])
async def test_a_reader_leaves_no_consumer_behind(
    jetstream_log: JetStreamLog, how: str
) -> None:
    """Closed, cancelled or at its end: the server keeps nothing for it."""
    log = jetstream_log
    await write(log.journal, KEY, ["log"] * 3)
    if how == "end":
        await everything(log.journal.follow(live=False))
    elif how == "close":
        async with aclosing(log.journal.follow()) as runs:
            await take(runs, 3)
            assert len(await log.consumers()) == 1
    else:
        reader = asyncio.create_task(everything(log.journal.follow()))
        await log.readers(1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
    await log.readers(0)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_across_a_restart_of_the_server_nothing_is_missing_or_repeated(
    own_log: JetStreamLog, own_server: NatsServer, how: str
) -> None:
    """A live reader goes on after the last commit that it passed on."""
    journal = own_log.journal
    async with aclosing(journal.follow()) as runs:
        written = await write(journal, KEY, ["log"] * 20)
        got = await take(runs, 20)
        for _ in range(2):
            waiting = asyncio.ensure_future(anext(runs))
            getattr(own_server, how)()
            own_server.start()
            await back(journal)
            written += await write(journal, KEY, ["log"] * 5, previous=written[-1])
            got += await waiting
            got += await take(runs, len(written) - len(got))
    assert got == written


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_what_arrived_and_was_not_read_is_not_repeated_after_a_restart(
    own_log: JetStreamLog, own_server: NatsServer, how: str
) -> None:
    """A slow reader holds commits in memory when its consumer is lost."""
    journal = own_log.journal
    async with aclosing(journal.follow()) as runs:
        written = await write(journal, KEY, ["log"])
        got = list(await anext(runs))
        written += await write(journal, KEY, ["log"] * 30, previous=written[-1])
        await journal.wire.client.flush()  # all of them have arrived by now
        getattr(own_server, how)()
        own_server.start()
        await back(journal)
        written += await write(journal, KEY, ["log"], previous=written[-1])
        got += await take(runs, len(written) - len(got))
    assert [r.position for r in got] == [r.position for r in written]


async def test_a_consumer_that_is_deleted_is_replaced(
    jetstream_log: JetStreamLog,
) -> None:
    """Whatever takes the consumer away, the reader begins again where it was."""
    log = jetstream_log
    async with aclosing(log.journal.follow()) as runs:
        written = await write(log.journal, KEY, ["log"] * 3)
        got = await take(runs, 3)
        waiting = asyncio.ensure_future(anext(runs))
        await asyncio.sleep(0)
        [name] = await log.consumers()
        await log.journal.wire.api(f"CONSUMER.DELETE.{EVENTS}.{name}")
        written += await write(log.journal, KEY, ["log"] * 3, previous=written[-1])
        got += await waiting
        got += await take(runs, 6 - len(got))
    assert got == written


async def test_a_delivery_that_is_lost_is_noticed(jetstream_log: JetStreamLog) -> None:
    """A number that the consumer skipped means loss: the reader begins again."""
    journal = jetstream_log.journal
    lost: list[str] = []
    subscribe = journal.wire.subscribe

    async def losing(subject, handler):  # noqa: ANN001, ANN202 - as in Wire
        def handle(message) -> None:  # noqa: ANN001 - a Msg
            if message.data and not lost:
                lost.append(message.subject)
            else:
                handler(message)

        return await subscribe(subject, handle)

    journal.wire.subscribe = losing  # type: ignore[method-assign]
    written = await write(journal, KEY, ["log"] * 5)
    assert await everything(journal.follow(live=False)) == written
    assert lost


async def test_a_server_that_falls_silent_is_not_waited_for(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message, no sign of life: the reader begins again with another consumer."""
    monkeypatch.setattr("events.feed.HEARTBEAT", 0.1)
    monkeypatch.setattr("events.feed.SILENCE", 0.4)
    journal = jetstream_log.journal
    subscribe, subscribed = journal.wire.subscribe, list[Subscription]()

    async def noted(subject, handler):  # noqa: ANN001, ANN202 - as in Wire
        subscribed.append(await subscribe(subject, handler))
        return subscribed[-1]

    journal.wire.subscribe = noted  # type: ignore[method-assign]
    async with aclosing(journal.follow()) as runs:
        written = await write(journal, KEY, ["log"])
        assert await take(runs, 1) == written
        await journal.wire.hush(subscribed[0])
        written += await write(journal, KEY, ["log"], previous=written[-1])
        assert await take(runs, 1) == written[1:]
    assert len(subscribed) > 1


async def test_a_connection_that_is_closed_for_good_ends_the_reader(
    jetstream_log: JetStreamLog,
) -> None:
    """A reader says so; it does not wait for ever for what cannot come."""
    wire = await jetstream_log.wire()
    journal = type(jetstream_log.journal)(wire)
    async with aclosing(journal.follow()) as runs:
        await wire.close()
        with pytest.raises(Unavailable, match="closed the connection for good"):
            await anext(runs)


async def test_a_commit_that_comes_in_while_a_run_is_worked_on_is_not_lost(
    log: Log,
) -> None:
    """Between two reads the follower is not listening, and yet hears of it."""
    async with aclosing(log.journal.follow()) as runs:
        last = None
        for _ in range(20):
            last = await log.journal.append(
                commit(previous=last), after=last.position if last else 0
            )
            assert list(await anext(runs)) == [last]


@pytest.mark.parametrize("key", [None, KEY])
async def test_of_some_routes_nothing_else_comes(log: Log, key: Key | None) -> None:
    """Of all histories or of one, to the end and live."""
    mine = await write(log.journal, KEY, ROUTES)
    others = await write(log.journal, OTHER, ROUTES)
    wanted: tuple[Route, ...] = ("parked", "finished")
    expected = [r for r in mine + others if r.route in wanted and key in (None, r.key)]
    follow = log.journal.follow
    assert await everything(follow(key=key, routes=wanted, live=False)) == expected
    async with aclosing(follow(key=key, routes=wanted)) as runs:
        got = await take(runs, len(expected))
        new = await write(log.journal, KEY, ["log", "parked"], previous=mine[-1])
        assert [*got, *await take(runs, 1)] == [*expected, new[1]]

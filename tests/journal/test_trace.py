from contextlib import aclosing

from commits import KEY, commit
from logs import JetStreamLog, Log

from events.commit import GENESIS, Recorded, check

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(route: str = "agents") -> Recorded:
    """A commit that was decided in a span."""
    return commit(route=route)._replace(trace=TRACE)  # type: ignore[arg-type]


async def test_every_reader_is_told_the_trace(log: Log) -> None:
    """Who loads, follows, looks or takes work."""
    stored = await log.journal.append(traced(), after=0)
    assert stored.trace == TRACE
    assert await log.journal.read(KEY) == [stored]
    assert await log.journal._following(KEY, 0) == stored
    async with aclosing(log.journal.follow(live=False)) as runs:
        assert [r for run in [*[run async for run in runs]] for r in run] == [stored]
    queue = await log.journal.work("agents")
    (work,) = await queue.fetch(1, 5.0)
    assert work.recorded == stored
    await work.done()
    await queue.close()


async def test_who_hears_a_signal_is_told_the_trace(log: Log) -> None:
    """It is republished with it."""
    heard: list[Recorded] = []
    async with log.journal.hear(heard.append):
        stored = await log.journal.append(traced("signal"), after=0)
        async with aclosing(log.journal.follow()) as runs:
            async for _ in runs:
                if heard:
                    break
                await log.tick(0.01)
    assert heard == [stored]


async def test_a_commit_without_a_trace_has_none(log: Log) -> None:
    """As it is when traces are off."""
    stored = await log.journal.append(commit(), after=0)
    assert [r.trace for r in await log.journal.read(KEY)] == [""]
    assert (await log.journal._following(KEY, 0)) == stored


async def test_a_header_is_sent_only_with_a_trace(jetstream_log: JetStreamLog) -> None:
    """So that nothing is paid for traces that are off."""
    seen = []
    wire = jetstream_log.journal.wire
    await wire.subscribe("feed.>", lambda m: seen.append(m.headers or {}))
    first = await jetstream_log.journal.append(commit(), after=0)
    second = commit(previous=first)._replace(trace=TRACE)
    await jetstream_log.journal.append(second, after=first.position)
    await wire.client.flush()
    while len(seen) < 2:
        await wire.client.flush()
    assert ["traceparent" in headers for headers in seen] == [False, True]


async def test_the_chain_does_not_cover_the_trace(log: Log) -> None:
    """A copy of the log that lost it is whole."""
    stored = await log.journal.append(traced(), after=0)
    check(stored._replace(trace=""), GENESIS)

"""The live feed: nothing is missing and nothing comes twice, however one comes back."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from histories import Story
from lifelike import lifelike
from watching import (
    Streams,
    Viewer,
    bare,
    busy,
    everything,
    executions,
    kind_of,
    running,
)

from events.commit import Recorded
from events.deltas import Delta
from events.errors import Corrupt, InvalidInput, NotFound, Unavailable
from events.logbook import Line, encode_line
from events.names import Key, log_subject
from events.rawlog import Raw
from projections import past
from projections.feedcursor import BEGINNING, WHOLE, Cursor
from projections.livefeed import AT_A_TIME, LiveFeed
from projections.notices import KINDS, Kind
from projections.past import AT_ONCE

if TYPE_CHECKING:
    from projections.ring import Topic

ADA, BOB = Key("ada", "one"), Key("bob", "one")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def line(streams: Streams, key: Key, text: str) -> int:
    """Store a log line."""
    one = Line(
        at=AT,
        user=key.user,
        execution=key.execution,
        level="info",
        event_type="test.said",
        message=text,
    )
    return streams.logs.add(log_subject(key, "info"), encode_line(one))


def commits(chance: Random, *keys: Key, moves: int = 30) -> list[Recorded]:
    """Histories of some executions that are kept, mixed as they come."""
    logs = [
        [
            recorded
            for recorded in lifelike(chance, key, moves).log
            if not recorded.commit.purges
        ]
        for key in keys
    ]
    mixed: list[Recorded] = []
    while logs := [log for log in logs if log]:
        mixed.append(chance.choice(logs).pop(0))
    return mixed


def write(streams: Streams, chance: Random, commits: Sequence[Recorded]) -> None:
    """Store commits, and now and then a line about them."""
    for recorded in commits:
        streams.store(recorded)
        for _ in range(chance.choice([0, 0, 1, 2])):
            line(streams, recorded.key, f"after version {recorded.commit.version}")


async def settled(streams: Streams, feed: LiveFeed) -> None:
    """Let a feed come as far as its log."""
    await streams.stir()
    events, logs = await streams.events.extent(), await streams.logs.extent()
    await feed.reach(Cursor(events.last, line=logs.last))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("most", [1, 7, 10_000])
async def test_whoever_comes_and_goes_gets_each_message_once(
    seed: int, most: int
) -> None:
    """From the log, from the ring and live; on two gateways in turn.

    Each of them mixes events and lines in its own way.
    """
    chance = Random(seed)  # noqa: S311 - a schedule, no secret
    keys = [ADA, Key("ada", "two"), BOB]
    streams = Streams()
    left = commits(chance, *keys)
    topics: list[Topic] = [ADA, "ada", BOB]
    viewers = {topic: Viewer() for topic in topics}
    async with (
        running(streams.feed(most)) as one,
        running(streams.feed(most)) as other,
    ):
        while left:
            count = chance.randrange(1, 9)
            write(streams, chance, left[:count])
            del left[:count]
            if chance.random() < 0.5:
                await settled(streams, one)
            for topic, viewer in viewers.items():
                feed = chance.choice((one, other))
                await feed.join(topic, viewer.cursor, viewer)
                if chance.random() < 0.5:
                    await settled(streams, feed)
                feed.hub.detach(topic, viewer)
                _lose_some(viewer, chance)
        for topic, viewer in viewers.items():
            await settled(streams, one)
            await one.join(topic, viewer.cursor, viewer)
    for topic, viewer in viewers.items():
        wanted = await everything(streams, topic)
        assert by_stream(viewer.heard) == by_stream(wanted)
        assert wanted


def _lose_some(viewer: Viewer, chance: Random) -> None:
    """What was on its way when the connection broke never came."""
    if viewer.heard and chance.random() < 0.7:
        del viewer.heard[chance.randrange(len(viewer.heard)) :]
        last = viewer.heard[-1]["cursor"] if viewer.heard else "0"
        viewer.cursor = Cursor.parse(last)


def by_stream(messages: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Events and lines each in their order: between them there is none."""
    lines = kind_of(messages, "log")
    return bare([m for m in messages if m not in lines]), bare(lines)


async def test_of_one_nothing_of_others_comes() -> None:
    """Neither another's of the same name, nor of one's own others."""
    chance = Random(1)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    write(streams, chance, commits(chance, ADA, BOB, Key("ada", "two")))
    assert executions(await everything(streams, ADA)) == {ADA}
    assert executions(await everything(streams, "bob")) == {BOB}
    both = executions(await everything(streams, "ada"))
    assert both == {ADA, Key("ada", "two")}


@pytest.mark.parametrize("most", [1, 10_000])
@pytest.mark.parametrize("kind", ["status.changed", "step.completed", "log"])
async def test_only_what_is_wanted_comes(kind: Kind, most: int) -> None:
    """And its cursors go on with what else is wanted later."""
    chance = Random(3)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    write(streams, chance, commits(chance, ADA))
    wanted = kind_of(await everything(streams, ADA), kind)
    viewer = Viewer([kind])
    async with running(streams.feed(most)) as feed:
        await feed.join(ADA, BEGINNING, viewer)
        assert bare(viewer.heard) == bare(wanted)
        rest = Viewer()
        await feed.join(ADA, viewer.cursor, rest)
        assert kind not in {message["type"] for message in rest.heard}


async def test_from_now_on_begins_with_what_is() -> None:
    """The status at a cursor, and then what comes after it."""
    chance = Random(5)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    log = commits(chance, ADA)
    half = len(log) // 2
    write(streams, chance, log[:half])
    async with running(streams.feed()) as feed:
        cursor, state = await feed.now(ADA)
        assert state.version == half
        viewer = Viewer()
        await feed.join(ADA, cursor, viewer)
        assert viewer.heard == []
        for recorded in log[half:]:
            streams.store(recorded)
        await settled(streams, feed)
        assert viewer.heard
        assert min(m["payload"]["version"] for m in viewer.heard) == half + 1


async def test_one_that_is_not_there_is_not_found() -> None:
    """Nor is another's."""
    async with running(Streams().feed()) as feed:
        with pytest.raises(NotFound, match="no execution one"):
            await feed.now(ADA)


async def test_one_that_cannot_be_read_is_not_said_to_be_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is there, and shown by lists; who asks is told what is wrong with it."""
    streams = Streams()
    streams.store(commits(Random(1), ADA)[0])  # noqa: S311 - no secret
    streams.events.add("events.ada.one.log", b"garbage")
    async with running(streams.feed()) as feed:
        caplog.clear()
        for _ in range(3):
            with pytest.raises(Corrupt, match="no JSON"):
                await feed.now(ADA)
    assert not caplog.records, "whoever asks logs it, or not"


async def test_one_that_is_deleted_in_part_is_not_found() -> None:
    """As over REST: what is left of it is no damage that a backup could mend."""
    streams, story = Streams(), Story(ADA, AT)
    story.running()
    story.do(lambda x: x.fail(1, "ModelRefused", "no", retryable=False))
    story.do(lambda x: x.purge("old"))
    for recorded in story.log:
        streams.store(recorded)
    streams.events.delete(1)
    async with running(streams.feed()) as feed:
        with pytest.raises(NotFound, match="no execution one"):
            await feed.now(ADA)


async def test_what_a_replica_left_out_is_no_damage() -> None:
    """It lags, and others answered for what came later: it is asked again."""
    streams, seen = Streams(), 0
    for recorded in commits(Random(1), ADA)[:5]:  # noqa: S311 - no secret
        streams.store(recorded)
    whole = streams.events.history

    async def history(key: Key, *, at_least: int, after: int = 0) -> list[Raw]:
        nonlocal seen
        seen += 1
        found = await whole(key, at_least=at_least, after=after)
        return found if seen > 1 else found[:2] + found[3:]

    async with running(streams.feed()) as feed:
        streams.events.history, seen = history, 0  # type: ignore[method-assign]
        _, state = await feed.now(ADA)
    assert (state.version, seen) == (5, 2)


async def test_one_created_a_moment_ago_is_found() -> None:
    """Though the feed has not seen it yet."""
    streams = Streams()
    async with running(streams.feed()) as feed:
        streams.store(commits(Random(1), ADA)[0])  # noqa: S311 - no secret
        looking = asyncio.create_task(feed.now(ADA))
        await asyncio.sleep(0)
        await streams.stir()
        _, state = await looking
        assert state.version == 1


@pytest.mark.parametrize("cursor", [Cursor(99), Cursor(line=99), Cursor(10**17)])
async def test_a_cursor_from_beyond_the_end_is_refused(cursor: Cursor) -> None:
    """It is of another log: whoever has it would wait for ever."""
    async with running(Streams().feed()) as feed:
        with pytest.raises(InvalidInput, match="beyond the end of the log"):
            await feed.join(ADA, cursor, Viewer())


async def test_what_was_deleted_is_not_waited_for() -> None:
    """Somebody saw the last commit and the last line; then both were deleted."""
    chance = Random(2)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    for recorded in commits(chance, ADA)[:5]:
        last = streams.store(recorded)
    number = line(streams, ADA, "the last")
    streams.events.delete(last)
    streams.logs.delete(number)
    async with running(streams.feed()) as feed:
        viewer = Viewer()
        async with asyncio.timeout(60):
            await feed.join(ADA, Cursor(last, line=number), viewer)
        assert viewer.heard == []


async def test_what_was_deleted_while_it_runs_is_not_waited_for() -> None:
    """Another gateway was quicker, and its client comes here with what it saw."""
    streams = Streams()
    async with running(streams.feed()) as feed:
        last = streams.store(commits(Random(2), ADA)[0])  # noqa: S311 - no secret
        streams.events.delete(last)
        async with asyncio.timeout(60):
            await feed.join(ADA, Cursor(last), Viewer())


async def test_of_what_was_deleted_nothing_is_kept() -> None:
    """Neither for who follows all of a user's; what else there is still comes."""
    streams, two = Streams(), Key("ada", "two")
    stories = [Story(key, AT) for key in (ADA, two, BOB)]
    async with running(streams.feed()) as feed:
        for story in stories:
            story.running()
            story.do(lambda x: x.fail(1, "ModelRefused", "no", retryable=False))
            for recorded in story.log:
                streams.store(recorded)
            line(streams, story.key, "the last")
        await settled(streams, feed)
        ended = stories[0]
        ended.do(lambda x: x.purge("old"))
        streams.store(ended.log[-1])
        await settled(streams, feed)
        left: list[tuple[Topic, set[Key]]] = [
            ("ada", {two}),
            (ADA, set()),
            ("bob", {BOB}),
        ]
        for topic, there in left:
            viewer = Viewer()
            await feed.join(topic, BEGINNING, viewer)
            assert executions(viewer.heard) == there


async def test_what_cannot_be_read_is_passed_over() -> None:
    """A commit of a newer version, garbage, a line that is none: others are told."""
    chance = Random(4)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    streams.events.add("events.ada.one.log", b"\xff{")
    streams.events.add("events.ada.one.log", b'{"events":[{"type":"new.v9"}]}')
    streams.logs.add("logs.ada.one.info", b"not a line")
    streams.logs.add("logs.ada.one.shouting", b"{}")
    write(streams, chance, commits(chance, ADA))
    streams.events.add("events.ada.one.log", b"{}")
    for most in (1, 10_000):
        async with running(streams.feed(most)) as feed:
            await settled(streams, feed)
            viewer = Viewer()
            await feed.join(ADA, BEGINNING, viewer)
            assert len(viewer.heard) > 10


async def test_a_commit_of_several_messages_is_gone_on_with_in_the_middle() -> None:
    """Its cursor counts them, and the last one has the commit's own."""
    streams = Streams()
    for seed in range(40):
        for recorded in commits(Random(seed), Key("ada", f"s{seed}")):  # noqa: S311 - no secret
            streams.store(recorded)
    messages = await everything(streams, "ada")
    cursors = [Cursor.parse(m["cursor"]) for m in messages]
    within = [n for n, cursor in enumerate(cursors) if cursor.number != WHOLE]
    assert within
    for most in (1, 10_000):
        async with running(streams.feed(most)) as feed:
            for place in within[:20]:
                viewer = Viewer()
                await feed.join("ada", cursors[place], viewer)
                feed.hub.detach("ada", viewer)
                assert viewer.heard[0] == messages[place + 1]
                assert len(viewer.heard) == len(messages) - place - 1


async def test_many_that_were_missed_are_not_put_all_at_once() -> None:
    """Whoever comes back is waited for, or it would be too slow at once."""
    chance = Random(6)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    waited = 0

    class Slow(Viewer):
        async def send(self, frame: Any) -> None:
            nonlocal waited
            waited += 1
            await super().send(frame)

    for _ in range(AT_A_TIME * 3):
        line(streams, ADA, "well")
    streams.store(commits(chance, ADA)[0])
    async with running(streams.feed()) as feed:
        viewer = Slow()
        await feed.join(ADA, BEGINNING, viewer)
        assert len(viewer.heard) == AT_A_TIME * 3 + 1
        assert waited >= AT_A_TIME * 2


async def test_what_never_comes_keeps_nobody_from_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message that a reading was to end with was deleted meanwhile."""
    monkeypatch.setattr(past, "LONGEST", 0.02)
    streams = Streams()
    line(streams, ADA, "well")
    async with running(streams.feed(most=1)) as feed:
        line(streams, ADA, "again")
        await settled(streams, feed)
        monkeypatch.setattr(streams.logs, "between", _silent)
        for _ in range(AT_ONCE + 1):
            with pytest.raises(Unavailable):
                await feed.join(ADA, BEGINNING, Viewer())


async def _silent(*_: Any) -> AsyncGenerator[Sequence[Raw], None]:
    """Nothing comes."""
    await asyncio.Event().wait()
    yield ()


async def test_what_happens_while_it_is_read_comes_too() -> None:
    """Of each message that one who was away is given, another is the consequence."""
    chance = Random(8)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    log = busy(chance, ADA, 40)
    write(streams, chance, log[:10])
    left = log[10:]

    class Busy(Viewer):
        async def send(self, frame: Any) -> None:
            await super().send(frame)
            if left:
                write(streams, chance, [left.pop(0)])
                await settled(streams, feed)

    async with running(streams.feed(most=3)) as feed:
        viewer = Busy()
        await feed.join("ada", BEGINNING, viewer)
        write(streams, chance, left)
        await settled(streams, feed)
    assert len(log) > 40
    assert by_stream(viewer.heard) == by_stream(await everything(streams, "ada"))


async def test_who_takes_their_time_holds_up_nobody() -> None:
    """However many read slowly what is in the log, others get theirs."""
    chance = Random(9)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    write(streams, chance, busy(chance, ADA, 10))
    stalled = asyncio.Event()

    class Stalled(Viewer):
        async def send(self, frame: Any) -> None:
            await super().send(frame)
            await stalled.wait()

    topics: list[Topic] = [ADA, "ada"] * (AT_ONCE + 1)
    async with running(streams.feed(most=1)) as feed, asyncio.TaskGroup() as group:
        slow = [Stalled() for _ in topics]
        for topic, one in zip(topics, slow, strict=True):
            group.create_task(feed.join(topic, BEGINNING, one))
        await asyncio.gather(*(one.until(1) for one in slow))
        viewer = Viewer()
        async with asyncio.timeout(60):
            await feed.join("ada", BEGINNING, viewer)
        assert len(viewer.heard) > 20
        stalled.set()


# ── what models say ──────────────────────────────────────────────────────────


def delta(text: str, offset: int = 0, step: int = 1, try_: int = 1) -> Delta:
    """A piece of what is said."""
    return Delta(at=AT, step=step, attempt=1, try_=try_, offset=offset, text=text)


def said(messages: Sequence[Any]) -> list[tuple[int, str]]:
    """The pieces, and where they belong."""
    deltas = kind_of(messages, "delta")
    return [(m["payload"]["offset"], m["payload"]["text"]) for m in deltas]


async def test_who_comes_in_the_middle_hears_what_was_said_so_far() -> None:
    """As one piece, and then the rest; also if the gateway was started since."""
    streams = Streams()
    await streams.deltas.publish(ADA, delta("Once "))
    async with running(streams.feed()) as feed:
        await streams.deltas.publish(ADA, delta("upon ", 5))
        viewer = Viewer()
        await feed.join(ADA, BEGINNING, viewer)
        await streams.deltas.publish(ADA, delta("a time", 10))
        assert said(viewer.heard) == [(0, "Once upon "), (10, "a time")]


async def test_what_is_superseded_is_not_heard() -> None:
    """An earlier try, and what comes after the reply was recorded."""
    chance = Random(1)  # noqa: S311 - a schedule, no secret
    streams = Streams()
    log = commits(chance, ADA)
    async with running(streams.feed()) as feed:
        viewer = Viewer(["delta"])
        await feed.join(ADA, BEGINNING, viewer)
        await streams.deltas.publish(ADA, delta("new", try_=2))
        await streams.deltas.publish(ADA, delta("old", try_=1))
        for recorded in log:
            streams.store(recorded)
        await settled(streams, feed)
        await streams.deltas.publish(ADA, delta("late"))
        await streams.deltas.publish(ADA, delta("next", step=10_000))
        assert said(viewer.heard) == [(0, "new"), (0, "next")]
        later = Viewer(["delta"])
        await feed.join(ADA, BEGINNING, later)
        assert said(later.heard) == [(0, "next")]


async def test_who_wants_no_deltas_gets_none() -> None:
    """Nor does another."""
    streams = Streams()
    async with running(streams.feed()) as feed:
        viewer, other = Viewer(["log"]), Viewer()
        await feed.join(ADA, BEGINNING, viewer)
        await feed.join(BOB, BEGINNING, other)
        await streams.deltas.publish(ADA, delta("Once"))
        assert viewer.heard == other.heard == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1",
        "1-",
        "-1",
        "1-2-3",
        "1.-2",
        "1-2 ",
        "\u0661-2",
        "9" * 30,
        "1.2.3-4",
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """With what to give instead."""
    with pytest.raises(InvalidInput, match="0 for the beginning"):
        Cursor.parse(text)


@pytest.mark.parametrize("text", ["0-0", "17-4", "17.2-4", "0-9"])
def test_a_cursor_is_read_as_it_is_written(text: str) -> None:
    """And 0 is the beginning."""
    assert str(Cursor.parse(text)) == text
    assert Cursor.parse("0") == BEGINNING == Cursor.parse("0-0")
    assert len(KINDS) == 5

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from lines import KEY, NOON, OTHER, STRANGER, collect, connected, info, line, said, wipe
from nats_server import NatsServer

from events.errors import InvalidInput, Unavailable
from events.logbook import MAX_LINE, MAX_LINES, MAX_TEXT, Line, Logbook, MemoryLogbook
from events.logstream import REMEMBERED, JetStreamLogbook
from events.names import LEVELS, LOGS, Key, Level
from events.wire import ApiError, Wire

BAD_IDS = ("", "a.b", "*", ">", "a b", "a\nb", "é", "x" * 65, "a\r\nPUB x 0\r\n")


@pytest.fixture
async def wire(nats_server: NatsServer) -> AsyncIterator[Wire]:
    """A connection to the shared server."""
    async for wire in connected(nats_server):
        yield wire


@pytest.fixture
async def own_wire(own_server: NatsServer) -> AsyncIterator[Wire]:
    """A connection to a server that the test may stop."""
    async for wire in connected(own_server):
        yield wire


@pytest.fixture
def memory_book() -> MemoryLogbook:
    """An empty logbook in memory."""
    return MemoryLogbook()


@pytest.fixture
async def jetstream_book(wire: Wire) -> JetStreamLogbook:
    """An empty logbook on the shared server."""
    return await JetStreamLogbook.open(wire)


@pytest.fixture(params=["memory", "jetstream"])
def book(request: pytest.FixtureRequest) -> Logbook:
    """Each adapter in turn, empty."""
    chosen: Logbook = request.getfixturevalue(f"{request.param}_book")
    return chosen


# ── writing and reading ──────────────────────────────────────────────────────


async def test_a_line_is_read_as_it_was_written(book: Logbook) -> None:
    """With time, level, author and context, and an id besides."""
    written = line(
        "bash completed\n\x00\x1b[31m𝄞",
        level="warning",
        by="runner:r1",
        context={"call": "c1", "ms": 12.5, "tags": ["a", None, {"deep": True}]},
    )
    await book.write([written])
    [read] = await book.read(KEY)
    assert read.id > 0
    assert msgspec.structs.replace(read, id=0) == written


async def test_ids_increase_in_the_order_of_writing(book: Logbook) -> None:
    """Across levels, executions and calls; each execution sees its own, in order."""
    for start in range(0, 40, 10):
        await book.write(
            [
                line(str(n), (KEY, OTHER)[n % 2], level=LEVELS[n % 4])
                for n in range(start, start + 10)
            ]
        )
    lines = await book.read(KEY) + await book.read(OTHER)
    by_id = sorted(lines, key=lambda line: line.id)
    assert said(by_id) == [str(n) for n in range(40)]
    assert len({line.id for line in lines}) == 40
    assert said(await book.read(KEY)) == [str(n) for n in range(0, 40, 2)]


async def test_only_the_lines_of_the_execution_are_read(book: Logbook) -> None:
    """Not those of the user's others, nor of the same id of somebody else."""
    await book.write([line("mine"), line("other", OTHER), line("stranger", STRANGER)])
    assert said(await book.read(KEY)) == ["mine"]
    assert said(await book.read(STRANGER)) == ["stranger"]
    assert await book.read(Key("nobody", "e1")) == []


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        (None, ["debug", "info", "warning", "error"]),
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
async def test_a_level_means_that_level_and_above(
    book: Logbook, level: Level | None, seen: list[str]
) -> None:
    """For reading and for following."""
    await book.write([line(name, level=name) for name in LEVELS])
    assert said(await book.read(KEY, level=level)) == seen
    assert said(await collect(book, len(seen), level=level)) == seen


async def test_reading_goes_on_after_an_id_and_up_to_a_limit(book: Logbook) -> None:
    """Pages show every line once; beyond the last there is none."""
    await book.write([line(str(n), level=LEVELS[n % 4]) for n in range(25)])
    seen: list[Line] = []
    while page := await book.read(KEY, after=seen[-1].id if seen else 0, limit=10):
        assert len(page) <= 10
        seen += page
    assert said(seen) == [str(n) for n in range(25)]
    assert await book.read(KEY, after=seen[-1].id + 1_000_000) == []


async def test_ten_thousand_lines(book: Logbook) -> None:
    """They are all there, in order, by one read, by pages and by following."""
    await book.write([line(str(n), level=LEVELS[n % 4]) for n in range(10_000)])
    everything = [str(n) for n in range(10_000)]
    assert said(await book.read(KEY, limit=MAX_LINES)) == everything
    assert said(await collect(book, 10_000)) == everything
    first = await book.read(KEY)
    assert said(first) == everything[:1_000]
    assert said(await book.read(KEY, after=first[-1].id)) == everything[1_000:2_000]


async def test_a_reader_overlooks_nothing_that_is_just_being_stored(
    book: Logbook,
) -> None:
    """Going on after the last id it saw, while four writers write four levels."""

    async def write(level: Level) -> None:
        for n in range(100):
            await book.write([line(f"{level} {n}", level=level)])

    seen: list[Line] = []
    async with asyncio.TaskGroup() as group:
        for level in LEVELS:
            group.create_task(write(level))
        while len(seen) < 400:
            seen += await book.read(KEY, after=seen[-1].id if seen else 0, limit=37)
            await asyncio.sleep(0)
    assert sorted(said(seen)) == sorted(
        f"{lv} {n}" for lv in LEVELS for n in range(100)
    )


async def test_a_line_with_a_ref_is_stored_once(book: Logbook) -> None:
    """Written again it changes nothing; lines without one are all stored."""
    known = line("known", ref="r-1")
    await book.write([known, line("twice"), line("twice")])
    await book.write([known, line("new", ref="r-2")])
    lines = await book.read(KEY)
    assert said(lines) == ["known", "twice", "twice", "new"]
    assert {line.ref for line in lines} == {""}


async def test_nothing_is_written_of_nothing(book: Logbook) -> None:
    """An empty batch is fine."""
    await book.write([])
    assert await book.read(KEY) == []


# ── following ────────────────────────────────────────────────────────────────


async def test_following_begins_with_what_is_there_and_stays(book: Logbook) -> None:
    """Old lines, then each new one, once, whatever run it comes in."""
    await book.write([line(str(n)) for n in range(3)])
    async with aclosing(book.follow(KEY, after=0)) as runs:
        seen = list(await anext(runs))
        while len(seen) < 3:
            seen += await anext(runs)
        for n in range(3, 10):
            await book.write([line("else", OTHER), line(str(n), level="error")])
            seen += await anext(runs)
    assert said(seen) == [str(n) for n in range(10)]


async def test_following_goes_on_after_an_id(book: Logbook) -> None:
    """What was seen before is not shown again."""
    await book.write([line(str(n)) for n in range(5)])
    third = (await book.read(KEY))[2]
    assert said(await collect(book, 2, after=third.id)) == ["3", "4"]


async def test_all_executions_can_be_followed_at_once(book: Logbook) -> None:
    """Each line says whose it is."""
    await book.write([line("a"), line("b", OTHER, level="error"), line("c", STRANGER)])
    lines = await collect(book, 3, None)
    assert [line.key for line in lines] == [KEY, OTHER, STRANGER]
    assert said(await collect(book, 1, None, level="error")) == ["b"]


async def test_several_followers_each_see_everything(book: Logbook) -> None:
    """They do not share lines as runners share work."""
    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(collect(book, 50)) for _ in range(3)]
        for n in range(50):
            await book.write([line(str(n))])
    for follower in followers:
        assert said(follower.result()) == [str(n) for n in range(50)]


# ── what is refused ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_ids_that_are_no_subject_tokens_are_refused(
    book: Logbook, bad: str
) -> None:
    """Nobody reads or writes another's lines by a clever id."""
    await book.write([line()])
    for key in (Key(bad, "e1"), Key("ada", bad)):
        with pytest.raises(InvalidInput):
            await book.write([line("good"), line("bad", key)])
        with pytest.raises(InvalidInput):
            await book.read(key)
        with pytest.raises(InvalidInput):
            await collect(book, 1, key)
    assert said(await book.read(KEY)) == ["told"]


@pytest.mark.parametrize(
    "fields",
    [
        {"level": "fatal"},
        {"level": "*"},
        {"level": "info\r\n"},
        {"event_type": ""},
        {"event_type": "two words"},
        {"event_type": "a..b"},
        {"event_type": ".a"},
        {"event_type": "line\nbreak"},
        {"event_type": "x" * 65},
        {"at": NOON.replace(tzinfo=None)},
        {"message": "\ud800"},
        {"message": "x" * MAX_LINE},
        {"context": {"no JSON": object()}},
        {"context": {"text": "\udfff"}},
        {"context": {"big": "x" * MAX_LINE}},
        {"ref": "r" * 65},
        {"ref": "é"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_line_that_cannot_be_stored_takes_its_batch_with_it(
    book: Logbook, fields: dict[str, Any]
) -> None:
    """The caller is told, and nothing of it is stored."""
    with pytest.raises(InvalidInput):
        await book.write([line("good"), line(**{"message": "bad", **fields})])
    assert await book.read(KEY) == []


async def test_a_bottomless_context_is_refused(book: Logbook) -> None:
    """However deep: no reader could take it."""
    for levels in (150, 5_000):
        nested: Any = None
        for _ in range(levels):
            nested = [nested]
        with pytest.raises(InvalidInput):
            await book.write([line(context={"deep": nested})])
    assert await book.read(KEY) == []


async def test_the_largest_message_in_its_worst_form_fits(book: Logbook) -> None:
    """Characters that JSON writes with six bytes, and a full context besides."""
    worst = line("\x00" * MAX_TEXT, context={"text": "x" * 16_000})
    await book.write([worst])
    assert said(await book.read(KEY)) == ["\x00" * MAX_TEXT]


@pytest.mark.parametrize(
    "question",
    [
        {"after": -1},
        {"after": 2**63},
        {"limit": 0},
        {"limit": -1},
        {"limit": MAX_LINES + 1},
        {"level": "fatal"},
        {"level": ""},
    ],
    ids=str,
)
async def test_a_question_without_sense_is_refused(
    book: Logbook, question: dict[str, Any]
) -> None:
    """Rather than answered with nothing."""
    with pytest.raises(InvalidInput):
        await book.read(KEY, **question)


# ── the stream ───────────────────────────────────────────────────────────────


async def test_the_stream_is_what_was_designed(wire: Wire) -> None:
    """Seven days unless told otherwise, on disk, nothing that headers could misuse."""
    await JetStreamLogbook.open(wire)
    config = (await info(wire))["config"]
    assert config["subjects"] == ["logs.*.*.*"]
    assert config["max_age"] == 7 * 24 * 3600 * 10**9
    assert config["retention"] == "limits"
    assert config["storage"] == "file"
    assert config["discard"] == "old"
    assert config["max_msg_size"] < 100_000
    assert config["allow_direct"]
    for feature in ("allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules"):
        assert not config.get(feature)


async def test_opening_again_keeps_lines_and_takes_other_days(wire: Wire) -> None:
    """What an operator limited besides stays; a day's fraction is fine."""
    book = await JetStreamLogbook.open(wire)
    await book.write([line()])
    config = (await info(wire))["config"]
    await wire.api(f"STREAM.UPDATE.{LOGS}", {**config, "max_bytes": 10**8})
    for days in (7, 7, 2, 0.5):
        book = await JetStreamLogbook.open(wire, days=days)
        config = (await info(wire))["config"]
        assert config["max_age"] == days * 24 * 3600 * 10**9
        assert config["max_bytes"] == 10**8
    assert said(await book.read(KEY)) == ["told"]
    await JetStreamLogbook.open(wire, days=1e-9)
    assert (await info(wire))["config"]["max_age"] == REMEMBERED * 10**9


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf"), 10**6])
async def test_days_that_are_none_are_refused(wire: Wire, days: float) -> None:
    """And no stream is made."""
    with pytest.raises(InvalidInput, match="logs_days"):
        await JetStreamLogbook.open(wire, days=days)
    with pytest.raises(ApiError):
        await info(wire)


async def test_what_somebody_else_put_there_is_shown_and_harms_nobody(
    wire: Wire,
) -> None:
    """Text is shown as text, an unknown level not at all."""
    book = await JetStreamLogbook.open(wire)
    strange = [
        b"",
        b"plain text",
        b"\xff\xfe",
        b"[1]",
        b'{"at": 5, "message": []}',
        b'{"message":' + b"[" * 5_000,
    ]
    for body in strange:
        await wire.request("logs.ada.e1.info", body)
    await wire.request("logs.ada.e1.fatal", b"unseen")
    await book.write([line("ours")])
    lines = await book.read(KEY)
    assert said(lines)[1:3] == ["plain text", "��"]
    assert [line.event_type for line in lines[:-1]] == ["unreadable"] * len(strange)
    assert all(line.at.tzinfo for line in lines)
    assert await collect(book, len(lines)) == lines


async def test_readers_leave_nothing_on_the_server(wire: Wire) -> None:
    """Neither who read nor who followed."""
    book = await JetStreamLogbook.open(wire)
    await book.write([line()])
    await book.read(KEY)
    await book.read(OTHER)
    await collect(book, 1)
    while (await info(wire))["state"]["consumer_count"]:
        await wire.client.flush()


async def test_a_stream_that_is_gone_is_said_to_be(wire: Wire) -> None:
    """Writing and reading raise Unavailable, at once."""
    book = await JetStreamLogbook.open(wire)
    await wipe(wire)
    with pytest.raises(Unavailable, match="nobody"):
        await book.write([line()])
    with pytest.raises(Unavailable):
        await book.read(KEY)


async def test_a_full_stream_is_said_to_be(wire: Wire) -> None:
    """The server's reason is passed on."""
    book = await JetStreamLogbook.open(wire)
    config = (await info(wire))["config"]
    full = {**config, "max_msgs": 1, "discard": "new"}
    await wire.api(f"STREAM.UPDATE.{LOGS}", full)
    await book.write([line()])
    with pytest.raises(Unavailable, match="maximum messages"):
        await book.write([line()])


# ── a server that comes and goes ─────────────────────────────────────────────


async def write_again(book: Logbook, lines: Sequence[Line]) -> None:
    """Write until it works, as a writer does."""
    while True:
        try:
            await book.write(lines)
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_following_survives_the_server(
    own_server: NatsServer, own_wire: Wire, end: str
) -> None:
    """No line is missing and none comes twice, though the server went three times."""
    book = await JetStreamLogbook.open(own_wire)
    seen: list[Line] = []

    async def follow() -> None:
        seen.extend(await collect(book, 400, level="info"))

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        for start in range(0, 400, 100):
            batch = [
                line(str(n), level=LEVELS[1 + n % 3], ref=f"r{n}")
                for n in range(start, start + 100)
            ]
            await write_again(book, batch)
            if start < 300:
                getattr(own_server, end)()
                own_server.start()
    assert said(seen) == [str(n) for n in range(400)]
    assert [line.id for line in seen] == sorted({line.id for line in seen})


async def test_without_a_server_both_ways_are_unavailable(
    own_server: NatsServer, own_wire: Wire
) -> None:
    """And work again when it is back, with what was stored before."""
    book = await JetStreamLogbook.open(own_wire)
    await book.write([line("before")])
    own_server.stop()
    with pytest.raises(Unavailable):
        await book.write([line("meanwhile")])
    with pytest.raises(Unavailable):
        await book.read(KEY)
    own_server.start()
    await write_again(book, [line("after")])
    assert said(await book.read(KEY)) == ["before", "after"]


async def test_what_is_written_before_a_reconnect_is_known_is_not_lost(
    own_server: NatsServer, own_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent over the new connection: nobody has to write it again."""
    book = await JetStreamLogbook.open(own_wire)
    known = own_wire.client._reconnected_cb
    writing: asyncio.Future[asyncio.Task[None]] = asyncio.Future()

    async def late() -> None:
        task = asyncio.create_task(book.write([line("once")]))
        await asyncio.sleep(0)
        writing.set_result(task)
        await known()

    monkeypatch.setattr(own_wire.client, "_reconnected_cb", late)
    own_server.kill()
    own_server.start()
    await (await writing)
    assert said(await book.read(KEY)) == ["once"]


async def test_lines_written_again_after_a_lost_connection_are_stored_once(
    own_server: NatsServer, own_wire: Wire
) -> None:
    """The server is killed amid 20 batches; each line is there, and once."""
    book = await JetStreamLogbook.open(own_wire)

    async def write() -> None:
        for start in range(0, 5_000, 250):
            batch = [line(str(n), ref=f"r{n}") for n in range(start, start + 250)]
            await write_again(book, batch)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for stored in (500, 2_000, 3_500):
            await collect(book, stored)
            own_server.kill()
            own_server.start()
    assert said(await book.read(KEY, limit=MAX_LINES)) == [str(n) for n in range(5_000)]


# ── deleting ─────────────────────────────────────────────────────────────────


async def test_an_execution_is_forgotten_and_no_other(book: Logbook) -> None:
    """How many lines it had is told; ids go on where they were."""
    await book.write([line("a"), line("b", key=OTHER), line("c", level="error")])
    assert await book.forget(KEY) == 2
    assert await book.forget(KEY) == 0
    assert await book.read(KEY) == []
    assert said(await book.read(OTHER)) == ["b"]
    await book.write([line("d")])
    [new] = await book.read(KEY)
    assert (new.message, new.id) == ("d", 4)


async def test_what_is_older_is_forgotten(book: Logbook) -> None:
    """By when it was stored; with nothing younger all goes, with nothing nothing."""
    assert await book.forget_before(datetime.now(UTC)) == 0
    await book.write([line("a", at=datetime.now(UTC))])
    between = datetime.now(UTC)
    await book.write([line("b", at=datetime.now(UTC))])
    assert await book.forget_before(between) == 1
    assert said(await book.read(KEY)) == ["b"]
    assert await book.forget_before(between) == 0
    assert await book.forget_before(datetime.now(UTC) + timedelta(days=1)) == 1
    assert await book.read(KEY) == []


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_nothing_is_forgotten_for_a_name_that_is_none(
    bad: str, book: Logbook
) -> None:
    """A wildcard would forget everybody's."""
    await book.write([line("a")])
    for key in (Key(bad, KEY.execution), Key(KEY.user, bad)):
        with pytest.raises(InvalidInput):
            await book.forget(key)
    assert said(await book.read(KEY)) == ["a"]

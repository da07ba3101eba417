import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lines import KEY, OTHER, STRANGER, collect, connected, said
from nats_server import NatsServer

from events.errors import InvalidInput, Unavailable
from events.logbook import (
    EVENT_TYPE,
    MAX_CONTEXT,
    MAX_LINES,
    MAX_TEXT,
    Line,
    MemoryLogbook,
)
from events.logstream import JetStreamLogbook
from events.names import LEVELS, Key
from events.wire import Wire
from services import logwriter
from services.backlog import MAX_LOSERS, Backlog
from services.logwriter import LOST, LogWriter
from services.phrasing import MAX_VALUE, NOTE
from services.redaction import HIDDEN, Redaction

SECRET = "hunter2-and-more"  # noqa: S105 - nobody's
NASTY = 'quo"te\\back\nline-é'
CLEAN = Redaction({})


class Moody(MemoryLogbook):
    """A logbook that can be out of reach; ``calls`` counts writes."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.hangs = False
        self.calls = 0
        self.tried = asyncio.Event()

    async def write(self, lines: Sequence[Line]) -> None:
        """Keep lines, unless it is one of those days."""
        self.calls += 1
        self.tried.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise Unavailable
        await super().write(lines)


@pytest.fixture
def book() -> Moody:
    """An empty logbook."""
    return Moody()


@pytest.fixture
async def wire(own_server: NatsServer) -> AsyncIterator[Wire]:
    """A connection to a server that the test may stop."""
    async for wire in connected(own_server):
        yield wire


async def written(
    book: MemoryLogbook, *, redact: Redaction = CLEAN, **log: Any
) -> Line:
    """Log once, and return what was stored."""
    message = log.pop("message", "told")
    async with LogWriter(book, "runner:r1", redact=redact) as writer:
        writer.log(KEY, "info", log.pop("event_type", "a.b"), message, **log)
    [line] = await book.read(KEY)
    return line


# ── writing ──────────────────────────────────────────────────────────────────


async def test_what_is_logged_is_written(book: Moody) -> None:
    """In order, of each execution, with who, when, what and the circumstances."""
    async with LogWriter(book, "runner:r1") as writer:
        writer.log(KEY, "info", "model.responded", "first", tokens=12, cached=True)
        writer.log(OTHER, "error", "tool.failed", "elsewhere")
        writer.log(KEY, "warning", "tool.completed", "second")
    first, second = await book.read(KEY)
    assert (first.by, first.level, first.event_type) == (
        "runner:r1",
        "info",
        "model.responded",
    )
    assert first.context == {"tokens": 12, "cached": True}
    assert first.at <= second.at
    assert said([first, second]) == ["first", "second"]
    assert said(await book.read(OTHER)) == ["elsewhere"]
    assert writer.lost == writer.refused == 0


async def test_lines_are_written_together_when_many_wait(book: Moody) -> None:
    """Ten thousand lines, logged in one go, cost few writes and keep their order."""
    async with LogWriter(book, "test") as writer:
        for n in range(10_000):
            writer.log(KEY, "info", "a.b", str(n))
        assert await writer.flush()
        assert book.calls <= 50
    assert said(await book.read(KEY, limit=MAX_LINES)) == [
        str(n) for n in range(10_000)
    ]


@pytest.mark.parametrize("threshold", LEVELS)
async def test_what_matters_less_than_the_threshold_is_not_written(
    book: Moody, threshold: Any
) -> None:
    """Nor even looked at."""

    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError

    below = LEVELS[: LEVELS.index(threshold)]
    async with LogWriter(book, "test", level=threshold) as writer:
        for level in LEVELS:
            more = {"value": Untouchable()} if level in below else {}
            writer.log(KEY, level, "a.b", level, **more)
    assert said(await book.read(KEY)) == [lv for lv in LEVELS if lv not in below]


async def test_info_is_the_threshold_unless_told(book: Moody) -> None:
    """And a level that there is not is refused at once."""
    async with LogWriter(book, "test") as writer:
        for level in LEVELS:
            writer.log(KEY, level, "a.b", level)
    assert said(await book.read(KEY)) == ["info", "warning", "error"]
    with pytest.raises(InvalidInput, match="no level 'loud'"):
        LogWriter(book, "test", level="loud")  # type: ignore[arg-type]


async def test_values_are_taken_as_they_are_at_the_call(book: Moody) -> None:
    """Changing a list afterwards does not change what was logged."""
    values = [1, {"a": 2}]
    async with LogWriter(book, "test") as writer:
        writer.log(KEY, "info", "a.b", "told", values=values)
        values.clear()
    [line] = await book.read(KEY)
    assert line.context == {"values": [1, {"a": 2}]}


async def test_a_value_may_have_any_name(book: Moody) -> None:
    """Those of the call's own arguments too."""
    names = {"self": 1, "key": 2, "level": 3, "event_type": 4, "message": 5, "a b": 6}
    async with LogWriter(book, "test") as writer:
        writer.log(KEY, "info", "a.b", "told", **names)
    [line] = await book.read(KEY)
    assert line.context == names


async def test_any_thread_may_log(book: Moody) -> None:
    """Nothing is lost, each thread's lines keep their order, and the task awakes."""

    def work(key: Key) -> None:
        for n in range(500):
            writer.log(key, "info", "a.b", str(n))

    async with LogWriter(book, "test") as writer:
        writer.log(STRANGER, "info", "a.b", "awake")
        await writer.flush()
        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(asyncio.to_thread(work, Key("ada", f"t{n}")))
        assert await writer.flush()
    for n in range(4):
        lines = await book.read(Key("ada", f"t{n}"))
        assert said(lines) == [str(n) for n in range(500)]


async def test_a_line_from_another_thread_wakes_an_idle_writer(book: Moody) -> None:
    """It is written though nothing else happens."""
    async with LogWriter(book, "test") as writer:
        await asyncio.sleep(0)
        thread = threading.Thread(
            target=writer.log, args=(KEY, "info", "a.b", "from afar")
        )
        thread.start()
        assert said(await collect(book, 1)) == ["from afar"]
        thread.join()


# ── secrets ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "GH_TOKEN", "SECRET_SAUCE", "DB_PASSWORD"]
)
async def test_secrets_of_the_environment_do_not_get_into_a_log(
    book: Moody, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither in the message, nor deep in the context, nor in its names."""
    monkeypatch.setenv(name, SECRET)
    line = await written(
        book,
        redact=Redaction(),
        message=f"used {SECRET}.",
        deep=[{"a": (1, f"x{SECRET}x")}],
        **{SECRET: 1},
    )
    assert SECRET not in msgspec.json.encode(line).decode()
    assert line.message == f"used {HIDDEN}."
    assert line.context == {"deep": [{"a": [1, f"x{HIDDEN}x"]}], HIDDEN: 1}


async def test_a_secret_that_json_writes_differently_is_hidden(book: Moody) -> None:
    """With quotes, backslashes, line breaks and letters beyond ASCII."""
    line = await written(
        book, redact=Redaction({"A_KEY": NASTY}), message=NASTY, context=[NASTY, "ok"]
    )
    assert line.message == HIDDEN
    assert line.context == {"context": [HIDDEN, "ok"]}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("key sk-proj-abc_DEF-123 is bad", f"key {HIDDEN} is bad"),
        ("Authorization: Bearer abc.def~ghi+/=", f"Authorization: {HIDDEN}"),
        ('{"auth":"bearer  xyz","next":1}', f'{{"auth":"{HIDDEN}","next":1}}'),
        ("X-Api-Key: abcdef", HIDDEN),
        ("the task-1 is at risk-free desk-top", "the task-1 is at risk-free desk-top"),
        ("bearer of news", f"{HIDDEN} news"),
        ("12 tokens, 3 secrets", "12 tokens, 3 secrets"),
    ],
)
async def test_what_looks_like_a_secret_is_hidden(
    book: Moody, text: str, left: str
) -> None:
    """In the message and in the context alike; words that only look alike stay."""
    line = await written(book, message=text, value=text, nested={"text": [text]})
    assert line.message == left
    assert line.context == {"value": left, "nested": {"text": [left]}}


async def test_what_is_named_like_a_secret_is_hidden(book: Moody) -> None:
    """Texts, that is: a number of tokens is none."""
    line = await written(
        book,
        password="short",  # noqa: S106 - that is the point
        headers={"Authorization": "Basic abc", "x-api-key": "abc", "accept": "text"},
        access_token="abc",  # noqa: S106 - likewise
        tokens=12,
        token=None,
    )
    assert line.context == {
        "password": HIDDEN,
        "headers": {"Authorization": HIDDEN, "x-api-key": HIDDEN, "accept": "text"},
        "access_token": HIDDEN,
        "tokens": 12,
        "token": None,
    }


async def test_short_values_of_the_environment_are_no_secrets(book: Moody) -> None:
    """Or a setting like 1 would maim every text."""
    redact = Redaction({"MAX_TOKENS": "4096", "KEY": "", "TOKEN": " \n"})
    line = await written(book, redact=redact, message="4096 of them", count="4096")
    assert (line.message, line.context) == ("4096 of them", {"count": "4096"})


@pytest.mark.parametrize("offset", range(-20, 4, 3))
async def test_no_part_of_a_secret_is_left_where_a_text_is_cut(
    book: Moody, offset: int
) -> None:
    """Wherever the cut falls, and however much was hidden before it."""
    redact = Redaction({"A_KEY": SECRET, "B_KEY": "b" * 500})
    for limit, name in ((MAX_TEXT, "message"), (MAX_VALUE, "value")):
        text = "b" * 500 + "-" * (limit - 500 + offset) + SECRET + "-" * 20_000
        line = await written(Moody(), redact=redact, **{name: text})
        stored = line.message if name == "message" else line.context["value"]
        assert SECRET[:4] not in stored
        assert stored.startswith(HIDDEN + "-")
    assert not await book.read(KEY)


async def test_one_secret_may_be_part_of_another(book: Moody) -> None:
    """The longer one is hidden as a whole."""
    redact = Redaction({"A_KEY": SECRET, "B_KEY": f"{SECRET}-{SECRET}"})
    line = await written(book, redact=redact, message=f"{SECRET}-{SECRET}")
    assert line.message == HIDDEN


# ── whatever is given ────────────────────────────────────────────────────────


@pytest.mark.parametrize("letter", ["x", "é", "𝄞", "\x00"])
async def test_a_long_message_is_cut_and_says_so(book: Moody, letter: str) -> None:
    """At most 8 KiB, whole characters, and how long it was."""
    line = await written(book, message=letter * 100_000)
    assert MAX_TEXT - 4 <= len(line.message.encode()) <= MAX_TEXT
    assert line.message.endswith(f"{letter}… (100,000 characters)")


@pytest.mark.parametrize("letter", ["x", "é", "𝄞"])
async def test_a_message_that_just_fits_is_whole(book: Moody, letter: str) -> None:
    """Not a byte is wasted."""
    text = letter * (MAX_TEXT // len(letter.encode()))
    assert (await written(book, message=text)).message == text


async def test_a_context_that_is_too_big_keeps_what_fits(book: Moody) -> None:
    """Small values as they are, the head of big ones."""
    line = await written(
        book, output="x" * 50_000, call="c1", rows=[{"n": n} for n in range(5_000)]
    )
    assert line.context["call"] == "c1"
    assert line.context["output"].startswith("xxx")
    assert line.context["output"].endswith("… (50,000 characters)")
    assert line.context["rows"].startswith('{"rows":[{"n":0},{"n":1}')
    assert len(msgspec.json.encode(line.context)) <= MAX_CONTEXT


async def test_a_context_of_too_many_values_says_how_many_are_missing(
    book: Moody,
) -> None:
    """The first ones stay."""
    values: dict[str, Any] = {f"v{n}": "x" * 100 for n in range(10_000)}
    line = await written(book, **values)
    assert line.context["v0"] == "x" * 100
    missing = 10_000 - (len(line.context) - 1)
    assert line.context[NOTE] == f"{missing:,} of 10,000 values"
    assert len(msgspec.json.encode(line.context)) <= MAX_CONTEXT


async def test_a_context_that_is_too_deep_becomes_text(book: Moody) -> None:
    """However deep; the values beside it stay as they are."""
    for levels in (100, 150, 5_000):
        nested: Any = "core"
        for _ in range(levels):
            nested = [nested]
        line = await written(Moody(), nested=nested, call="c1")
        assert line.context["call"] == "c1"
        assert isinstance(line.context["nested"], str)
    assert not await book.read(KEY)


class Hostile:
    """Breaks whoever looks at it."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class Sly(str):
    """A text with methods of its own."""

    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError

    def __str__(self) -> str:
        return self

    encode = isascii = lower = replace = __len__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Path("/a/b"), "/a/b"),
        (ValueError("why"), "why"),
        (float("nan"), None),
        ({1: 2}, {"1": 2}),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        ({None: 3}, {"None": 3}),
        (frozenset("a"), ["a"]),
        (10**30, 10**30),
        ("\ud83d half", "? half"),
        (["\udfff"], "['\\udfff']"),
        (Hostile(), "<Hostile>"),
        ([Hostile()], "<list>"),
        (Sly("sly"), "sly"),
        (object, "<class 'object'>"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_whatever_is_given_is_logged(
    book: Moody, value: object, stored: object
) -> None:
    """What is no JSON becomes text, what breaks is named, nothing is raised."""
    line = await written(book, value=value, beside="stays")
    assert line.context["beside"] == "stays"
    assert line.context["value"] in (stored, float(10**30))
    as_message = (await written(Moody(), message=value)).message
    assert isinstance(as_message, str)


@pytest.mark.parametrize(
    "word",
    [
        "model.responded", "", ".", "a..b", " x ", "a\nb", "a\r\nPUB x 0\r\n", "*", ">",
        "é", "\x00", "x" * 1_000, "a." * 1_000, "\ud800", "tool completed",
    ],
)  # fmt: skip
async def test_an_event_type_becomes_a_dotted_word(book: Moody, word: str) -> None:
    """Whatever it was: it stays one if it is one."""
    line = await written(book, event_type=word)
    assert EVENT_TYPE.fullmatch(line.event_type)
    assert word != "model.responded" or line.event_type == word


@pytest.mark.parametrize(
    "arguments",
    [
        (Key("a.b", "e1"), "info", "a.b", "x"),
        (Key("ada", "*"), "info", "a.b", "x"),
        (Key("ada", "e1\r\n"), "info", "a.b", "x"),
        (Key("", ""), "info", "a.b", "x"),
        (None, "info", "a.b", "x"),
        ((["ada"], "e1"), "info", "a.b", "x"),
        ("ada/e1", "info", "a.b", "x"),
        (KEY, "fatal", "a.b", "x"),
        (KEY, "INFO", "a.b", "x"),
        (KEY, "info\n", "a.b", "x"),
        (KEY, None, "a.b", "x"),
        (KEY, [], "a.b", "x"),
        (KEY, "info", None, "x"),
        (KEY, "info", ["a.b"], "x"),
        (KEY, "info", 5, "x"),
    ],
    ids=repr,
)
async def test_a_call_that_names_nothing_is_counted_and_nothing_else(
    book: Moody, arguments: Any
) -> None:
    """No exception, no line; the next call works."""
    async with LogWriter(book, "test") as writer:
        writer.log(*arguments)
        writer.log(*arguments)
        writer.log(KEY, "info", "a.b", "fine")
    assert writer.refused == 2
    assert said(await book.read(KEY)) == ["fine"]


async def test_who_writes_is_bounded_too(book: Moody) -> None:
    """A name of any length and kind."""
    async with LogWriter(book, "é" * 1_000, redact=CLEAN) as writer:
        writer.log(KEY, "info", "a.b", "told")
    [line] = await book.read(KEY)
    assert len(line.by.encode()) <= 128


# ── a log that is out of reach ───────────────────────────────────────────────


async def test_what_cannot_be_written_waits(book: Moody) -> None:
    """And is written when it can, in order, once."""
    async with LogWriter(book, "test") as writer:
        book.away = True
        for n in range(1_000):
            writer.log(KEY, "info", "a.b", str(n))
        await book.tried.wait()
        assert not await writer.flush(wait=0.01)
        book.away = False
        assert await writer.flush()
    assert said(await book.read(KEY)) == [str(n) for n in range(1_000)]
    assert writer.lost == 0


async def test_the_oldest_make_room_and_a_line_says_how_many(book: Moody) -> None:
    """In the log of each execution that has a hole, where the hole is."""
    book.away = True
    async with LogWriter(book, "test", backlog=Backlog(entries=100)) as writer:
        for n in range(1_000):
            writer.log((KEY, OTHER)[n % 2], "info", "a.b", str(n))
            if n == 9:
                await book.tried.wait()
        assert writer.lost == 890
        book.away = False
        assert await writer.flush()
    for key, start in ((KEY, 0), (OTHER, 1)):
        lines = await book.read(key)
        [notice] = [line for line in lines if line.event_type == LOST]
        assert notice.level == "warning"
        assert notice.context == {"lost": 445}
        assert said(lines) == [
            *(str(n) for n in range(start, 10, 2)),
            "445 lines are missing here: the log was out of reach",
            *(str(n) for n in range(900 + start, 1_000, 2)),
        ]


async def test_memory_is_bounded_by_bytes_too(book: Moody) -> None:
    """Large lines make room earlier than small ones."""
    backlog = Backlog(size=1_000_000)
    writer = LogWriter(book, "test", backlog=backlog)
    for _ in range(1_000):
        writer.log(KEY, "info", "a.b", "x" * 100_000)
    assert 100 <= len(backlog) <= 125
    assert writer.lost == 1_000 - len(backlog)


async def test_the_count_of_losses_is_bounded_too(book: Moody) -> None:
    """By execution for some thousand of them, and in all for all."""
    backlog = Backlog(entries=10)
    writer = LogWriter(book, "test", backlog=backlog)
    for n in range(3 * MAX_LOSERS):
        writer.log(Key("ada", f"e{n}"), "info", "a.b", "x")
    assert writer.lost == 3 * MAX_LOSERS - 10
    assert len(backlog.losses()) == MAX_LOSERS
    assert backlog.losses() == {}


async def test_lines_that_the_logbook_refuses_do_not_block_the_others(
    book: Moody, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are given up, counted, and told of in the program's own log."""

    async def refuse(_: Sequence[Line]) -> None:
        raise InvalidInput("no")

    async with LogWriter(book, "test") as writer:
        with monkeypatch.context() as patch:
            patch.setattr(book, "write", refuse)
            writer.log(KEY, "info", "a.b", "bad")
            assert await writer.flush()
        writer.log(KEY, "info", "a.b", "good")
    assert writer.lost == 1
    assert said(await book.read(KEY))[-1] == "good"
    assert "refused" in caplog.text


# ── beginning and end ────────────────────────────────────────────────────────


async def test_lines_wait_for_the_writer_to_begin(book: Moody) -> None:
    """What was logged before is written first."""
    writer = LogWriter(book, "test")
    writer.log(KEY, "info", "a.b", "early")
    assert not await writer.flush(wait=0.01)
    async with writer:
        writer.log(KEY, "info", "a.b", "late")
    assert said(await book.read(KEY)) == ["early", "late"]


async def test_run_is_a_task_of_whoever_wants_it(book: Moody) -> None:
    """``stop`` ends it when all is written, even before it began."""
    for early in (True, False):
        writer = LogWriter(book, "test")
        writer.log(KEY, "info", "a.b", f"{early}")
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run())
            if not early:
                assert await writer.flush()
            writer.stop()
            writer.stop()
        writer.stop()
    assert said(await book.read(KEY)) == ["True", "False"]


@pytest.mark.parametrize("mood", ["away", "hangs"])
async def test_the_end_is_bounded(
    book: Moody,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mood: str,
) -> None:
    """A log that stays out of reach delays it for a while; what is lost is counted."""
    monkeypatch.setattr(logwriter, "CLOSING", 0.1)
    setattr(book, mood, True)
    async with LogWriter(book, "test") as writer:
        for n in range(300):
            writer.log(KEY, "info", "a.b", str(n))
        await book.tried.wait()
    assert writer.lost == 300
    assert "300 log lines could not be written" in caplog.text
    assert await writer.flush(wait=0.01)


async def test_what_is_logged_after_the_end_is_counted(book: Moody) -> None:
    """It is lost, without an exception."""
    async with LogWriter(book, "test") as writer:
        pass
    writer.log(KEY, "info", "a.b", "too late")
    await asyncio.to_thread(writer.log, KEY, "info", "a.b", "too late")
    assert writer.lost == 2
    assert await book.read(KEY) == []


async def test_a_cancelled_writer_ends_at_once(book: Moody) -> None:
    """The cancellation goes through, and what waited is counted as lost."""
    book.hangs = True
    writer = LogWriter(book, "test")
    writer.log(KEY, "info", "a.b", "stuck")
    task = asyncio.create_task(writer.run())
    await book.tried.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writer.lost == 1


async def test_an_error_in_the_block_does_not_cost_the_lines(book: Moody) -> None:
    """They are what tells of it."""

    async def fail() -> None:
        async with LogWriter(book, "test") as writer:
            writer.log(KEY, "error", "a.b", "the reason")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert said(await book.read(KEY)) == ["the reason"]


# ── a real server ────────────────────────────────────────────────────────────


async def test_a_server_that_goes_costs_the_caller_nothing(
    own_server: NatsServer, wire: Wire
) -> None:
    """Nothing is raised, lines wait, go on afterwards, and none is there twice."""
    book = await JetStreamLogbook.open(wire)
    async with LogWriter(book, "test") as writer:
        for n in range(3_000):
            writer.log(KEY, "info", "a.b", str(n))
            if n in (1_000, 2_000):
                await collect(book, n - 900)
                own_server.kill()
            if n in (1_500, 2_500):
                own_server.start()
            if n % 10 == 0:
                await asyncio.sleep(0)
        assert await writer.flush(30)
    assert writer.lost == 0
    assert said(await book.read(KEY, limit=MAX_LINES)) == [str(n) for n in range(3_000)]


async def test_a_server_that_stays_away_costs_the_oldest_lines(
    own_server: NatsServer, wire: Wire
) -> None:
    """As many as there is no room for; a line says how many."""
    book = await JetStreamLogbook.open(wire)
    async with LogWriter(book, "test", backlog=Backlog(entries=500)) as writer:
        own_server.stop()
        for n in range(5_000):
            writer.log(KEY, "info", "a.b", str(n))
            if n % 10 == 0:
                await asyncio.sleep(0)
        assert writer.lost >= 4_000
        own_server.start()
        assert await writer.flush(30)
    lines = await book.read(KEY, limit=MAX_LINES)
    notices = [line for line in lines if line.event_type == LOST]
    told = [line for line in lines if line.event_type != LOST]
    assert sum(line.context["lost"] for line in notices) == writer.lost
    assert len(told) == 5_000 - writer.lost
    assert told[-1].message == "4999"

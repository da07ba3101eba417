"""Named queries: what they are asked for is what they find, page by page."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from histories import SPEC, Story, call
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from readmodels import Logs, append, projecting, settled

from events import catalog as e
from events.commands import Cancel
from events.errors import InvalidInput, TooLarge, Unavailable
from events.messages import Usage
from events.names import Key
from projections import desk as desk_
from projections import queries as q
from projections.desk import Desk, parsed
from projections.keysets import cursor_of
from projections.projector import Projector

DAY = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = msgspec.structs.replace(SPEC, name="other")


def _worked(key: Key, *, at: int, steps: int, cost: float | None = 0.5) -> Story:
    """An execution that ended, so many hours after the beginning of the day."""
    story = Story(key, DAY + timedelta(hours=at))
    asked = e.Created(
        agent=OTHER if at % 2 else SPEC,
        input=f"Look at number {at}",
        metadata={"ticket": at, "a/b~c": "odd", "nested": {"x": [1]}},
    )
    story.do(lambda x: x.create(asked))
    story.begin()
    usage = Usage(input=10 * steps, output=1)
    for _ in range(steps - 1):
        story.respond(call("c"), usage=usage, cost=cost, model="big")
        story.finish("c")
    story.wait(60 * steps)
    story.respond(text=f"RESULT {at}: 100% Ünïcode", usage=usage, cost=cost)
    return story


def _stories() -> list[Story]:
    stories = [
        _worked(Key("ada" if n % 3 else "bob", f"w{n}"), at=n, steps=1 + n % 3)
        for n in range(7)
    ]
    failed = Story(Key("ada", "failed"), DAY)
    failed.running()
    failed.do(lambda x: x.fail(1, "ModelRefused", "it said No_way", retryable=True))
    cancelled = Story(Key("ada", "cancelled"), DAY + timedelta(days=2))
    cancelled.start(lane="agents_long")
    cancelled.command(Cancel(reason="enough"))
    waiting = Story(Key("bob", "waiting"), DAY + timedelta(days=3))
    awaited = e.Awaited(event_type="ci.done", where={"branch": "main"})
    waiting.start(awaited=awaited)
    other = Story(Key("ada", "other"), DAY + timedelta(days=3))
    other.start(awaited=e.Awaited(event_type="ci.failed"))
    silent = Story(Key("ada", "silent"), DAY)
    silent.running()
    return [*stories, failed, cancelled, waiting, other, silent]


@pytest.fixture
def told() -> Logs:
    """A log with the histories above, and some lines."""
    logs = Logs.empty()
    for story in _stories():
        logs.add(story)
    for n in range(3):
        logs.line(Key("ada", "w1"), "tool", f"Connection refused, {n}")
    return logs


@pytest.fixture
async def projector(tmp_path: Path, told: Logs) -> AsyncIterator[Projector]:
    """A projector on it."""
    async with projecting(tmp_path / "readmodel.duckdb", told) as projector:
        await settled(projector)
        yield projector


async def page(projector: Projector, request: q.Request) -> Any:
    """Ask, as the service does: through JSON both ways."""
    body = msgspec.json.encode(request)
    answer = await Desk(projector).page(parsed(type(request), body))
    return msgspec.json.decode(answer)


async def ids(projector: Projector, **wanted: Any) -> list[str]:
    """The ids of a list."""
    request = q.ListRequest(limit=1_000, **wanted)
    return [item["id"] for item in (await page(projector, request))["items"]]


async def paged(projector: Projector, request: Any) -> list[Any]:
    """All items, page by page."""
    found: list[Any] = []
    for _ in range(200):
        answer = await page(projector, request)
        found += answer["items"]
        if answer["next"] is None:
            return found
        assert answer["items"], "a page before the last has something in it"
        request = replace(request, cursor=answer["next"])
    raise AssertionError("this has no end")


# ── lists ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"user": "bob"}, {"w0", "w3", "w6", "waiting"}),
        ({"user": "eve"}, set()),
        ({"status": ("failed", "cancelled")}, {"failed", "cancelled"}),
        ({"status": ("corrupt",)}, set()),
        ({"agent": "other"}, {"w1", "w3", "w5"}),
        ({"lane": "agents_long"}, {"cancelled"}),
        ({"error": "ModelRefused"}, {"failed"}),
        ({"metadata": {"ticket": "4"}}, {"w4"}),
        ({"metadata": {"ticket": "4", "a/b~c": "odd"}}, {"w4"}),
        ({"metadata": {"nested": '{"x":[1]}', "ticket": "5"}}, {"w5"}),
        ({"metadata": {"a/b~c": "even"}}, set()),
        ({"text": "result 3"}, {"w3"}),
        ({"text": "100% ÜNÏ", "user": "bob"}, {"w0", "w3", "w6"}),
        ({"text": "no_way"}, {"failed"}),
        ({"text": "noXway"}, set()),
        (
            {"created_from": DAY + timedelta(hours=5)},
            {
                *("w5", "w6", "cancelled", "waiting", "other"),
            },
        ),
        ({"created_to": DAY + timedelta(hours=1)}, {"w0", "failed", "silent"}),
        (
            {
                "created_from": DAY + timedelta(hours=2),
                "created_to": DAY + timedelta(hours=4),
            },
            {"w2", "w3"},
        ),
        ({"updated_to": DAY + timedelta(minutes=1)}, {"failed", "silent"}),
        ({"parent": "w1"}, set()),
        ({"model": SPEC.model, "user": "eve"}, set()),
    ],
)
async def test_filters(
    projector: Projector, wanted: dict[str, Any], found: set[str]
) -> None:
    """Each finds what it says, from its beginning to just before its end."""
    assert set(await ids(projector, **wanted)) == found


async def test_an_execution_is_told_whole(projector: Projector) -> None:
    """With what is needed to show it: times say that they are UTC, JSON is JSON."""
    (item,) = (await page(projector, q.ListRequest(text="RESULT 2")))["items"]
    assert item["id"] == "w2"
    assert item["input"] == "Look at number 2"
    assert item["output"] == "RESULT 2: 100% Ünïcode"
    assert item["metadata"] == {"ticket": 2, "a/b~c": "odd", "nested": {"x": [1]}}
    assert item["created_at"] == "2026-01-01T02:00:00Z"
    assert (item["steps"], item["tokens"], item["cost"]) == (3, 93, 1.5)
    assert item.keys() == set(q.Execution.__struct_fields__)
    msgspec.convert(item, q.Execution)


EVIL = [
    "'",
    '"',
    "'; DROP TABLE executions; --",
    "%",
    "_",
    "\\",
    "$user",
    "?",
    "\0",
    "{}",
    "x' OR '1'='1",
    "]",
    "/",
    "~1",
    "$.ticket",
    "*",
    "..",
    "\u202e",
    "💥" * 60,
]


async def test_what_is_asked_for_is_no_sql(projector: Projector) -> None:
    """Whatever it is, it is compared with, and nothing else; the tables stay."""
    for evil in EVIL:
        await _finds_nothing(projector, evil)
    assert len(await ids(projector)) == 12


async def _finds_nothing(projector: Projector, evil: str) -> None:
    for field in ("user", "agent", "model", "lane", "parent", "error", "text"):
        assert await ids(projector, **{field: evil * 2}) == [], field
    assert await ids(projector, metadata={evil: "1"}) == []
    assert await ids(projector, metadata={"ticket": evil}) == []
    found = await page(projector, q.SearchRequest(text=evil * 2))
    assert found["items"] == []


@pytest.mark.parametrize("sort", get_args(q.Sort))
@pytest.mark.parametrize("order", get_args(q.Order))
async def test_pages_make_up_the_list(
    projector: Projector, sort: q.Sort, order: q.Order
) -> None:
    """However small they are: nothing twice, nothing left out, in the order asked."""
    request = q.ListRequest(sort=sort, order=order, limit=1_000)
    whole = (await page(projector, request))["items"]
    assert len(whole) == 12
    values = [item[sort] for item in whole if item[sort] is not None]
    assert values == sorted(values, reverse=order == "desc")
    assert all(item[sort] is None for item in whole[len(values) :]), "nulls are last"
    for limit in (1, 2, 5):
        assert await paged(projector, replace(request, limit=limit)) == whole


async def test_a_page_goes_on_where_it_ended_whatever_comes_meanwhile(
    tmp_path: Path,
) -> None:
    """What is new stands before the cursor, and is in no page after it."""
    logs = Logs.empty()
    for n in range(6):
        story = Story(Key("ada", f"e{n}"), DAY + timedelta(hours=n))
        story.start()
        logs.add(story)
    async with projecting(tmp_path / "readmodel.duckdb", logs) as projector:
        await settled(projector)
        first = await page(projector, q.ListRequest(limit=3))
        new = Story(Key("ada", "new"), DAY + timedelta(days=1))
        new.start()
        await append(logs, new)
        await settled(projector)
        request = q.ListRequest(limit=3, cursor=first["next"])
        second = await page(projector, request)
    assert [item["id"] for item in first["items"]] == ["e5", "e4", "e3"]
    assert [item["id"] for item in second["items"]] == ["e2", "e1", "e0"]


async def test_a_cursor_is_good_for_its_query_alone(projector: Projector) -> None:
    """Another sort, order or filter refuses it; another limit does not."""
    request = q.ListRequest(limit=2, user="ada")
    cursor = (await page(projector, request))["next"]
    same = replace(request, cursor=cursor, limit=5, min_position=1, wait=1.0)
    assert (await page(projector, same))["items"]
    for other in (
        {"user": None},
        {"user": "bob"},
        {"sort": "steps"},
        {"order": "asc"},
        {"text": "x"},
        {"metadata": {"a": "b"}},
        {"created_from": DAY},
    ):
        with pytest.raises(InvalidInput, match="cursor is of another query"):
            await page(projector, replace(request, cursor=cursor, **other))
    with pytest.raises(InvalidInput, match="cursor is of another query"):
        await page(projector, q.StuckRequest(user="ada", limit=2, cursor=cursor))


@given(cursor=st.text(max_size=60) | st.binary(max_size=60).map(bytes.hex))
def test_a_cursor_that_is_none(cursor: str) -> None:
    """It is refused in words, whatever it is."""
    request = q.ListRequest(cursor=cursor)
    with pytest.raises(InvalidInput, match="cursor"):
        desk_._question(request, desk_.SELECTS[q.ListRequest](request))


async def test_a_cursor_with_other_values(projector: Projector) -> None:
    """What was made up in a cursor is a value still: refused, or another place."""
    request = q.ListRequest(limit=2, sort="steps")
    for values in ([], ["1"], [1], [1, 2, 3], [None, 1], ["'", "--"], [1, {}]):
        cursor = cursor_of(request, values)
        with pytest.raises(InvalidInput, match="this is no cursor"):
            await page(projector, replace(request, cursor=cursor))
    cursor = cursor_of(request, [1, 10**30])
    with pytest.raises((InvalidInput, AssertionError)):
        assert (await page(projector, replace(request, cursor=cursor)))["items"] == 0


async def test_a_page_fits_a_message(
    projector: Projector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has fewer items rather than be too large, and says how to go on."""
    whole = (await page(projector, q.ListRequest(limit=1_000)))["items"]
    monkeypatch.setattr(desk_, "PAGE", 3_000)
    request = q.ListRequest(limit=1_000)
    assert len((await page(projector, request))["items"]) < len(whole)
    assert await paged(projector, request) == whole
    monkeypatch.setattr(desk_, "PAGE", 100)
    with pytest.raises(TooLarge, match="does not fit a message"):
        await page(projector, request)


# ── the others ───────────────────────────────────────────────────────────────


async def test_counts_by_status(projector: Projector) -> None:
    """Of everybody, of one user, of a time."""

    async def counted(**wanted: Any) -> dict[str, int]:
        items = (await page(projector, q.CountRequest(**wanted)))["items"]
        return {item["status"]: item["executions"] for item in items}

    assert await counted() == {
        "completed": 7,
        "failed": 1,
        "cancelled": 1,
        "awaiting_event": 2,
        "running": 1,
    }
    assert await counted(user="bob") == {"completed": 3, "awaiting_event": 1}
    assert await counted(agent="other") == {"completed": 3}
    day_after = DAY + timedelta(days=3)
    assert await counted(created_from=day_after) == {"awaiting_event": 2}
    assert await counted(created_to=DAY) == {}


async def test_what_cannot_be_read_is_called_corrupt(tmp_path: Path) -> None:
    """In lists, filters and counts, with the reason; it has no other status then."""
    logs = Logs.empty()
    for name in ("whole", "broken"):
        story = Story(Key("ada", name))
        story.running()
        logs.add(story)
    events: Any = logs.events
    events.add("events.ada.broken.log", b"no commit")
    async with projecting(tmp_path / "readmodel.duckdb", logs) as projector:
        await settled(projector)
        request = q.ListRequest(status=("corrupt",))
        (item,) = (await page(projector, request))["items"]
        assert (item["id"], item["status"]) == ("broken", "corrupt")
        assert item["problem"]
        assert await ids(projector, status=("running",)) == ["whole"]
        counted = (await page(projector, q.CountRequest()))["items"]
        assert counted == [
            {"status": "corrupt", "executions": 1},
            {"status": "running", "executions": 1},
        ]


async def test_active_by_user(projector: Projector) -> None:
    """Only what has not ended."""
    items = await paged(projector, q.ActiveRequest(limit=1))
    assert items == [
        {
            "user": "ada",
            "executions": 2,
            "pending": 0,
            "running": 1,
            "paused": 0,
            "awaiting": 1,
        },
        {
            "user": "bob",
            "executions": 1,
            "pending": 0,
            "running": 0,
            "paused": 0,
            "awaiting": 1,
        },
    ]


async def test_awaiting_an_event_type(projector: Projector) -> None:
    """Who waits for it, and for which payload; or for any event."""
    (item,) = await paged(projector, q.AwaitingRequest(event_type="ci.done"))
    assert (item["id"], item["user"]) == ("waiting", "bob")
    assert item["filter"] == {"branch": "main"}
    everybody = await paged(projector, q.AwaitingRequest(limit=1))
    assert {one["event_type"] for one in everybody} == {"ci.done", "ci.failed"}
    assert await paged(projector, q.AwaitingRequest(event_type="ci")) == []


async def test_stuck(projector: Projector) -> None:
    """What nobody moves, with the reason."""
    (item,) = await paged(projector, q.StuckRequest(limit=1))
    assert (item["id"], item["why"]) == ("silent", "no commit while it runs")
    assert await paged(projector, q.StuckRequest(user="bob")) == []


async def test_usage_by_anything(projector: Projector) -> None:
    """Summed up by what was asked; the sums are the same however they are cut."""
    (whole,) = await paged(projector, q.UsageRequest(by=()))
    assert whole["steps"] == 13
    assert whole["cost"] == 6.5
    for by in (("day",), ("user",), ("agent", "model"), ("model", "day", "user")):
        items = await paged(projector, q.UsageRequest(by=by, limit=1))
        assert sum(item["steps"] for item in items) == 13, by
        assert sum(item["input_tokens"] for item in items) == whole["input_tokens"]
        named = {n for n in ("day", "user", "agent", "model") if items[0].get(n)}
        assert named == set(by)
    (late,) = await paged(
        projector, q.UsageRequest(by=("user",), user="bob", from_=DAY + HOURS)
    )
    assert (late["user"], late["steps"]) == ("bob", 1)
    assert await paged(projector, q.UsageRequest(to=DAY)) == []


HOURS = timedelta(hours=5)


async def test_search(projector: Projector) -> None:
    """In prompts, results and log lines; the newest first, with what is around it."""
    items = await paged(projector, q.SearchRequest(text="NUMBER 3", limit=1))
    assert [(one["kind"], one["id"], one["excerpt"]) for one in items] == [
        ("input", "w3", "Look at number 3")
    ]
    lines = await paged(projector, q.SearchRequest(text="refused", limit=1))
    assert [(one["kind"], one["line"], one["level"]) for one in lines] == [
        ("log", 3, "info"),
        ("log", 2, "info"),
        ("log", 1, "info"),
    ]
    assert await paged(projector, q.SearchRequest(text="refused", user="bob")) == []
    only = q.SearchRequest(text="refused", level="warning")
    assert await paged(projector, only) == []
    outputs = await paged(
        projector, q.SearchRequest(text="result", kinds=("output",), limit=2)
    )
    assert [one["id"] for one in outputs] == [f"w{n}" for n in range(6, -1, -1)]


# ── positions and requests ───────────────────────────────────────────────────


async def test_what_was_done_is_seen(tmp_path: Path) -> None:
    """A position waits for the projector; its answer says at least that one."""
    logs = Logs.empty()
    async with projecting(tmp_path / "readmodel.duckdb", logs) as projector:
        for n in range(20):
            story = Story(Key("ada", f"e{n}"))
            story.start()
            position = await append(logs, story)
            request = q.ListRequest(min_position=position, wait=60.0)
            answer = await page(projector, request)
            assert len(answer["items"]) == n + 1
            assert answer["position"] >= position


async def test_a_position_that_does_not_come(projector: Projector) -> None:
    """After the time that it was worth, both positions are named."""
    there = projector.positions["EVENTS"]
    with pytest.raises(Unavailable, match=rf"position 9999 yet: it is at {there}"):
        await page(projector, q.ListRequest(min_position=9_999, wait=0.01))
    with pytest.raises(Unavailable, match="9999"):
        await page(projector, q.ListRequest(min_position=9_999, wait=0))


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (q.ListRequest, b'{"reson": 1}', "unknown field `reson`"),
        (q.ListRequest, b'{"limit": 0}', r"\$.limit"),
        (q.ListRequest, b'{"limit": 1001}', r"\$.limit"),
        (q.ListRequest, b'{"limit": "5"}', r"\$.limit"),
        (q.ListRequest, b'{"sort": "eid; DROP"}', r"\$.sort"),
        (q.ListRequest, b'{"status": "failed"}', r"\$.status"),
        (q.ListRequest, b'{"status": ["dead"]}', r"\$.status"),
        (q.ListRequest, b'{"created_from": "2026-01-01T00:00:00"}', "timezone"),
        (q.ListRequest, b'{"created_from": 5}', r"\$.created_from"),
        (q.ListRequest, b'{"metadata": {"a": 1}}', r"\$.metadata"),
        (q.ListRequest, b'{"min_position": -1}', r"\$.min_position"),
        (q.ListRequest, b'{"wait": 1e9}', r"\$.wait"),
        (q.ListRequest, b'{"wait": NaN}', "malformed"),
        (q.ListRequest, b'{"user": ""}', r"\$.user"),
        (q.ListRequest, b"[]", "Expected `object`"),
        (q.ListRequest, b"\xff\xfe", "malformed|UTF-8|utf-8"),
        (q.ListRequest, b"{" * 100_000, "."),
        (q.ListRequest, b'{"text": "' + b"x" * 1_001 + b'"}', r"\$.text"),
        (q.UsageRequest, b'{"by": ["hour"]}', r"\$.by"),
        (q.UsageRequest, b'{"from_": null}', "unknown field `from_`"),
        (q.SearchRequest, b"{}", "required field `text`"),
        (q.SearchRequest, b'{"text": ""}', r"\$.text"),
        (q.SqlRequest, b'{"sql": "SELECT 1", "timeout": 0}', r"\$.timeout"),
        (q.SqlRequest, b'{"sql": "SELECT 1", "limit": 1e99}', r"\$.limit"),
        (q.SqlRequest, b'{"sql": "SELECT 1", "user": "ada"}', "unknown field `user`"),
    ],
)
def test_requests_that_are_none(kind: type[Any], body: bytes, said: str) -> None:
    """They are refused with the subject, and with what is wrong where."""
    with pytest.raises(InvalidInput, match=said) as caught:
        parsed(kind, body)
    assert str(caught.value).startswith(kind.subject)


async def test_nothing_is_asked_of_what_is_not_there(tmp_path: Path) -> None:
    """While it is built, that is said."""
    projector = Projector(tmp_path / "readmodel.duckdb", Logs.empty())
    with pytest.raises(Unavailable, match="is being built"):
        await page(projector, q.CountRequest())
    projector.readers.close()
    await asyncio.sleep(0)

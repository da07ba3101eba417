"""The queries over NATS: found by any tool, side by side, for nobody who has gone."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from histories import Story
from logs import JetStreamLog
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats
from readmodels import Logs, append, projecting

from events import microservice
from events.errors import (
    FolderInUse,
    InvalidInput,
    NotAllowedNow,
    TooLarge,
    Unavailable,
    WakeError,
)
from events.microservice import Endpoint, MicroService, Request
from events.names import Key
from events.rawlog import Raw
from events.wire import Wire
from gateway import querying
from gateway.querying import NoProjector, Queries
from projections import queries as q
from projections import queryservice, sqlrows
from projections.projector import Projector
from projections.queryservice import QueryService
from projections.store import Store

FOREVER = "SELECT count(*) FROM range(100_000_000) a, range(100_000) b"


class Served:
    """A projector with its queries on a server, and a wire of somebody else."""

    def __init__(self, projector: Projector, service: QueryService, wire: Wire) -> None:
        self.projector, self.service, self.wire = projector, service, wire
        self.queries = Queries(wire)

    @property
    def working(self) -> int:
        """How many queries are in the hands of the database."""
        return sum(a._cursor is not None for a in self.projector.readers._asking)

    async def busy(self, count: int = 1) -> None:
        """Wait until so many are."""
        while self.working != count:  # noqa: ASYNC110 - a test's wait
            await asyncio.sleep(0.002)

    async def raw(self, subject: str, body: bytes = b"{}") -> Any:
        """Ask as any client does."""
        return await self.wire.request(subject, body, wait=60)

    async def stats(self, endpoint: str) -> Any:
        """What an endpoint counted."""
        told = msgspec.json.decode((await self.raw("$SRV.STATS.queries")).data)
        return next(e for e in told["endpoints"] if e["name"] == endpoint)


@pytest.fixture
async def served(jetstream_log: JetStreamLog, tmp_path: Path) -> AsyncIterator[Served]:
    """Queries of a log in memory, on a real server."""
    logs = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    logs.add(story)
    async with projecting(tmp_path / "readmodel.duckdb", logs) as projector:
        service = QueryService(await jetstream_log.wire(), projector)
        serving = asyncio.create_task(service.serve())
        await service.service.ready.wait()
        await projector.reached(2, seconds=60)
        yield Served(projector, service, await jetstream_log.wire())
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


# ── as a micro service ───────────────────────────────────────────────────────


async def test_it_is_found_as_any_micro_service(served: Served) -> None:
    """PING, INFO and STATS at all three levels, in the form that nats.py reads."""
    ping = msgspec.json.decode((await served.raw("$SRV.PING")).data)
    found = ServicePing.from_dict(ping)
    assert (found.name, found.type) == ("queries", "io.nats.micro.v1.ping_response")
    for way in ("", ".queries", f".queries.{found.id}"):
        info = msgspec.json.decode((await served.raw(f"$SRV.INFO{way}")).data)
        endpoints = {e.name: e.subject for e in ServiceInfo.from_dict(info).endpoints}
        assert endpoints == {
            "executions-list": "queries.executions.list",
            "executions-count": "queries.executions.count",
            "executions-active": "queries.executions.active",
            "executions-awaiting": "queries.executions.awaiting",
            "executions-stuck": "queries.executions.stuck",
            "usage": "queries.usage",
            "search": "queries.search",
            "sql": "queries.sql",
            "cancel": "queries.cancel",
            "rebuild": "projector.rebuild",
            "verify": "projector.verify",
        }
    stats = msgspec.json.decode((await served.raw("$SRV.STATS.queries")).data)
    assert ServiceStats.from_dict(stats).name == "queries"


async def test_it_counts_what_it_does(served: Served) -> None:
    """Requests, errors, and how long they took."""
    await served.queries.count(q.CountRequest())
    await served.raw("queries.executions.count", b'{"reson": 1}')
    counted = await served.stats("executions-count")
    assert (counted["num_requests"], counted["num_errors"]) == (2, 1)
    assert "unknown field `reson`" in counted["last_error"]
    assert counted["processing_time"] > counted["average_processing_time"] > 0


async def test_an_error_is_told_in_body_and_header(served: Served) -> None:
    """As micro services tell it, on one line; the body has our code."""
    answer = await served.raw("queries.sql", b'{"sql": "SELECT\\r\\nX: y\\nFROM nope"}')
    assert answer.headers.keys() == {"Nats-Service-Error", "Nats-Service-Error-Code"}
    assert answer.headers["Nats-Service-Error-Code"] == "400"
    assert msgspec.json.decode(answer.data)["code"] == "invalid_input"


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[1", b"{" * 50_000, b"null", b"7"])
@pytest.mark.parametrize(
    "subject",
    [
        "queries.executions.list",
        "queries.sql",
        "queries.cancel",
        "projector.rebuild",
        "projector.verify",
    ],
)
async def test_bytes_that_are_no_request(
    served: Served, subject: str, body: bytes
) -> None:
    """They are refused, and the next is answered."""
    answer = await served.raw(subject, body)
    assert msgspec.json.decode(answer.data)["code"] == "invalid_input"
    assert (await served.queries.list(q.ListRequest())).items[0].id == "one"


async def test_who_wants_no_answer_asks_nothing(served: Served) -> None:
    """Without a reply subject it is not worked on, nor counted."""
    await served.wire.send("queries.executions.list", b"{}")
    await served.queries.count(q.CountRequest())
    assert (await served.stats("executions-list"))["num_requests"] == 0


async def test_a_mistake_of_ours_ends_nothing(
    jetstream_log: JetStreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the caller hears of an error, and all goes on."""

    async def fails(_: Request) -> bytes:
        raise ZeroDivisionError

    async def works(_: Request) -> bytes:
        return b"yes"

    endpoints = [
        Endpoint("fails", "t.fails", fails),
        Endpoint("works", "t.works", works),
    ]
    service = MicroService(await jetstream_log.wire(), "t", "1.0.0", "", endpoints)
    serving = asyncio.create_task(service.serve())
    await service.ready.wait()
    wire = await jetstream_log.wire()
    answer = await wire.request("t.fails")
    assert msgspec.json.decode(answer.data)["code"] == "error"
    assert answer.headers["Nats-Service-Error-Code"] == "500"
    assert "ZeroDivisionError" in caplog.text
    assert (await wire.request("t.works")).data == b"yes"
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_not_too_many_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is beyond that is told to come again."""
    monkeypatch.setattr(microservice, "MOST", 1)
    first = asyncio.create_task(served.queries.sql(q.SqlRequest(sql=FOREVER)))
    await served.busy()
    with pytest.raises(Unavailable, match="too much is asked at once"):
        await served.queries.count(q.CountRequest())
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


# ── asking ───────────────────────────────────────────────────────────────────


async def test_every_query_has_its_answer(served: Served) -> None:
    """Typed, through the client that the gateway uses."""
    queries = served.queries
    assert [one.id for one in (await queries.list(q.ListRequest())).items] == ["one"]
    (count,) = (await queries.count(q.CountRequest())).items
    assert (count.status, count.executions) == ("running", 1)
    (active,) = (await queries.active(q.ActiveRequest())).items
    assert (active.user, active.running) == ("ada", 1)
    assert (await queries.awaiting(q.AwaitingRequest(event_type="x"))).items == []
    (stuck,) = (await queries.stuck(q.StuckRequest())).items
    assert stuck.id == "one"
    assert (await queries.usage(q.UsageRequest())).items == []
    (found,) = (await queries.search(q.SearchRequest(text="go"))).items
    assert (found.kind, found.excerpt) == ("input", "Go")
    rows = await queries.sql(q.SqlRequest(sql="SELECT execution, 1 FROM executions"))
    assert rows.rows == [["one", 1]]
    assert [c.type for c in rows.columns] == ["VARCHAR", "INTEGER"]
    assert rows.position == 2


async def test_a_refusal_has_its_class(served: Served) -> None:
    """So that it becomes the right exit code, and the right HTTP status."""
    with pytest.raises(InvalidInput, match=r"unknown|\$.sort"):
        await served.queries.list(q.ListRequest(sort="x"))  # type: ignore[arg-type] # on purpose
    with pytest.raises(InvalidInput, match="not UTF-8"):
        await served.queries.list(q.ListRequest(user="\udcff"))
    with pytest.raises(
        Unavailable, match="has not reached position 99 yet: it is at 2"
    ):
        await served.queries.list(q.ListRequest(min_position=99, wait=0.01))


async def test_where_no_projector_is(jetstream_log: JetStreamLog) -> None:
    """That is said at once, and as something of its own."""
    queries = Queries(await jetstream_log.wire())
    with pytest.raises(NoProjector, match="wake service projector") as caught:
        await queries.list(q.ListRequest())
    assert caught.value.code == "unavailable"
    with pytest.raises(NoProjector):
        await anext(queries.stream(q.SqlRequest(sql="SELECT 1")))


async def test_who_is_answered_by_nobody_any_more(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A projector that died in between is given up."""
    monkeypatch.setattr(querying, "SILENCE", 0.05)
    dead = await jetstream_log.wire()
    await dead.subscribe("queries.>", lambda _: None)
    await dead.flush()
    queries = Queries(await jetstream_log.wire())
    with pytest.raises(Unavailable, match="says nothing more"):
        await queries.list(q.ListRequest())


async def test_a_slow_query_holds_up_no_other(served: Served) -> None:
    """Others are answered meanwhile, and what is appended is seen."""
    slow = [
        asyncio.create_task(served.queries.sql(q.SqlRequest(sql=FOREVER, timeout=60)))
        for _ in range(3)  # one more than there are threads for
    ]
    await served.busy(2)
    logs: Any = served.projector._sources
    story = Story(Key("bob", "two"))
    story.start()
    position = await append(logs, story)
    request = q.ListRequest(min_position=position, wait=60.0)
    assert {one.id for one in (await served.queries.list(request)).items} == {
        *("one", "two"),
    }
    assert (await served.queries.usage(q.UsageRequest())).items == []
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


# ── who has gone ─────────────────────────────────────────────────────────────


async def test_who_waits_no_longer_stops_the_query(served: Served) -> None:
    """Cancelled on one side, it ends on the other; its thread is free."""
    task = asyncio.create_task(
        served.queries.sql(q.SqlRequest(sql=FOREVER, timeout=60))
    )
    await served.busy()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        await served.busy(0)
    while not (await served.stats("sql"))["last_error"].startswith("unheard"):
        pass


async def test_who_dies_stops_the_query(
    served: Served, jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says so, but the server knows: the next sign of life finds nobody."""
    monkeypatch.setattr(queryservice, "EVERY", 0.05)
    other = await jetstream_log.wire()
    task = asyncio.create_task(
        Queries(other).sql(q.SqlRequest(sql=FOREVER, timeout=60))
    )
    await served.busy()
    other.client._transport.close()  # as a kill does: nothing more is sent
    other.client.options["allow_reconnect"] = False
    async with asyncio.timeout(60):
        await served.busy(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_who_asked_for_no_signs_of_life_gets_none(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the plain request of any client the first message is the answer."""
    monkeypatch.setattr(queryservice, "EVERY", 0.001)
    sql = "SELECT count(*) FROM range(3_000_000) t(i) WHERE hash(i) % 7 = 1"
    answer = await served.raw("queries.sql", msgspec.json.encode({"sql": sql}))
    assert msgspec.json.decode(answer.data)["rows"]


async def test_signs_of_life_are_no_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our client waits on, longer than for a silence, and has the answer."""
    monkeypatch.setattr(queryservice, "EVERY", 0.01)
    monkeypatch.setattr(querying, "SILENCE", 2.0)
    count, took = 75_000_000, 0.0
    while took <= querying.SILENCE:  # on a fast machine it is done before
        count *= 2
        sql = f"SELECT count(*) FROM range({count}) t(i) WHERE hash(i) % 7 = 1"  # noqa: S608 - a number
        began = time.monotonic()
        rows = await served.queries.sql(q.SqlRequest(sql=sql, timeout=60))
        assert rows.rows[0][0] > 1_000_000
        took = time.monotonic() - began


async def test_cancelling_what_is_not_there(served: Served) -> None:
    """It is no error: it may just have ended."""
    answer = await served.raw("queries.cancel", b'{"reply": "nothing"}')
    assert msgspec.json.decode(answer.data) == {"cancelled": False}


# ── orders ───────────────────────────────────────────────────────────────────


async def test_an_order_is_carried_out(served: Served) -> None:
    """It is told what came of it; the read model is there as before."""
    assert (await served.queries.rebuild()).messages == 2
    verified = await served.queries.verify()
    assert (verified.executions, verified.wrong, verified.differences) == (1, 0, [])
    assert (await served.queries.list(q.ListRequest())).items[0].id == "one"


async def test_an_order_takes_as_long_as_it_takes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life come meanwhile; then what came of it, or why not."""
    monkeypatch.setattr(queryservice, "EVERY", 0.01)
    monkeypatch.setattr(querying, "SILENCE", 2.0)
    go, problem = asyncio.Event(), list[WakeError]()

    async def slow() -> q.Rebuilt:
        await go.wait()
        if problem:
            raise problem[0]
        return q.Rebuilt(messages=7, seconds=0.5)

    monkeypatch.setattr(served.projector, "rebuild", slow)
    ordered = asyncio.create_task(served.queries.rebuild())
    done, _ = await asyncio.wait([ordered], timeout=2 * querying.SILENCE)
    assert not done
    go.set()
    assert (await ordered).messages == 7
    for one in (NotAllowedNow("it is being built"), FolderInUse("it is another's")):
        problem[:] = [one]
        with pytest.raises(type(one), match=str(one)):
            await served.queries.rebuild()


async def test_who_waits_no_longer_stops_the_verification(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the log is, it is read no further; and the next one is done."""
    reading, ended = threading.Event(), threading.Event()

    def endless(*_: int) -> Iterator[list[Raw]]:
        try:
            while True:
                reading.set()
                yield []
        finally:
            ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(served.projector._sources.events, "bulk", endless)
        verifying = asyncio.create_task(served.queries.verify())
        await asyncio.to_thread(reading.wait, 10)
        verifying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await verifying
        assert await asyncio.to_thread(ended.wait, 10)
    assert (await served.queries.verify()).wrong == 0


# ── SQL in pieces ────────────────────────────────────────────────────────────


async def lines(served: Served, sql: str, **limits: Any) -> list[Any]:
    """All lines of a stream."""
    request = q.SqlRequest(sql=sql, **{"limit": 1_000_000, "timeout": 60.0, **limits})
    async with aclosing(served.queries.stream(request)) as found:
        return [line async for line in found]


async def test_what_is_large_comes_in_pieces(served: Served) -> None:
    """Every row once, in order, between a head and an end."""
    sql = "SELECT i, repeat('é', 200) FROM range(20_000) t(i) ORDER BY i DESC"
    head, *rows, end = await lines(served, sql)
    assert [column["name"] for column in head["columns"]] == ["i", "repeat('é', 200)"]
    assert head["position"] == 2
    assert [row[0] for row in rows] == list(range(19_999, -1, -1))
    assert {row[1] for row in rows} == {"é" * 200}
    assert end == {"done": True, "rows": 20_000, "more": False}


async def test_a_row_larger_than_a_piece(served: Served) -> None:
    """It is put together again; one that is larger than all is refused."""
    _, *rows, end = await lines(
        served, "SELECT i, repeat('x', 3_000_000) AS x FROM range(2) t(i)"
    )
    assert [(row[0], len(row[1])) for row in rows] == [(0, 3_000_000), (1, 3_000_000)]
    assert end["rows"] == 2
    with pytest.raises(TooLarge, match="a row has 70,00"):
        await lines(served, "SELECT repeat('x', 70_000_000)")


async def test_the_limit_cuts_it_off(served: Served) -> None:
    """And the end says so; what is exactly that much is whole."""
    *_, end = await lines(served, "FROM range(1001)", limit=1_000)
    assert end == {"done": True, "rows": 1_000, "more": True}
    *_, end = await lines(served, "FROM range(1000)", limit=1_000)
    assert end == {"done": True, "rows": 1_000, "more": False}
    *_, end = await lines(served, "SELECT 1 WHERE false")
    assert end == {"done": True, "rows": 0, "more": False}


async def test_nothing_is_sent_to_who_does_not_take_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One piece is under way at a time; without its answer the query is dropped."""
    monkeypatch.setattr(queryservice, "SILENCE", 0.2)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    reply = served.wire.open(heard.put_nowait)
    request = q.SqlRequest(sql="FROM range(3_000_000)", limit=10_000_000, stream=True)
    await served.wire.send(request.subject, msgspec.json.encode(request), reply=reply)
    piece = await heard.get()
    assert len(piece.data) == sqlrows.PIECE
    ended = await heard.get()  # it is told all the same, should somebody hear
    assert msgspec.json.decode(ended.data)["code"] == "unheard"
    assert served.working == 0


async def test_who_leaves_in_the_middle_stops_it(served: Served) -> None:
    """The rest is not read."""
    request = q.SqlRequest(sql="FROM range(1_000_000_000)", limit=10_000_000)
    async with aclosing(served.queries.stream(request)) as found:
        assert "columns" in await anext(found)
        assert await anext(found) == [0]
    async with asyncio.timeout(60):
        await served.busy(0)


async def test_an_error_after_rows_were_sent(served: Served) -> None:
    """What was not whole does not look as if it were."""
    sql = """\
SELECT CASE WHEN i < 60_000 THEN i ELSE error('stop') END FROM range(90_000) t(i)"""
    with pytest.raises(InvalidInput, match="stop"):
        await lines(served, sql)


async def test_what_is_too_large_for_one_message(served: Served) -> None:
    """It is refused, with what to do."""
    request = q.SqlRequest(sql="SELECT repeat('x', 600_000)")
    with pytest.raises(TooLarge, match="ask with `stream`"):
        await served.queries.sql(request)


async def test_a_query_has_its_time(served: Served) -> None:
    """Also one that sends rows all the while, and one that waits for its turn."""
    with pytest.raises(Unavailable, match=r"stopped after 0\.1 s"):
        await served.queries.sql(q.SqlRequest(sql=FOREVER, timeout=0.1))
    with pytest.raises(Unavailable, match=r"stopped after 0\.3 s"):
        await lines(
            served, "FROM range(10_000_000_000)", timeout=0.3, limit=q.MOST_ROWS
        )


async def test_the_end_of_the_projector_ends_what_is_asked(served: Served) -> None:
    """Whoever waits hears of it."""
    task = asyncio.create_task(
        served.queries.sql(q.SqlRequest(sql=FOREVER, timeout=60))
    )
    await served.busy()
    await served.projector.stop()
    with pytest.raises(WakeError, match=r"stopped|ends|closed"):
        await task


async def test_the_end_of_the_projector_waits_for_no_reader(served: Served) -> None:
    """Nor for one in the middle of its rows who takes its time."""
    request = q.SqlRequest(sql="FROM range(3_000_000)", limit=10_000_000, stream=True)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    reply = served.wire.open(heard.put_nowait)
    await served.wire.send(request.subject, msgspec.json.encode(request), reply=reply)
    await heard.get()
    began = time.monotonic()
    await served.projector.stop()
    while served.projector._store is not None:  # noqa: ASYNC110 - a test's wait
        await asyncio.sleep(0.01)
    assert time.monotonic() - began < queryservice.SILENCE / 2


async def test_nobody_keeps_a_file_that_was_replaced(served: Served) -> None:
    """Who is in the middle of its rows loses them; what is asked next is of the new."""
    request = q.SqlRequest(sql="FROM range(3_000_000)", limit=10_000_000, stream=True)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    reply = served.wire.open(heard.put_nowait)
    await served.wire.send(request.subject, msgspec.json.encode(request), reply=reply)
    await heard.get()
    await served.projector.rebuild()
    logs: Any = served.projector._sources
    story = Story(Key("bob", "two"))
    story.start()
    listed = q.ListRequest(min_position=await append(logs, story), wait=60.0)
    while True:
        try:
            found = await served.queries.list(listed)
            break
        except Unavailable:  # it is just opened
            await asyncio.sleep(0.01)
    assert len(found.items) == 2
    await served.projector.stop()
    while served.projector._store is not None:  # noqa: ASYNC110 - a test's wait
        await asyncio.sleep(0.01)
    store = Store.open(served.projector._path)
    try:
        assert store.checkpoints()["EVENTS"].position == 3
    finally:
        store.close()

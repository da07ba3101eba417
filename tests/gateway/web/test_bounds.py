"""What strangers may cost: bodies, headers, silence, connections."""

import asyncio
import itertools
import logging
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import edges
import pytest
from edges import DONE, LIMIT, Caller, Gateway, eventually
from nats_server import NatsServer

from gateway.querying import Queries
from gateway.web import app, connections, looking, reading, share
from gateway.web.app import MAX_BODY, MAX_HEADERS, MAX_LINE
from projections.queries import Execution, ListRequest, Page

BODY = b'{"agent_type": "explorer", "input": "%s"}'


SMUGGLED = (
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)


class Socket:
    """A connection on which anything can be said."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, text: bytes) -> None:
        """Send, as it is."""
        self._writer.write(text)
        await self._writer.drain()

    async def answer(self) -> bytes:
        """All that comes until the other side ends."""
        async with asyncio.timeout(LIMIT):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def head(self) -> bytes:
        """The head of one answer."""
        async with asyncio.timeout(LIMIT):
            return await self._reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def socket(gateway: Gateway) -> AsyncIterator[Socket]:
    """Connect."""
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    try:
        yield Socket(reader, writer)
    finally:
        writer.transport.abort()


def resident() -> int:
    """Bytes of memory of this process, which is the gateway's too."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def post(caller: Caller, *headers: str) -> bytes:
    """The head of a start; its body is to follow."""
    lines = [
        "POST /api/agents HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {caller.token}",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def serves(caller: Caller) -> bool:
    """Whether it still does what it is for."""
    return bool(await caller.started())


async def told(caplog: pytest.LogCaptureFixture) -> int:
    """How many warnings there were."""
    return len([r for r in caplog.records if r.levelno == logging.WARNING])


@contextmanager
def told_once(caplog: pytest.LogCaptureFixture, what: str) -> Iterator[None]:
    """Show that the log names a reason once, and has no traceback."""
    with caplog.at_level(logging.INFO):
        yield
    lines = [r for r in caplog.records if what in r.getMessage()]
    assert len(lines) == 1, [r.getMessage() for r in caplog.records]
    assert not [r for r in caplog.records if r.exc_info]


# ── bodies ───────────────────────────────────────────────────────────────────


async def test_a_body_of_a_gigabyte_is_refused_unread(
    gateway: Gateway, ada: Caller
) -> None:
    """As soon as its length is announced, before a byte of it is sent."""
    async with socket(gateway) as one:
        await one.say(post(ada, f"Content-Length: {1024**3}"))
        answer = await one.answer()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer
    assert await serves(ada)


async def test_a_body_without_a_length_is_read_so_far(
    gateway: Gateway, ada: Caller
) -> None:
    """A gigabyte in pieces is cut off, and takes up no memory."""
    before = resident()
    piece = b"%x\r\n%s\r\n" % (64 * 1024, b"x" * 64 * 1024)
    sent = 0
    async with socket(gateway) as one:
        await one.say(post(ada, "Transfer-Encoding: chunked"))
        heard = asyncio.create_task(one.answer())
        while not heard.done() and sent < 1024**3:
            try:
                await one.say(piece)
            except ConnectionError:
                break
            sent += len(piece)
        answer = await heard
    assert sent < 1024**3
    assert resident() - before < 64 * 1024**2
    assert answer.startswith(b"HTTP/1.1 413 ") or answer == b""
    assert await serves(ada)


async def test_the_largest_body(ada: Caller) -> None:
    """One byte more than a body may have is 413; just below it is read."""
    body = BODY % (b"x" * MAX_BODY)
    assert (await ada.post("/api/agents", body)).status == 413
    body = BODY % (b"x" * (MAX_BODY - len(BODY) + 2))
    assert len(body) == MAX_BODY
    read = await ada.post("/api/agents", body)
    assert (read.status, read.code) == (422, "invalid_input")


async def test_a_slow_body(
    gateway: Gateway,
    ada: Caller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that does not come to its end in time is 408; the connection ends."""
    monkeypatch.setattr(reading, "SLOWEST", 0.2)
    async with socket(gateway) as one:
        await one.say(post(ada, "Content-Length: 100") + b"{")
        answer = await one.answer()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in answer
    assert await serves(ada)


WEBHOOK = b"POST /webhooks/agent-trigger HTTP/1.1\r\nHost: x\r\n"


async def test_a_slow_webhook(
    gateway: Gateway, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no token cannot hold a connection for longer either."""
    monkeypatch.setattr(reading, "SLOWEST", 0.2)
    async with socket(gateway) as one:
        await one.say(WEBHOOK + b"Content-Length: 100\r\n\r\n{")
        answer = await one.answer()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in answer
    assert await serves(ada)


async def test_a_body_that_is_cut_off(
    gateway: Gateway, ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is started by half a body, and nothing is logged as an error."""
    with caplog.at_level(logging.INFO):
        async with socket(gateway) as one:
            await one.say(post(ada, "Content-Length: 1000") + BODY[:20])
        assert await serves(ada)
    listed = (await ada.listed()).body["items"]
    assert len(listed) == 1
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json; charset=utf-16", 415),
        ("application/xml", 415),
        ("", 415),
        ("application/json; charset=UTF-8", 201),
        ("Application/JSON", 201),
    ],
)
async def test_content_types(ada: Caller, kind: str, status: int) -> None:
    """Only JSON in UTF-8 is read: what is guessed right may be guessed wrong."""
    body = {"agent_type": "explorer", "input": DONE}
    reply = await ada.post("/api/agents", body, headers={"Content-Type": kind})
    assert reply.status == status, reply


async def test_a_compressed_body_is_not_unpacked(ada: Caller) -> None:
    """A small one could be a gigabyte."""
    reply = await ada.post("/api/agents", b"x", headers={"Content-Encoding": "gzip"})
    assert reply.status == 415


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"agent_type": "\xff"}', 400, "not JSON"),
        (b"[" * 100_000, 400, "deeper"),
        (b'{"a":' * 50_000, 400, "deeper"),
        (b"null", 422, "Expected `object`"),
        (b"[]", 422, "Expected `object`"),
        (b"{}", 422, "agent_type"),
        (BODY[:-1] % b"x" + b', "inptu": 1}', 422, "inptu"),
        (BODY[:-1] % b"x" + b', "options": {"retries": 1}}', 422, "retries"),
        (BODY[:-1] % b"x" + b', "options": {"limits": {"x": 1}}}', 422, "`x`"),
        (BODY[:-1] % b"x" + b', "options": {"run_at": "now"}}', 422, "run_at"),
        (BODY[:-1] % b"x" + b', "options": 7}', 422, "options"),
        (BODY % b"", 422, "input"),
        (BODY.replace(b"explorer", b"exlporer") % b"x", 422, "did you mean"),
        (BODY % b"\\ud800", 400, "not JSON"),
        (BODY % b"\x00", 400, "not JSON"),
    ],
)
async def test_bodies_that_are_wrong(
    ada: Caller, body: bytes, status: int, why: str
) -> None:
    """Each is refused whole, with what is wrong and where."""
    reply = await ada.post("/api/agents", body)
    assert reply.status == status, reply
    assert why in reply.body["detail"]
    assert (await ada.listed()).body["items"] == []


async def test_metadata_may_be_deep_but_not_too_deep(ada: Caller) -> None:
    """What can be read here must be readable from anywhere."""
    for levels, status in ((60, 201), (70, 422), (99, 400)):
        deep = b"[" * levels + b"]" * levels
        body = BODY[:-1] % b"script:" + b', "options": {"metadata": {"a": %s}}}' % deep
        assert (await ada.post("/api/agents", body)).status == status, levels


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("sort=name", "sort"),
        ("status=done", "status"),
        ("order=up", "order"),
        ("created_from=today", "created_from"),
        ("created_from=2026-01-01T00:00:00", "created_from"),
        ("created_from=null", "created_from"),
        ("updated_to=0.5", "updated_to"),
        ("updated_from=1700000000", "updated_from"),
        ("metadata=x", "metadata"),
        ("min_position=-1", "min_position"),
        ("min_position=99999999999999999999", "min_position"),
        ("colour=red", "colour"),
        ("status=" + "&status=".join(["failed"] * 17), "status"),
    ],
)
async def test_queries_that_are_wrong(ada: Caller, query: str, name: str) -> None:
    """The parameter is named."""
    reply = await ada.get(f"/api/agents?{query}")
    assert (reply.status, reply.code) == (422, "invalid_input"), reply
    assert name in reply.body["detail"]


async def test_a_cursor_of_nowhere(ada: Caller) -> None:
    """The read model names it."""
    reply = await ada.listed("cursor=x")
    assert (reply.status, reply.code) == (422, "invalid_input"), reply
    assert "cursor" in reply.body["detail"]


# ── bodies that wait to be asked for ─────────────────────────────────────────


WAITING = "Expect: 100-continue"
WHOLE = BODY % DONE.replace("\n", "\\n").encode()


async def test_a_body_that_waits_is_asked_for(gateway: Gateway, ada: Caller) -> None:
    """Once it is known that it will be read (RFC 9110, section 10.1.1)."""
    async with socket(gateway) as one:
        await one.say(post(ada, f"Content-Length: {len(WHOLE)}", WAITING))
        assert await one.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await one.say(WHOLE)
        assert (await one.head()).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    ("token", "length", "path", "status"),
    [
        ("bad", 10, "/api/agents", 401),
        (None, 10, "/api/agents/x", 405),
        (None, MAX_BODY + 1, "/api/agents", 413),
        (None, 10, "/webhooks/agent-trigger/x", 404),
    ],
)
async def test_a_body_that_nobody_wants_is_not_asked_for(
    gateway: Gateway,
    ada: Caller,
    token: str | None,
    length: int,
    path: str,
    status: int,
) -> None:
    """Its sender hears so at once, and may keep it: nothing else comes after it.

    What came in its place would be taken for it, be it another's through a proxy.
    """
    somebody = ada if token is None else Caller(gateway.session, gateway.url, token)
    head = post(somebody, f"Content-Length: {length}", WAITING)
    async with socket(gateway) as one:
        await one.say(head.replace(b"/api/agents", path.encode(), 1))
        told = await one.head()
        assert told.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in told


@pytest.mark.parametrize("path", ["/api/agents", "/healthz", "/nothing"])
async def test_what_nobody_can_expect_here(ada: Caller, path: str) -> None:
    """It is refused as anything else is: a problem, with an id for the log."""
    reply = await ada.get(path, headers={"Expect": "the-unexpected"})
    assert (reply.status, reply.code) == (417, "bad_request")
    assert reply.headers["X-Request-Id"]


# ── heads ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 2 * MAX_LINE), 431),
        (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * 2 * MAX_LINE), 431),
        (b"GET / HTTP/1.1\r\n%s\r\n" % (b"X: 1\r\n" * 2 * MAX_HEADERS), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (SMUGGLED, 400),
        (b"GET / HTTP/1.1\r\nX\x00Y: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n X: folded\r\n\r\n", 400),
    ],
)
async def test_heads_that_are_wrong(
    gateway: Gateway,
    ada: Caller,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    text: bytes,
    status: int,
) -> None:
    """A problem like all others, the end of the connection, and one line."""
    quiet = connections.Seldom(connections.logger)
    monkeypatch.setattr(connections, "_seldom", quiet)
    with told_once(caplog, "cannot be read"):
        for _ in range(20):
            async with socket(gateway) as one:
                await one.say(text)
                answer = await one.answer()
            assert answer.split(b" ")[1] == b"%d" % status, answer
            assert b"application/problem+json" in answer
            assert b"aiohttp" not in answer
    assert await serves(ada)


async def test_a_head_that_does_not_end(
    edge_server: NatsServer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Silence, a head byte by byte, and half a request line: all are cut off."""
    monkeypatch.setattr(app, "QUIET", 0.3)
    folder = tmp_path_factory.mktemp("quiet")
    async with edges.gateway(edge_server.url, folder) as one:
        async with socket(one) as silent, socket(one) as half, socket(one) as slow:
            await half.say(b"GET /api")
            drip = asyncio.create_task(_drip(slow))
            assert await silent.answer() == b""
            assert await half.answer() == b""
            assert await slow.answer() == b""
            drip.cancel()
        assert (await one.nobody().get("/healthz")).status == 200


async def _drip(slow: Socket) -> None:
    """Send a header for ever, a byte at a time."""
    await slow.say(b"GET / HTTP/1.1\r\nX: ")
    while True:
        await slow.say(b"x")
        await asyncio.sleep(0.02)


# ── connections ──────────────────────────────────────────────────────────────


async def test_there_are_only_so_many_connections(
    gateway: Gateway,
    ada: Caller,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those beyond are closed at once; it is told once; then others may come."""
    assert await serves(ada)
    monkeypatch.setattr(connections, "MOST", 10)
    quiet = connections.Seldom(connections.logger)
    monkeypatch.setattr(connections, "_seldom", quiet)
    with told_once(caplog, "too many connections"):
        opened = [
            await asyncio.open_connection(gateway.host, gateway.port) for _ in range(30)
        ]
        ends = [asyncio.create_task(reader.read()) for reader, _ in opened]
        async with asyncio.timeout(LIMIT):
            for end in itertools.islice(asyncio.as_completed(ends), 20):
                await end
        assert (await ada.get("/healthz")).status == 200
        for _, writer in opened:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)
    assert await serves(ada)


async def test_a_client_that_reads_nothing_is_dropped(
    gateway: Gateway,
    ada: Caller,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred requests in one go, whose answers are never read, hold up nobody."""
    monkeypatch.setattr(connections, "STALLED", 0.3)
    monkeypatch.setattr(connections, "_seldom", connections.Seldom(connections.logger))
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with told_once(caplog, "does not read"):
        async with socket(gateway) as one:
            await one.say(request * 100)
            assert await serves(ada)
            await eventually(partial(told, caplog), lambda count: count > 0)
            assert await one.answer()
    assert await serves(ada)


# ── questions ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "most"), [("", share.MOST), ("?text=x", share.MOST // looking.SEARCH)]
)
async def test_one_user_cannot_ask_all_that_can_be_asked(
    gateway: Gateway,
    ada: Caller,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    most: int,
) -> None:
    """The projector answers so much at once, and for all: each has a share of it."""
    await ada.listed()
    ask, go_on = Queries.list, asyncio.Event()
    asked = asyncio.Semaphore(0)

    async def slow(self: Queries, request: ListRequest) -> Page[Execution]:
        if str(request.user).startswith("ada"):
            asked.release()
            await go_on.wait()
        return await ask(self, request)

    monkeypatch.setattr(Queries, "list", slow)
    path = f"/api/agents{query}"
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
        many = [group.create_task(ada.get(path)) for _ in range(most)]
        for _ in many:
            await asked.acquire()
        refused = await ada.get(path)
        assert refused.code == "too_many_requests"
        assert refused.headers["Retry-After"] == "1"
        assert (await gateway.caller("eve").get(path)).status == 200
        go_on.set()
    assert {one.result().status for one in many} == {200}
    assert (await ada.get(path)).status == 200

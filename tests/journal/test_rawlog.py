"""A stream as it is stored, on both adapters: nothing is decoded, nothing is missed."""

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from logs import JetStreamLog
from nats_server import NatsServer

from events import bulk
from events.bulk import BulkReader, Login
from events.errors import Unavailable
from events.jetstream import JetStreamJournal
from events.names import EVENTS, Key
from events.rawlog import MemoryRawLog, Raw, RawLog
from events.rawstream import AHEAD, JetStreamRawLog, all_streams
from events.wire import Wire


class Stream(ABC):
    """A raw log under test, and who writes to it."""

    log: RawLog

    @abstractmethod
    async def add(self, subject: str, body: bytes = b"{}") -> int:
        """Store a message and return its position."""

    @abstractmethod
    async def delete(self, position: int) -> None:
        """Delete a message."""


class Memory(Stream):
    """In one process."""

    def __init__(self) -> None:
        self.log: MemoryRawLog = MemoryRawLog()

    async def add(self, subject: str, body: bytes = b"{}") -> int:
        """Store a message."""
        position = self.log.add(subject, body)
        await self.log.stir()
        return position

    async def delete(self, position: int) -> None:
        """Delete a message."""
        self.log.delete(position)


class JetStream(Stream):
    """On a real server."""

    def __init__(self, wire: Wire, login: Login) -> None:
        self._wire = wire
        self.log: JetStreamRawLog = all_streams(wire, login)[0]

    async def add(self, subject: str, body: bytes = b"{}") -> int:
        """Store a message, with a header as commits have them."""
        ack = await self._wire.client.jetstream().publish(
            subject, body, headers={"traceparent": "00-1-2-00"}
        )
        return int(ack.seq)

    async def delete(self, position: int) -> None:
        """Delete a message."""
        await self._wire.api(
            f"STREAM.MSG.DELETE.{EVENTS}", {"seq": position, "no_erase": True}
        )


@pytest.fixture
async def jetstream(
    jetstream_log: JetStreamLog, nats_server: NatsServer
) -> AsyncIterator[Stream]:
    """An empty stream on the shared server."""
    return JetStream(await jetstream_log.wire(), Login(nats_server.url))  # type: ignore[return-value]


@pytest.fixture
async def memory() -> Stream:
    """An empty stream in memory."""
    return Memory()


@pytest.fixture(params=["memory", "jetstream"])
def stream(request: pytest.FixtureRequest) -> Stream:
    """Each adapter in turn, empty."""
    chosen: Stream = request.getfixturevalue(request.param)
    return chosen


async def every(stream: Stream, after: int = 0) -> list[Raw]:
    """All there is beyond a position, read in bulk in a thread."""
    extent = await stream.log.extent()

    def read() -> list[Raw]:
        return [raw for run in stream.log.bulk(after, extent.last) for raw in run]

    return await asyncio.to_thread(read) if extent.last > after else []


async def test_it_says_what_there_is(stream: Stream) -> None:
    """Nothing, something, and what was deleted at either end."""
    empty = await stream.log.extent()
    assert empty.last == 0
    for number in range(5):
        await stream.add("events.a.b.log", b"%d" % number)
    extent = await stream.log.extent()
    assert (extent.made, extent.first, extent.last) == (empty.made, 1, 5)
    for position in (1, 2, 5):
        await stream.delete(position)
    extent = await stream.log.extent()
    assert (extent.first, extent.last) == (3, 5)


async def test_bodies_are_what_was_stored(stream: Stream) -> None:
    """Byte for byte, whatever they are, with their subjects and positions."""
    bodies = [b"", b"\r\n", b"MSG x 1 2\r\n", b"\x00\xff" * 70_000, b"{}", b"PING\r\n"]
    for body in bodies:
        await stream.add("events.a.b.log", body)
    raws = await every(stream)
    assert [raw.body for raw in raws] == bodies
    assert [raw.position for raw in raws] == [1, 2, 3, 4, 5, 6]
    assert {raw.subject for raw in raws} == {"events.a.b.log"}


async def test_bulk_reads_what_was_asked_for(stream: Stream) -> None:
    """Beyond one position and up to another; holes are left out."""
    for number in range(20):
        await stream.add(f"events.a.b{number}.log")
    for position in (1, 7, 8, 20):
        await stream.delete(position)

    def read(after: int, upto: int) -> list[int]:
        runs = stream.log.bulk(after, upto)
        return [raw.position for run in runs for raw in run]

    assert await asyncio.to_thread(read, 0, 20) == [
        n for n in range(2, 20) if n not in (7, 8)
    ]
    assert await asyncio.to_thread(read, 5, 9) == [6, 9]
    assert await asyncio.to_thread(read, 19, 20) == []


async def test_it_is_followed_without_a_gap(stream: Stream) -> None:
    """What is there, then what comes, in order and none twice."""
    for number in range(30):
        await stream.add("events.a.b.log", b"%d" % number)
    seen: list[int] = []
    async with aclosing(stream.log.follow(10)) as runs:
        async for run in runs:
            seen += [raw.position for raw in run]
            if seen[-1] == 30:
                await stream.add("events.a.b.log")
            if seen[-1] == 31:
                break
    assert seen == list(range(11, 32))


async def test_a_history_is_that_of_one_execution(stream: Stream) -> None:
    """All its routes, in order, and nobody else's; poison is in it."""
    await stream.add("events.a.b.agents", b"1")
    await stream.add("events.a.bb.agents", b"other")
    await stream.add("events.a.b.log", b"poison")
    last = await stream.add("events.a.b.finished", b"3")
    found = await stream.log.history(Key("a", "b"), at_least=last)
    assert [raw.body for raw in found] == [b"1", b"poison", b"3"]
    assert await stream.log.history(Key("a", "nobody"), at_least=0) == []


# ── in bulk, on a server ─────────────────────────────────────────────────────


async def test_many_and_large_ones(
    jetstream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one request asks for, in number and in bytes."""
    monkeypatch.setattr(bulk, "BATCH", 50)
    monkeypatch.setattr(bulk, "BATCH_BYTES", 400_000)
    for number in range(230):
        await jetstream.add("events.a.b.log", b"x" * (90_000 if number % 7 == 0 else 9))
    raws = await every(jetstream)
    assert [raw.position for raw in raws] == list(range(1, 231))
    assert sum(len(raw.body) for raw in raws) == 33 * 90_000 + 197 * 9


async def test_it_leaves_no_consumer_behind(
    jetstream: Stream, jetstream_log: JetStreamLog
) -> None:
    """The server is told that it is over, also when it was broken off."""
    await jetstream.add("events.a.b.log")
    assert len(await every(jetstream)) == 1
    await jetstream_log.readers(0)


async def test_with_a_password(tmp_path: Path) -> None:
    """As configured, or in the address; a wrong one is an error in words."""
    users = "authorization { users: [ { user: ada, password: secret } ] }"
    server = NatsServer(tmp_path, users)
    server.start()
    try:
        port = server.port
        for login in (
            Login(f"nats://127.0.0.1:{port}", "ada", "secret"),
            Login(f"nats://ada:secret@127.0.0.1:{port}"),
        ):
            BulkReader.connect(login).close()
        with pytest.raises(Unavailable, match="Authorization Violation"):
            BulkReader.connect(Login(f"nats://127.0.0.1:{port}", "ada", "wrong"))
    finally:
        server.stop()
    with pytest.raises(Unavailable, match="no nats-server answers"):
        BulkReader.connect(Login(f"nats://127.0.0.1:{port}"))


def serve(answers: list[bytes], *, stay: bool = False) -> tuple[str, threading.Thread]:
    """Be a server that says what it is told to, a piece for each line it hears.

    Then it hangs up; or it listens on, to ``stay``, until the other does.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            connection.sendall(b"INFO {}\r\n")
            heard = connection.makefile("rb")
            for answer in answers:
                while not heard.readline().startswith((b"PING", b"PUB")):
                    pass
                connection.sendall(answer)
            if stay:
                heard.read()

    thread = threading.Thread(target=run)
    thread.start()
    return f"nats://127.0.0.1:{listener.getsockname()[1]}", thread


CREATED = msgspec.json.encode({"num_pending": 3})
ANSWER = b"MSG i.0 1 %d\r\n%s\r\n" % (len(CREATED), CREATED)


def message(number: int, left: int) -> bytes:
    """Deliver a commit."""
    reply = f"$JS.ACK.EVENTS.c.1.{number}.{number}.17.{left}"
    return f"MSG events.a.b.log 1 {reply} 2\r\n{{}}\r\n".encode()


@pytest.mark.parametrize(
    ("deliveries", "said"),
    [
        (message(1, 2) + message(3, 0), "message 2 of the log was lost"),
        (message(1, 2), "closed the connection|was lost"),
        (b"-ERR 'Slow Consumer'\r\n", "Slow Consumer"),
        (
            b"HMSG i.1 1 32 32\r\nNATS/1.0 409 Consumer Deleted\r\n\r\n\r\n",
            "Consumer Deleted",
        ),
    ],
    ids=["a gap", "the end", "cut off", "consumer gone"],
)
def test_loss_is_noticed(deliveries: bytes, said: str) -> None:
    """Whatever is lost on the way, there is no going on in silence."""
    url, thread = serve([b"PONG\r\n", ANSWER, deliveries])
    reader = BulkReader.connect(Login(url))
    with pytest.raises(Unavailable, match=said):
        list(reader.read(EVENTS, 0, 3))
    reader.close()
    thread.join()


def read_three(deliveries: bytes) -> list[Raw]:
    """Read what a server delivers that stays."""
    url, thread = serve([b"PONG\r\n", ANSWER, deliveries], stay=True)
    reader = BulkReader.connect(Login(url))
    try:
        return [raw for run in reader.read(EVENTS, 0, 9) for raw in run]
    finally:
        reader.close()
        thread.join()


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_it_may_be_cut_anywhere(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a carriage return and its line feed, too; whatever else is said."""
    monkeypatch.setattr(bulk, "CHUNK", chunk)
    reply = "$JS.ACK.EVENTS.c.1.2.2.17.1"
    head = b"NATS/1.0\r\nNats-Msg-Id: 7\r\n\r\n"
    headed = f"HMSG events.ada.b.log 1 {reply} {len(head)} {len(head) + 4}\r\n"
    over = b"NATS/1.0 409 Batch Completed\r\n\r\n"
    raws = read_three(
        message(1, 2)
        + b"PING\r\n"
        + headed.encode()
        + head
        + b"\r{}\n\r\n"
        + b"HMSG i.1 1 %d %d\r\n%s\r\n" % (len(over), len(over), over)
        + message(3, 0)
    )
    assert raws == [
        Raw(1, "events.a.b.log", b"{}"),
        Raw(2, "events.ada.b.log", b"\r{}\n"),
        Raw(3, "events.a.b.log", b"{}"),
    ]


@pytest.mark.parametrize(
    ("prefix", "rest"),
    [("EVENTS.c", ""), ("hub.hash.EVENTS.c", ""), ("hub.hash.EVENTS.c", ".r4nd")],
    ids=["short", "long", "longest"],
)
def test_every_form_of_an_ack_is_read(prefix: str, rest: str) -> None:
    """Also where the position is another one than the number, and leaps."""
    acks = [
        f"$JS.ACK.{prefix}.1.{position}.{number}.17.{3 - number}{rest}"
        for number, position in ((1, 1), (2, 2), (3, 9))
    ]
    said = b"".join(f"MSG events.a.b.log 1 {ack} 0\r\n\r\n".encode() for ack in acks)
    assert [raw.position for raw in read_three(said)] == [1, 2, 9]
    with pytest.raises(Unavailable, match="message 3 of the log was lost"):
        read_three(said.replace(b".9.3.17.", b".9.4.17."))


async def test_another_stream_has_another_identity(
    own_log: JetStreamLog, own_server: NatsServer
) -> None:
    """Who kept a position finds out that it means nothing any more."""
    wire = await own_log.wire()
    log = all_streams(wire, Login(own_server.url))[0]
    before = await log.extent()
    await wire.api(f"STREAM.DELETE.{EVENTS}")
    await JetStreamJournal.open(wire)
    assert (await log.extent()).made != before.made


async def test_it_says_where_a_subject_ends(stream: Stream) -> None:
    """Of one, and of many; 0 where there is nothing."""
    for number in range(3):
        await stream.add(f"events.ada.e{number}.log")
    await stream.add("events.bob.e0.parked")
    assert await stream.log.tip("events.ada.e1.*") == 2
    assert await stream.log.tip("events.ada.*.*") == 3
    assert await stream.log.tip("events.*.*.*") == 4
    assert await stream.log.tip("events.eve.*.*") == 0
    await stream.delete(3)
    assert await stream.log.tip("events.ada.*.*") == 2


async def test_what_is_between_two_positions_comes_and_ends(stream: Stream) -> None:
    """Of one subject, however much that is, and nothing of others."""
    for number in range(AHEAD * 3):
        await stream.add(f"events.ada.e{number % 2}.log", b"%d" % number)
    wanted = list(range(11, AHEAD * 3 + 1, 2))
    runs = stream.log.between("events.ada.e0.*", 10, wanted[-1])
    async with aclosing(runs), asyncio.timeout(60):
        found = [raw async for run in runs for raw in run]
    assert [raw.position for raw in found] == wanted
    assert {raw.subject for raw in found} == {"events.ada.e0.log"}


async def test_of_a_history_only_what_is_newer_is_read(stream: Stream) -> None:
    """Beyond a position, of every route."""
    for route in ("agents", "log", "parked", "log", "finished"):
        await stream.add(f"events.ada.one.{route}")
    history = await stream.log.history(Key("ada", "one"), at_least=5, after=2)
    assert [raw.position for raw in history] == [3, 4, 5]

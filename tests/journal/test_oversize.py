"""Messages that nats-server does not take: never sent, and the connection lives."""

from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest
from commits import KEY
from inboxes import JetStreamBox
from logs import JetStreamLog
from nats_server import NatsServer

from events.errors import InvalidInput, TooLarge
from events.inbox import MAX_BODY
from events.muster import NatsPresences
from events.names import LANES, MAX_MESSAGE
from events.presence import Connection, Held, Presence, Process
from events.wire import MAX_SUBJECT, Wire
from gateway.settings import Runner


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that takes no more than it must."""
    server = NatsServer(
        tmp_path_factory.mktemp("narrow"), f"max_payload: {MAX_MESSAGE}"
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def wire(narrow: NatsServer) -> AsyncIterator[Wire]:
    """A connection to it, which is the same one in the end."""
    wire = await Wire.connect(narrow.url)
    lost: list[None] = []
    wire.watch(lambda: lost.append(None))
    number = wire.client.client_id
    yield wire
    await wire.api("INFO")
    assert (lost, wire.client.client_id) == ([], number)
    assert wire.client.last_error is None
    await wire.close()


HEADERS = {"traceparent": "x" * 1000, "odd": "ü" * 1000}
"""About three thousand bytes, some of them in characters of two."""

SIZES: dict[str, Callable[[], tuple[str, bytes, dict[str, str] | None]]] = {
    "a payload": lambda: ("x.y", b"x" * (MAX_MESSAGE + 1), None),
    "a large payload": lambda: ("x.y", b"x" * 100_000_000, None),
    "headers": lambda: ("x.y", b"", {"a": "x" * MAX_MESSAGE}),
    "many headers": lambda: ("x.y", b"", {f"h{n}": "" for n in range(100_000)}),
    "payload and headers": lambda: ("x.y", b"x" * (MAX_MESSAGE - 3_000), HEADERS),
    "a subject": lambda: ("x" * 5_000, b"", None),
    "a subject of odd characters": lambda: ("ü" * MAX_SUBJECT, b"", None),
}


@pytest.mark.parametrize("what", SIZES)
async def test_what_the_server_would_not_take_is_not_sent(
    wire: Wire, what: str
) -> None:
    """Nor does a request for it wait for an answer."""
    subject, payload, headers = SIZES[what]()
    for send in (wire.send, wire.request):
        with pytest.raises(TooLarge):
            await send(subject, payload, headers=headers)


async def test_as_much_as_the_server_takes_is_sent(wire: Wire) -> None:
    """To the byte, headers included: the bound is not a guess."""
    heard: list[int] = []
    listening = await wire.subscribe("x.*", lambda m: heard.append(len(m.data)))
    size = MAX_MESSAGE - sum(len(f"{k}: {v}\r\n".encode()) for k, v in HEADERS.items())
    most = size - len("NATS/1.0\r\n\r\n")
    await wire.send("x.a", b"x" * MAX_MESSAGE)
    await wire.send("x.b", b"x" * most, headers=HEADERS)
    with pytest.raises(TooLarge, match=r"524,289 bytes, headers included"):
        await wire.send("x.b", b"x" * (most + 1), headers=HEADERS)
    await wire.send("x." + "s" * (MAX_SUBJECT - 2), b"")
    await wire.client.flush()
    await wire.unsubscribe(listening)
    assert heard == [MAX_MESSAGE, most, 0]


async def test_a_command_that_is_too_large_is_not_sent(nats_server: NatsServer) -> None:
    """By its body or by its headers; the next one is stored."""
    async with JetStreamBox.empty(nats_server.url) as box:
        with pytest.raises(InvalidInput, match="a command may have 262,144 bytes"):
            await box.inbox.publish(KEY, "start", b"x" * (MAX_BODY + 1))
        with pytest.raises(TooLarge, match="headers included"):
            await box.inbox.publish(
                KEY, "start", b"{}", headers={"traceparent": "x" * 2_000_000}
            )
        assert await box.inbox.publish(KEY, "start", b"x" * MAX_BODY) == 1


async def test_an_answer_that_is_too_large_is_not_sent(nats_server: NatsServer) -> None:
    """Whoever made it."""
    async with JetStreamBox.empty(nats_server.url) as box:
        with pytest.raises(TooLarge):
            await box.inbox.answer("ada", "c-1", b"x" * 2_000_000)
        async with box.inbox.answers("ada", "c-1") as heard:
            await box.inbox.answer("ada", "c-1", b"yes")
            assert await heard.get() == b"yes"


def _may_be_at_once(number: int) -> bool:
    try:
        msgspec.convert({"concurrency": number}, Runner)
    except msgspec.ValidationError:
        return False
    return True


async def test_all_that_a_runner_can_hold_is_told_in_one_message(wire: Wire) -> None:
    """With the longest ids there are, and the most at once that can be configured."""
    most = next(n for n in range(1, 2**16) if not _may_be_at_once(n + 1))
    held = Held("u" * 64, "e" * 64, 2**63 - 1)
    presence = Presence(
        runner="r" * 64,
        instance="i" * 16,
        connection=Connection("s" * 56, 2**63),
        process=Process(machine="m" * 100, pid=2**22, began=2**63),
        host="h" * 255,
        since=0.0,
        lanes=LANES,
        took=(held,) * most,
    )
    heard: list[Presence] = []
    presences = NatsPresences(wire)
    async with presences.hear(heard.append):
        await presences.tell(presence)
        await wire.flush()
    assert heard == [presence]


async def test_a_log_with_the_largest_commit_lives_on_such_a_server(
    narrow: NatsServer,
) -> None:
    """Commits and pieces are far below what every server takes."""
    log = JetStreamLog(narrow.url)
    await log.open()
    content = b"x" * 2_000_000
    await log.journal.keep(KEY, {"a" * 64: content})
    assert await log.journal._load_blob(f"ada/run-1/{'a' * 64}") == content
    await log.close()

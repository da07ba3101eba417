import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import JetStreamLog
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from events.client import headers_of, lines_of
from events.wire import Nobody, Wire

STATUSES = [b"", b" 100 Idle Heartbeat", b" 404 No Messages", b" 408 Request Timeout"]
LINES = [b"a: b\r\n", b"Nats-Pending-Messages: 3\r\n", b"c:\r\n"]
PIECES = st.sampled_from(
    [
        b"a",
        b"Nats-Sequence",
        b":",
        b" ",
        b"\t",
        b"\r\n",
        b"\n",
        b"\xff",
        b"\xc3\xa9",
        b"1",
    ]
)


@pytest.fixture
def wire(jetstream_log: JetStreamLog) -> Wire:
    """A connection to a server."""
    return jetstream_log.journal.wire


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_headers_are_read_as_by_nats_py(raw: bytes) -> None:
    """Only faster."""
    assert lines_of(raw) == NatsClient._parse_header_lines(raw)


@given(st.sampled_from(STATUSES), st.lists(st.sampled_from(LINES)).map(b"".join))
async def test_a_status_is_read_as_by_nats_py(status: bytes, lines: bytes) -> None:
    """With what the server says of it, and the headers that it may have besides."""
    raw = b"NATS/1.0" + status + b"\r\n" + lines + b"\r\n"
    theirs = await NatsClient()._process_headers(raw)
    assert headers_of(raw) == (theirs or None)


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_no_bytes_stop_the_reading_of_headers(raw: bytes) -> None:
    """Strangers choose them, and nats-py stops at some for good."""
    for found in (headers_of(raw), headers_of(b"NATS/1.0" + raw)):
        assert found is None or all(map(str.isprintable, found))


def test_a_status_needs_no_words() -> None:
    """Where nobody listens the server says a number only."""
    assert headers_of(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    found = headers_of(b"NATS/1.0 503\r\na: b\r\n\r\n")
    assert found == {"Status": "503", "a": "b"}


async def test_who_fails_at_a_message_hears_the_next(wire: Wire) -> None:
    """Reading goes on; they are called in order, before an answer sent after them."""
    heard: list[bytes] = []

    def take(message: Msg) -> None:
        heard.append(message.data)
        raise ValueError(message.data)

    subscription = await wire.subscribe("told", take)
    for number in range(3):
        await wire.send("told", b"%d" % number)
    await wire.flush()
    assert heard == [b"0", b"1", b"2"]
    await wire.unsubscribe(subscription)
    await wire.send("told", b"too late")
    await wire.flush()
    assert len(heard) == 3


async def test_headers_of_a_message_are_there_for_who_asks(wire: Wire) -> None:
    """With a status for what is no data; and none is none."""
    heard: list[Msg] = []
    await wire.subscribe("told", heard.append)
    await wire.send("told", b"x", headers={"a": "b"})
    await wire.send("told", b"x")
    await wire.flush()
    assert [message.headers for message in heard] == [{"a": "b"}, None]
    with pytest.raises(Nobody):
        await wire.request("nobody.there")

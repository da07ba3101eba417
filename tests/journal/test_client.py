from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client as NatsClient

from events.client import Client

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


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_headers_are_read_as_by_nats_py(raw: bytes) -> None:
    """Only faster."""
    assert Client._parse_header_lines(raw) == NatsClient._parse_header_lines(raw)

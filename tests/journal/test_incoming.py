from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events.incoming import Incoming

Heard = tuple[int, bytes, bytes, bytes, bytes | None]

OURS = 1
"""The subscription that does not wait; all others are nats-py's."""


class Told:
    """What was delivered, and what was passed on."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.passed = b""
        self.incoming = Incoming(self._deliver, self._pass_on)

    def _deliver(self, *message: int | bytes | None) -> bool:
        sid, subject, reply, body, headers = message
        if sid != OURS:
            return False
        self.heard.append((sid, subject, reply, body, headers))  # type: ignore[arg-type]
        return True

    def _pass_on(self, data: bytes) -> None:
        self.passed += data

    def feed(self, parts: Sequence[bytes]) -> None:
        """Let so much come at a time."""
        for part in parts:
            self.incoming.feed(part)


def framed(message: Heard) -> bytes:
    """Write a message as nats-server does."""
    sid, subject, reply, body, headers = message
    words = [b"HMSG" if headers is not None else b"MSG", subject, b"%d" % sid]
    words += [reply] if reply else []
    words += [b"%d" % len(headers)] if headers is not None else []
    whole = (headers or b"") + body
    return b" ".join([*words, b"%d" % len(whole)]) + b"\r\n" + whole + b"\r\n"


words = st.binary(min_size=1, max_size=20).map(
    lambda raw: raw.translate(bytes.maketrans(b" \t\r\n", b"...."))
)
messages = st.tuples(
    st.sampled_from([OURS, 2, 33]),
    words,
    st.just(b"") | words,
    st.binary(max_size=60) | st.just(b"MSG a 1 3\r\nabc\r\n"),
    st.none() | st.binary(max_size=30),
)
controls = st.sampled_from(
    [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"a": 1}\r\n', b"-ERR 'no'\r\n"]
)


@given(
    st.lists(messages | controls, max_size=12),
    st.lists(st.integers(0, 800), max_size=12),
)
@example([(OURS, b"\xff\x0b", b"\xfe", b"\r\n", b"NATS/1.0\r\n\r\n")], [1, 2, 3])
def test_wherever_it_is_cut_each_message_comes_once_and_in_order(
    sent: list[Heard | bytes], cuts: list[int]
) -> None:
    """What is ours is heard, and all else is passed on whole and in order."""
    data = b"".join(s if isinstance(s, bytes) else framed(s) for s in sent)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    told = Told()
    told.feed([data[a:b] for a, b in pairwise(places)])
    ours = [s for s in sent if not isinstance(s, bytes) and s[0] == OURS]
    others = [
        s if isinstance(s, bytes) else framed(s)
        for s in sent
        if isinstance(s, bytes) or s[0] != OURS
    ]
    assert told.heard == ours
    assert told.passed == b"".join(others)


def test_a_large_message_comes_in_very_many_pieces() -> None:
    """Each byte by itself, with another message behind it."""
    large = (OURS, b"a.b", b"r", b"x" * 50_000, None)
    small = (OURS, b"a.c", b"", b"", None)
    data = framed(large) + framed(small)
    told = Told()
    told.feed([data[n : n + 1] for n in range(len(data))])
    assert told.heard == [large, small]


@pytest.mark.parametrize(
    "line",
    [
        b"MSG\r\n",
        b"MSG a\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 1e3\r\n",
        b"MSG a 1 \xb2\r\n",
        b"HMSG a 1 x\r\n",
        b"\r\n",
        b"msg a 1 0\r\n",
        b"WHAT 1 2 0\r\n",
    ],
)
def test_a_line_that_is_none_of_ours_is_passed_on(line: bytes) -> None:
    """nats-py knows what to make of it, and what comes after it is still read."""
    after = (OURS, b"a", b"", b"x", None)
    told = Told()
    told.feed([line, framed(after)])
    assert (told.passed, told.heard) == (line, [after])


@pytest.mark.parametrize(
    "frame",
    [
        b"MSG a x 2\r\nab\r\n",
        b"MSG a 1 b c 2\r\nab\r\n",
        b"MSG a  1 2\r\nab\r\n",
        b"MSG 1 2\r\nab\r\n",
        b"HMSG a 1 2\r\nab\r\n",
        b"HMSG a 1 x 2\r\nab\r\n",
        b"HMSG a 1 b c 2 2\r\nab\r\n",
    ],
)
def test_a_message_of_another_shape_is_passed_on_whole(frame: bytes) -> None:
    """Its body is not taken for a line."""
    told = Told()
    told.feed([frame])
    assert (told.passed, told.heard) == (frame, [])

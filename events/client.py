"""nats-py's client, made safe from what strangers may put into a message.

A subject may have any bytes but blanks, and whoever may publish on
``commands.<user>.*`` chooses some of them. nats-py stops reading for good, and
without a word, at one that is not UTF-8; and it loses the connection at one with
a vertical tab, again at each redelivery.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from events.incoming import Incoming
from events.natspy import Client as NatsClient
from events.natspy import Msg, parser

logger = logging.getLogger(__name__)

_BLANK = rb"[ \t]+"
_WORD = rb"([^ \t\r\n]+)"
_HEAD = _BLANK + _WORD + _BLANK + _WORD + _BLANK + rb"(" + _WORD + _BLANK + rb")?"

# What nats-server takes for a blank, and nothing else; the groups are nats-py's.
parser.MSG_RE = re.compile(rb"\AMSG" + _HEAD + rb"(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG" + _HEAD + rb"(\d+)" + _BLANK + rb"(\d+)\r\n")


MANY = 2
"""Words that are too many for the name of a header."""


async def _pass_on(handler: Callable[[Msg], None], message: Msg) -> None:
    handler(message)


def at_once(handler: Callable[[Msg], None]) -> "partial[Any]":
    """Make a callback of what does not wait: it is called as a message is read."""
    return partial(_pass_on, handler)


class Message(Msg):
    """A message whose headers are read once somebody asks for them."""

    def __init__(
        self,
        client: "Client",
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        raw: bytes | None = None,
    ) -> None:
        self._client, self._sid = client, sid
        try:
            self.subject, self.reply = subject.decode(), reply.decode()
        except UnicodeDecodeError:
            self.subject, self.reply = _utf8(subject), _utf8(reply)
        self.data, self.raw = data, raw

    @cached_property
    def headers(self) -> dict[str, str] | None:  # type: ignore[override]
        """Its headers; ``Status`` and ``Description`` are the server's."""
        return headers_of(self.raw)


class Client(NatsClient):
    r"""A client that no message can stop: what is no UTF-8 is read as ``\xff``."""

    async def _read_loop(self) -> None:
        reader = getattr(self._transport, "_io_reader", None)
        if reader is not None:  # a websocket has none
            incoming = Incoming(self._deliver, reader.feed_data)
            early = bytes(reader._buffer)  # noqa: SLF001 - came before we were here
            reader._buffer.clear()  # noqa: SLF001
            reader.feed_data = incoming.feed
            incoming.feed(early)
        await super()._read_loop()

    def _deliver(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> bool:
        """Pass on what is for a callback that does not wait."""
        subscription = self._subs.get(sid)
        call = subscription and subscription._cb  # noqa: SLF001 - nats-py tells nobody
        if not isinstance(call, partial) or call.func is not _pass_on:
            return False
        try:
            call.args[0](Message(self, sid, subject, reply, data, headers))
        except Exception:  # reading goes on, for all the others
            logger.exception("a message could not be handled")
        return True

    async def _process_pong(self) -> None:
        # A flush that was given up leaves its future; nats-py stops reading for
        # good at the answer to it.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        return headers_of(headers)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any
    ) -> Message:
        message = Message(self, sid, subject, reply, data)
        message.headers = headers
        return message


def _utf8(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def headers_of(raw: bytes | None) -> dict[str, str] | None:
    """Read ``NATS/1.0 404 No Messages`` and lines, or either, as nats-py does.

    In a third of its time: it is a fourth of reading a feed.
    """
    if not raw:
        return None
    first, _, lines = raw.partition(b"\r\n")
    found = {}
    _, _, inline = first.partition(b" ")
    number, _, description = inline.partition(b" ")
    if number.isdigit():
        found["Status"] = number.decode()
    if description:
        found["Description"] = description.decode("utf-8", "replace")
    return found | lines_of(lines) or None


def lines_of(raw: bytes) -> dict[str, str]:
    """Read ``Name: value`` lines; what is none is left out."""
    found = {}
    for line in raw.split(b"\r\n"):
        name, separator, value = line.partition(b":")
        name = name.strip()
        if separator and name.isascii() and len(name.split(None, 1)) < MANY:
            found[name.decode()] = value.strip().decode("utf-8", "replace")
    return found

"""nats-py's client, made safe from what strangers may put into a message.

A subject may have any bytes but blanks, and whoever may publish on
``commands.<user>.*`` chooses some of them. nats-py stops reading for good, and
without a word, at one that is not UTF-8; and it loses the connection at one with
a vertical tab, again at each redelivery.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import nats.protocol.parser
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

_BLANK = rb"[ \t]+"
_WORD = rb"([^ \t\r\n]+)"
_HEAD = _BLANK + _WORD + _BLANK + _WORD + _BLANK + rb"(" + _WORD + _BLANK + rb")?"

# What nats-server takes for a blank, and nothing else; the groups are nats-py's.
nats.protocol.parser.MSG_RE = re.compile(rb"\AMSG" + _HEAD + rb"(\d+)\r\n")
nats.protocol.parser.HMSG_RE = re.compile(
    rb"\AHMSG" + _HEAD + rb"(\d+)" + _BLANK + rb"(\d+)\r\n"
)


MANY = 2
"""Words that are too many for the name of a header."""


async def _pass_on(handler: Callable[[Msg], None], message: Msg) -> None:
    handler(message)


def at_once(handler: Callable[[Msg], None]) -> "partial[Any]":
    """Make a callback of what does not wait: it is called as a message is read."""
    return partial(_pass_on, handler)


class Client(NatsClient):
    r"""A client that no message can stop: what is no UTF-8 is read as ``\xff``."""

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any
    ) -> None:
        # nats-py puts each message into a queue and lets a task of the subscription
        # take it out: half of what one that comes alone costs. It is only needed
        # for who waits.
        subscription = self._subs.get(sid)
        call = subscription and subscription._cb  # noqa: SLF001 - see above
        if not isinstance(call, partial) or call.func is not _pass_on:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        found = await self._process_headers(headers) if headers else None
        message = self._build_message(sid, subject, reply, data, found)
        try:
            call.args[0](message)
        except Exception as error:  # noqa: BLE001 - as nats-py: reading goes on
            await self._error_cb(error)

    async def _process_pong(self) -> None:
        # A flush that was given up leaves its future; nats-py stops reading for
        # good at the answer to it.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        # As nats-py's, in a third of its time: it is a fourth of reading a feed.
        found = {}
        for line in raw.split(b"\r\n"):
            name, separator, value = line.partition(b":")
            name = name.strip()
            if separator and name.isascii() and len(name.split(None, 1)) < MANY:
                found[name.decode()] = value.strip().decode("utf-8", "replace")
        return found

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            return None
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any
    ) -> Any:
        build = super()._build_message
        try:
            return build(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            return build(sid, _utf8(subject), _utf8(reply), data, headers)


def _utf8(name: bytes) -> bytes:
    return name.decode(errors="backslashreplace").encode()

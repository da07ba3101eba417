"""The way out to one client: written at once, bounded, and never waited for.

What a client does not take waits in its connection. When that is too much, the
client is let go: it comes back with its last cursor, and misses nothing.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from projections.hub import Frame
from projections.notices import Kind

MOST_WAITING: Final = 512 * 1024
"""Bytes that may wait for a client: two of the longest messages."""

IN_THE_KERNEL: Final = 256 * 1024
"""Bytes that the kernel may hold for it besides: by default some megabytes."""

UNHEARD: Final = 30_000
"""Milliseconds after which a client is gone that acknowledges nothing (TCP)."""

PATIENCE: Final = 10.0
"""Seconds for a client to take some of what it missed."""

SLOW: Final = "too slow: come back with your last cursor"


class TooSlow(Exception):
    """The client does not take what it asked for."""


def bounded(request: web.Request) -> asyncio.Transport:
    """Return the connection of a request, bounded; raises ConnectionResetError."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, IN_THE_KERNEL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD)
    return transport


@lru_cache(maxsize=64)
def wanted(kinds: tuple[Kind, ...]) -> frozenset[Kind]:
    """The kinds as a set; one for all who want the same."""
    return frozenset(kinds)


class Outlet:
    """Subscribes on behalf of a client; ``too_slow`` is called once it must go."""

    __slots__ = ("_shape", "_too_slow", "_transport", "_writer", "kinds")

    def __init__(
        self,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
        kinds: frozenset[Kind],
        shape: Callable[[Frame], bytes],
        too_slow: Callable[[], None],
    ) -> None:
        self.kinds = kinds
        self._transport, self._writer = transport, writer
        self._shape, self._too_slow = shape, too_slow

    def put(self, frame: Frame) -> None:
        """Write a message; a client that is gone is found out by its own task."""
        transport = self._transport
        if transport.is_closing():  # uvloop raises at a write
            return
        transport.write(frame.shaped(self._shape))
        if transport.get_write_buffer_size() > MOST_WAITING:
            self._too_slow()

    async def send(self, frame: Frame) -> None:
        """Write a message, and wait while too many are waiting; raises TooSlow."""
        if self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(frame.shaped(self._shape))
        try:
            async with asyncio.timeout(PATIENCE):
                await self._writer.drain()
        except TimeoutError as error:
            raise TooSlow from error

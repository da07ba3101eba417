"""Connections over HTTP, bounded: how many, how long quiet, what is no HTTP.

aiohttp has no way to say this but to derive from what it is made of.
"""

import asyncio
import logging
import resource
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from gateway.web.problems import problem
from gateway.web.reading import EXPECTED
from gateway.web.seldom import Seldom

logger = logging.getLogger(__name__)

MOST: Final = 10_000
"""Connections at once; one more is closed as soon as it is there."""

SPARE: Final = 256
"""Open files that a process needs besides: its server, its database, its agents."""

LEAST: Final = 16
"""Connections that there may be, however few files the process may open."""

STALLED: Final = 30.0
"""Seconds in which a client that is sent something has to read a little of it."""

_seldom = Seldom(logger)


class Connection(web.RequestHandler):
    """One connection."""

    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve it, unless there are too many."""
        manager = self._manager
        assert isinstance(manager, Connections)  # noqa: S101 - it made this one
        if len(manager.connections) >= min(MOST, manager.room):
            _seldom.warning("too many connections", f"{len(manager.connections):,}")
            self.force_close()
            transport.close()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of what is left of it."""
        self._moved()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for long."""
        super().pause_writing()
        self._moved()
        self._stalled = self._loop.call_later(STALLED, self._give_up)

    def resume_writing(self) -> None:
        """Go on: it reads."""
        self._moved()
        super().resume_writing()

    def _moved(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        """Drop it with all that it was to be sent: a close would wait for that."""
        _seldom.warning("a client does not read what it asked for")
        transport = self.transport
        if isinstance(transport, asyncio.Transport):
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - as aiohttp calls it
    ) -> web.StreamResponse:
        """Answer what is no HTTP, and end the connection; it is told once."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: it cannot become another")
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("a request cannot be answered", exc_info=exc)
            response = problem(status, "error", "this is a mistake of ours")
        else:
            response = self._unreadable(exc)
        response.headers["Server"] = "wakestream"
        response.force_close()
        return response

    def _unreadable(self, exc: BaseException | None) -> web.Response:
        """Say by its kind alone what is wrong: its words may be those of a token."""
        kind = type(exc).__name__ if exc else "unreadable"
        _seldom.warning(f"a request cannot be read ({kind})")
        if isinstance(exc, LineTooLong):
            return problem(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too_large",
                f"the request line and each header may have {self.max_line_size:,} "
                "bytes",
            )
        return problem(400, "bad_request", "this is not HTTP as it is read here")


class Connections(web.Server):
    """All connections of a gateway; there is ``room`` for so many."""

    room: int = MOST

    def __call__(self) -> Connection:
        """Make one: aiohttp calls it for each that is accepted."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Serves an application over such connections."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        server = Connections(
            made.request_handler,
            request_factory=_unhurried(made.request_factory),
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
        )
        server._kwargs = made._kwargs  # noqa: SLF001 - see the top
        server.room = make_room()
        if server.room < MOST:
            logger.warning("the limit of open files is for %d connections", server.room)
        return server


def _unhurried(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Leave what a request expects to ``reading.py``.

    aiohttp would ask for the body before anybody looked whose it is.
    """

    def made(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        expected = message.headers.get(hdrs.EXPECT)
        if expected is None:
            return make(message, *rest)
        others = message.headers.copy()
        others.popall(hdrs.EXPECT)
        headers = type(message.headers)(others)
        request = make(message._replace(headers=headers), *rest)
        request[EXPECTED] = expected
        return request

    return made


def make_room() -> int:
    """Let the process open as many files as it may; returns for how many connections.

    Without that an accept would fail, and go on failing, long before ``MOST``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + SPARE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(LEAST, min(MOST, soft - SPARE))

"""``/api/agents/{id}/stream``: an execution as server-sent events.

A browser comes back by itself with ``Last-Event-ID``. Once the execution has ended
and everything was sent there is an ``end``; who comes back after that gets 204, which
tells a browser to stay away.
"""

import asyncio
import time
from contextlib import suppress
from typing import Annotated, Final

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from msgspec import Meta

from events.errors import Unavailable
from events.names import Key
from events.state import FINAL, State, Status
from gateway.web.frames import chunked_event, event, plain_event
from gateway.web.guard import who
from gateway.web.identity import Identity
from gateway.web.live import Live, one, standing_of
from gateway.web.outlet import PATIENCE, Outlet, TooSlow, bounded
from gateway.web.reading import query_of
from projections.feedcursor import Cursor
from projections.hub import Frame
from projections.notices import KINDS, Kind

LAST: Final = "Last-Event-ID"

RETRY: Final = b"retry: 1000\n\n"
"""Milliseconds after which a browser comes back."""

COMMENT: Final = b":\n\n"

HEARTBEAT: Final = 15.0
"""Seconds between comments: proxies end what is silent, often after 30 or 60."""

LINGER: Final = 1.0
"""Seconds after an end in which its last log lines are waited for, or a retry."""

HEADERS: Final = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # a proxy that gathers would make it no stream
}


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for.

    ``after`` is a cursor, or 0 for the beginning; ``Last-Event-ID`` goes before it.
    """

    after: str | None = None
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=16)] = KINDS
    user: str | None = None


async def stream_handler(live: Live, request: web.Request) -> web.StreamResponse:
    """Serve a stream, or 204 if nothing will ever come."""
    me, query = who(request), query_of(request, Query)
    key = one(me, request.match_info["id"], query.user)
    await live.ready()
    begun = request.headers.get(LAST) or query.after
    cursor, state = await live.feed.now(key)
    after = None if begun is None else Cursor.parse(begun)
    if after is not None:
        await live.feed.reach(after)  # or it is refused, as long as that can be said
    if after and state.final and after.covers(await live.feed.past.end(key)):
        return web.Response(status=204)
    response = web.StreamResponse(headers=HEADERS)
    stream = Stream(live, request, response, query.kinds)
    live.admit(stream, me.user)
    try:
        writer = await response.prepare(request)
        assert writer is not None  # noqa: S101 - it was not prepared before
        await stream.serve(me, key, after, (cursor, state), writer)
    finally:
        live.dismiss(stream)
    return response


class Following(Outlet):
    """An outlet that notes the status, also where it is not wanted."""

    status: Status
    wanted: frozenset[Kind]
    stirred: asyncio.Event

    def put(self, frame: Frame) -> None:
        """Write a message."""
        if self._noted(frame):
            super().put(frame)

    async def send(self, frame: Frame) -> None:
        """Write a message, and wait while too many are waiting."""
        if self._noted(frame):
            await super().send(frame)

    def _noted(self, frame: Frame) -> bool:
        if frame.notice.status:
            self.status = frame.notice.status
            self.stirred.set()
        return frame.notice.kind in self.wanted


class Stream:
    """One response, from its first event to its end."""

    def __init__(
        self,
        live: Live,
        request: web.Request,
        response: web.StreamResponse,
        kinds: tuple[Kind, ...],
    ) -> None:
        self._live, self._response, self._kinds = live, response, frozenset(kinds)
        self._transport = bounded(request)
        self._shape = chunked_event if request.version >= HttpVersion11 else plain_event
        self._deadline = asyncio.timeout(None)
        self._why = ""

    def end(self, _code: int, reason: str) -> None:
        """End it from outside; the first reason counts."""
        with suppress(RuntimeError):  # it is ending already
            self._deadline.reschedule(asyncio.get_running_loop().time())
            self._why = self._why or reason

    async def serve(
        self,
        me: Identity,
        key: Key,
        after: Cursor | None,
        now: tuple[Cursor, State],
        writer: AbstractStreamWriter,
    ) -> None:
        """Send what there is, until it is over, or has to end."""
        outlet = self._outlet(writer, now[1].status)
        left = me.expires.timestamp() - time.time()
        try:
            async with self._deadline:
                self._deadline.reschedule(asyncio.get_running_loop().time() + left)
                await self._begin(key, after, now)
                await self._live.feed.join(key, after or now[0], outlet)
                await self._until_over(outlet)
            await self._say(event("end", b"{}", self._live.feed.hub.cursor))
        except TimeoutError:
            if not self._deadline.expired():
                raise
            await self._part()
        except TooSlow:
            self._transport.abort()
        except Unavailable as error:
            self._why = str(error)
            await self._part()
        finally:
            self._live.feed.hub.detach(key, outlet)

    def _outlet(self, writer: AbstractStreamWriter, status: Status) -> Following:
        kinds: frozenset[Kind] = self._kinds | {"status.changed"}
        outlet = Following(self._transport, writer, kinds, self._shape, self._slow)
        outlet.wanted, outlet.status = self._kinds, status
        outlet.stirred = asyncio.Event()
        return outlet

    def _slow(self) -> None:
        self._transport.abort()

    async def _begin(
        self, key: Key, after: Cursor | None, now: tuple[Cursor, State]
    ) -> None:
        """Say when to come back; and without a cursor, which status it has."""
        await self._say(RETRY)
        if after is None:
            cursor, state = now
            text = standing_of(key, cursor, state)
            await self._say(event("status", text, cursor))

    async def _until_over(self, outlet: Following) -> None:
        """Wait until the execution has ended; say now and then that we are there."""
        while True:
            ended = outlet.status in FINAL
            if await _stirs(outlet, LINGER if ended else HEARTBEAT):
                continue
            if ended:
                return
            await self._say(COMMENT)

    async def _part(self) -> None:
        """Say why it ends, to who still takes anything."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
            return
        why = self._why or "the token has expired: come back with another"
        text = msgspec.json.encode({"message": why})
        await self._say(b"event: closing\ndata: %b\n\n" % text)

    async def _say(self, data: bytes) -> None:
        """Send something of our own; raises TooSlow."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._response.write(data)
        except TimeoutError as error:
            raise TooSlow from error


async def _stirs(outlet: Following, seconds: float) -> bool:
    """Whether the status changes within so many seconds."""
    outlet.stirred.clear()
    try:
        async with asyncio.timeout(seconds):
            await outlet.stirred.wait()
    except TimeoutError:
        return False
    return True

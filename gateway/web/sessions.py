"""``/ws``: one websocket, many subscriptions.

Everything of a connection happens in its one task: orders are done one after the
other, and what ends it from outside (too slow, the token expired, the gateway ends)
is the deadline of that task. Close codes are in ``docs/live.md``.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from aiohttp import WSMsgType, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from msgspec.structs import asdict, replace

from events.errors import InvalidInput, LimitReached, NotFound, Unavailable, WakeError
from events.names import Key
from gateway.web import asked
from gateway.web.asked import (
    ALL,
    AlreadySubscribed,
    Answer,
    Auth,
    Order,
    Ping,
    Pong,
    Ready,
    Refused,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    encode,
    order_of,
)
from gateway.web.frames import websocket
from gateway.web.identity import Identity
from gateway.web.live import (
    GOING,
    Live,
    everything,
    missing,
    one,
    standing_of,
    user_of,
)
from gateway.web.outlet import PATIENCE, SLOW, Outlet, TooSlow, bounded, wanted
from gateway.web.problems import BadRequest, Forbidden, TooManyRequests, Unauthorized
from projections.feedcursor import Cursor
from projections.ring import Topic

PROTOCOL: Final = "wake.v1"
BEARER: Final = "wake.bearer."
"""How a subprotocol begins that carries a token: browsers can send no header."""

MOST: Final = 100
"""Subscriptions of one websocket: whoever wants more wants all (``*``)."""

MAX_ORDER: Final = 16 * 1024
"""Bytes of an order: a token is the longest."""

HEARTBEAT: Final = 20.0
"""Seconds between pings; without an answer in half of that the client is gone."""

INTRODUCTION: Final = 5.0
"""Seconds in which a client says who it is."""

CLOSING: Final = 3.0
"""Seconds that a client gets to hear why it is closed."""

GOODBYE, NO_TEXT, VIOLATION, SLOW_CLIENT = 1000, 1003, 1008, 1013
NO_TOKEN, TOO_MANY = 4401, 4429


async def websocket_handler(live: Live, request: web.Request) -> web.StreamResponse:
    """Serve a websocket; refused before it is one: what can be."""
    live.guard.check_origin(request)
    token = _token(request)
    who = None
    if hdrs.AUTHORIZATION in request.headers:
        who = live.guard.login(_bearer(request), request.remote)
    await live.ready()
    ws = web.WebSocketResponse(
        protocols=(PROTOCOL,),
        heartbeat=HEARTBEAT,
        max_msg_size=MAX_ORDER,
        compress=False,
        timeout=CLOSING,
    )
    if not ws.can_prepare(request):
        raise BadRequest("this is a websocket: ask for the upgrade (RFC 6455)")
    writer = await ws.prepare(request)
    ws.headers.clear()  # they are sent, and would be held for hours
    await Session(live, request, ws, writer).serve(who, token)
    return ws


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers[hdrs.AUTHORIZATION].partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized
    return token


def _token(request: web.Request) -> str | None:
    """The token among the subprotocols, if there is one.

    Raises BadRequest where ``wake.v1`` is not among them: aiohttp would log them.
    """
    offered = [
        one.strip()
        for line in request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
        for one in line.split(",")
    ]
    if offered and PROTOCOL not in offered:
        raise BadRequest(f"offer the subprotocol {PROTOCOL}, or none")
    tokens = [one.removeprefix(BEARER) for one in offered if one.startswith(BEARER)]
    return tokens[0] if tokens else None


class Session:
    """One websocket and what it watches."""

    __slots__ = (
        "_deadline",
        "_live",
        "_refusals",
        "_remote",
        "_transport",
        "_watched",
        "_why",
        "_writer",
        "_ws",
    )

    def __init__(
        self,
        live: Live,
        request: web.Request,
        ws: web.WebSocketResponse,
        writer: AbstractStreamWriter,
    ) -> None:
        self._live, self._ws, self._writer = live, ws, writer
        self._remote, self._transport = request.remote, bounded(request)
        self._watched: dict[Topic, Outlet] = {}
        self._deadline = asyncio.timeout(INTRODUCTION)
        self._why = NO_TOKEN, "no token came: say who you are first"
        self._refusals = 0

    async def serve(self, who: Identity | None, token: str | None) -> None:
        """Do what is ordered, until either side ends it."""
        try:
            async with self._deadline:
                who = who or await self._introduced(token)
                self._until(who)
                self._live.admit(self, who.user)
                await self._converse(who)
        except TimeoutError:
            if not self._deadline.expired():
                raise
        except (Unauthorized, InvalidInput) as error:
            self._why = NO_TOKEN, str(error)
        except (LimitReached, TooManyRequests) as error:
            self._why = TOO_MANY, str(error)
        except Unavailable as error:
            self._why = GOING, str(error)
        except TooSlow:
            self._why = SLOW_CLIENT, SLOW
        finally:
            self._live.dismiss(self)
            for topic, outlet in self._watched.items():
                self._live.feed.hub.detach(topic, outlet)
        await self._close()

    def end(self, code: int, reason: str) -> None:
        """End it from outside; the first reason counts."""
        with suppress(RuntimeError):  # it is ending already
            self._deadline.reschedule(asyncio.get_running_loop().time())
            if self._why[0] != code:
                self._why = code, reason

    def _too_slow(self) -> None:
        self.end(SLOW_CLIENT, SLOW)

    def _until(self, who: Identity) -> None:
        """Let it last as long as the token."""
        left = who.expires.timestamp() - time.time()
        self._deadline.reschedule(asyncio.get_running_loop().time() + left)
        self._why = NO_TOKEN, "the token has expired: come back with another"

    async def _close(self) -> None:
        code, reason = self._why
        await self._ws.close(code=code, message=_fitting(reason), drain=False)
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # nobody takes it

    # ── what is said ─────────────────────────────────────────────────────────

    async def _introduced(self, token: str | None) -> Identity:
        """Learn who it is; raises Unauthorized, InvalidInput, TooManyRequests."""
        if token is None:
            message = await self._ws.receive()
            if message.type is not WSMsgType.TEXT:
                raise Unauthorized
            order = order_of(message.data)
            if not isinstance(order, Auth):
                raise Unauthorized("say who you are first: send the order auth")
            token = order.token
        return self._live.guard.login(token, self._remote)

    async def _converse(self, who: Identity) -> None:
        await self._tell(Ready(user=who.user, expires=who.expires))
        async for message in self._ws:
            if message.type is not WSMsgType.TEXT:
                self._why = NO_TEXT, "send text: orders are JSON"
                return
            who = await self._obey(who, message.data)
            if self._refusals >= Refused.MANY:
                self._why = VIOLATION, "too many of its orders were refused"
                return
        self._why = GOODBYE, ""

    async def _obey(self, who: Identity, text: str) -> Identity:
        """Do an order, or say why not; returns who it is now."""
        order: Order | None = None
        try:
            order = order_of(text)
            return await self._do(who, order)
        except WakeError as error:
            self._refusals += 1
            await self._tell(
                Refused(
                    id=order.id if order else None,
                    execution=getattr(order, "execution", None),
                    code=error.code,
                    message=str(error),
                )
            )
            return who

    async def _do(self, who: Identity, order: Order) -> Identity:
        match order:
            case Auth():
                who = self._renewed(who, order)
                await self._tell(Ready(id=order.id, user=who.user, expires=who.expires))
            case Subscribe():
                await self._subscribe(who, order)
            case Unsubscribe():
                await self._unsubscribe(who, order)
            case Ping():
                await self._tell(Pong(id=order.id))
        return who

    def _renewed(self, who: Identity, order: Auth) -> Identity:
        """Go on with a later token; raises Forbidden for one of somebody else."""
        later = self._live.guard.login(order.token, self._remote)
        same = (later.user, later.execution, later.admin)
        if same != (who.user, who.execution, who.admin):
            raise Forbidden("this token is for somebody else: open another websocket")
        self._until(later)
        return later

    # ── subscriptions ────────────────────────────────────────────────────────

    async def _subscribe(self, who: Identity, order: Subscribe) -> None:
        topic = _topic(who, order)
        self._check(topic)
        cursor, state = await self._beginning(topic, order)
        outlet = Outlet(
            self._transport,
            self._writer,
            wanted(order.kinds),
            websocket,
            self._too_slow,
        )
        subscribed = Subscribed(
            id=order.id,
            execution=order.execution,
            user=user_of(topic),
            cursor=str(cursor),
        )
        await self._tell(subscribed)
        if state is not None:
            await self._send(state)
        self._watched[topic] = outlet
        try:
            await self._live.feed.join(topic, cursor, outlet)
        except WakeError:
            del self._watched[topic]
            raise
        there = str(self._live.feed.hub.cursor)
        await self._tell(asked.Live(**asdict(replace(subscribed, cursor=there))))

    def _check(self, topic: Topic) -> None:
        """Raise for what would come twice, or is one too many."""
        user = user_of(topic)
        if topic in self._watched or user in self._watched:
            raise AlreadySubscribed("this is subscribed to already: unsubscribe first")
        if topic == user and any(user_of(other) == user for other in self._watched):
            raise AlreadySubscribed(
                "single executions are subscribed to already: unsubscribe from them "
                "before you subscribe to all"
            )
        if len(self._watched) >= MOST:
            raise LimitReached(
                f"a websocket has {MOST} subscriptions at most: unsubscribe from some, "
                "or subscribe to all (*)",
                limit="subscriptions",
            )

    async def _beginning(
        self, topic: Topic, order: Subscribe
    ) -> tuple[Cursor, bytes | None]:
        """Where it begins; from now on, an execution begins with its status."""
        feed = self._live.feed
        if order.after is not None:
            if isinstance(topic, Key) and not await feed.past.tip(topic):
                raise missing(topic)
            return Cursor.parse(str(order.after)), None
        if not isinstance(topic, Key):
            return feed.hub.cursor, None
        cursor, state = await feed.now(topic)
        return cursor, standing_of(topic, cursor, state)

    async def _unsubscribe(self, who: Identity, order: Unsubscribe) -> None:
        topic = _topic(who, order)
        outlet = self._watched.pop(topic, None)
        if outlet is None:
            raise NotFound("there is no such subscription on this websocket")
        self._live.feed.hub.detach(topic, outlet)
        await self._tell(
            Unsubscribed(id=order.id, execution=order.execution, user=user_of(topic))
        )

    # ── writing ──────────────────────────────────────────────────────────────

    async def _tell(self, answer: Answer) -> None:
        await self._send(encode(answer))

    async def _send(self, text: bytes) -> None:
        """Send one message; raises TooSlow."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ws.send_frame(text, WSMsgType.TEXT)
        except TimeoutError as error:
            raise TooSlow from error


def _fitting(reason: str) -> bytes:
    """As much of a reason as a close frame holds; no half of a character."""
    return reason.encode(errors="replace")[:123].decode(errors="ignore").encode()


def _topic(who: Identity, order: Subscribe | Unsubscribe) -> Topic:
    if order.execution == ALL:
        return everything(who, order.user)
    return one(who, order.execution, order.user)

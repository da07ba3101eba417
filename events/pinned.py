"""Commands on JetStream: one pinned client takes them, in order.

The server pins a client (NATS ADR-42) and gives the others nothing until it
falls silent. What a lost client had taken comes again only when its ack wait
is over, so whoever takes over holds newer commands back until then: order
survives the change.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import msgspec

from events.errors import InvalidInput, OutcomeUnknown, Unavailable
from events.inbox import Door, Inbox, Order
from events.names import (
    COMMANDS,
    COMMANDS_ALL,
    GATEWAY_ALL,
    LIFECYCLE,
    MAX_MESSAGE,
    Key,
    answer_subject,
    command_subject,
)
from events.pull import delivery
from events.wire import ApiError, Wire, raise_problem, status

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

ACK_WAIT = 3.0
"""Seconds after which a taken command comes again; so long a takeover may cost."""

PIN = 2.0
"""Seconds of silence after which another client is pinned."""

PULL = 1.0
"""Seconds one request for commands lasts; well below PIN, so that we stay pinned."""

WEEK = 7 * 24 * 3600

_stream: dict[str, Any] = {
    "name": COMMANDS,
    "description": "wakestream: what was asked",
    "subjects": [COMMANDS_ALL, GATEWAY_ALL],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_age": int(WEEK * 1e9),
    "max_msg_size": MAX_MESSAGE,
    "duplicate_window": int(100e6),
    "allow_direct": True,
}

_consumer: dict[str, Any] = {
    "durable_name": LIFECYCLE,
    "ack_policy": "explicit",
    "ack_wait": int(ACK_WAIT * 1e9),
    "max_ack_pending": -1,
    "priority_groups": [LIFECYCLE],
    "priority_policy": "pinned_client",
    "priority_timeout": int(PIN * 1e9),
}


class JetStreamInbox(Inbox):
    """The commands of one account."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._inbox: Subscription | None = None
        self._pin: str | None = None
        self._arrived: dict[int, Order] = {}
        self._acks: dict[int, str] = {}
        self._stirred = asyncio.Event()
        self._asked = 0
        self._expires = 0.0
        self._took_over = False
        self._held_until = 0.0

    @classmethod
    async def open(cls, wire: Wire, *, replicas: int = 1) -> Self:
        """Provision stream and consumer; asking again is fine."""
        config = {**_stream, "num_replicas": replicas}
        try:
            await wire.api(f"STREAM.CREATE.{COMMANDS}", config)
            await wire.api(
                f"CONSUMER.CREATE.{COMMANDS}.{LIFECYCLE}",
                {"stream_name": COMMANDS, "config": _consumer},
            )
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"cannot open the command stream: {error}") from error
        return cls(wire)

    async def publish(
        self,
        key: Key,
        verb: str,
        body: bytes,
        *,
        door: Door = "commands",
        headers: dict[str, str] | None = None,
    ) -> int:
        """Store a command and return its position; raises Unavailable."""
        if len(body) > MAX_MESSAGE // 2:
            raise InvalidInput(
                f"a command may have {MAX_MESSAGE // 2:,} bytes, not {len(body):,}"
            )
        subject = command_subject(door, key, verb)
        try:
            answer = await self._wire.request(subject, body, headers=headers)
            raise_problem(answer.data)
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"the command was not stored: {error}") from error
        return int(msgspec.json.decode(answer.data)["seq"])

    # ── taking ───────────────────────────────────────────────────────────────

    async def take(self, limit: int, wait: float) -> list[Order]:
        """Take up to ``limit`` commands, by their positions."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while loop.time() < end:
            await self._ask(limit)
            if self._arrived and not await self._held():
                break
            if not self._arrived:
                self._stirred.clear()
                await _wait(self._stirred, min(PULL / 2, end - loop.time()))
        else:
            return []
        due = sorted(self._arrived)[:limit]
        return [self._arrived.pop(position) for position in due]

    async def _held(self) -> bool:
        """Say whether another client's commands are still to come again."""
        if not self._took_over:
            return False
        try:
            answer = await self._wire.api(f"CONSUMER.INFO.{COMMANDS}.{LIFECYCLE}")
        except (ApiError, OutcomeUnknown):
            return True
        if msgspec.json.decode(answer)["num_ack_pending"] <= len(self._acks):
            self._took_over = False
            return False
        await asyncio.sleep(0.05)
        return asyncio.get_running_loop().time() < self._held_until

    async def _ask(self, limit: int) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._expires:
            self._asked = 0
        wanted = limit - self._asked
        if wanted <= 0 and now < self._expires - PULL / 2:
            return
        if self._inbox is None:
            self._inbox = await self._wire.subscribe(None, self._heard)
        body: dict[str, Any] = {
            "batch": max(wanted, 1),
            "expires": int(PULL * 1e9),
            "group": LIFECYCLE,
        }
        if self._pin:
            body["id"] = self._pin
        self._asked += max(wanted, 1)
        self._expires = now + PULL
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS}.{LIFECYCLE}"
        payload = msgspec.json.encode(body)
        await self._wire.send(subject, payload, reply=self._inbox.subject)

    def _heard(self, message: "Msg") -> None:
        what = status(message)
        if what is None:
            self._asked = max(0, self._asked - 1)
            self._store(message)
        elif what == "423":
            self._pin, self._asked, self._expires = None, 0, 0.0
        elif what != "100":
            self._asked = 0
        self._stirred.set()

    def _store(self, message: "Msg") -> None:
        times, position, _ = delivery(message)
        headers: dict[str, str] = message.headers or {}
        pin = headers.get("Nats-Pin-Id")
        if pin != self._pin:
            self._pin, self._took_over = pin, True
            now = asyncio.get_running_loop().time()
            self._held_until = now + ACK_WAIT + 0.5
        known = position in self._acks
        self._acks[position] = message.reply
        if known and times > 1:
            return  # still in our hands: the redelivery only renews the reply
        door, user, execution, verb = message.subject.split(".")
        self._arrived[position] = Order(
            door="gateway" if door == "gateway" else "commands",
            key=Key(user, execution),
            verb=verb,
            body=message.data,
            position=position,
            headers=headers,
        )

    async def done(self, order: Order) -> None:
        """Never hand it out again."""
        reply = self._acks.pop(order.position, None)
        if reply is None:
            return
        try:
            await self._wire.request(reply, b"+ACK", wait=2.0)
        except OutcomeUnknown as error:
            raise Unavailable(f"command was not settled: {error}") from error

    # ── answering ────────────────────────────────────────────────────────────

    async def answer(self, user: str, command_id: str, body: bytes) -> None:
        """Tell whoever listens."""
        try:
            await self._wire.send(answer_subject(user, command_id), body)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error

    @asynccontextmanager
    async def answers(
        self, user: str, command_id: str
    ) -> AsyncIterator[asyncio.Queue[bytes]]:
        """Listen for the answers to one command."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        subscription = await self._wire.subscribe(
            answer_subject(user, command_id),
            lambda message: queue.put_nowait(message.data),
        )
        await self._wire.client.flush()
        try:
            yield queue
        finally:
            await self._wire.unsubscribe(subscription)

    async def close(self) -> None:
        """Stop taking; another client is pinned when this one falls silent."""
        if self._inbox is not None:
            await self._wire.unsubscribe(self._inbox)
            self._inbox = None


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return

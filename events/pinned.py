"""Commands on JetStream: one pinned client takes them, in order.

The server pins a client (NATS ADR-42) and gives the others nothing until it
falls silent. What a lost client had taken comes again only when its ack wait
is over, so whoever takes over holds newer commands back until then: order
survives the change. The same holds for a client whose connection broke: what was
sent into the break comes again later than what is newer.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import msgspec

from events.delivery import RAN_OUT, delivery, pending, stored_at
from events.errors import OutcomeUnknown, Unavailable
from events.inbox import Door, Inbox, Order, check_body
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
from events.provisioning import provision
from events.wire import ApiError, Nobody, Wire, raise_problem, status

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

ACK_WAIT = 3.0
"""Seconds after which a taken command comes again; so long a takeover may cost."""

PIN = 2.0
"""Seconds of silence after which another client is pinned."""

PULL = 1.0
"""Seconds one request for commands lasts; well below PIN, so that we stay pinned."""

DOUBT = 3 * ACK_WAIT
"""Seconds after which newer commands are held back no longer, come what may."""

TICK = 0.05
"""Seconds between two looks whether everything came again."""

WEEK = 7 * 24 * 3600

DISPLACED = "423"
"""The status of a request by who is not pinned any more."""

NEXT = f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS}.{LIFECYCLE}"

NO_STREAM = (
    "the command was not stored, there is no stream of commands on this nats-server: "
    "start a service with wake up, or wake service lifecycle"
)

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


class Doubt:
    """From when others may have had commands: until all of those came again."""

    def __init__(self) -> None:
        self.heard: set[int] = set()
        self.missing = 1
        self.flowing = False
        self.begin()

    def begin(self) -> None:
        """Count from now on how long it may last."""
        self.until = asyncio.get_running_loop().time() + DOUBT


class JetStreamInbox(Inbox):
    """The commands of one account."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._inbox: Subscription | None = None
        self._pin: str | None = None
        self._arrived: dict[int, Order] = {}
        self._handed: dict[int, Order] = {}
        self._acks: dict[int, str] = {}
        self._settling: set[int] = set()
        self._stirred = asyncio.Event()
        self._problem = ""
        self._asked = 0
        self._asked_at = 0.0
        self._doubt: Doubt | None = None

    @classmethod
    async def open(cls, wire: Wire, *, replicas: int | None = None) -> Self:
        """Provision stream and consumer; asking again is fine."""
        try:
            await provision(wire, _stream, replicas=replicas)
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
        """Store a command and return its position."""
        check_body(body)
        subject = command_subject(door, key, verb)
        try:
            answer = await self._wire.request(subject, body, headers=headers)
            raise_problem(answer.data)
        except Nobody as error:
            raise Unavailable(NO_STREAM) from error
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"the command was not stored: {error}") from error
        stored = msgspec.json.decode(answer.data)
        if stored.get("duplicate"):
            raise Unavailable(
                "the command was not stored: its Nats-Msg-Id was just used"
            )
        return int(stored["seq"])

    # ── taking ───────────────────────────────────────────────────────────────

    async def take(self, limit: int, wait: float) -> list[Order]:
        """Take up to ``limit`` commands, by their positions."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (wait if limit else 0.0)
        while True:
            self._raise_problem()
            await self._ask(limit)
            if loop.time() >= end:
                return []
            if self._arrived and not await self._held():
                break
            if not self._arrived:
                self._stirred.clear()
                await _wait(self._stirred, min(PULL / 2, end - loop.time()))
        due = sorted(self._arrived)[:limit]
        taken = {position: self._arrived.pop(position) for position in due}
        self._handed.update(taken)
        return list(taken.values())

    def holds(self, order: Order) -> bool:
        """Whether this handing out of it still counts."""
        return self._handed.get(order.position) is order and not self._silent

    @property
    def _silent(self) -> bool:
        """Nothing was asked for so long that another may be pinned by now."""
        return asyncio.get_running_loop().time() > self._asked_at + PIN

    def _raise_problem(self) -> None:
        if self._wire.closed.is_set():
            raise Unavailable("nats-server closed the connection for good")
        if self._problem:
            problem, self._problem = self._problem, ""
            raise Unavailable(f"nats-server gives no commands now ({problem})")

    async def _held(self) -> bool:
        """Say whether commands that were taken before are still to come again."""
        doubt = self._doubt
        if doubt is None:
            return False
        ours = doubt.heard - self._settling
        try:
            answer = await self._wire.api(f"CONSUMER.INFO.{COMMANDS}.{LIFECYCLE}")
        except (ApiError, OutcomeUnknown):
            return True
        if doubt is not self._doubt:
            return True
        # What was settled meanwhile may be counted there or not: leave it out.
        ours &= doubt.heard - self._settling
        pending = msgspec.json.decode(answer)["num_ack_pending"]
        doubt.missing = max(0, pending - len(ours))
        if not doubt.missing or asyncio.get_running_loop().time() > doubt.until:
            self._doubt = None
            return bool(not self._arrived)
        await asyncio.sleep(TICK)
        return True

    async def _ask(self, limit: int) -> None:
        """Ask for what there is room for; and often enough to stay pinned."""
        now = asyncio.get_running_loop().time()
        if not self._wire.connected:
            return  # what waits in a dead connection would be asked for twice
        if self._pin is not None and self._silent:
            self._displaced(None)
        if now >= self._asked_at + PULL:
            self._asked = 0
        room = self._room(limit)
        wanted = room - self._asked
        enough = wanted <= 0 or self._asked > room // 2
        if enough and now < self._asked_at + PULL / 2:
            return
        if self._inbox is None:
            self._inbox = await self._wire.subscribe(None, self._heard)
            self._wire.watch_breaks(self._broke)
            self._wire.watch(self._reconnected)
        body: dict[str, Any] = {
            "batch": max(wanted, 1),
            "expires": int(PULL * 1e9),
            "group": LIFECYCLE,
        }
        if self._pin:
            body["id"] = self._pin
        self._asked += max(wanted, 1)
        self._asked_at = now
        payload = msgspec.json.encode(body)
        await self._wire.send(NEXT, payload, reply=self._inbox.subject)

    def _room(self, limit: int) -> int:
        """How many commands may come: what lies here is bounded too."""
        room = limit - len(self._arrived)
        if room > 0 or self._doubt is None:
            return room
        # Those that come again go before new ones, once their time has come.
        return self._doubt.missing if self._doubt.flowing else 1

    def _broke(self) -> None:
        """Hold back what is newer: what was sent into the break comes again."""
        self._doubt = Doubt()

    def _reconnected(self) -> None:
        """Ask again; what we asked for before may have been sent to us already."""
        self._asked = 0
        if self._doubt is not None:
            self._doubt.begin()
        self._stirred.set()

    def _heard(self, message: "Msg") -> None:
        # Only the server writes there; what a header says, anybody may have written.
        if message.reply.startswith("$JS.ACK."):
            self._asked = max(0, self._asked - 1)
            self._store(message)
            self._stirred.set()
            return
        what = status(message)
        if what == DISPLACED:
            self._displaced(None)
        elif what == RAN_OUT:
            self._asked = max(0, self._asked - pending(message, self._asked))
        elif what != "100":
            self._asked = 0
            self._problem = str((message.headers or {}).get("Description", what))
        self._stirred.set()

    def _displaced(self, pin: str | None) -> None:
        """Let go of all: another client may have it by now."""
        self._pin, self._doubt = pin, Doubt()
        self._arrived.clear()
        self._handed.clear()
        self._acks.clear()
        if pin is None:
            self._asked = 0

    def _store(self, message: "Msg") -> None:
        times, position, _ = delivery(message)
        headers: dict[str, str] = message.headers or {}
        pin = headers.get("Nats-Pin-Id", self._pin)
        if pin != self._pin:
            self._displaced(pin)
        if self._doubt is not None:
            self._doubt.heard.add(position)
            self._doubt.flowing |= times > 1
        known = position in self._acks
        self._acks[position] = message.reply
        if known:
            return  # still in our hands: it only renews the reply
        door, user, execution, verb = message.subject.split(".")
        self._arrived[position] = Order(
            door="gateway" if door == "gateway" else "commands",
            key=Key(user, execution),
            verb=verb,
            body=message.data,
            position=position,
            headers=headers,
            at=stored_at(message),
        )

    async def done(self, order: Order) -> None:
        """Never hand it out again."""
        position = order.position
        if self._handed.get(position) is not order:
            return
        self._settling.add(position)
        try:
            await self._wire.request(self._acks[position], b"+ACK", wait=2.0)
        except OutcomeUnknown as error:
            raise Unavailable(f"command was not settled: {error}") from error
        else:
            self._forget(order)
        finally:
            self._settling.discard(position)

    def _forget(self, order: Order) -> None:
        if self._handed.get(order.position) is order:
            del self._handed[order.position], self._acks[order.position]
        if self._doubt is not None:
            self._doubt.heard.discard(order.position)

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
        await self._wire.flush()
        try:
            yield queue
        finally:
            await self._wire.unsubscribe(subscription)

    async def close(self) -> None:
        """Stop taking and give back what was not taken; a stand-by takes over."""
        self._wire.unwatch(self._broke, self._reconnected)
        inbox, self._inbox = self._inbox, None
        if inbox is None:
            return
        await self._wire.hush(inbox)
        with contextlib.suppress(OutcomeUnknown, ApiError):
            # It must refuse that, after all that it sent before it heard us leave.
            await self._wire.request(NEXT, b"{", wait=1.0)
            await self._wire.unsubscribe(inbox)
            for position in sorted(self._arrived):
                await self._wire.request(self._acks[position], b"-NAK", wait=1.0)
            if self._pin is not None:
                subject = f"CONSUMER.UNPIN.{COMMANDS}.{LIFECYCLE}"
                await self._wire.api(subject, {"group": LIFECYCLE})


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return

"""Pulling from a durable consumer: how work is leased, renewed and settled."""

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from events.delivery import RAN_OUT, behind, delivery, pending, recorded_from
from events.errors import OutcomeUnknown, Unavailable, WakeError
from events.journal import Work, WorkQueue
from events.names import EVENTS
from events.wire import Wire, status

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

logger = logging.getLogger(__name__)

MAX_WAIT = 5.0
"""Seconds a fetch may last: across a restart of the server it hears nothing."""


class Leased:
    """A message of a durable consumer: its taker's until settled, or for so long."""

    def __init__(self, wire: Wire, message: "Msg") -> None:
        self.deliveries = delivery(message)[0]
        self.arrived = asyncio.get_running_loop().time()
        self._wire, self._ack = wire, message.reply

    async def renew(self) -> None:
        """Hold the lease for another term."""
        await self._settle(b"+WPI")

    async def done(self) -> None:
        """Never hand it out again."""
        await self._settle(b"+ACK")

    async def give_back(self, delay: float = 0.0) -> None:
        """Let another have it, after ``delay`` seconds."""
        body = msgspec.json.encode({"delay": int(delay * 1e9)})
        await self._settle(b"-NAK " + body)

    async def _settle(self, verb: bytes) -> None:
        """Say it until the server confirms, once more if it stays silent."""
        for last in (False, True):
            try:
                await self._wire.request(self._ack, verb, wait=2.0)
            except OutcomeUnknown as error:
                if last:
                    raise Unavailable(f"work was not settled: {error}") from error
            else:
                return


L = TypeVar("L", bound=Leased)


class Pull(Generic[L]):
    """What a durable consumer hands out, each for a ``lease`` of seconds.

    What was asked for and has not arrived stays asked for: a cancelled request
    would take work and let it lie until its lease runs out. What lay here for
    half its lease is not handed out any more: it may be another's by now.
    """

    def __init__(
        self,
        wire: Wire,
        stream: str,
        consumer: str,
        lease: float,
        read: "Callable[[Wire, Msg], L]",
    ) -> None:
        self.lease = lease
        self._wire, self._read = wire, read
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._arrived: deque[L] = deque()
        self._stirred = asyncio.Event()
        self._asked = 0
        self._expires = 0.0
        self._problem = ""
        self._inbox: Subscription | None = None
        wire.watch_breaks(self._forget)
        wire.watch(self._stirred.set)

    async def take(self, limit: int, wait: float) -> list[L]:
        """Lease up to ``limit``; raises Unavailable, OutcomeUnknown."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(wait, MAX_WAIT)):
                while not self._fresh():
                    self._stirred.clear()
                    self._raise_problem()
                    await self._ask(limit)
                    await self._stirred.wait()
        count = min(limit, len(self._arrived))
        return [self._arrived.popleft() for _ in range(count)]

    def _fresh(self) -> bool:
        """Forget what lay too long; True if something is left."""
        oldest = asyncio.get_running_loop().time() - self.lease / 2
        while self._arrived and self._arrived[0].arrived < oldest:
            logger.warning("%s lay too long", self._arrived.popleft())
        return bool(self._arrived)

    def _raise_problem(self) -> None:
        if self._wire.closed.is_set():
            raise Unavailable("nats-server closed the connection for good")
        if self._problem:
            problem, self._problem = self._problem, ""
            raise Unavailable(f"nats-server gives no work now ({problem})")

    async def _ask(self, limit: int) -> None:
        """Top up what was asked for to ``limit``."""
        now = asyncio.get_running_loop().time()
        if now >= self._expires + 1.0:
            self._asked = 0  # the server forgot it, or never heard of it
        wanted = limit - self._asked
        if wanted <= 0 or not self._wire.connected:
            return  # what waits in a dead connection would be asked for twice
        if self._inbox is None:
            self._inbox = await self._wire.subscribe(None, self._heard)
        self._asked += wanted
        self._expires = now + MAX_WAIT
        body = {"batch": wanted, "expires": int(MAX_WAIT * 1e9)}
        payload = msgspec.json.encode(body)
        try:
            await self._wire.send(self._next, payload, reply=self._inbox.subject)
        except OutcomeUnknown:
            self._asked -= wanted
            raise

    def _heard(self, message: "Msg") -> None:
        what = status(message)
        if what is None:
            self._asked = max(0, self._asked - 1)
            self._keep(message)
        elif what == RAN_OUT:
            # Only the rest of that one request is over; others are still open.
            self._asked = max(0, self._asked - pending(message, self._asked))
        else:
            self._asked = 0
            self._problem = str((message.headers or {}).get("Description", what))
        self._stirred.set()

    def _keep(self, message: "Msg") -> None:
        try:
            self._arrived.append(self._read(self._wire, message))
        except WakeError:
            # Left to its lease: a newer version may be able to read it.
            logger.exception("work at %s cannot be read", message.subject)

    def _forget(self) -> None:
        """Ask again: the server that was asked may be another one soon.

        Not what is asked before the reconnect is known: that would be asked twice.
        """
        self._asked = 0

    async def close(self) -> None:
        """Stop asking and give back what arrived unasked.

        What cannot be given back comes again when its lease ran out.
        """
        self._wire.unwatch(self._forget, self._stirred.set)
        if self._inbox is not None:
            await self._wire.hush(self._inbox)
            await self._last_word()
            await self._wire.unsubscribe(self._inbox)
        try:
            while self._arrived:
                await self._arrived.popleft().give_back()
        except Unavailable as error:
            logger.warning("work was not given back: %s", error)

    async def _last_word(self) -> None:
        """Wait until the consumer can have sent nothing more.

        Its answers keep their order: after the one to a request that it must
        refuse, nothing comes that was sent before it heard that we left.
        """
        with contextlib.suppress(OutcomeUnknown):
            await self._wire.request(self._next, b"{", wait=1.0)


class JetStreamWork(Leased, Work):
    """One leased work message."""

    def __init__(self, wire: Wire, message: "Msg") -> None:
        super().__init__(wire, message)
        self.recorded = recorded_from(message)
        self.behind = behind(message)

    def __str__(self) -> str:
        return str(self.recorded.key)


class JetStreamQueue(Pull[JetStreamWork], WorkQueue):
    """The work of one lane, from a durable consumer."""

    def __init__(self, wire: Wire, consumer: str, lease: float) -> None:
        super().__init__(wire, EVENTS, consumer, lease, JetStreamWork)

    async def fetch(self, limit: int, wait: float) -> list[Work]:
        """Lease up to ``limit`` works; raises Unavailable, OutcomeUnknown."""
        return [*await self.take(limit, wait)]

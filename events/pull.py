"""Pulling from a JetStream consumer: how work is fetched and feeds are followed.

Two kinds: ``JetStreamQueue`` leases work from a durable consumer, and
``Feed`` follows the log through a consumer of its own that is thrown away
when it falters. A feed counts what the consumer delivered; a number that is
missing means loss, and it begins again after the last commit it passed on
(nats-py's ordered consumer loses messages silently when it falls behind).
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from events.commit import Recorded, unseal
from events.errors import OutcomeUnknown, Unavailable, WakeError
from events.journal import Work, WorkHeard, WorkQueue
from events.names import (
    EVENTS,
    EVENTS_ALL,
    LANES,
    ROUTES,
    TRACE,
    Key,
    Route,
    commit_subject,
    history_filter,
    split_subject,
)
from events.wire import ANSWER, ApiError, Wire, status

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

logger = logging.getLogger(__name__)

MAX_WAIT = 5.0
"""Seconds a fetch may last: across a restart of the server it hears nothing."""

HEARTBEAT = 2.0
"""Seconds between a server's signs of life while a feed has nothing new."""

SILENCE = 2.5 * HEARTBEAT
"""Seconds without any after which a feed begins again."""

RUN = 500
"""Messages a feed asks for at a time: bounds what waits in memory."""

CHUNK = 10_000
"""Messages that a reading of what there is asks for at a time."""

NO_MORE = "404"
"""The status of a request for more than there is."""

RAN_OUT = "408"
"""The status of a request that asked for more than came in its time."""


def delivery(message: "Msg") -> tuple[int, int, int]:
    """Return times delivered, stream and consumer sequence (NATS ADR-15).

    ``$JS.ACK.<stream>.<consumer>.<n>.<stream seq>.<consumer seq>.…``, with a
    domain and an account before the stream in the newer form.
    """
    return _delivery(message.reply)


@lru_cache(maxsize=2048)  # a feed asks twice for each, within RUN or two
def _delivery(reply: str) -> tuple[int, int, int]:
    tokens = reply.split(".")
    first = 4 if len(tokens) < 11 else 6  # noqa: PLR2004 - the two forms' lengths
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 2])


def behind(message: "Msg") -> int:
    """Return how many messages the consumer had still to deliver (NATS ADR-15)."""
    tokens = message.reply.split(".")
    return int(tokens[8 if len(tokens) < 11 else 10])  # noqa: PLR2004 - see above


def stored_at(message: "Msg") -> datetime:
    """Return when the server stored a delivered message (NATS ADR-15)."""
    tokens = message.reply.split(".")
    nanoseconds = int(tokens[7 if len(tokens) < 11 else 9])  # noqa: PLR2004 - see above
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def recorded_from(message: "Msg") -> Recorded:
    """Read a delivered commit; the reply subject tells its position."""
    key, route = split_subject(message.subject)
    position = delivery(message)[1]
    trace = (message.headers or {}).get(TRACE, "")
    commit = unseal(message.data, key)
    return Recorded(position, key, route, commit, message.data, trace)


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
        wire.watch(self._forget)

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
        """Ask again: the server that was asked may be another one now."""
        self._asked = 0
        self._stirred.set()

    async def close(self) -> None:
        """Stop asking and give back what arrived unasked.

        What cannot be given back comes again when its lease ran out.
        """
        self._wire.unwatch(self._forget)
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


T = TypeVar("T")


class Source(NamedTuple, Generic[T]):
    """What to read of a stream, and what to make of each message."""

    stream: str
    subjects: Sequence[str]
    decode: Callable[["Msg"], T]

    def consumer(self, after: int, name: str = "") -> dict[str, Any]:
        """Ask for a consumer beyond a position, to be thrown away."""
        return {
            "stream_name": self.stream,
            "config": {
                **({"name": name} if name else {}),
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": after + 1,
                "ack_policy": "none",
                "filter_subjects": self.subjects,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": int(60e9),
            },
        }


def commits(key: Key | None, routes: Sequence[Route] = ROUTES) -> Source[Recorded]:
    """Every commit, or those of one history, or of some routes."""
    if len(routes) < len(ROUTES):
        user, execution = key or ("*", "*")
        subjects = tuple(commit_subject(Key(user, execution), r) for r in routes)
    else:
        subjects = (history_filter(key) if key else EVENTS_ALL,)
    return Source(EVENTS, subjects, recorded_from)


class Feed(Generic[T]):
    """Follows a stream beyond a position; see ``Journal.follow``."""

    def __init__(
        self, wire: Wire, source: Source[T], after: int, run: int = RUN
    ) -> None:
        self._wire, self._source, self._after = wire, source, after
        self._run = run
        self._arrived: list[tuple[int, Msg]] = []
        self._stirred = asyncio.Event()
        self._expected = 1
        self._asked = 0
        self._broken = True
        self._inbox: Subscription | None = None
        self._consumer = ""
        self._waits_since: float | None = None
        self._watchdog: asyncio.TimerHandle | None = None

    async def runs(self, end: int | None) -> AsyncGenerator[Sequence[T], None]:
        """Yield what is new; up to position ``end``, or for ever."""
        self._wire.watch(self._falter)
        self._look()
        try:
            while end is None or self._after < end:
                await self._ready()
                arrived = self._drain()
                run = [
                    self._source.decode(message)
                    for position, message in arrived
                    if end is None or position <= end
                ]
                if arrived:
                    self._after = arrived[-1][0]
                if run:
                    yield run
        finally:
            self._wire.unwatch(self._falter)
            if self._watchdog is not None:
                self._watchdog.cancel()
            await self._drop()

    def _look(self) -> None:
        """Falter if we wait for too long; a timer for each message would cost more."""
        loop = asyncio.get_running_loop()
        since = loop.time() if self._waits_since is None else self._waits_since
        left = since + SILENCE - loop.time()
        if left <= 0:
            self._falter()
            left = SILENCE
        self._watchdog = loop.call_later(left, self._look)

    def _falter(self) -> None:
        """Begin again: the server that kept the consumer may have restarted."""
        self._broken = True
        self._stirred.set()

    async def _ready(self) -> None:
        """Wait for something new; begin again if nothing is heard of the server."""
        if self._broken:
            await self._begin()
        if self._asked <= self._run // 2:
            await self._ask()
        if self._stirred.is_set():
            return
        self._waits_since = asyncio.get_running_loop().time()
        await self._stirred.wait()
        self._waits_since = None

    def _drain(self) -> "Sequence[tuple[int, Msg]]":
        self._stirred.clear()
        arrived, self._arrived = self._arrived, []
        return arrived

    async def _begin(self) -> None:
        await self._drop()
        # What is here and was not passed on comes again from the new consumer.
        self._arrived.clear()
        self._expected, self._asked, self._broken = 1, 0, False
        # Named by us: who is cancelled before the answer can still delete it.
        self._consumer = f"feed-{secrets.token_hex(8)}"
        for pause in _pauses():
            if self._wire.closed.is_set():
                raise Unavailable("nats-server closed the connection for good")
            try:
                await self._wire.api(
                    f"CONSUMER.CREATE.{self._source.stream}.{self._consumer}",
                    self._source.consumer(self._after, self._consumer),
                )
                self._inbox = await self._wire.subscribe(None, self._take)
                break
            except (OutcomeUnknown, ApiError):
                await asyncio.sleep(pause)

    async def _ask(self) -> None:
        if self._inbox is None:
            return
        self._asked += self._run
        body = {
            "batch": self._run,
            "expires": int(30e9),
            "idle_heartbeat": int(HEARTBEAT * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._source.stream}.{self._consumer}"
        try:
            payload = msgspec.json.encode(body)
            await self._wire.send(subject, payload, reply=self._inbox.subject)
        except OutcomeUnknown:
            self._broken = True

    def _take(self, message: "Msg") -> None:
        self._stirred.set()
        what = status(message)
        if what == "100":
            return
        if what is not None:
            # A request that ran out is asked anew. Anything else: begin again.
            self._asked = 0
            self._broken = self._broken or what != RAN_OUT
            return
        _, position, number = delivery(message)
        if self._broken or number != self._expected:
            self._broken = True
            return
        self._expected += 1
        self._asked -= 1
        self._arrived.append((position, message))

    async def _drop(self) -> None:
        """Hear no more; if the server misses the delete, it forgets by itself."""
        inbox, self._inbox = self._inbox, None
        consumer, self._consumer = self._consumer, ""
        with contextlib.suppress(OutcomeUnknown):
            if inbox is not None:
                await self._wire.unsubscribe(inbox)
            if consumer:
                gone = f"$JS.API.CONSUMER.DELETE.{self._source.stream}.{consumer}"
                await self._wire.send(gone, b"")


class _Consumer(msgspec.Struct):
    name: str
    num_pending: int = 0


async def reading(
    wire: Wire, stream: str, config: dict[str, Any], limit: int | None = None
) -> "AsyncGenerator[list[Msg], None]":
    """Yield what a consumer gives now, up to ``limit`` messages, and end.

    Raises OutcomeUnknown, ApiError and TimeoutError; then some may be missing.
    """
    created = await wire.api(f"CONSUMER.CREATE.{stream}", config)
    consumer = msgspec.json.decode(created, type=_Consumer)
    left, first = consumer.num_pending, 1
    if limit is not None:
        left = min(left, limit)
    try:
        while left:
            count = min(left, CHUNK)
            yield await _pull(wire, f"{stream}.{consumer.name}", count, first)
            left, first = left - count, first + count
    finally:
        # If the server misses this, it forgets the consumer by itself.
        with contextlib.suppress(OutcomeUnknown):
            gone = f"$JS.API.CONSUMER.DELETE.{stream}.{consumer.name}"
            await wire.send(gone, b"")


async def _pull(wire: Wire, consumer: str, wanted: int, first: int) -> "list[Msg]":
    """Take so many; a status ends it early if some are gone by now.

    ``first`` is the number that the consumer gives to the first of them.
    """
    messages: list[Msg] = []
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def take(message: "Msg") -> None:
        what = status(message)
        if what is None:
            messages.append(message)
        if (what or len(messages) == wanted) and not done.done():
            done.set_result(what or NO_MORE)

    request = msgspec.json.encode({"batch": wanted, "no_wait": True})
    inbox = await wire.subscribe(None, take)
    try:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{consumer}"
        await wire.send(subject, request, reply=inbox.subject)
        async with asyncio.timeout(ANSWER):
            what = await done
    finally:
        await wire.unsubscribe(inbox)
    if what != NO_MORE or any(
        delivery(m)[2] != n for n, m in enumerate(messages, first)
    ):
        raise OutcomeUnknown(f"messages were lost on the way (status {what})")
    return messages


def pending(message: "Msg", unknown: int) -> int:
    """Return what a request that is over had still asked for."""
    return int((message.headers or {}).get("Nats-Pending-Messages", unknown))


def _pauses() -> "itertools.chain[float]":
    return itertools.chain((0.05, 0.1, 0.2, 0.5), itertools.repeat(1.0))


Heard = Callable[[Recorded], None]


def work_heard_from(message: "Msg", heard: WorkHeard) -> None:
    """Pass on whose work was republished, and where it stands."""
    key, route = split_subject(message.subject)
    if route in LANES:  # always: it is what was subscribed
        heard(route, key.user, int((message.headers or {}).get("Nats-Sequence", 0)))


def heard_from(message: "Msg", heard: Heard) -> None:
    """Pass a republished commit on."""
    headers: dict[str, Any] = message.headers or {}
    key, route = split_subject(message.subject)
    position = int(headers.get("Nats-Sequence", 0))
    commit, trace = unseal(message.data, key), headers.get(TRACE, "")
    heard(Recorded(position, key, route, commit, message.data, trace))

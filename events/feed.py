"""Following a stream through a consumer that is thrown away when it falters.

A feed counts what the consumer delivered; a number that is missing means loss, and
it begins again after the last message it passed on (nats-py's ordered consumer
loses messages silently when it falls behind).
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from events.commit import Recorded
from events.delivery import RAN_OUT, delivery, recorded_from
from events.errors import OutcomeUnknown, Unavailable
from events.names import (
    EVENTS,
    EVENTS_ALL,
    ROUTES,
    Key,
    Route,
    commit_subject,
    history_filter,
)
from events.wire import ANSWER, ApiError, Wire, status

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

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


def _pauses() -> "itertools.chain[float]":
    return itertools.chain((0.05, 0.1, 0.2, 0.5), itertools.repeat(1.0))

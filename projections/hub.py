"""From one reader to all who watch: each message is encoded once, and never waits.

What is published goes into the ring and to whoever follows its execution or its
user. ``cursor`` is how far the feed is: whoever is attached has all up to there.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from events.deltas import Delta
from events.names import Key
from projections.feedcursor import BEGINNING, WHOLE, Cursor
from projections.notices import Kind, Notice, of_delta
from projections.ring import Entry, Ring, Topic
from projections.sayings import Sayings

Numbered = tuple[Notice, int]
"""A message of a commit, and its number in it; ``WHOLE`` for the last."""


class Frame:
    """A message as it is sent: the same bytes to everybody who gets it live."""

    __slots__ = ("_shapes", "cursor", "notice", "text")

    def __init__(self, notice: Notice, cursor: Cursor) -> None:
        self.notice, self.cursor = notice, cursor
        self.text = notice.text(cursor)
        self._shapes: dict[Callable[[Frame], bytes], bytes] = {}

    def shaped(self, shape: "Callable[[Frame], bytes]") -> bytes:
        """Bring it into the form of a protocol, once."""
        made = self._shapes.get(shape)
        if made is None:
            made = self._shapes[shape] = shape(self)
        return made


class Subscriber(Protocol):
    """Who watches something; ``kinds`` are the messages that are wanted."""

    kinds: frozenset[Kind]

    def put(self, frame: Frame) -> None:
        """Take a message. Must not wait or raise: it is one of thousands."""
        ...

    async def send(self, frame: Frame) -> None:
        """Take a message, and wait if there are too many."""
        ...


class Hub:
    """``ring`` is for who was away for a moment."""

    def __init__(self, ring: Ring | None = None) -> None:
        self.cursor = BEGINNING
        self.ring = ring or Ring()
        self.sayings = Sayings()
        self._subscribers: dict[Topic, tuple[Subscriber, ...]] = {}
        self._grown = asyncio.Event()

    def begin(self, cursor: Cursor) -> None:
        """Begin where nothing before is known."""
        self.cursor = self.ring.floor = cursor

    # ── publishing ───────────────────────────────────────────────────────────

    def commit(self, position: int, notices: Sequence[Numbered]) -> None:
        """Publish the messages of a commit; ``pass_commit`` follows."""
        for notice, number in notices:
            self._publish(notice, Cursor(position, number, self.cursor.line))

    def pass_commit(self, position: int) -> None:
        """Note that all is published up to a commit."""
        cursor = self.cursor
        if cursor.position < position or cursor.number != WHOLE:
            cursor = cursor.furthest(Cursor(position))
        self.advance(cursor)

    def line(self, number: int, notice: Notice) -> None:
        """Publish a log line; ``pass_line`` follows."""
        self._publish(notice, self.cursor._replace(line=number))

    def pass_line(self, number: int) -> None:
        """Note that all is published up to a log line."""
        self.advance(self.cursor.furthest(Cursor(line=number)))

    def delta(self, key: Key, delta: Delta) -> None:
        """Publish a piece of what a model says, unless it is superseded.

        Not kept: whoever was away gets the reply, or what was said so far.
        """
        if self.sayings.hear(key, delta) and self._followed(key):
            self._deliver(of_delta(key, delta))

    def advance(self, cursor: Cursor) -> None:
        """Note how far the feed is, for who waits for that."""
        self.cursor = cursor
        self._grown.set()

    def _publish(self, notice: Notice, cursor: Cursor) -> None:
        self.cursor = cursor
        self.ring.add(Entry(notice, cursor))
        if notice.step:
            self.sayings.replied(notice.key, notice.step)
        elif notice.status not in ("", "running"):
            self.sayings.end(notice.key)
        if self._followed(notice.key):
            self._deliver(notice)

    def _followed(self, key: Key) -> bool:
        subscribers = self._subscribers
        return key in subscribers or key.user in subscribers

    def _deliver(self, notice: Notice) -> None:
        """Give it to all who want it; some may leave meanwhile, being too slow."""
        frame, kind = Frame(notice, self.cursor), notice.kind
        for topic in (notice.key, notice.key.user):
            for subscriber in self._subscribers.get(topic, ()):
                if kind in subscriber.kinds:
                    subscriber.put(frame)

    # ── following ────────────────────────────────────────────────────────────

    def attach(self, topic: Topic, subscriber: Subscriber) -> None:
        """Give it whatever comes from now on, and what a model is in the middle of."""
        self._subscribers[topic] = (*self._subscribers.get(topic, ()), subscriber)
        if isinstance(topic, Key) and "delta" in subscriber.kinds:
            said = self.sayings.so_far(topic)
            if said is not None:
                subscriber.put(Frame(of_delta(topic, said), self.cursor))

    def detach(self, topic: Topic, subscriber: Subscriber) -> None:
        """Give it nothing more; asking twice is fine."""
        left = [s for s in self._subscribers.get(topic, ()) if s is not subscriber]
        if left:
            self._subscribers[topic] = tuple(left)
        else:
            self._subscribers.pop(topic, None)

    async def grown(self) -> None:
        """Wait until the feed has gone on."""
        self._grown.clear()
        await self._grown.wait()

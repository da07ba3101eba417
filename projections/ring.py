"""The newest messages of the live feed, for who was away for a moment.

All beyond ``floor`` are here, found by execution and by user. What is older is read
from the log (``past.py``).
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from events.names import Key
from projections.feedcursor import BEGINNING, Cursor
from projections.notices import Notice

Topic = Key | str
"""What can be followed: an execution, or all of a user's."""

MOST = 10_000
"""Messages that are kept: some seconds of a busy service."""

MOST_BYTES = 32 * 1024 * 1024
"""Bytes that they may have: a reply can be as long as a commit."""


class Entry(NamedTuple):
    """A message, and how far the feed was with it."""

    notice: Notice
    cursor: Cursor

    def past(self, cursor: Cursor) -> Cursor | None:
        """How far whoever was at ``cursor`` is with it; None if they had it."""
        mine = self.cursor
        if self.notice.kind == "log":
            if mine.line <= cursor.line:
                return None
            return cursor._replace(line=mine.line)
        if mine.place <= cursor.place:
            return None
        return cursor._replace(position=mine.position, number=mine.number)


class Ring:
    """Bounded by ``most`` messages and their bytes."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.floor = BEGINNING
        self._most, self._most_bytes = most, most_bytes
        self._entries: deque[Entry] = deque()
        self._by_topic: dict[Topic, deque[Entry]] = {}
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Keep a message; what is too old for that goes."""
        self._entries.append(entry)
        self._bytes += len(entry.notice.body)
        for topic in _topics(entry):
            entries = self._by_topic.get(topic)
            if entries is None:
                self._by_topic[topic] = deque((entry,))
            else:
                entries.append(entry)
        while len(self._entries) > self._most or self._bytes > self._most_bytes:
            self._drop()

    def _drop(self) -> None:
        oldest = self._entries.popleft()
        self._bytes -= len(oldest.notice.body)
        self.floor = oldest.cursor
        for topic in _topics(oldest):
            entries = self._by_topic[topic]
            entries.popleft()
            if not entries:
                del self._by_topic[topic]

    def forget(self, key: Key) -> None:
        """Keep nothing of an execution that is deleted; the log has nothing either."""
        gone = self._by_topic.pop(key, ())
        if not gone:
            return
        self._bytes -= sum(len(entry.notice.body) for entry in gone)
        self._entries = _others(self._entries, key)
        left = _others(self._by_topic.pop(key.user), key)
        if left:
            self._by_topic[key.user] = left

    def beyond(self, topic: Topic, cursor: Cursor) -> list[Entry]:
        """Return what whoever is at ``cursor`` has not had, oldest first.

        All of it if ``cursor`` covers ``floor``.
        """
        missed: list[Entry] = []
        for entry in reversed(self._by_topic.get(topic, ())):
            if cursor.covers(entry.cursor):
                break
            if entry.past(cursor):
                missed.append(entry)
        missed.reverse()
        return missed


def _others(entries: Iterable[Entry], key: Key) -> deque[Entry]:
    """Those that are not of an execution."""
    return deque(entry for entry in entries if entry.notice.key != key)


def _topics(entry: Entry) -> tuple[Topic, Topic]:
    key = entry.notice.key
    return key, key.user

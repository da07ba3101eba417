"""Log lines that wait to be written: bounded, the oldest make room for the newest."""

import threading
from collections import Counter, deque
from collections.abc import Iterable
from datetime import datetime

import msgspec

from events.names import Key, Level

MAX_ENTRIES = 10_000
"""Lines that wait at most: two seconds' worth of what a server can sync."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes that they have at most."""

MAX_LOSERS = 1_000
"""Executions whose lost lines are counted each for itself."""

ENTRY = 300
"""Bytes of a line besides its texts, roughly."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A line as it was logged; ``context`` is a JSON object."""

    at: datetime
    key: Key
    level: Level
    event_type: str
    message: str
    context: bytes

    @property
    def size(self) -> int:
        """Bytes that it holds, roughly."""
        return ENTRY + len(self.message) + len(self.context)


class Backlog:
    """A queue that any thread may put into.

    Lines are numbered 1, 2, 3 … as they are put; ``last`` is the newest's
    number. ``lost`` counts all that made room or were given up.
    """

    def __init__(self, entries: int = MAX_ENTRIES, size: int = MAX_BYTES) -> None:
        self.last = self.lost = 0
        self._entries: deque[Entry] = deque()
        self._size = 0
        self._most, self._most_size = entries, size
        self._losses: Counter[Key] = Counter()
        # Reentrant: a signal handler or a finalizer may log while its thread does.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> int:
        """The number of the oldest that waits, or of the next to come."""
        with self._lock:
            return self.last - len(self._entries) + 1

    def put(self, entry: Entry) -> None:
        """Add a line; the oldest are lost if there is no room."""
        with self._lock:
            self.last += 1
            self._entries.append(entry)
            self._size += entry.size
            while len(self._entries) > self._most or self._size > self._most_size:
                self._lose(self._pop())

    def take(self, limit: int) -> list[Entry]:
        """Return the oldest lines, at most ``limit``."""
        with self._lock:
            return [self._pop() for _ in range(min(limit, len(self._entries)))]

    def losses(self) -> dict[Key, int]:
        """Return how many lines of which execution were lost since the last call."""
        if not self._losses:
            return {}
        with self._lock:
            losses, self._losses = self._losses, Counter()
        return losses

    def give_up(self, entries: Iterable[Entry] = ()) -> None:
        """Count lines as lost, and all that wait."""
        with self._lock:
            for entry in (*entries, *self.take(len(self._entries))):
                self._lose(entry)

    def _pop(self) -> Entry:
        entry = self._entries.popleft()
        self._size -= entry.size
        return entry

    def _lose(self, entry: Entry) -> None:
        self.lost += 1
        if entry.key in self._losses or len(self._losses) < MAX_LOSERS:
            self._losses[entry.key] += 1

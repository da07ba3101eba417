"""The port of a stream as it is stored: for those who may not stop at any message.

``Journal`` and ``Logbook`` give what they can read and fail at what they cannot.
Here nothing is decoded, and a stream tells which one it is: a reader that kept a
position finds out whether that still means anything. Two adapters stand behind
the port, ``MemoryRawLog`` here and ``rawstream.py``; one test suite runs on both.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple

import msgspec

from events.names import ROUTES, Key, commit_subject


class Raw(msgspec.Struct, frozen=True, order=True, gc=False):
    """A message as it is stored.

    No named tuple: each message is one, and those take four times as long to make.
    """

    position: int
    subject: str
    body: bytes


class Extent(NamedTuple):
    """Which stream it is (when it was made), and from where to where it goes.

    ``first`` is beyond ``last`` when nothing is stored.
    """

    made: str
    first: int
    last: int


class RawLog(ABC):
    """One stream; every method raises Unavailable."""

    @abstractmethod
    async def extent(self) -> Extent:
        """Tell what there is now, never a stale answer."""

    @abstractmethod
    def follow(self, after: int) -> AsyncGenerator[Sequence[Raw], None]:
        """Yield every message beyond a position, in order, none twice, for ever.

        Close it (``contextlib.aclosing``) when done.
        """

    @abstractmethod
    async def tip(self, subject: str) -> int:
        """Return the last position on a subject, never a stale one; 0 without one.

        The subject may have wildcards.
        """

    @abstractmethod
    def between(
        self, subject: str, after: int, upto: int
    ) -> AsyncGenerator[Sequence[Raw], None]:
        """Yield what is on a subject beyond ``after``, in order, and end at ``upto``.

        That is a position that is known to be on it: it is waited for. Close it
        (``contextlib.aclosing``) when done.
        """

    @abstractmethod
    async def history(self, key: Key, *, at_least: int, after: int = 0) -> list[Raw]:
        """Return the stored commits of an execution, up to ``at_least`` or further.

        Only of EVENTS, and beyond ``after``. Commits that are deleted are not in it;
        one in the middle may be missing where a replica that lags has answered.
        """

    @abstractmethod
    def bulk(self, after: int, upto: int) -> Iterator[list[Raw]]:
        """Give all messages beyond ``after``, up to ``upto``, as fast as can be.

        Blocks: it is for a thread. Raises Unavailable, and there is no going on.
        """


class MemoryRawLog(RawLog):
    """All in one process; ``add`` takes anything."""

    def __init__(self, made: str = "once") -> None:
        self.made = made
        self._stored: list[Raw | None] = []
        self._grown = asyncio.Condition()

    def add(self, subject: str, body: bytes) -> int:
        """Store a message and return its position; ``stir`` tells the followers."""
        self._stored.append(Raw(len(self._stored) + 1, subject, body))
        return len(self._stored)

    async def stir(self) -> None:
        """Let followers look again."""
        async with self._grown:
            self._grown.notify_all()

    def delete(self, position: int) -> None:
        """Forget a message; its position stays free."""
        self._stored[position - 1] = None

    def cut(self, last: int) -> None:
        """Lose all beyond a position, as a power cut does."""
        del self._stored[last:]

    async def extent(self) -> Extent:
        """Tell what there is."""
        there = (n for n, raw in enumerate(self._stored, 1) if raw)
        last = len(self._stored)
        return Extent(self.made, next(there, last + 1), last)

    async def follow(self, after: int) -> AsyncGenerator[Sequence[Raw], None]:
        """Yield every message beyond a position, for ever."""
        while True:
            new = self._stored[after:]
            after += len(new)
            if run := [raw for raw in new if raw]:
                yield run
            await self._beyond(after)

    async def _beyond(self, position: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._stored) > position)

    async def tip(self, subject: str) -> int:
        """Return the last position on a subject."""
        return max((raw.position for raw in self._on(subject)), default=0)

    async def between(
        self, subject: str, after: int, upto: int
    ) -> AsyncGenerator[Sequence[Raw], None]:
        """Yield what is on a subject beyond ``after``, up to ``upto``."""
        if run := [raw for raw in self._on(subject) if after < raw.position <= upto]:
            yield run

    def _on(self, subject: str) -> Iterator[Raw]:
        return (raw for raw in self._stored if raw and _covers(subject, raw.subject))

    async def history(self, key: Key, *, at_least: int, after: int = 0) -> list[Raw]:
        """Return the stored commits of an execution."""
        del at_least
        subjects = {commit_subject(key, route) for route in ROUTES}
        return [raw for raw in self._stored[after:] if raw and raw.subject in subjects]

    def bulk(self, after: int, upto: int) -> Iterator[list[Raw]]:
        """Give all messages beyond ``after``, up to ``upto``."""
        found = [raw for raw in self._stored[after:upto] if raw]
        for start in range(0, len(found), 500):
            yield found[start : start + 500]


def _covers(pattern: str, subject: str) -> bool:
    """Whether a subject fits a pattern with ``*`` for any word."""
    words, wanted = subject.split("."), pattern.split(".")
    return len(words) == len(wanted) and all(
        one in ("*", other) for one, other in zip(wanted, words, strict=True)
    )

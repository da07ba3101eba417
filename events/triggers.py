"""The port of triggers: what happened outside, kept for as long as TRIGGERS keeps it.

A trigger is what somebody published, byte for byte; what it says is read by
``cloudevents.py``. Two adapters stand behind the port, ``MemoryTriggers`` here
and ``triggerstream.py``; one test suite runs on both.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from events.errors import InvalidInput
from events.names import trigger_subject

MAX_PAYLOAD = 256 * 1024
"""Bytes of a trigger's body."""

REMEMBERED = 86_400.0
"""Seconds that the name of what was published once is remembered: webhooks are sent
again for a day (the schedule that Standard Webhooks recommends)."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

LastTrigger = Callable[[], Awaitable[int]]
"""Tells the last position of TRIGGERS: a wait that begins now begins behind it."""


class Posted(NamedTuple):
    """A trigger as it is stored; nothing of it is checked yet."""

    position: int
    subject: str
    body: bytes
    headers: Mapping[str, str] = NO_HEADERS


class Triggers(ABC):
    """The triggers of one account."""

    @abstractmethod
    async def publish(
        self,
        user: str,
        event_type: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Store a trigger and return its position.

        Raises InvalidInput before anything is sent, and Unavailable: then it may
        be stored all the same.
        """

    @abstractmethod
    async def publish_once(
        self,
        user: str,
        event_type: str,
        body: bytes,
        *,
        name: str,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Store a trigger unless one of this name is; whether that was now.

        A name is remembered for ``REMEMBERED`` seconds. Raises as ``publish``;
        when Unavailable, asking again with the same name is safe.
        """

    @abstractmethod
    async def last(self) -> int:
        """Return the last position that was given (0: none), never a stale answer.

        Raises Unavailable.
        """

    @abstractmethod
    async def beyond(self, user: str, event_type: str, after: int) -> Posted | None:
        """Return the first trigger of this very user and type beyond ``after``.

        Never a stale answer. Raises Unavailable.
        """

    @abstractmethod
    async def latest(self) -> dict[str, int]:
        """Return the last position of each subject there is; raises Unavailable."""

    @abstractmethod
    def follow(self, *, after: int) -> AsyncGenerator[Sequence[Posted], None]:
        """Yield every trigger beyond ``after``, in order, none twice, for ever.

        Close it (``contextlib.aclosing``) when done.
        """


async def none_sent() -> int:
    """Say that there was never a trigger: a log of one's own, that nobody reaches."""
    return 0


def check_body(body: bytes) -> None:
    """Raise InvalidInput for a trigger that is too large."""
    if len(body) > MAX_PAYLOAD:
        raise InvalidInput(
            f"a trigger may have {MAX_PAYLOAD:,} bytes, not {len(body):,}: put the "
            "data somewhere else and send where it is"
        )


class MemoryTriggers(Triggers):
    """All in one process: the same promises, nothing stored, nothing too old."""

    def __init__(self) -> None:
        self._posted: list[Posted] = []
        self._names: set[str] = set()
        self._grown = asyncio.Condition()

    async def publish(
        self,
        user: str,
        event_type: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Keep a trigger and return its position."""
        subject = trigger_subject(user, event_type)
        check_body(body)
        return await self.post(subject, body, headers)

    async def publish_once(
        self,
        user: str,
        event_type: str,
        body: bytes,
        *,
        name: str,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Keep a trigger unless one of this name is kept."""
        if name in self._names:
            return False
        await self.publish(user, event_type, body, headers=headers)
        self._names.add(name)
        return True

    async def post(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> int:
        """Keep what a stranger sent, whatever it is."""
        position = len(self._posted) + 1
        self._posted.append(Posted(position, subject, body, headers or NO_HEADERS))
        async with self._grown:
            self._grown.notify_all()
        return position

    async def last(self) -> int:
        """Return the last position that was given."""
        return len(self._posted)

    async def beyond(self, user: str, event_type: str, after: int) -> Posted | None:
        """Return the first trigger of this very user and type beyond ``after``."""
        subject = trigger_subject(user, event_type)
        return next((p for p in self._posted[after:] if p.subject == subject), None)

    async def latest(self) -> dict[str, int]:
        """Return the last position of each subject there is."""
        return {posted.subject: posted.position for posted in self._posted}

    async def follow(self, *, after: int) -> AsyncGenerator[Sequence[Posted], None]:
        """Yield every trigger beyond ``after``, in runs, for ever."""
        while True:
            run = self._posted[after:]
            if run:
                after += len(run)
                yield run
            await self._beyond(after)

    async def _beyond(self, position: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._posted) > position)

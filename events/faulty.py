"""A log that misbehaves on purpose: any journal, with faults at its primitives.

For tests and simulations. The faults strike below ``Journal.append`` and
``Journal.read``, so what is tested is how these cope; what reaches their
callers is what a bad day with the real log would bring.
"""

import asyncio
import random
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from typing import Literal

from events.commit import Recorded
from events.errors import OutcomeUnknown
from events.journal import Journal, Last, WorkHeard, WorkQueue, unheeded
from events.names import ROUTES, Key, Route
from events.spec import Lane

Primitive = Literal["publish", "following", "read", "tip", "store", "load", "delete"]
Fault = Literal[
    "lost_ack",  # publish, store: stored, and nobody says so
    "lost_request",  # publish, store: never arrived
    "foreign",  # publish: another commit lands first
    "stale",  # read: the newest commit is not seen yet
    "missing",  # read: a commit in the middle is not there
    "silence",  # following, tip, delete: no answer
    "delay",  # any: it takes a while
]

FAULTS: Mapping[Primitive, tuple[Fault, ...]] = {
    "publish": ("lost_ack", "lost_request", "foreign", "delay"),
    "following": ("silence", "delay"),
    "read": ("stale", "missing", "delay"),
    "tip": ("silence", "delay"),
    "store": ("lost_ack", "lost_request", "delay"),
    "load": ("delay",),
    "delete": ("silence", "delay"),
}
"""What can happen to each primitive."""

Foreign = Callable[[Key], Awaitable[object]]
"""Appends something else to a history, as another process would."""


class Plan:
    """Which fault strikes when: the same plan strikes in the same way.

    ``listed`` faults come first, one for each use of their primitive (None:
    this one goes well); after them chance decides by ``seed``, with ``odds``
    between 0 and 1 for every use.
    """

    def __init__(
        self,
        listed: Mapping[Primitive, Iterable[Fault | None]] | None = None,
        *,
        seed: int = 0,
        odds: float = 0.0,
    ) -> None:
        self._listed = {name: deque(faults) for name, faults in (listed or {}).items()}
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not secret
        self._odds = odds
        self.struck: list[Fault] = []

    def draw(self, primitive: Primitive) -> Fault | None:
        """Decide about the next use of ``primitive``."""
        listed = self._listed.get(primitive)
        if listed:
            fault = listed.popleft()
        elif self._chance.random() < self._odds:
            fault = self._chance.choice(FAULTS[primitive])
        else:
            fault = None
        if fault is not None:
            self.struck.append(fault)
        return fault


class FaultyJournal(Journal):
    """``inner``, with the faults of ``plan``; ``foreign`` is who gets in between.

    ``pause`` is how long a delay takes, in seconds. What hands out and follows
    is ``inner``'s own.
    """

    def __init__(
        self,
        inner: Journal,
        plan: Plan,
        *,
        foreign: Foreign | None = None,
        pause: float = 0.01,
    ) -> None:
        self.inner, self.plan, self.pause = inner, plan, pause
        self.patience = inner.patience
        self._foreign = foreign

    async def _publish(self, new: Recorded, after: int) -> int:
        fault = await self._draw("publish")
        if fault == "lost_request":
            raise OutcomeUnknown("the request was lost, on purpose")
        if fault == "foreign" and self._foreign is not None:
            await self._foreign(new.key)
        position = await self.inner._publish(new, after)  # noqa: SLF001 - we stand between the port and its primitives
        if fault == "lost_ack":
            raise OutcomeUnknown("the ack was lost, on purpose")
        return position

    async def _following(self, key: Key, after: int) -> Recorded | None:
        await self._draw("following")
        return await self.inner._following(key, after)  # noqa: SLF001 - see above

    async def _read(self, key: Key) -> list[Recorded]:
        fault = await self._draw("read")
        history = await self.inner._read(key)  # noqa: SLF001 - see above
        history.sort(key=lambda recorded: recorded.commit.version)
        if fault == "stale":
            return history[:-1]
        if fault == "missing":
            del history[len(history) // 2 : len(history) // 2 + 1]
        return history

    async def _delete(self, position: int) -> None:
        await self._draw("delete")
        await self.inner._delete(position)  # noqa: SLF001 - see above

    async def tip(self, key: Key) -> int:
        """Return the last position of ``key``."""
        await self._draw("tip")
        return await self.inner.tip(key)

    async def last(self, key: Key) -> Last | None:
        """Return where the last commit of ``key`` stands; it fails as ``tip`` does."""
        await self._draw("tip")
        return await self.inner.last(key)

    async def _draw(self, primitive: Primitive) -> Fault | None:
        fault = self.plan.draw(primitive)
        if fault == "delay":
            await asyncio.sleep(self.pause)
        if fault == "silence":
            raise OutcomeUnknown("no answer, on purpose")
        return fault

    async def end(self, routes: Sequence[Route] = ROUTES) -> int:
        """Ask ``inner``."""
        return await self.inner.end(routes)

    async def _store_blob(self, name: str, content: bytes) -> None:
        fault = await self._draw("store")
        if fault == "lost_request":
            raise OutcomeUnknown("the request was lost, on purpose")
        await self.inner._store_blob(name, content)  # noqa: SLF001 - see above
        if fault == "lost_ack":
            raise OutcomeUnknown("the ack was lost, on purpose")

    async def _load_blob(self, name: str) -> bytes | None:
        await self._draw("load")
        return await self.inner._load_blob(name)  # noqa: SLF001 - see above

    async def blobs_of(self, key: Key) -> list[str]:
        """Ask ``inner``."""
        return await self.inner.blobs_of(key)

    async def delete_blob(self, name: str) -> None:
        """Delete it from ``inner``."""
        await self.inner.delete_blob(name)

    def _follow(
        self, *, after: int, key: Key | None, routes: Sequence[Route], live: bool
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        return self.inner._follow(  # noqa: SLF001 - see above
            after=after, key=key, routes=routes, live=live
        )

    async def handed_out(self, lane: Lane, *, key: Key | None = None) -> int:
        """Ask ``inner``."""
        return await self.inner.handed_out(lane, key=key)

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        """Open a lane of ``inner``."""
        return await self.inner.work(lane, lease=lease, key=key)

    def hear(
        self, heard: Callable[[Recorded], None], missed: Callable[[], None] = unheeded
    ) -> AbstractAsyncContextManager[None]:
        """Hear ``inner``."""
        return self.inner.hear(heard, missed)

    def hear_work(
        self, lanes: Sequence[Lane], heard: WorkHeard
    ) -> AbstractAsyncContextManager[None]:
        """Hear ``inner``."""
        return self.inner.hear_work(lanes, heard)

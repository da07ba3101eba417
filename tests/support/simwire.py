"""Connections of a simulated process: to the log, its work, and the others."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from typing import Any

from simnet import ANSWER, Net

from events.commit import Recorded
from events.errors import OutcomeUnknown, Unavailable
from events.journal import Journal, Last, Work, WorkHeard, WorkQueue, unheeded
from events.memory import MemoryJournal
from events.names import ROUTES, Key, Route
from events.presence import Heard, MemoryPresences, Presence
from events.spec import Lane


class Line(Journal):
    """A process's connection to the log."""

    def __init__(self, log: MemoryJournal, net: Net, patience: float) -> None:
        self.log, self.net, self.patience = log, net, patience

    async def _publish(self, new: Recorded, after: int) -> int:
        return await self.net.ask(lambda: self.log._publish(new, after))

    async def _following(self, key: Key, after: int) -> Recorded | None:
        return await self.net.ask(lambda: self.log._following(key, after))

    async def _read(self, key: Key) -> list[Recorded]:
        history = await self.net.ask(lambda: self.log._read(key))
        return history[: len(history) - self.net.lag()]

    async def _delete(self, position: int) -> None:
        await self.net.ask(lambda: self.log._delete(position))

    async def tip(self, key: Key) -> int:
        """Ask for the last position of ``key``."""
        return await self.net.ask(lambda: self.log.tip(key))

    async def last(self, key: Key) -> Last | None:
        """Ask where the last commit of ``key`` stands."""
        return await self.net.ask(lambda: self.log.last(key))

    async def end(self, routes: Sequence[Route] = ROUTES) -> int:
        """Ask for the last position on some routes."""
        return await self.net.ask(lambda: self.log.end(routes))

    def _follow(
        self, *, after: int, key: Key | None, routes: Sequence[Route], live: bool
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        return self.log._follow(after=after, key=key, routes=routes, live=live)

    async def _store_blob(self, name: str, content: bytes) -> None:
        await self.net.ask(lambda: self.log._store_blob(name, content))

    async def _load_blob(self, name: str) -> bytes | None:
        return await self.net.ask(lambda: self.log._load_blob(name))

    async def blobs_of(self, key: Key) -> list[str]:
        """Ask for the blobs of ``key``."""
        return await self.net.ask(lambda: self.log.blobs_of(key))

    async def delete_blob(self, name: str) -> None:
        """Have a blob deleted."""
        await self.net.ask(lambda: self.log.delete_blob(name))

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        """Open the work of a lane."""
        return QueueLine(await self.log.work(lane, lease=lease, key=key), self.net)

    async def handed_out(self, lane: Lane, *, key: Key | None = None) -> int:
        """Ask for the newest work that was leased."""
        return await self.net.ask(lambda: self.log.handed_out(lane, key=key))

    def hear(
        self, heard: Callable[[Recorded], None], missed: Callable[[], None] = unheeded
    ) -> AbstractAsyncContextManager[None]:
        """Hear what gets through, some time later; nothing tells what does not."""
        del missed
        loop, mine = asyncio.get_running_loop(), copy_context()

        def send(recorded: Recorded) -> None:
            if not self.net.lost():
                loop.call_later(self.net.delay(), heard, recorded, context=mine)

        return self.log.hear(send)

    def hear_work(
        self, lanes: Sequence[Lane], heard: WorkHeard
    ) -> AbstractAsyncContextManager[None]:
        """Hear what gets through, some time later."""
        loop, mine = asyncio.get_running_loop(), copy_context()

        def send(*work: Any) -> None:
            if not self.net.lost():
                loop.call_later(self.net.delay(), heard, *work, context=mine)

        return self.log.hear_work(lanes, send)


class QueueLine(WorkQueue):
    """A process's connection to a lane."""

    def __init__(self, queue: WorkQueue, net: Net) -> None:
        self._queue, self._net, self.lease = queue, net, queue.lease

    async def fetch(self, limit: int, wait: float) -> list[Work]:
        """Lease works; if the answer is lost they are nobody's until that is over."""
        works = await self._net.ask(
            lambda: self._queue.fetch(limit, wait), wait + ANSWER
        )
        return [WorkLine(work, self._net) for work in works]

    async def close(self) -> None:
        """Nothing to let go."""


class WorkLine(Work):
    """A work that a process holds; whatever it says of it counts, however late."""

    def __init__(self, work: Work, net: Net) -> None:
        self.recorded, self.deliveries = work.recorded, work.deliveries
        self.behind = work.behind
        self._work, self._net = work, net

    async def _say(self, what: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._net.ask(what)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error

    async def renew(self) -> None:
        """Hold it for another term."""
        await self._say(self._work.renew)

    async def done(self) -> None:
        """Never hand it out again."""
        await self._say(self._work.done)

    async def give_back(self, delay: float = 0.0) -> None:
        """Let another have it."""
        await self._say(lambda: self._work.give_back(delay))


class PresenceLine(MemoryPresences):
    """A process's ear and voice among the others; what it hears keeps its order."""

    def __init__(self, room: list[Heard], client: int, net: Net) -> None:
        super().__init__(room, client)
        self._net = net

    async def tell(self, presence: Presence) -> None:
        """Say it, if it gets through."""
        if not self._net.lost():
            await super().tell(presence)

    def hear(self, heard: Heard) -> AbstractAsyncContextManager[None]:
        """Hear it some time later."""
        loop, mine = asyncio.get_running_loop(), copy_context()
        coming: deque[Presence] = deque()

        def arrive() -> None:
            heard(coming.popleft())

        def send(presence: Presence) -> None:
            coming.append(presence)
            loop.call_later(self._net.delay(), arrive, context=mine)

        return super().hear(send)

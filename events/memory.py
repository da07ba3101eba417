"""The log in memory: for tests, simulations and trying things out.

The same contract as the JetStream adapter, proven by the same tests. Time is
a clock that is given: leases run out when it says so.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from events.commit import Recorded, unseal
from events.journal import (
    Journal,
    Last,
    Work,
    WorkHeard,
    WorkQueue,
    WrongPosition,
    unheeded,
)
from events.names import LANES, ROUTES, Key, Route
from events.spec import Lane

Clock = Callable[[], float]


class MemoryJournal(Journal):
    """Everything in one list; ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._log: list[Recorded | None] = []
        self._histories: dict[Key, list[Recorded]] = defaultdict(list)
        self._blobs: dict[str, bytes] = {}
        self._grown = asyncio.Condition()
        self._listeners: list[Callable[[Recorded], None]] = []
        self._work_listeners: list[tuple[Sequence[Lane], WorkHeard]] = []
        self._leases: dict[tuple[Lane, Key | None], _Leases] = {}

    async def _publish(self, new: Recorded, after: int) -> int:
        if (tip := await self.tip(new.key)) != after:
            raise WrongPosition(last=tip)
        stored = new._replace(
            position=len(self._log) + 1, commit=unseal(new.body, new.key)
        )
        self._log.append(stored)
        self._histories[new.key].append(stored)
        await self.touch()
        if stored.route in ("signal", "finished"):
            for heard in list(self._listeners):
                heard(stored)
        for lanes, work_heard in list(self._work_listeners):
            for lane in lanes:
                if lane == stored.route:
                    work_heard(lane, stored.key.user, stored.position)
        return stored.position

    async def touch(self) -> None:
        """Let everyone who waits look again: the log or the clock went on."""
        async with self._grown:
            self._grown.notify_all()

    async def _following(self, key: Key, after: int) -> Recorded | None:
        history = self._histories.get(key, [])
        return next((r for r in history if r.position > after), None)

    async def _read(self, key: Key) -> list[Recorded]:
        return list(self._histories.get(key, []))

    async def _delete(self, position: int) -> None:
        recorded = self._log[position - 1]
        if recorded is None:
            return
        self._log[position - 1] = None
        self._histories[recorded.key].remove(recorded)
        if not self._histories[recorded.key]:
            del self._histories[recorded.key]
        for leases in self._leases.values():
            leases.open.pop(position, None)

    async def tip(self, key: Key) -> int:
        """Return the last position of ``key``; 0 if there is none."""
        history = self._histories.get(key)
        return history[-1].position if history else 0

    async def last(self, key: Key) -> Last | None:
        """Return where the last commit of ``key`` stands."""
        history = self._histories.get(key)
        return Last(history[-1].position, history[-1].route) if history else None

    async def end(self, routes: Sequence[Route] = ROUTES) -> int:
        """Return the position of the last commit on some routes."""
        found = (r.position for r in reversed(self._log) if r and r.route in routes)
        return next(found, 0)

    async def _store_blob(self, name: str, content: bytes) -> None:
        self._blobs[name] = content

    async def _load_blob(self, name: str) -> bytes | None:
        return self._blobs.get(name)

    async def blobs_of(self, key: Key) -> list[str]:
        """Return the names of all blobs of ``key``."""
        return [name for name in self._blobs if name.startswith(f"{key}/")]

    async def delete_blob(self, name: str) -> None:
        """Delete a blob."""
        self._blobs.pop(name, None)

    async def _follow(
        self, *, after: int, key: Key | None, routes: Sequence[Route], live: bool
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        end = len(self._log)
        while live or after < end:
            new = self._log[after : None if live else end]
            after += len(new)
            run = [r for r in new if r and key in (None, r.key) and r.route in routes]
            if run:
                yield run
            if live:
                await self._beyond(after)

    async def _beyond(self, position: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._log) > position)

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> "MemoryWorkQueue":
        """Open the work of a lane; everyone who does shares its leases."""
        leases = self._leases.setdefault((lane, key), _Leases())
        return MemoryWorkQueue(self, lane, key, leases, lease)

    async def handed_out(self, lane: Lane, *, key: Key | None = None) -> int:
        """Return the position of the newest work that was ever leased."""
        leases = self._leases.get((lane, key))
        return leases.seen if leases else 0

    async def settled(self, lane: Lane) -> int:
        """Return the position before the oldest work that is leased or given back."""
        leases = self._leases.get((lane, None))
        if leases is None:
            return 0
        return min(leases.open, default=leases.seen + 1) - 1

    @asynccontextmanager
    async def hear(
        self, heard: Callable[[Recorded], None], missed: Callable[[], None] = unheeded
    ) -> AsyncIterator[None]:
        """Call ``heard`` with each signal and each end; none is ever missed."""
        del missed
        self._listeners.append(heard)
        try:
            yield
        finally:
            self._listeners.remove(heard)

    @asynccontextmanager
    async def hear_work(
        self, lanes: Sequence[Lane], heard: WorkHeard
    ) -> AsyncIterator[None]:
        """Call ``heard`` with each work of some lanes as it is appended."""
        listener = (lanes, heard)
        self._work_listeners.append(listener)
        try:
            yield
        finally:
            self._work_listeners.remove(listener)

    def lane(self, lane: Lane, key: Key | None, after: int) -> list[Recorded]:
        """Return the work of a lane beyond a position."""
        return [
            r
            for r in self._log[after:]
            if r and r.route == lane and key in (None, r.key)
        ]

    async def grown(self, wait: float | None) -> None:
        """Return when the log or the clock went on, or after ``wait`` seconds."""
        try:
            async with asyncio.timeout(wait), self._grown:
                await self._grown.wait()
        except TimeoutError:
            return


@dataclass
class _Lease:
    recorded: Recorded
    due: float
    deliveries: int = 0


class _Leases:
    """Who holds what of one lane; as a durable consumer, it outlives its users."""

    def __init__(self) -> None:
        self.seen = 0
        self.open: dict[int, _Lease] = {}


class MemoryWorkQueue(WorkQueue):
    """The work of one lane."""

    def __init__(
        self,
        journal: MemoryJournal,
        lane: Lane,
        key: Key | None,
        leases: _Leases,
        lease: float,
    ) -> None:
        if lane not in LANES:
            raise ValueError(lane)
        self.journal, self.leases, self.lease = journal, leases, lease
        self._lane, self._key = lane, key

    async def fetch(self, limit: int, wait: float) -> list[Work]:
        """Lease up to ``limit`` works."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(wait, 5.0)):
                while not self._due():
                    await self.journal.grown(self._next())
        return self._take(limit)

    def _next(self) -> float | None:
        """Seconds until a lease runs out, by a clock that goes on by itself."""
        now = self.journal.clock()
        return min((h.due - now for h in self.leases.open.values()), default=None)

    def _due(self) -> "list[_Lease]":
        leases, now = self.leases, self.journal.clock()
        for recorded in self.journal.lane(self._lane, self._key, leases.seen):
            leases.open[recorded.position] = _Lease(recorded, now)
            leases.seen = recorded.position
        return [lease for lease in leases.open.values() if lease.due <= now]

    def _take(self, limit: int) -> list[Work]:
        all_due = self._due()
        due, behind = all_due[:limit], max(0, len(all_due) - limit)
        for lease in due:
            lease.due = self.journal.clock() + self.lease
            lease.deliveries += 1
        return [MemoryWork(self, lease, behind) for lease in due]

    async def close(self) -> None:
        """Nothing arrives unasked here."""


class MemoryWork(Work):
    """One leased work; like JetStream, it believes whoever speaks for it."""

    def __init__(self, queue: MemoryWorkQueue, lease: _Lease, behind: int) -> None:
        self.recorded, self.deliveries = lease.recorded, lease.deliveries
        self.behind = behind
        self._queue, self._lease = queue, lease

    async def renew(self) -> None:
        """Hold the lease for another term."""
        self._lease.due = self._queue.journal.clock() + self._queue.lease

    async def done(self) -> None:
        """Never hand it out again."""
        self._queue.leases.open.pop(self.recorded.position, None)

    async def give_back(self, delay: float = 0.0) -> None:
        """Let another runner have it."""
        self._lease.due = self._queue.journal.clock() + delay
        await self._queue.journal.touch()

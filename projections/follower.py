"""Following the log: what comes becomes rows, one transaction after the other.

Messages wait until what was written last is some time ago, or until they are
many: a single one can be asked for at once, and a flood is written in large
pieces. All of DuckDB happens in one thread.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from events.errors import Unavailable
from events.names import Key
from events.rawlog import Raw
from events.together import alongside, raise_failure
from projections.fold import BEGINNING, Fold
from projections.inflow import Batch, Inflow
from projections.rebuild import Sources
from projections.store import Store
from projections.threads import in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL = 0.05
"""Seconds between two transactions: one costs about ten milliseconds."""

BATCH = 10_000
"""Messages that are not made to wait for that, and the most in one transaction."""

PAUSE = 0.5
"""Seconds until a server that is away is asked again."""

EXPIRY = 60.0
"""Seconds between two looks for what LOGS and TRIGGERS have no more: somebody may have
deleted it, and a look that finds nothing takes a millisecond of two million lines."""

Tell = Callable[[Mapping[str, int]], Awaitable[None]]
"""Hears how far each stream is written, after each transaction."""


class Follower:
    """Follows the streams into a store, from where its fold is."""

    def __init__(
        self,
        store: Store,
        fold: Fold,
        sources: Sources,
        writer: Executor,
        tell: Tell,
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._store, self._fold, self._sources = store, fold, sources
        self._writer, self._tell, self._interval = writer, tell, interval

    async def run(self, *ends: asyncio.Event) -> None:
        """Follow until one of these is set; what has come is written first.

        Raises Misconfigured when nothing can be written any more, and Unavailable.
        """
        inflow = Inflow(list(BEGINNING))
        pumps = (inflow.pump(name, self._from(name)) for name in BEGINNING)
        async with (
            alongside(self._write(inflow)) as writing,
            alongside(*pumps, self._expire()) as flowing,
            alongside(*(end.wait() for end in ends)) as ending,
        ):
            tasks = (*writing, *flowing, *ending)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            raise_failure(tasks)
        if inflow.count:
            await self._step(inflow.take(BATCH))

    def _from(self, name: str) -> AsyncGenerator[Sequence[Raw], None]:
        """What a stream has beyond the position of the fold."""
        return self._sources.named()[name].follow(self._fold.positions[name])

    async def _write(self, inflow: Inflow) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await inflow.stirred()
            await inflow.filled(BATCH, due)
            due = loop.time() + self._interval
            await self._step(inflow.take(BATCH))

    async def _step(self, batch: Batch) -> None:
        """Fold and write; who is cut off has written all of it or nothing."""
        lost = await self._in_thread(partial(self._take, batch))
        if lost:
            await self._find(lost)
            await self._in_thread(self._commit)
        await self._tell(self._fold.positions)

    def _take(self, batch: Batch) -> Mapping[Key, int]:
        """Fold, and write unless some are lost; returns those."""
        for stream, raws in batch.items():
            self._fold.take(stream, raws)
        if not self._fold.lost:
            self._commit()
        return dict(self._fold.lost)

    def _commit(self) -> None:
        self._store.commit(self._fold.drain())

    async def _find(self, lost: Mapping[Key, int]) -> None:
        """Read the histories of those that came back after their end."""
        for key, position in lost.items():
            self._fold.refold(key, await self._history(key, position))

    async def _history(self, key: Key, position: int) -> Sequence[Raw]:
        """Read a history; a server that is away comes back."""
        while True:
            try:
                return await self._sources.events.history(key, at_least=position)
            except Unavailable as error:
                logger.warning("%s is not read yet: %s", key, error)
                await asyncio.sleep(PAUSE)

    async def _expire(self) -> None:
        """Let log lines and triggers go that are too old, now and then."""
        while True:
            with suppress(Unavailable):  # then the next time
                extents = await self._sources.extents()
                first = {name: extent.first for name, extent in extents.items()}
                await self._in_thread(partial(self._store.forget, first))
            await asyncio.sleep(EXPIRY)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await in_thread(self._writer, work)

"""The projector: follows the log, and keeps the read model its exact fold.

It opens the file, or builds it, and follows (``follower.py``) until something ends
that: then it begins again, or says why not. All of DuckDB happens in threads.
"""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

from events.errors import FolderInUse, NotAllowedNow, Unavailable, WakeError
from events.names import EVENTS
from events.together import alongside
from projections.cursor import Answer, Cursor
from projections.fold import BEGINNING
from projections.follower import INTERVAL, Follower
from projections.queries import Rebuilt, Verified
from projections.readers import Question, Readers
from projections.rebuild import Sources, beside, discard, rebuild, swap
from projections.sole import owned
from projections.store import Store
from projections.threads import in_thread
from projections.usable import standing, usable
from projections.verify import verify

logger = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds until what could not be done is tried again."""


class Projector:
    """Owns the read model at ``path``; ``run`` it, and ``ask``.

    ``owned`` is set as long as the file is this process's.
    """

    def __init__(
        self,
        path: Path,
        sources: Sources,
        *,
        interval: float = INTERVAL,
        patient: bool = False,
    ) -> None:
        self._path, self._sources = path, sources
        self._interval, self._patient = interval, patient
        self._store: Store | None = None
        self._stopping = asyncio.Event()
        self._replaced = asyncio.Event()
        self._ends = (self._stopping, self._replaced)
        self._swapped = asyncio.Event()
        self._moved = asyncio.Condition()
        self._building = asyncio.Lock()
        self.owned = asyncio.Event()
        self._problem = ""
        self.positions: dict[str, int] = dict(BEGINNING)
        self.readers = Readers(self._cursor)

    # ── serving ──────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Follow the log until ``stop``.

        Raises Misconfigured when the file cannot be used or written any more, and
        Unavailable when the log is out of reach. If it is patient it says so, and
        begins again when that may be over: a disk has room, a file was rebuilt.
        """
        with ThreadPoolExecutor(1, "projector") as writer, closing(self.readers):
            while not self._stopping.is_set():
                try:
                    with owned(self._path):
                        await self._keep(writer)
                except FolderInUse as error:
                    await self._bear(error)

    async def _keep(self, writer: ThreadPoolExecutor) -> None:
        """Keep the file as long as it is ours."""
        await in_thread(writer, partial(discard, beside(self._path)))
        self.owned.set()
        try:
            while not self._stopping.is_set():
                try:
                    await self._once(writer)
                except WakeError as error:
                    await self._bear(error)
                if self._replaced.is_set():
                    self._replaced.clear()
                    swap(self._path)
        finally:
            self.owned.clear()
            self._swapped.set()  # nobody is left to wait for

    async def _once(self, writer: ThreadPoolExecutor) -> None:
        """Open the file and follow the log, until something ends that."""
        try:
            follower = await self._opened(writer)
            if follower is not None:
                await follower.run(*self._ends)
        finally:
            self.readers.interrupt()
            await in_thread(writer, self._close)

    async def _bear(self, error: WakeError) -> None:
        """Say what is wrong, once, and wait until that may be over; or raise it."""
        self._opened_or_not()
        if not self._patient:
            raise error
        if self._problem != str(error):
            self._problem = str(error)
            logger.error("nothing can be asked of the read model: %s", error)
        async with self._ending() as ends:
            await asyncio.wait(ends, timeout=AGAIN, return_when="FIRST_COMPLETED")

    def _ending(self) -> AbstractAsyncContextManager[list[asyncio.Task[Any]]]:
        return alongside(*(end.wait() for end in self._ends))

    async def stop(self) -> None:
        """End in order; what has come is written first."""
        self._stopping.set()

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    async def _opened(self, writer: ThreadPoolExecutor) -> Follower | None:
        """Open the file, which may have to be built; None if that is to end."""
        async with alongside(self._open(writer)) as (opening,), self._ending() as ends:
            await asyncio.wait((opening, *ends), return_when="FIRST_COMPLETED")
        return None if opening.cancelled() else opening.result()

    async def _open(self, writer: ThreadPoolExecutor) -> Follower:
        """Open the file; one that is missing or means nothing any more is rebuilt."""
        opened = partial(Store.open, self._path)
        store = await usable(self._path, self._sources, writer)
        if store is None:
            await self._build()
            store = await in_thread(writer, opened, undo=Store.close)
        try:
            fold = await in_thread(writer, partial(standing, store))
        except BaseException:
            store.close()
            raise
        self._store = store
        self._opened_or_not()
        await self._tell(fold.positions)
        interval = self._interval
        return Follower(
            store, fold, self._sources, writer, self._written, interval=interval
        )

    def _opened_or_not(self) -> None:
        """Let a rebuild end: its file is in place, and open if that can be."""
        if not self._replaced.is_set():
            self._swapped.set()

    async def _build(self) -> None:
        async with self._building:
            done = await rebuild(self._path, self._sources)
            swap(self._path)
        logger.info(
            "read model built: %s messages, %.1f s", done.messages, done.seconds
        )

    # ── asking ───────────────────────────────────────────────────────────────

    async def ask(self, question: Question) -> Answer:
        """Return what a question comes to; see ``Readers.ask``."""
        return await self.readers.ask(question)

    async def reached(self, position: int, *, seconds: float = 5.0) -> None:
        """Wait until all of EVENTS up to a position can be asked for.

        Who has just appended something passes its position, and will see it.
        Raises Unavailable if that takes too long.
        """
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: self.positions[EVENTS] >= position)
        except TimeoutError as error:
            raise Unavailable(
                f"the read model has not reached position {position} yet: it is at "
                f"{self.positions[EVENTS]}"
            ) from error

    async def rebuild(self) -> Rebuilt:
        """Build it anew while the old one is asked, then put the new one in place.

        Also when the old one is no good. Whoever asks next asks the new one. Raises
        NotAllowedNow while that is done already, and FolderInUse if it is another
        process's.
        """
        if self._building.locked():
            raise NotAllowedNow("the read model is being built already")
        if not self.owned.is_set():
            raise FolderInUse(f"the read model {self._path} is not this process's")
        async with self._building:
            done = await rebuild(self._path, self._sources)
            self._swapped.clear()
            self._replaced.set()
            if self.owned.is_set():
                await self._swapped.wait()
            if self._replaced.is_set():
                self._replaced.clear()
                raise Unavailable("the projector ended before it was in place")
        return done

    async def verify(self) -> Verified:
        """Fold the log anew, and compare every row; raises WakeError."""
        return await verify(self._sources, self._cursor)

    def _cursor(self) -> Cursor:
        """Open a cursor; raises Unavailable while there is nothing to ask."""
        store = self._store
        if store is None and self._problem:
            raise Unavailable(f"the read model cannot be asked: {self._problem}")
        if store is None:
            raise Unavailable("the read model is being built: ask again later")
        return store.cursor()

    async def _written(self, positions: Mapping[str, int]) -> None:
        self._problem = ""
        await self._tell(positions)

    async def _tell(self, positions: Mapping[str, int]) -> None:
        async with self._moved:
            self.positions = dict(positions)
            self._moved.notify_all()

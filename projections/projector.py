"""The projector: follows the log, and keeps the read model its exact fold.

Messages wait until what was written last is some time ago, or until they are
many: a single one can be asked for at once, and a flood is written in large
pieces. All of DuckDB happens in threads.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from events.errors import FolderInUse, NotAllowedNow, Unavailable, WakeError
from events.names import EVENTS, Key
from events.rawlog import Extent, Raw
from projections.fold import BEGINNING, Fold
from projections.inflow import Batch, Inflow
from projections.readers import Question, Readers
from projections.rebuild import Rebuilt, Sources, rebuild, swap
from projections.sole import owned
from projections.store import Answer, Checkpoint, Cursor, Outdated, Store
from projections.threads import in_thread
from projections.verify import Report, verify

logger = logging.getLogger(__name__)

INTERVAL = 0.05
"""Seconds between two transactions: one costs about ten milliseconds."""

BATCH = 10_000
"""Messages that are not made to wait for that, and the most in one transaction."""

AGAIN = 5.0
"""Seconds until what could not be done is tried again."""

PAUSE = 0.5
"""Seconds until a server that is away is asked again."""

EXPIRY = 3600.0
"""Seconds between two looks for what LOGS and TRIGGERS have no more."""


class Projector:
    """Owns the read model at ``path``; ``run`` it, and ``ask``."""

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
        self._fold: Fold | None = None
        self._stopping = asyncio.Event()
        self._replaced = asyncio.Event()
        self._swapped = asyncio.Event()
        self._moved = asyncio.Condition()
        self._building = asyncio.Lock()
        self._owner = False
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
        self._owner = True
        try:
            while not self._stopping.is_set():
                try:
                    await self._once(writer)
                except WakeError as error:
                    await self._bear(error)
                if self._replaced.is_set():
                    self._replaced.clear()
                    swap(self._path)
                    self._swapped.set()
        finally:
            self._owner = False

    async def _once(self, writer: ThreadPoolExecutor) -> None:
        """Open the file and follow the log, until something ends that."""
        try:
            await self._opened(writer)
            if self._store is not None:
                self._problem = ""
                await self._serve(writer)
        except ExceptionGroup as errors:  # the first ended the others
            raise errors.exceptions[0] from errors
        finally:
            self.readers.interrupt()
            await in_thread(writer, self._close)

    async def _bear(self, error: WakeError) -> None:
        """Say what is wrong, once, and wait until that may be over; or raise it."""
        if not self._patient:
            raise error
        if self._problem != str(error):
            self._problem = str(error)
            logger.error("nothing can be asked of the read model: %s", error)
        events = (self._stopping, self._replaced)
        waiting = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waiting, timeout=AGAIN, return_when="FIRST_COMPLETED")
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def stop(self) -> None:
        """End in order; what has come is written first."""
        self._stopping.set()

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    async def _opened(self, writer: ThreadPoolExecutor) -> None:
        """Open the file, unless told to stop meanwhile: it may have to be built."""
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(self._open(writer))
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait((opening, stopping), return_when="FIRST_COMPLETED")
            opening.cancel()
            stopping.cancel()

    async def _open(self, writer: ThreadPoolExecutor) -> None:
        """Open the file; one that is missing or means nothing any more is rebuilt."""
        store = await self._usable(writer)
        if store is None:
            async with self._building:
                done = await rebuild(self._path, self._sources)
                swap(self._path)
            logger.info(
                "read model built: %s messages, %.1f s", done.messages, done.seconds
            )
            store = await in_thread(writer, partial(Store.open, self._path))
        try:
            checkpoints = await in_thread(writer, store.checkpoints)
            positions = {name: one.position for name, one in checkpoints.items()}
            live = await in_thread(writer, store.live)
            schedules = await in_thread(writer, store.schedules)
        except BaseException:
            store.close()
            raise
        self._store, self._fold = store, Fold(positions, live, schedules)
        await self._tell(positions)

    async def _usable(self, writer: ThreadPoolExecutor) -> Store | None:
        if not self._path.exists():
            return None
        try:
            store = await in_thread(writer, partial(Store.open, self._path))
        except Outdated as error:
            logger.warning("%s", error)
            return None
        try:
            extents = await self._sources.extents()
            checkpoints = await in_thread(writer, store.checkpoints)
        except BaseException:
            store.close()
            raise
        why = _mismatch(checkpoints, extents)
        if why is None:
            return store
        logger.warning("the read model is rebuilt: %s", why)
        store.close()
        return None

    async def _serve(self, writer: ThreadPoolExecutor) -> None:
        inflow = Inflow(list(BEGINNING))
        async with asyncio.TaskGroup() as group:
            sources = self._sources.named()
            tasks = [
                group.create_task(
                    inflow.pump(name, source.follow(self.positions[name]))
                )
                for name, source in sources.items()
            ]
            tasks.append(group.create_task(self._expire(writer)))
            writing = group.create_task(self._write(writer, inflow))
            ends = [
                group.create_task(self._stopping.wait()),
                group.create_task(self._replaced.wait()),
            ]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in (*tasks, *ends):
                task.cancel()
            await asyncio.wait(tasks)
            writing.cancel()
        if inflow.count and not self._replaced.is_set():
            await self._step(writer, inflow.take(BATCH))

    async def _write(self, writer: ThreadPoolExecutor, inflow: Inflow) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await inflow.stirred()
            await inflow.filled(BATCH, due)
            due = loop.time() + self._interval
            await self._step(writer, inflow.take(BATCH))

    async def _step(self, writer: ThreadPoolExecutor, batch: Batch) -> None:
        """Fold and write; who is cut off has written all of it or nothing."""
        lost = await in_thread(writer, partial(self._fold_batch, batch))
        if lost:
            await self._find(lost)
            await in_thread(writer, self._commit)
        await self._tell(self._needed_fold.positions)

    def _fold_batch(self, batch: Batch) -> Sequence[Key]:
        fold = self._needed_fold
        for stream, raws in batch.items():
            for raw in raws:
                fold.take(stream, raw)
        if not fold.lost:
            self._commit()
        return sorted(fold.lost)

    def _commit(self) -> None:
        self._needed_store.commit(self._needed_fold.drain())

    async def _find(self, lost: Sequence[Key]) -> None:
        """Read the histories of those that came back after their end."""
        for key in lost:
            history = await self._history(key)
            self._needed_fold.refold(key, history)

    async def _history(self, key: Key) -> Sequence[Raw]:
        """Read a history; a server that is away comes back."""
        while True:
            try:
                return await self._sources.events.history(key, at_least=0)
            except Unavailable as error:
                logger.warning("%s is not read yet: %s", key, error)
                await asyncio.sleep(PAUSE)

    async def _expire(self, writer: ThreadPoolExecutor) -> None:
        """Let log lines and triggers go that are too old, now and then."""
        while True:
            with suppress(Unavailable):  # then the next time
                extents = await self._sources.extents()
                first = {name: extent.first for name, extent in extents.items()}
                await in_thread(writer, partial(self._needed_store.forget, first))
            await asyncio.sleep(EXPIRY)

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

        Also when the old one is no good. Raises NotAllowedNow while that is done
        already, and FolderInUse if it is another process's.
        """
        if self._building.locked():
            raise NotAllowedNow("the read model is being built already")
        if not self._owner:
            raise FolderInUse(f"the read model {self._path} is not this process's")
        async with self._building:
            done = await rebuild(self._path, self._sources)
            self._swapped.clear()
            self._replaced.set()
            await self._swapped.wait()
        return done

    async def verify(self) -> Report:
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

    async def _tell(self, positions: dict[str, int]) -> None:
        async with self._moved:
            self.positions = dict(positions)
            self._moved.notify_all()

    @property
    def _needed_fold(self) -> Fold:
        assert self._fold is not None  # noqa: S101 - while it serves
        return self._fold

    @property
    def _needed_store(self) -> Store:
        assert self._store is not None  # noqa: S101 - while it serves
        return self._store


def _mismatch(
    checkpoints: dict[str, Checkpoint], extents: dict[str, Extent]
) -> str | None:
    """Say why positions that were kept mean nothing any more, if so."""
    if checkpoints.keys() != extents.keys():
        return "it was made of other streams"
    for name, extent in extents.items():
        kept = checkpoints[name]
        if kept.made != extent.made:
            return f"{name} is another stream, made {extent.made}"
        if kept.position > extent.last:
            return f"{name} ends at {extent.last}, before what was folded"
    return None

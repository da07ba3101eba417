"""Rebuilding: the whole log into a new file beside the old, then one swap.

The same fold and the same store as ever, from zero. Reading and folding is one
thread's work, writing another's. What may still change is written only at the end:
until then the new file means nothing to anybody.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

from events.errors import Misconfigured
from events.names import EVENTS
from events.rawlog import Extent, Raw, RawLog
from projections.database import log_of
from projections.fold import BEGINNING, Fold
from projections.queries import Rebuilt
from projections.store import Store, Unfit
from projections.tables import rows_beside
from projections.threads import in_thread, stoppable

logger = logging.getLogger(__name__)

BATCH = 30_000
"""Messages folded before their rows are handed over: a fifth cheaper than 10,000."""

AHEAD = 2
"""Deltas that may wait to be written: more is memory, and no faster."""


class Sources(NamedTuple):
    """What is folded."""

    events: RawLog
    logs: RawLog
    triggers: RawLog
    recurring: RawLog

    def named(self) -> dict[str, RawLog]:
        """By the name of the stream, in the order in which they are folded."""
        return dict(zip(BEGINNING, self, strict=True))

    async def extents(self) -> dict[str, Extent]:
        """Which streams these are, and how far they go; raises Unavailable."""
        return {name: await source.extent() for name, source in self.named().items()}


class Stopped(Exception):
    """Whoever asked for it has gone."""


async def rebuild(path: Path, sources: Sources) -> Rebuilt:
    """Build the read model of ``path`` beside it; ``swap`` puts it in place.

    Raises Unavailable, and Misconfigured when it cannot be written.
    """
    _check(path)
    began = time.monotonic()
    try:
        messages = await _build(path, sources, bulk=True)
    except Unfit:
        messages = await _build(path, sources, bulk=False)
    return Rebuilt(messages=messages, seconds=time.monotonic() - began)


def _check(path: Path) -> None:
    """Raise Misconfigured if no file could be put there once it is built."""
    if path.is_dir():
        raise Misconfigured(
            f"the read model {path} is a directory: name a file (projector.file)"
        )


async def _build(path: Path, sources: Sources, *, bulk: bool) -> int:
    """Build it; returns how many messages that took. Raises Unfit in bulk."""
    new = beside(path)
    discard(new)
    extents = await sources.extents()
    made = {name: extent.made for name, extent in extents.items()}
    with ThreadPoolExecutor(1, "rebuild-write") as writer:
        create = partial(Store.create, new, made, bulk=bulk)
        try:
            store = await in_thread(writer, create, undo=Store.close)
            work = _Work(store, sources, extents)
            try:
                await work.run(writer)
            finally:
                await in_thread(writer, store.close)
        except BaseException:
            discard(new)  # nobody wants it, and a full disk has room again
            raise
    return work.messages


def beside(path: Path) -> Path:
    """Where the new file is built."""
    return path.with_name(path.name + ".new")


def swap(path: Path) -> None:
    """Put the new file in place of the old; whenever this is cut off, one is there.

    Its log of changes goes first: the old file without it is older, and whole.
    """
    log_of(path).unlink(missing_ok=True)
    os.replace(beside(path), path)  # noqa: PTH105 - says that it is atomic
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def discard(path: Path) -> None:
    """Remove a model, with all that belongs to it."""
    for file in (path, log_of(path), rows_beside(path)):
        file.unlink(missing_ok=True)


class _Work:
    """One rebuild: what its threads share."""

    def __init__(
        self, store: Store, sources: Sources, extents: dict[str, Extent]
    ) -> None:
        self._store, self._sources, self._extents = store, sources, extents
        self._fold = Fold(dict.fromkeys(extents, 0))
        self._stopped = Event()
        self._writing: deque[Future[None]] = deque()
        self.messages = 0

    async def run(self, writer: ThreadPoolExecutor) -> None:
        """Fold all, find what was lost, and write the rest."""
        await stoppable(partial(self._read_all, writer), self._stopped.set)
        last = self._extents[EVENTS].last
        for key, position in dict(self._fold.lost).items():
            history = await self._sources.events.history(key, at_least=position)
            self._fold.refold(key, [r for r in history if r.position <= last])
        await in_thread(writer, self._finish)

    def _read_all(self, writer: ThreadPoolExecutor) -> None:
        fold, pending = self._fold, 0
        for name, source in self._sources.named().items():
            extent = self._extents[name]
            for run in self._runs(source, extent):
                fold.take(name, run)
                pending = self._hand_over(writer, pending + len(run))
            fold.positions[name] = extent.last
        while self._writing:
            self._writing.popleft().result()

    def _runs(self, source: RawLog, extent: Extent) -> Iterator[list[Raw]]:
        first = max(1, extent.first)  # of an empty stream it is 0
        if first <= extent.last:
            yield from source.bulk(first - 1, extent.last)

    def _hand_over(self, writer: ThreadPoolExecutor, pending: int) -> int:
        """Let the other thread write, once it is worth it; returns what is left."""
        if self._stopped.is_set():
            raise Stopped
        if pending < BATCH:
            return pending
        self.messages += pending
        while len(self._writing) >= AHEAD:
            self._writing.popleft().result()
        delta = self._fold.drain(hot=False)
        self._writing.append(writer.submit(self._store.commit, delta))
        return 0

    def _finish(self) -> None:
        delta = self._fold.drain()
        self.messages += delta.messages
        self._store.commit(delta)
        self._store.pack()

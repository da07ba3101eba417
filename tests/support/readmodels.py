"""A read model on a log in memory, or on a server; and what its rows must be."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histories import Story

from events.commit import Recorded
from events.logbook import Line, encode_line
from events.names import Key, commit_subject, log_subject, split_subject
from events.rawlog import MemoryRawLog, Raw
from projections.drift import Difference, differences
from projections.projector import Projector
from projections.queries import Verified
from projections.readers import Question
from projections.rebuild import Sources
from projections.row import Row
from projections.rows import OWNED, ExecutionRow
from projections.store import Store
from projections.truth import truth_of
from projections.verify import verify

PATIENCE = 60.0
"""Seconds that a test waits for what takes milliseconds when nothing else runs."""


class Logs(Sources):
    """Both streams in memory."""

    @classmethod
    def empty(cls, made: str = "once") -> "Logs":
        """Begin with nothing."""
        return cls(*(MemoryRawLog(made) for _ in range(4)))

    def line(self, key: Key, event_type: str, message: str) -> int:
        """Store a log line; its context counts them."""
        log: Any = self.logs
        line = Line(
            at=datetime(2026, 1, 1, tzinfo=UTC),
            user=key.user,
            execution=key.execution,
            level="info",
            event_type=event_type,
            message=message,
            context={"n": len(log._stored)},
        )
        return int(log.add(log_subject(key, "info"), encode_line(line)))

    def add(self, story: Story) -> int:
        """Store what of a story is not stored yet; returns the last position."""
        log: Any = self.events
        there = sum(raw.subject.split(".")[1:3] == list(story.key) for raw in raws(log))
        for recorded in story.log[there:]:
            log.add(subject_of(recorded), recorded.body)
        return len(log._stored)


async def append(logs: Logs, story: Story) -> int:
    """Store what of a story is new, and let it be heard; returns the last position."""
    position = logs.add(story)
    await logs.events.stir()  # type: ignore[attr-defined] # in memory
    return position


def subject_of(recorded: Recorded) -> str:
    """Where a commit is stored."""
    return commit_subject(recorded.key, recorded.route)


def raws(log: Any) -> list[Raw]:
    """All that a log in memory has."""
    return [raw for raw in log._stored if raw]


@asynccontextmanager
async def projecting(
    path: Path, sources: Sources, kind: type[Projector] = Projector
) -> AsyncIterator[Projector]:
    """Run a projector; it has begun when this does."""
    projector = kind(path, sources)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(projector.run())
        while projector._store is None and not running.done():  # noqa: ASYNC110 - a test's wait
            await asyncio.sleep(0.005)
        try:
            yield projector
        finally:
            await projector.stop()


async def ask(projector: Projector, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask for all rows."""
    question = Question(sql=sql, values=values, seconds=PATIENCE)
    rows: list[tuple[Any, ...]] = (await projector.ask(question)).rows
    return rows


async def settled(projector: Projector) -> None:
    """Wait until all that the streams have is in the model."""
    extents = await projector._sources.extents()
    last = {name: extent.last for name, extent in extents.items()}
    while projector.positions != last:  # noqa: ASYNC110 - a test's wait
        await asyncio.sleep(0.002)


def stored_rows(path: Path) -> dict[Key, dict[type[Row], list[Row]]]:
    """All rows of a file that nobody has open, by execution."""
    store = Store.open(path)
    try:
        return _by_key(store)
    finally:
        store.close()


def _by_key(store: Store) -> dict[Key, dict[type[Row], list[Row]]]:
    found: dict[Key, dict[type[Row], list[Row]]] = {}
    keys: dict[int, Key] = {}
    for kind in OWNED:
        names = ", ".join(f'"{name}"' for name in kind.__struct_fields__)
        sql = f"SELECT {names} FROM {kind.table}"  # noqa: S608 - ours
        for values in store.cursor().run(sql, (), 10_000_000).rows:
            row = kind(*values)
            if isinstance(row, ExecutionRow):
                keys[row.eid] = Key(row.user, row.execution)
            key = keys[row.eid]  # type: ignore[attr-defined] # all OWNED have one
            found.setdefault(key, {}).setdefault(kind, []).append(row)
    return found


def drift(path: Path, log: Iterable[Raw]) -> list[Difference]:
    """All differences between a file and a log."""
    found, histories = stored_rows(path), dict[Key, list[Raw]]()
    for raw in log:
        histories.setdefault(split_subject(raw.subject)[0], []).append(raw)
    return [
        difference
        for key in found.keys() | histories.keys()
        for difference in differences(
            key, truth_of(key, histories.get(key, [])), found.get(key, {})
        )
    ]


async def verified(path: Path, sources: Sources) -> Verified:
    """Verify a file that nobody has open, as ``wake verify`` does."""
    store = Store.open(path)
    try:
        return await verify(sources, store.cursor)
    finally:
        store.close()

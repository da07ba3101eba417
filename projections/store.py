"""The read model as a file: opened, and written to in transactions.

One process owns the file. Rows and how far they go are written in one
transaction, so that a kill at any moment leaves both or neither. Reading happens
in transactions that cannot write, each on a cursor of its own.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from events.errors import Misconfigured, WakeError
from events.names import Key
from projections.cursor import Cursor, Cursors
from projections.database import Explained, Outdated, connect, log_of
from projections.delta import Delta
from projections.live import Live
from projections.opened import Rows, no_rows
from projections.progress import MOVING, moved, resting
from projections.row import Row
from projections.rows import (
    HOT,
    OWNED,
    CallRow,
    ChildRow,
    DeadLetterRow,
    ExecutionRow,
    LogRow,
    ScheduleRow,
    WaitRow,
)
from projections.schema import done, fingerprint, hot, statements
from projections.tables import Tables

AGAIN = 0.005
"""Seconds until queries are told once more to stop: one may just begin."""


logger = logging.getLogger(__name__)

ADVANCE = "UPDATE checkpoints SET position = ? WHERE stream = ?"
"""Parsed once for a file: that is a third of what it takes."""

TRIES = 20
"""How often room is made for a transaction before it is given up."""

ROOM = 0.1
"""Seconds that queries take to end."""


Moved = Mapping[int, tuple[Any, ...]]
"""Executions whose row stays where it is, with what of it has moved; by eid."""


class Unfit(WakeError):
    """A value fits no column, and all that was written in bulk is lost by it."""


class Checkpoint(NamedTuple):
    """How far a stream was folded, and which stream it was."""

    made: str
    position: int


class Store:
    """An open file. Only one thread at a time may write; ``cursor`` is for others."""

    def __init__(
        self, path: Path, connection: duckdb.DuckDBPyConnection, *, bulk: bool = False
    ) -> None:
        self.path = path
        self._writer, self._bulk = connection, bulk
        self._tables = Tables(connection, path, bulk=bulk)
        self._positions: dict[str, int] = {}
        (self._advancing,) = connection.extract_statements(ADVANCE)
        self._cursors = Cursors()

    # ── opening ──────────────────────────────────────────────────────────────

    @classmethod
    def create(
        cls, path: Path, streams: Mapping[str, str], *, bulk: bool = False
    ) -> "Store":
        """Make an empty file for streams, by when they were made.

        One for ``bulk`` takes very many rows at once and is asked nothing: it may
        read files, and until ``pack`` there is nothing in it.
        """
        store = cls(path, connect(path, files=bulk), bulk=bulk)
        with store._explained():
            path.chmod(0o600)  # it has what people asked, and what they were told
            store._lay_out(streams)
            if bulk:
                store._writer.begin()
        return store

    def _lay_out(self, streams: Mapping[str, str]) -> None:
        self._writer.begin()
        for statement in statements():
            self._writer.execute(statement)
        self._writer.execute("INSERT INTO about VALUES (?)", [fingerprint()])
        for row in streams.items():
            self._writer.execute("INSERT INTO checkpoints VALUES (?, ?, 0)", row)
        self._writer.commit()
        self._positions = dict.fromkeys(streams, 0)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a file that is there.

        Raises Outdated if it was made by other rules, and Misconfigured if it is
        damaged, no read model at all, or used by another process.
        """
        store = cls(path, connect(path))
        try:
            store._check()
        except WakeError:
            store.close()
            raise
        return store

    def _check(self) -> None:
        with self._explained():
            found = self._writer.execute(
                "SELECT table_name FROM duckdb_tables() WHERE NOT internal"
            ).fetchall()
            tables = {name for (name,) in found}
            if not tables >= {"about", "checkpoints"}:
                raise Misconfigured(
                    f"{self.path} is a database of something else: let projector.file "
                    "name a file of its own"
                )
            made_by = self._writer.execute("SELECT schema FROM about").fetchone()
            if made_by != (fingerprint(),):
                raise Outdated(
                    f"the read model {self.path} was made by another version: rebuild "
                    "it with wake rebuild"
                )

    def close(self) -> None:
        """Close the file, when all that is asked has been stopped; twice is fine.

        Not before: as long as a file is in use, DuckDB gives it to whoever opens one
        of the same name, also when another file has taken its place.
        """
        while not self._closed():
            for cursor in self._cursors.all():
                cursor.interrupt()
            time.sleep(AGAIN)

    def _closed(self) -> bool:
        with suppress(duckdb.Error):
            try:
                self._writer.close()
            except duckdb.ResourceInUseException:
                return False
        return True

    # ── loading ──────────────────────────────────────────────────────────────

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Tell how far each stream was folded."""
        with self._explained():
            found = self._writer.execute("FROM checkpoints").fetchall()
        self._positions = {stream: position for stream, _, position in found}
        return {stream: Checkpoint(made, at) for stream, made, at in found}

    def live(self) -> dict[Key, Live]:
        """Load all that may still change."""
        lives, out = {}, no_rows()
        with self._explained():
            rows = self._tables.rows
            for row in rows(ExecutionRow, hot(ExecutionRow)):
                lives[row.eid] = Live(row, out)
            for call in rows(CallRow, hot(CallRow)):
                lives[call.eid].calls.append(call)
            for wait in rows(WaitRow, hot(WaitRow)):
                lives[wait.eid].waits[wait.kind] = wait
            for child in rows(ChildRow, hot(ChildRow)):
                lives[child.eid].children[child.child] = child
        for one in lives.values():
            one.stored = {type(row) for row in one.open_rows()}
            one.rest = resting(one)
        return {one.key: one for one in lives.values()}

    def schedules(self) -> list[ScheduleRow]:
        """Load all schedules."""
        with self._explained():
            return self._tables.rows(ScheduleRow, ScheduleRow.table)

    # ── writing ──────────────────────────────────────────────────────────────

    def commit(self, delta: Delta) -> None:
        """Write what changed, and how far that goes, or nothing of it.

        In bulk it is one transaction with all others, until ``pack``. Raises
        Misconfigured when that cannot be: the disk is full, say; and Unfit in bulk.
        """
        here = moved(delta.hot)
        with self._explained():
            for _ in range(TRIES):
                try:
                    self._commit_fitting(delta, here)
                    break
                except duckdb.OutOfMemoryException:
                    if self._bulk:  # nobody asks, and what was written is lost
                        raise
                    self._make_room()
            else:
                self._commit_fitting(delta, here)
        self._positions.update(delta.positions)
        for live in delta.hot:
            live.stored = {type(row) for row in live.open_rows()}
            if live.row.eid not in here:
                live.rest = resting(live)

    def _commit_fitting(self, delta: Delta, here: Moved) -> None:
        try:
            self._commit(delta, here, fit=False)
        except (duckdb.DataError, duckdb.InvalidInputException) as error:
            if self._bulk:
                raise Unfit from error
            self._commit(delta, {}, fit=True)

    def _make_room(self) -> None:
        """Stop all queries: they hold the memory, and what is written goes first."""
        logger.warning("queries hold all the memory there is: they are stopped")
        for cursor in self._cursors.all():
            cursor.interrupt()
        time.sleep(ROOM)

    def _commit(self, delta: Delta, here: Moved, *, fit: bool) -> None:
        if not self._bulk:
            self._writer.begin()
        try:
            self._write(delta, here, fit=fit)
            if not self._bulk:
                self._writer.commit()
                self._keep_private()
        except BaseException:
            self._tables.clear()
            with suppress(duckdb.Error):
                self._writer.rollback()
            raise

    def _keep_private(self) -> None:
        """The log of changes, which DuckDB makes anew now and then, is for us alone."""
        with suppress(FileNotFoundError):
            log_of(self.path).chmod(0o600)

    def _write(self, delta: Delta, here: Moved, *, fit: bool) -> None:
        """Write all; the rows of executions ``here`` stay where they are."""
        self._erase(delta.erased)
        for kind, eids in _outdated(delta, here).items():
            self._tables.delete([hot(kind)], eids)
        for kind, rows in delta.cold.items():
            self._tables.add(done(kind), kind, rows, fit=fit)
        for kind, rows in _changing(delta, here).items():
            self._tables.add(hot(kind), kind, rows, fit=fit)
        self._tables.update(hot(ExecutionRow), MOVING, list(here.values()))
        self._replace_schedules(delta, fit=fit)
        self._advance(delta.positions)

    def _erase(self, erased: Mapping[Key, bool]) -> None:
        """Let executions go, and with True their log lines too."""
        if not erased:
            return
        tables = [hot(kind) for kind in HOT] + [done(kind) for kind in OWNED]
        self._tables.delete(tables, self._tables.eids_of(list(erased)))
        self._tables.delete_named(DeadLetterRow.table, list(erased))
        with_lines = [key for key, too in erased.items() if too]
        self._tables.delete_named(LogRow.table, with_lines)

    def _replace_schedules(self, delta: Delta, *, fit: bool) -> None:
        names = [Key(*name) for name in delta.schedules]
        self._tables.delete_named(ScheduleRow.table, names, "name")
        rows = [row for row in delta.schedules.values() if row is not None]
        self._tables.add(ScheduleRow.table, ScheduleRow, rows, fit=fit)

    def _advance(self, positions: Mapping[str, int]) -> None:
        for stream, position in positions.items():
            if position != self._positions[stream]:
                self._writer.execute(self._advancing, [position, stream])

    def forget(self, first: Mapping[str, int]) -> None:
        """Let log lines and triggers go that their streams have no more."""
        with self._explained():
            self._tables.forget(first)

    def pack(self) -> None:
        """Put all that was written into the tables, so that the file is whole."""
        with self._explained():
            if self._bulk:
                self._writer.commit()
            self._writer.execute("CHECKPOINT")

    # ── reading ──────────────────────────────────────────────────────────────

    def cursor(self) -> Cursor:
        """Open a cursor, for one thread, whichever; raises Unavailable once closed."""
        return self._cursors.open(self._writer)

    def _explained(self) -> Explained:
        return Explained(self.path)


def _outdated(delta: Delta, here: Moved) -> dict[type[Row], list[int]]:
    """Whose changing rows go, by kind: only where there are any."""
    eids: dict[type[Row], list[int]] = {kind: [] for kind in HOT}
    for live in (*delta.settled, *delta.hot):
        for kind in live.stored:
            if kind is not ExecutionRow or live.row.eid not in here:
                eids[kind].append(live.row.eid)
    return eids


def _changing(delta: Delta, here: Moved) -> Rows:
    rows = no_rows()
    for live in delta.hot:
        for row in live.open_rows():
            if row is not live.row or live.row.eid not in here:
                rows[type(row)].append(row)
    return rows

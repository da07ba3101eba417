"""Reading the read model: one cursor for each question, on a snapshot of its own."""

from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

import duckdb

from events.errors import InvalidInput, Unavailable, WakeError
from projections.row import Row
from projections.sqltext import check, faithful

R = TypeVar("R", bound=Row)


class Interrupted(WakeError):
    """The query was stopped before it came to an end."""


class Answer(NamedTuple):
    """What a query came to; ``more`` says that the limit cut it off."""

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    more: bool


class Cursor:
    """One query at a time, all on one snapshot; ``interrupt`` is for any thread."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._begun = False

    def run(self, sql: str, values: Any = (), limit: int = 1_000) -> Answer:
        """Ask; at most ``limit`` rows. Raises InvalidInput, Interrupted."""
        names, types = self.begin(sql, values)
        found = self.fetch(limit + 1)
        return Answer(names, types, found[:limit], len(found) > limit)

    def widened(self, chosen: Answer, wide: Sequence[str]) -> Answer:
        """The same rows with the rest of their columns, see ``Question.wide``.

        Two questions plan less than one that joins all tables for all rows.
        """
        names, types, rest = list[str](), list[str](), dict[int, tuple[Any, ...]]()
        for part, sql in enumerate(wide):
            eids = [row[1] for row in chosen.rows if row[0] == part]
            if eids:
                names, types = self.begin(sql, {"eids": eids})
                rest |= {row[0]: row for row in self.fetch(len(eids))}
        rows = [(*row, *rest[row[1]]) for row in chosen.rows]
        return Answer(chosen.columns + names, chosen.types + types, rows, chosen.more)

    def begin(self, sql: str, values: Any = ()) -> tuple[list[str], list[str]]:
        """Ask; returns names and types of the columns. Raises as ``run`` does."""
        with _Told():
            self._run(sql, values)
        described = self._connection.description
        return [d[0] for d in described], [str(d[1]) for d in described]

    def begin_faithfully(self, sql: str) -> tuple[list[str], list[str]]:
        """Ask as ``begin`` does; values that Python has not are DuckDB's text."""
        asked = check(sql).bare
        try:
            found = self._run(f"FROM (DESCRIBE {asked}\n)", ()).fetchall()
        except (duckdb.InterruptException, duckdb.ConnectionException) as error:
            raise Interrupted from error
        except (duckdb.Error, InvalidInput):  # EXPLAIN, or what is wrong: say so
            return self.begin(asked)
        names, types = [row[0] for row in found], [row[1] for row in found]
        self.begin(faithful(asked, types))
        return names, types

    def fetch(self, most: int) -> list[tuple[Any, ...]]:
        """Return the next rows of what was begun; none: that was all."""
        with _Told():
            return self._connection.fetchmany(most)

    def rows_of(self, kind: type[R], after: int, upto: int) -> list[R]:
        """All rows of a kind whose first column is in a range; raises WakeError."""
        names = [f'"{name}"' for name in kind.__struct_fields__]
        sql = (
            f"SELECT {', '.join(names)} FROM {kind.table} "
            f"WHERE {names[0]} > ? AND {names[0]} <= ?"
        )
        try:
            return [kind(*row) for row in self._run(sql, (after, upto)).fetchall()]
        except duckdb.Error as error:
            raise Unavailable(f"the read model cannot be read: {error}") from error

    def all_of(self, kind: type[R]) -> list[R]:
        """All rows of a kind whose rows are few; raises WakeError."""
        names = ", ".join(f'"{name}"' for name in kind.__struct_fields__)
        found = self.run(f"SELECT {names} FROM {kind.table}", limit=2**31)
        return [kind(*row) for row in found.rows]

    def _run(self, sql: str, values: Any) -> duckdb.DuckDBPyConnection:
        asked = check(sql)
        if not self._begun:
            self._connection.execute("BEGIN TRANSACTION READ ONLY")
            self._begun = True
        return self._connection.execute(asked.statement, values)

    def interrupt(self) -> None:
        """Stop what runs, if something does; what is yet to begin is not stopped."""
        with suppress(duckdb.Error):
            self._connection.interrupt()

    def close(self) -> None:
        """Let it go, with the transaction that it read in."""
        with suppress(duckdb.Error):
            self._connection.close()


class _Told:
    """Says in our words why a query failed: it is the mistake of whoever asked."""

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, duckdb.InterruptException | duckdb.ConnectionException):
            raise Interrupted from error  # told to end, or the file was closed
        if isinstance(error, duckdb.Error):
            raise InvalidInput(f"the query failed: {error}") from error


class Cursors:
    """All cursors of a file, so that they can be stopped; for any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: WeakSet[Cursor] = WeakSet()

    def open(self, connection: duckdb.DuckDBPyConnection) -> Cursor:
        """Open one more; raises Unavailable if the file is closed."""
        try:
            cursor = Cursor(connection.cursor())
        except duckdb.ConnectionException as error:
            raise Unavailable("the read model was just closed: ask again") from error
        with self._lock:
            self._open.add(cursor)
        return cursor

    def all(self) -> list[Cursor]:
        """Those that somebody has still."""
        with self._lock:
            return list(self._open)

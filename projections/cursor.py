"""Reading the read model: one cursor for each question, on a snapshot of its own."""

from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import duckdb

from events.errors import InvalidInput, Unavailable, WakeError
from projections.row import Row

R = TypeVar("R", bound=Row)

_READ = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


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
        try:
            found = self._run(sql, values).fetchmany(limit + 1)
        except duckdb.InterruptException as error:
            raise Interrupted from error
        except duckdb.Error as error:
            raise InvalidInput(f"the query failed: {error}") from error
        described = self._connection.description
        names, types = [d[0] for d in described], [str(d[1]) for d in described]
        return Answer(names, types, found[:limit], len(found) > limit)

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
        asked = [statement.type for statement in duckdb.extract_statements(sql)]
        if len(asked) != 1 or asked[0] not in _READ:
            raise InvalidInput("a query is one SELECT; nothing can be changed here")
        if not self._begun:
            self._connection.execute("BEGIN TRANSACTION READ ONLY")
            self._begun = True
        return self._connection.execute(sql, values)

    def interrupt(self) -> None:
        """Stop what runs, if something does; what is yet to begin is not stopped."""
        with suppress(duckdb.Error):
            self._connection.interrupt()

    def close(self) -> None:
        """Let it go, with the transaction that it read in."""
        with suppress(duckdb.Error):
            self._connection.close()

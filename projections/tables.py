"""Rows into the tables of an open file and out of them; of transactions it knows none.

Few rows are appended. Very many are handed over as a file of JSON, which DuckDB
reads in half the time: that is for a file which nobody is asked about yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import duckdb
import msgspec

from events.names import LOGS, TRIGGERS, Key
from projections.row import Row, columns, fitted

R = TypeVar("R", bound=Row)
Action = Literal["insert", "update", "delete"]

CHUNK = 500
"""Rows handed over at a time: the interpreter's lock is held meanwhile."""

MANY = 1_000
"""Rows of a table that are worth a file."""

ROOM = 8 * 1024 * 1024
"""Bytes of a row as JSON that DuckDB is told to expect. It takes twice that for what
it reads: up to 32 MB is memory that it had before, more is asked of the kernel anew."""

AGING = ((LOGS, "logs", "id"), (TRIGGERS, "triggers", "position"))
"""Streams that forget, the tables of their messages, and the columns of positions."""

_lines = msgspec.json.Encoder().encode_lines


class Tables:
    """All tables, on one connection. Raises ``duckdb.Error``, and OSError in bulk."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, *, bulk: bool
    ) -> None:
        self._connection, self._path, self._bulk = connection, path, bulk
        self._appenders: dict[tuple[str, Action], duckdb.Appender] = {}

    def rows(self, kind: type[R], table: str) -> list[R]:
        """Read all rows of a table, in order."""
        names = ", ".join(f'"{name}"' for name in kind.__struct_fields__)
        found = self._connection.execute(
            f"SELECT {names} FROM {table} ORDER BY ALL"
        ).fetchall()
        return [kind(*values) for values in found]

    def add(self, table: str, kind: type[R], rows: Sequence[R], *, fit: bool) -> None:
        """Add rows; ``fit`` makes values fit their columns that do not."""
        if self._bulk and not fit and len(rows) >= MANY:
            self._load(table, kind, rows)
        elif rows:
            self._append(table, kind, rows, fit=fit)

    def _append(
        self, table: str, kind: type[R], rows: Sequence[R], *, fit: bool
    ) -> None:
        values = map(msgspec.structs.astuple, rows)
        ready = [fitted(kind, v) for v in values] if fit else list(values)
        self._hand_over(self._appender(table, action="insert"), ready)

    def update(
        self, table: str, names: Sequence[str], values: Sequence[tuple[Any, ...]]
    ) -> None:
        """Change columns of rows that are there; the first column names the row.

        No row may be named twice.
        """
        if not values:
            return
        appender = self._appender(
            table, action="update", columns=list(names), key=[names[0]]
        )
        self._hand_over(appender, values)

    def _appender(self, table: str, action: Action, **how: Any) -> duckdb.Appender:
        """One for each table and what is done to it: making one takes a query."""
        known = self._appenders.get((table, action))
        if known is None:
            known = self._connection.appender(table, action=action, **how)
            self._appenders[table, action] = known
        return known

    @staticmethod
    def _hand_over(
        appender: duckdb.Appender, values: Sequence[tuple[Any, ...]]
    ) -> None:
        for start in range(0, len(values), CHUNK):
            appender.append_rows(values[start : start + CHUNK])
        appender.flush()

    def _load(self, table: str, kind: type[R], rows: Sequence[R]) -> None:
        file, lines = rows_beside(self._path), _lines(rows)
        types = {column.name: column.type for column in columns(kind)}
        try:
            file.write_bytes(lines)
            self._connection.execute(
                f"INSERT INTO {table} SELECT * FROM read_json("
                f"?, format = 'newline_delimited', columns = {types}, "
                f"maximum_object_size = {_longest(lines)})",
                [str(file)],
            )
        finally:
            file.unlink(missing_ok=True)

    def delete(self, tables: Iterable[str], eids: Sequence[int]) -> None:
        """Let the rows of executions go."""
        for table in tables if eids else ():
            appender = self._appender(table, action="delete", key=["eid"])
            self._hand_over(appender, [(eid,) for eid in eids])

    def delete_named(
        self, table: str, keys: Sequence[Key], column: str = "execution"
    ) -> None:
        """Let the rows go that have a user and a name."""
        if keys:
            self._connection.execute(
                f"""DELETE FROM {table} WHERE ("user", {column}) IN
                (SELECT unnest(?), unnest(?))""",
                [[key.user for key in keys], [key.execution for key in keys]],
            )

    def eids_of(self, keys: Sequence[Key]) -> list[int]:
        """Find executions, wherever their rows are."""
        users, ids = [key.user for key in keys], [key.execution for key in keys]
        found = self._connection.execute(
            """SELECT eid FROM executions WHERE execution IN (SELECT unnest(?))
            AND ("user", execution) IN (SELECT unnest(?), unnest(?))""",
            [ids, users, ids],
        ).fetchall()
        return [eid for (eid,) in found]

    def forget(self, first: Mapping[str, int]) -> None:
        """Let log lines and triggers go that their streams have no more."""
        for stream, table, column in AGING:
            self._connection.execute(
                f"DELETE FROM {table} WHERE {column} < ?", [first[stream]]
            )

    def clear(self) -> None:
        """Let go of what was handed over and is not written."""
        appenders, self._appenders = self._appenders, {}
        for appender in appenders.values():
            with suppress(duckdb.Error):
                appender.clear()


def _longest(lines: bytes) -> int:
    """How long a line may be, at least: notes are kept whole, and grow."""
    if len(lines) <= ROOM:
        return ROOM
    return max(ROOM, *map(len, lines.split(b"\n")))


def rows_beside(path: Path) -> Path:
    """Where rows lie on their way into a file that is built."""
    return path.with_name(f"{path.name}.rows")

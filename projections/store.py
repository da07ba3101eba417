"""The DuckDB file of the read model: the only place that knows DuckDB.

One process owns the file. Rows and how far they go are written in one
transaction, so that a kill at any moment leaves both or neither. Reading happens
in transactions that cannot write, each on a cursor of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import msgspec

from events.errors import InvalidInput, Misconfigured, Unavailable, WakeError
from events.names import LOGS, TRIGGERS, Key
from projections.fold import Delta
from projections.live import Live
from projections.opened import Rows, no_rows
from projections.rows import (
    HOT,
    OWNED,
    CallRow,
    ChildRow,
    DeadLetterRow,
    ExecutionRow,
    LogRow,
    Row,
    ScheduleRow,
    WaitRow,
    columns,
    fitted,
)
from projections.schema import done, fingerprint, hot, statements

R = TypeVar("R", bound=Row)

MEMORY = "768MB"
"""What DuckDB may hold; larger sorts and groupings go to the disk."""

CHECKPOINT = "128MB"
"""The log of changes that is put into the tables at once: rarely, and well packed."""

CHUNK = 500
"""Rows handed over at a time: the interpreter's lock is held meanwhile."""

_encode = msgspec.json.Encoder().encode

AGING = ((LOGS, "logs", "id"), (TRIGGERS, "triggers", "position"))
"""Streams that forget, the tables of their messages, and the columns of positions."""

MANY = 1_000
"""Rows of a table that are worth a file."""

LARGEST_ROW = 256 * 1024 * 1024
"""Bytes of a row as JSON: notes are kept whole, and grow."""

_READ = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


class Outdated(WakeError):
    """The read model was made by other rules, or from another log: rebuild it."""


class Unfit(WakeError):
    """A value fits no column, and all that was written in bulk is lost by it."""


class Interrupted(WakeError):
    """The query was stopped before it came to an end."""


class Checkpoint(NamedTuple):
    """How far a stream was folded, and which stream it was."""

    made: str
    position: int


class Answer(NamedTuple):
    """What a query came to; ``more`` says that the limit cut it off."""

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    more: bool


class Store:
    """An open file. Only one thread at a time may write; ``cursor`` is for others."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self._writer = connection
        self._positions: dict[str, int] = {}
        self._appenders: dict[str, duckdb.Appender] = {}
        self._bulk = False

    # ── opening ──────────────────────────────────────────────────────────────

    @classmethod
    def create(
        cls, path: Path, streams: Mapping[str, str], *, bulk: bool = False
    ) -> "Store":
        """Make an empty file for streams, by when they were made.

        One for ``bulk`` takes very many rows at once and is asked nothing: it may
        read files, and until ``pack`` there is nothing in it.
        """
        store = cls(path, _connect(path, files=bulk))
        store._bulk = bulk
        path.chmod(0o600)  # it has what people asked, and what they were told
        with store._explained():
            store._writer.begin()
            for statement in statements():
                store._writer.execute(statement)
            store._writer.execute("INSERT INTO about VALUES (?)", [fingerprint()])
            for stream, made in streams.items():
                row = [stream, made]
                store._writer.execute("INSERT INTO checkpoints VALUES (?, ?, 0)", row)
            store._writer.commit()
        store._positions = dict.fromkeys(streams, 0)
        if bulk:
            store._writer.begin()
        return store

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a file that is there.

        Raises Outdated if it was made by other rules, and Misconfigured if it is
        damaged, no read model at all, or used by another process.
        """
        store = cls(path, _connect(path))
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
                raise Outdated

    def close(self) -> None:
        """Close the file; asking twice is fine. Running queries are stopped."""
        with suppress(duckdb.Error):
            self._writer.close()

    # ── loading ──────────────────────────────────────────────────────────────

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Tell how far each stream was folded."""
        with self._explained():
            found = self._writer.execute("FROM checkpoints").fetchall()
        self._positions = {stream: position for stream, _, position in found}
        return {stream: Checkpoint(made, at) for stream, made, at in found}

    def live(self) -> dict[Key, Live]:
        """Load all that may still change."""
        lives = {}
        out = no_rows()
        for row in self._hot_rows(ExecutionRow):
            one = lives[row.eid] = Live(row, out)
        for call in self._hot_rows(CallRow):
            lives[call.eid].calls.append(call)
        for wait in self._hot_rows(WaitRow):
            lives[wait.eid].waits[wait.kind] = wait
        for child in self._hot_rows(ChildRow):
            lives[child.eid].children[child.child] = child
        for one in lives.values():
            one.stored = {type(row) for row in one.open_rows()}
        return {one.key: one for one in lives.values()}

    def schedules(self) -> list[ScheduleRow]:
        """Load all schedules."""
        return self._rows(ScheduleRow, ScheduleRow.table)

    def _hot_rows(self, kind: type[R]) -> list[R]:
        return self._rows(kind, hot(kind))

    def _rows(self, kind: type[R], table: str) -> list[R]:
        names = ", ".join(f'"{name}"' for name in kind.__struct_fields__)
        with self._explained():
            found = self._writer.execute(
                f"SELECT {names} FROM {table} ORDER BY ALL"
            ).fetchall()
        return [kind(*values) for values in found]

    # ── writing ──────────────────────────────────────────────────────────────

    def commit(self, delta: Delta) -> None:
        """Write what changed, and how far that goes, or nothing of it.

        In bulk it is one transaction with all others, until ``pack``. Raises
        Misconfigured when that cannot be: the disk is full, say; and Unfit in bulk.
        """
        with self._explained():
            try:
                self._commit(delta, fit=False)
            except (duckdb.DataError, duckdb.InvalidInputException) as error:
                if self._bulk:
                    raise Unfit from error
                self._commit(delta, fit=True)
        self._positions.update(delta.positions)
        for live in delta.hot:
            live.stored = {type(row) for row in live.open_rows()}

    def _commit(self, delta: Delta, *, fit: bool) -> None:
        if not self._bulk:
            self._writer.begin()
        try:
            self._erase(delta.erased)
            for kind, eids in _outdated(delta).items():
                self._delete([hot(kind)], eids)
            for kind, rows in delta.cold.items():
                self._append(done(kind), kind, rows, fit=fit)
            for kind, rows in _changing(delta).items():
                self._append(hot(kind), kind, rows, fit=fit)
            self._replace_schedules(delta, fit=fit)
            self._advance(delta.positions)
            if not self._bulk:
                self._writer.commit()
        except BaseException:
            self._take_back()
            raise

    def _take_back(self) -> None:
        """Let nothing be left of what could not be written."""
        appenders, self._appenders = self._appenders, {}
        for appender in appenders.values():
            with suppress(duckdb.Error):
                appender.clear()
        with suppress(duckdb.Error):
            self._writer.rollback()

    def _append(
        self, table: str, kind: type[Row], rows: Sequence[Row], *, fit: bool
    ) -> None:
        if not rows:
            return
        if self._bulk and not fit and len(rows) >= MANY:
            self._load(table, kind, rows)
            return
        values = map(msgspec.structs.astuple, rows)
        ready = [fitted(kind, v) for v in values] if fit else list(values)
        appender = self._appenders.get(table)
        if appender is None:
            appender = self._appenders[table] = self._writer.appender(table)
        for start in range(0, len(ready), CHUNK):
            appender.append_rows(ready[start : start + CHUNK])
        appender.flush()

    def _load(self, table: str, kind: type[Row], rows: Sequence[Row]) -> None:
        """Add very many rows: DuckDB reads them as JSON, in half the time."""
        file = rows_beside(self.path)
        file.write_bytes(b"\n".join(map(_encode, rows)))
        types = {column.name: column.type for column in columns(kind)}
        try:
            self._writer.execute(
                f"INSERT INTO {table} SELECT * FROM read_json("
                f"?, format = 'newline_delimited', columns = {types}, "
                f"maximum_object_size = {LARGEST_ROW})",
                [str(file)],
            )
        finally:
            file.unlink()

    def _delete(self, tables: Iterable[str], eids: list[int]) -> None:
        if not eids:
            return
        for table in tables:
            self._writer.execute(
                f"DELETE FROM {table} WHERE eid IN (SELECT unnest(?::BIGINT[]))",
                [eids],
            )

    def _erase(self, erased: Mapping[Key, bool]) -> None:
        """Let executions go, and with True their log lines too."""
        if not erased:
            return
        users, ids = [k.user for k in erased], [k.execution for k in erased]
        found = self._writer.execute(
            """SELECT eid FROM executions WHERE execution IN (SELECT unnest(?))
            AND ("user", execution) IN (SELECT unnest(?), unnest(?))""",
            [ids, users, ids],
        ).fetchall()
        tables = [hot(kind) for kind in HOT] + [done(kind) for kind in OWNED]
        self._delete(tables, [eid for (eid,) in found])
        self._delete_named(DeadLetterRow.table, list(erased))
        self._delete_named(LogRow.table, [key for key, too in erased.items() if too])

    def _delete_named(
        self, table: str, keys: list[Key], column: str = "execution"
    ) -> None:
        if keys:
            self._writer.execute(
                f"""DELETE FROM {table} WHERE ("user", {column}) IN
                (SELECT unnest(?), unnest(?))""",
                [[k.user for k in keys], [k.execution for k in keys]],
            )

    def _replace_schedules(self, delta: Delta, *, fit: bool) -> None:
        if delta.schedules:
            names = [Key(*name) for name in delta.schedules]
            self._delete_named(ScheduleRow.table, names, "name")
            rows = [row for row in delta.schedules.values() if row is not None]
            self._append(ScheduleRow.table, ScheduleRow, rows, fit=fit)

    def _advance(self, positions: Mapping[str, int]) -> None:
        for stream, position in positions.items():
            if position != self._positions[stream]:
                self._writer.execute(
                    "UPDATE checkpoints SET position = ? WHERE stream = ?",
                    [position, stream],
                )

    def forget(self, first: Mapping[str, int]) -> None:
        """Let log lines and triggers go that their streams have no more."""
        with self._explained():
            for stream, table, column in AGING:
                self._writer.execute(
                    f"DELETE FROM {table} WHERE {column} < ?", [first[stream]]
                )

    def pack(self) -> None:
        """Put all that was written into the tables, so that the file is whole."""
        with self._explained():
            if self._bulk:
                self._writer.commit()
            self._writer.execute("CHECKPOINT")

    # ── reading ──────────────────────────────────────────────────────────────

    def cursor(self) -> "Cursor":
        """Open a cursor; for one query, in any thread."""
        return Cursor(self._writer.cursor())

    def _explained(self) -> "_Explained":
        return _Explained(self.path)


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


def rows_beside(path: Path) -> Path:
    """Where rows lie on their way into a file that is built."""
    return path.with_name(f"{path.name}.rows")


def _outdated(delta: Delta) -> dict[type[Row], list[int]]:
    """Whose changing rows go, by kind: only where there are any."""
    eids: dict[type[Row], list[int]] = {kind: [] for kind in HOT}
    for live in (*delta.settled, *delta.hot):
        for kind in live.stored:
            eids[kind].append(live.row.eid)
    return eids


def _changing(delta: Delta) -> Rows:
    rows = no_rows()
    for live in delta.hot:
        for row in live.open_rows():
            rows[type(row)].append(row)
    return rows


def _connect(path: Path, *, files: bool = False) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "threads": 1,
        "checkpoint_threshold": CHECKPOINT,
        "memory_limit": MEMORY,
        "enable_external_access": files,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with _Explained(path):
        connection = duckdb.connect(str(path), config=config)
        connection.execute("SET lock_configuration = true")
        return connection


class _Explained:
    """Says in our words what DuckDB cannot do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, duckdb.Error):
            raise _explain(self._path, error) from error


def _explain(path: Path, error: duckdb.Error) -> WakeError:
    said = str(error).split("\n", 1)[0]
    if "lock on file" in said:
        return Misconfigured(f"the read model {path} is used by another process")
    if "No space left" in said or "File too large" in said or "ENOSPC" in said:
        return Misconfigured(
            f"the disk is full, so the read model {path} stays as it was: make room "
            f"and start again ({said})"
        )
    if "version number" in said:
        return Outdated(f"the read model {path} is of another DuckDB: {said}")
    return Misconfigured(
        f"the read model {path} cannot be used ({said}): rebuild it with wake rebuild"
    )

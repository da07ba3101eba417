"""SQL that people write: it reads, and no more; its values are what they were."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import duckdb
import msgspec
import pytest
from histories import Story
from readmodels import PATIENCE, Logs, append, ask, projecting, settled

from events.errors import InvalidInput, Unavailable
from events.names import Key
from projections import parquet, sqlrows
from projections.projector import Projector
from projections.queries import Column, SqlRequest
from projections.readers import Question
from projections.sqltext import BARRED, check, faithful
from projections.values import plain


@pytest.fixture
async def projector(tmp_path: Path) -> AsyncIterator[Projector]:
    """A projector with one execution."""
    logs = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    logs.add(story)
    async with projecting(tmp_path / "readmodel.duckdb", logs) as projector:
        await settled(projector)
        yield projector


async def rows(projector: Projector, sql: str, **limits: Any) -> Any:
    """Ask as ``queries.sql`` does, in one message."""
    request = SqlRequest(sql=sql, **{"timeout": PATIENCE, **limits})
    return msgspec.json.decode(await sqlrows.whole(projector.readers, request, 1))


# ── what is let through ──────────────────────────────────────────────────────

HOSTILE = [
    *("DELETE FROM executions_hot", "UPDATE about SET schema = 'x'", "DROP TABLE logs"),
    *(
        "CREATE TABLE t AS SELECT 1",
        "CREATE MACRO m() AS 1",
        "ALTER TABLE logs RENAME TO l",
    ),
    "INSERT INTO checkpoints VALUES ('x', 'y', 1)",
    "WITH x AS (INSERT INTO about VALUES ('x') RETURNING *) FROM x",
    "MERGE INTO logs USING logs AS s ON false WHEN MATCHED THEN DELETE",
    *("ATTACH '/tmp/x.db'", "ATTACH ':memory:' AS m", "DETACH x", "USE memory"),
    *(
        "COPY logs TO '/tmp/x.csv'",
        "COPY (SELECT 1) TO '/tmp/x'",
        "COPY logs FROM '/tmp/x'",
    ),
    *("EXPORT DATABASE '/tmp/x'", "IMPORT DATABASE '/tmp/x'"),
    *(
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM glob('/*')",
    ),
    *("FROM read_blob('/etc/shadow')", "FROM read_parquet('/x')", "FROM '/etc/passwd'"),
    *("FROM read_json('/etc/x')", "FROM sniff_csv('/etc/passwd')", "FROM 'x.duckdb'"),
    "FROM read_duckdb('/tmp/other.db')",
    "SELECT * FROM read_csv('https://127.0.0.1:1/x')",
    *("PRAGMA database_list", "PRAGMA threads = 8", "SET memory_limit = '64GB'"),
    *("RESET memory_limit", "SET VARIABLE x = 1", "CALL pragma_version()"),
    *(
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '/tmp/evil.duckdb_extension'",
        "FORCE INSTALL x",
    ),
    *("SELECT getenv('HOME')", "SELECT getenv('WAKE_NATS_PASSWORD')"),
    *("FROM duckdb_secrets()", "CREATE SECRET s (TYPE s3)"),
    *("FROM enable_logging()", "FROM enable_profiling()", "FROM duckdb_extensions()"),
    *(
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "CHECKPOINT",
        "FORCE CHECKPOINT",
        "VACUUM",
        "ANALYZE",
    ),
    *("PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p"),
    *(
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE logs",
        ";",
        "",
        " ",
        "-- x",
        "/* x */",
    ),
    *("EXPLAIN ANALYZE DELETE FROM logs", "EXPLAIN ANALYZE FROM checkpoint()"),
    *("FROM checkpoint()", 'FROM "checkpoint" ()', "FROM system.main.CheckPoint()"),
    *("FROM force_checkpoint()", "FROM /* x */ checkpoint -- y\n ()"),
    *("FROM query('FROM checkpoint()')", "FROM truncate_duckdb_logs()"),
    "SELECT write_log('x')",
    "FROM register_external_resource_type('t', kind = 'k', create_function = 'query')",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    *(
        "SELEKT 1",
        "SELECT",
        "SELECT * FROM no_such",
        "SELECT ?",
        "SELECT $x",
        "\0",
        "SELECT '",
    ),
    "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "SELECT " + "1+" * 40_000 + "1",
    "SELECT range(9_000_000_000)",
    "FROM sql",
    "FROM request",
]


@pytest.mark.parametrize("sql", HOSTILE, ids=lambda sql: sql[:40] or "empty")
async def test_what_is_no_question_is_refused(projector: Projector, sql: str) -> None:
    """In words; nothing was changed by it, and the next question is answered."""
    with pytest.raises(InvalidInput) as caught:
        await rows(projector, sql)
    assert "root:x:0" not in str(caught.value)
    assert await ask(projector, "SELECT count(*) FROM executions") == [(1,)]
    assert await ask(
        projector, "FROM duckdb_databases() SELECT count(*) WHERE NOT internal"
    ) == [(1,)]
    assert await ask(projector, "SELECT count(*) FROM checkpoints") == [(4,)]


@pytest.mark.parametrize(
    "sql",
    [
        *("SELECT 1", "select 1;", "SELECT 1 -- why", "SELECT 1; -- why", "(SELECT 1)"),
        *("FROM executions", "WITH x AS (SELECT 1) FROM x", "VALUES (1), (2)"),
        *("SHOW TABLES", "DESCRIBE steps", "SUMMARIZE executions", "EXPLAIN SELECT 1"),
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT 'checkpoint()', 'DROP TABLE x; --' AS \"query(\"",
        "WITH checkpoint AS (SELECT 1) FROM checkpoint",
        "PIVOT executions ON status IN ('failed', 'running') USING count(*)",
        "SELECT * FROM usage, stuck",
        "SELECT 1 AS a, 2 AS a, now()",
        "/* π */ SELECT 'ü', now() FROM executions WHERE \"user\" = 'ada' ;;",
    ],
)
async def test_what_only_reads_is_answered(projector: Projector, sql: str) -> None:
    """Whatever way it is written."""
    answer = await rows(projector, sql)
    assert len(answer["columns"]) == (len(answer["rows"][0]) if answer["rows"] else 18)


def test_what_is_barred_is_there() -> None:
    """Else the list would be of yesterday's names."""
    connection = duckdb.connect()
    there = connection.execute("SELECT DISTINCT function_name FROM duckdb_functions()")
    names = {name for (name,) in there.fetchall()}
    assert names >= BARRED


def test_only_the_statement_itself_is_left() -> None:
    """Without what comes after it, and whatever bytes it has."""
    assert check("SELECT 'ü;--' ; -- x\n;").bare == "SELECT 'ü;--'"
    assert check("  SELECT 1 /* x */ ").bare == "  SELECT 1"


async def test_a_text_that_was_asked_before_is_asked_anew(projector: Projector) -> None:
    """By many at once: each has its own values; what was refused stays refused."""
    sql = "SELECT $x + count(*) FROM executions WHERE $x = $x"
    answers = await asyncio.gather(
        *(
            projector.ask(Question(sql=sql, values={"x": x}, seconds=PATIENCE))
            for x in range(50)
        )
    )
    assert [answer.rows for answer in answers] == [[(x + 1,)] for x in range(50)]
    for _ in range(2):
        with pytest.raises(InvalidInput, match="one SELECT"):
            await rows(projector, "DELETE FROM logs")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(100_000_000) a, range(100_000) b",
        "SELECT sleep_ms(100_000)",
        "WITH RECURSIVE r AS (SELECT 1 UNION ALL FROM r) SELECT count(*) FROM r",
        "SELECT levenshtein(repeat('a', 200_000), repeat('b', 200_000))",
        "SELECT i FROM range(3_000_000_000) t(i) ORDER BY hash(i)",
    ],
)
async def test_what_runs_for_ever_is_stopped(projector: Projector, sql: str) -> None:
    """Within its time, whatever it does; its thread is free again."""
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match=r"stopped after 0\.2 s"):
            await rows(projector, sql, timeout=0.2)
        assert (await rows(projector, "SELECT 1"))["rows"] == [[1]]


async def test_what_takes_all_memory_is_refused(projector: Projector) -> None:
    """And what it held is given back."""
    with pytest.raises(InvalidInput, match="Out of Memory"):
        await rows(projector, "SELECT len(list(i)) FROM range(500_000_000) t(i)")
    assert (await rows(projector, "SELECT 1"))["rows"] == [[1]]


# ── values ───────────────────────────────────────────────────────────────────

BIG = str(2**120 + 1)
"""A whole number that no double has, and a decimal of 38 digits has."""

VALUES = [
    ("NULL", None),
    ("true", True),
    ("42::TINYINT", 42),
    ("9007199254740991", 2**53 - 1),
    ("9007199254740992", "9007199254740992"),
    ("(-9223372036854775808)::BIGINT", "-9223372036854775808"),
    ("170141183460469231731687303715884105727", str(2**127 - 1)),
    ("18446744073709551615::UBIGINT", "18446744073709551615"),
    ("0.1::DOUBLE", 0.1),
    ("'NaN'::DOUBLE", "NaN"),
    ("'-inf'::DOUBLE", "-Infinity"),
    ("1e400", "Infinity"),
    ("1.10::DECIMAL(9, 2)", "1.10"),
    ("0.000000001::DECIMAL(38, 18)", "0.000000001000000000"),
    ("TIMESTAMP '2026-01-02 03:04:05.123456'", "2026-01-02 03:04:05.123456"),
    ("'infinity'::TIMESTAMP", "infinity"),
    ("TIMESTAMP '290000-01-01'", "290000-01-01 00:00:00"),
    ("'2026-01-02 03:04:05.123456789'::TIMESTAMP_NS", "2026-01-02 03:04:05.123456789"),
    ("DATE '2026-01-02'", "2026-01-02"),
    ("TIME '03:04:05'", "03:04:05"),
    ("INTERVAL 1 MONTH", "1 month"),
    ("'\\x00\\xFFa'::BLOB", "\\x00\\xFFa"),
    ("'101'::BIT", "101"),
    ("'a'::ENUM('a', 'b')", "a"),
    ("'{\"a\": [1]}'::JSON", '{"a": [1]}'),
    (
        "uuid '474516ef-f58a-4bc0-a9ed-1a4b4665a18b'",
        "474516ef-f58a-4bc0-a9ed-1a4b4665a18b",
    ),
    ("[1, NULL]", [1, None]),
    ("['a', 'b\"']", ["a", 'b"']),
    ("[[1.5::DECIMAL(3, 1)]]", [["1.5"]]),
    ("[9007199254740993]", ["9007199254740993"]),
    (f"[{BIG}::HUGEINT, NULL]", [BIG, None]),
    (f"{{'hugeint': [{BIG}::UHUGEINT]}}", f"{{'hugeint': [{BIG}]}}"),
    (f"MAP {{{BIG}::HUGEINT: NULL}}", f"{{{BIG}=NULL}}"),
    ("[1, NULL]::INTEGER[2]", [1, None]),
    ("[['a', 'b'], ['c', NULL]]::VARCHAR[2][2]", [["a", "b"], ["c", None]]),
    ("[[1.5], []]::DOUBLE[][2]", [[1.5], []]),
    ("{'a': 1, 'b': [2]}", "{'a': 1, 'b': [2]}"),
    ("MAP {'k': 1}", "{k=1}"),
    ("[DATE '2026-01-02']", "[2026-01-02]"),
    ("'ünï\u202e\t\"'", 'ünï\u202e\t"'),
    ("chr(0)", "\0"),
]


@pytest.mark.parametrize(("sql", "value"), VALUES, ids=[sql for sql, _ in VALUES])
async def test_values_survive_json(projector: Projector, sql: str, value: Any) -> None:
    """Exactly, or as DuckDB writes them: read back, they are what they were."""
    answer = await rows(projector, f"SELECT {sql} AS x, now()")
    assert answer["rows"][0][0] == value
    (column, _) = answer["columns"]
    if value is None:
        return
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    back = duckdb.connect().execute(
        f"SELECT CAST($text AS {column['type']}) IS NOT DISTINCT FROM ({sql})",  # noqa: S608 - ours
        {"text": text},
    )
    assert back.fetchone() == (True,)


def test_only_what_python_has_not_comes_as_text() -> None:
    """A query of plain types is asked as it stands."""
    assert faithful("SELECT 1", ["INTEGER", "VARCHAR[]", "DECIMAL(3,1)"]) == "SELECT 1"
    assert faithful("SELECT 1", ["INTEGER", "DATE"]) == (
        "SELECT #1, CAST(#2 AS VARCHAR) FROM (\nSELECT 1\n)"
    )


async def test_the_order_is_kept(projector: Projector) -> None:
    """Also where values come as text."""
    sql = "SELECT i, i::VARCHAR::BLOB FROM range(20_000) t(i) ORDER BY hash(i)"
    plain_order = "SELECT i FROM range(20_000) t(i) ORDER BY hash(i)"
    found = [row[0] for row in (await rows(projector, sql, limit=20_000))["rows"]]
    wanted = (await rows(projector, plain_order, limit=20_000))["rows"]
    assert found == [row[0] for row in wanted]


def test_what_is_unknown_is_text() -> None:
    """A value of a type that is not foreseen is not lost."""
    assert plain({"a": 1}) == "{'a': 1}"


HARD = ["170141183460469231731687303715884105727"]

# ── Parquet ──────────────────────────────────────────────────────────────────


async def test_parquet_has_the_types(projector: Projector, tmp_path: Path) -> None:
    """What is written reads back as what it was; names may be whatever they are."""
    there = [sql for sql, _ in VALUES if sql not in HARD]
    select = ", ".join(f'{sql} AS "c{n} "",\'"' for n, sql in enumerate(there))
    answer = await rows(projector, f"SELECT {select}")
    columns = [Column(**column) for column in answer["columns"]]
    lines, target = tmp_path / "lines", tmp_path / "it's.parquet"
    for_file = [{str(n): v for n, v in enumerate(row)} for row in answer["rows"]]
    lines.write_bytes(b"\n".join(map(msgspec.json.encode, for_file)))
    parquet.write(lines, columns, target)
    connection = duckdb.connect()
    for n, sql in enumerate(there):
        column = f'"c{n} "",\'"'
        same = connection.execute(
            f"SELECT {column} IS NOT DISTINCT FROM ({sql}) AND CAST({column} AS "  # noqa: S608 - ours
            f"VARCHAR) IS NOT DISTINCT FROM CAST({sql} AS VARCHAR), typeof({column}) "
            "FROM read_parquet($file)",
            {"file": str(target)},
        ).fetchone()
        assert same is not None
        assert same[0], (sql, same)


def test_ctrl_c_ends_parquet(tmp_path: Path) -> None:
    """As it ends everything else: DuckDB calls it a mistake at run time."""
    lines, target = tmp_path / "lines", tmp_path / "rows.parquet"
    lines.write_bytes(b'{"0":12345678}\n' * 3_000_000)
    columns = [Column(name="n", type="BIGINT")]
    with pytest.raises(KeyboardInterrupt), interrupted(target):
        parquet.write(lines, columns, target)


@contextmanager
def interrupted(target: Path) -> Iterator[None]:
    """Ctrl-C as soon as a file is there, within the block."""
    ended = Event()

    def interrupt() -> None:
        while not target.exists() and not ended.is_set():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("sql", HARD)
async def test_what_parquet_has_not_is_refused(
    projector: Projector, tmp_path: Path, sql: str
) -> None:
    """Rather than that it would be rounded."""
    answer = await rows(projector, f"SELECT {sql} AS x")
    columns = [Column(**column) for column in answer["columns"]]
    lines = tmp_path / "lines"
    lines.write_bytes(msgspec.json.encode({"0": answer["rows"][0][0]}))
    with pytest.raises(InvalidInput, match="nothing for Parquet"):
        parquet.write(lines, columns, tmp_path / "x.parquet")


def test_parquet_of_nothing(tmp_path: Path) -> None:
    """No rows are a file as well."""
    lines, target = tmp_path / "lines", tmp_path / "x.parquet"
    lines.touch()
    parquet.write(lines, [Column(name="a", type="DATE")], target)
    found = duckdb.connect().execute("FROM read_parquet($f)", {"f": str(target)})
    assert found.fetchall() == []
    assert [str(d[1]) for d in found.description] == ["DATE"]


async def test_what_is_written_goes_before_what_is_asked(
    projector: Projector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where queries hold all the memory they are stopped, and it is written."""
    store = projector._store
    assert store is not None
    write = store._write
    forever = "SELECT count(*) FROM range(100_000_000) a, range(100_000) b"
    asking = asyncio.create_task(rows(projector, forever))
    while not any(a._cursor for a in projector.readers._asking):  # noqa: ASYNC110 - a test's wait
        await asyncio.sleep(0.002)

    def crowded(*how: Any, **more: Any) -> None:
        if not asking.done():
            raise duckdb.OutOfMemoryException
        write(*how, **more)

    monkeypatch.setattr(store, "_write", crowded)
    story = Story(Key("ada", "two"))
    story.running()
    await append(projector._sources, story)  # type: ignore[arg-type] # the test's
    with pytest.raises(Unavailable, match=r"was stopped: .* ask again"):
        await asking
    await settled(projector)
    assert await ask(projector, "SELECT count(*) FROM executions") == [(2,)]

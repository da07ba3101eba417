"""Questions have limits of time and rows, change nothing, and are never in the way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from histories import Story
from readmodels import PATIENCE, Logs, append, ask, drift, projecting, raws, settled

from events.errors import InvalidInput, Unavailable
from events.names import Key
from projections.projector import Projector
from projections.readers import Question

FOREVER = "SELECT count(*) FROM range(100_000_000) a, range(100_000) b"


@pytest.fixture
async def projector(tmp_path: Path) -> AsyncIterator[Projector]:
    """A projector with one execution."""
    logs = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    async with projecting(tmp_path / "readmodel.duckdb", logs) as projector:
        await append(logs, story)
        await settled(projector)
        yield projector


async def busy(projector: Projector, heavy: bool = True) -> "asyncio.Task[object]":  # noqa: FBT001, FBT002 - a test's
    """Begin a question that has no end."""
    question = Question(sql=FOREVER, seconds=3_600, heavy=heavy)
    task = asyncio.create_task(projector.ask(question))
    while not any(a._cursor for a in projector.readers._asking):  # noqa: ASYNC110 - a test's wait
        await asyncio.sleep(0.001)
    return task


async def test_a_rebuild_while_something_is_asked(tmp_path: Path) -> None:
    """It is stopped; what comes then is written to the new file, and only there."""
    model, logs = tmp_path / "readmodel.duckdb", Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    async with projecting(model, logs) as projector:
        await append(logs, story)
        await settled(projector)
        before = model.stat().st_ino
        asking = [await busy(projector), await busy(projector, heavy=False)]
        await projector.rebuild()
        for one in asking:
            with pytest.raises(Unavailable):
                await one
        assert model.stat().st_ino != before
        story.respond(text="Done.")
        await append(logs, story)
        await settled(projector)
        assert await ask(projector, "SELECT status FROM executions") == [("completed",)]
    assert drift(model, raws(logs.events)) == []


async def heavy_works(projector: Projector) -> bool:
    """Whether the thread for what may take long is free."""
    question = Question(sql="SELECT 1", heavy=True, seconds=PATIENCE)
    return (await projector.ask(question)).rows == [(1,)]


async def test_at_most_so_many_rows(projector: Projector) -> None:
    """The answer says that there are more, and how the columns are called."""
    sql = "SELECT i, 'x' AS word FROM range(5000) t(i)"
    answer = await projector.ask(Question(sql=sql, limit=3, seconds=PATIENCE))
    assert answer.rows == [(0, "x"), (1, "x"), (2, "x")]
    assert answer.more
    assert (answer.columns, answer.types) == (["i", "word"], ["BIGINT", "VARCHAR"])
    answer = await projector.ask(Question(sql=sql, limit=5000, seconds=PATIENCE))
    assert not answer.more


async def test_values_are_no_sql(projector: Projector) -> None:
    """They are bound, by place and by name."""
    evil = "x'; DROP TABLE steps; --"
    assert await ask(projector, "SELECT ?", evil) == [(evil,)]
    question = Question(sql="SELECT $who", values={"who": evil}, seconds=PATIENCE)
    assert (await projector.ask(question)).rows == [(evil,)]


async def test_no_longer_than_allowed(projector: Projector) -> None:
    """What takes too long is stopped, and its thread is free for the next."""
    for _ in range(3):
        question = Question(sql=FOREVER, seconds=0.1, heavy=True)
        with pytest.raises(Unavailable, match=r"stopped after 0\.1 s"):
            await projector.ask(question)
    assert await heavy_works(projector)


async def test_who_goes_away_stops_the_question(projector: Projector) -> None:
    """A cancelled question ends at once, also one that had not begun."""
    first = await busy(projector)
    waiting = asyncio.create_task(
        projector.ask(Question(sql=FOREVER, seconds=3_600, heavy=True))
    )
    await asyncio.sleep(0)
    for task in (first, waiting):
        task.cancel()
    done = await asyncio.gather(first, waiting, return_exceptions=True)
    assert [type(one) for one in done] == [asyncio.CancelledError] * 2
    assert await heavy_works(projector)


async def test_a_heavy_question_delays_nobody(projector: Projector) -> None:
    """Meanwhile others are answered, what is appended is written, the loop runs."""
    task = await busy(projector)
    logs = projector._sources
    story = Story(Key("ada", "two"))
    story.running()
    await append(logs, story)  # type: ignore[arg-type] # the test's
    await settled(projector)
    found = await ask(projector, "SELECT count(*) FROM executions")
    assert found == [(2,)]
    assert not task.done(), "it was asked all the while"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_its_end_stops_what_is_asked(tmp_path: Path) -> None:
    """A projector that ends waits for no question."""
    async with projecting(tmp_path / "readmodel.duckdb", Logs.empty()) as projector:
        task = await busy(projector)
    with pytest.raises(Unavailable):
        await task


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM steps",
        "INSERT INTO checkpoints VALUES ('x', 'y', 1)",
        "CREATE TABLE mine (i INTEGER)",
        "CREATE TEMP TABLE mine (i INTEGER)",
        "DROP VIEW executions",
        "ATTACH 'other.duckdb'",
        "COPY steps TO 'steps.csv'",
        "COPY (SELECT 1) TO '/tmp/x.parquet' (FORMAT parquet)",
        "PRAGMA database_size",
        "SET threads = 8",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CHECKPOINT",
        "COMMIT",
        "SELECT 1; DELETE FROM steps",
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
        "SELEKT 1",
        "SELECT * FROM no_such_table",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x')",
        "FROM read_text('/etc/passwd')",
        "EXPLAIN ANALYZE DELETE FROM steps",
    ],
)
async def test_nothing_can_be_changed_nor_files_read(
    projector: Projector, sql: str
) -> None:
    """What is no question is refused in words, and the next one is answered."""
    with pytest.raises(InvalidInput):
        await projector.ask(Question(sql=sql, seconds=PATIENCE))
    assert await ask(projector, "SELECT count(*) FROM executions") == [(1,)]
    assert await ask(projector, "SELECT count(*) FROM checkpoints") == [(4,)]


async def test_before_it_serves_there_is_nothing_to_ask(tmp_path: Path) -> None:
    """Who asks too early is told to come again."""
    projector = Projector(tmp_path / "readmodel.duckdb", Logs.empty())
    with pytest.raises(Unavailable, match="is being built"):
        await projector.ask(Question(sql="SELECT 1"))
    projector.readers.close()

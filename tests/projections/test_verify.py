"""``wake verify --read-model`` finds any row that is not what the log says."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from histories import Story
from lifelike import interleaved
from readmodels import Logs, append, projecting, settled, verified

from events.names import Key
from projections import verify as verification
from projections.rows import HOT, OWNED, LogRow, ScheduleRow, TriggerRow


def full() -> Logs:
    """Many histories and some log lines; the same each time."""
    logs: Any = Logs.empty()
    for subject, body in interleaved(8, 50):
        logs.events.add(subject, body)
    for number in range(10):
        logs.line(Key("u1", f"s8-{number}"), "tool.completed", f"line {number}")
    logs.triggers.add("triggers.all.ci.done", b"{}")
    logs.recurring.add("recurring.ada.daily.ran", b"{}")
    return logs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of all that, made once and never changed."""
    model = tmp_path_factory.mktemp("made") / "readmodel.duckdb"

    async def make() -> None:
        async with projecting(model, full()):
            pass

    asyncio.run(make())
    return model


@pytest.fixture
def kept(made: Path, tmp_path: Path) -> tuple[Path, Logs]:
    """A copy of it to be spoiled, and the log that it was made from."""
    return Path(shutil.copy(made, tmp_path)), full()


OUTSIDE = (*OWNED, LogRow, TriggerRow, ScheduleRow)


def change(model: Path, sql: str) -> None:
    """Change rows behind the projector's back."""
    connection = duckdb.connect(str(model))
    assert connection.execute(sql).fetchone() == (1,), "one row was changed"
    connection.close()


async def test_what_the_projector_wrote_is_right(kept: tuple[Path, Logs]) -> None:
    """Nothing differs, and everything was looked at."""
    report = await verified(*kept)
    assert (report.wrong, report.differences) == (0, [])
    assert report.executions > 30
    assert report.rows > 300
    assert report.lines == 10


async def test_triggers_are_no_log_lines(tmp_path: Path) -> None:
    """They are compared as well, and counted as the rows that they are."""
    logs = Logs.empty()
    logs.line(Key("ada", "one"), "start", "a line")
    log: Any = logs.triggers
    for n in range(3):
        log.add("triggers.ada.ci.done", b"%d" % n)
    model = tmp_path / "readmodel.duckdb"
    async with projecting(model, logs) as projector:
        await settled(projector)
    report = await verified(model, logs)
    assert (report.lines, report.rows, report.wrong) == (1, 3, 0)


async def test_in_turns_it_is_the_same(
    kept: tuple[Path, Logs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded by taking some executions at a time."""
    before = await verified(*kept)
    monkeypatch.setattr(verification, "TURN", 37)
    assert await verified(*kept) == before


@pytest.mark.parametrize("table", [kind.table for kind in OUTSIDE])
async def test_a_row_too_few_and_one_too_many(
    kept: tuple[Path, Logs], table: str
) -> None:
    """Of any table: a row that is gone, and a row that is there twice."""
    model, logs = kept
    name = f"{table}_hot" if table in {kind.table for kind in HOT} else table
    first = f"(SELECT min(rowid) FROM {name})"  # noqa: S608 - a test's
    change(model, f"INSERT INTO {name} FROM {name} WHERE rowid = {first}")
    report = await verified(model, logs)
    assert report.wrong >= 1
    assert "is there 2 times" in report.differences[0]
    connection = duckdb.connect(str(model))
    connection.execute(f"DELETE FROM {name}")  # noqa: S608 - a test's
    connection.close()
    report = await verified(model, logs)
    assert report.wrong >= 1
    assert any("is missing" in said for said in report.differences)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SET status = 'resting'", "has status 'resting', must be"),
        ("SET cost = cost + 0.01", "has cost"),
        ("SET output_tokens = 7777", "has output_tokens 7777, must be"),
        ("SET notes = '{}'", "has notes '{}', must be None"),
        ("SET updated_at = updated_at + INTERVAL 1 MICROSECOND", "has updated_at"),
        ("SET problem = 'x'", "has problem 'x', must be None"),
    ],
)
async def test_a_value_that_is_wrong(
    kept: tuple[Path, Logs], sql: str, said: str
) -> None:
    """The execution, the column, what it has and what it must have are named."""
    model, logs = kept
    change(
        model,
        f"UPDATE executions_hot {sql} WHERE rowid = "  # noqa: S608 - a test's
        "(SELECT min(rowid) FROM executions_hot)",
    )
    report = await verified(model, logs)
    assert report.wrong == 1
    assert said in report.differences[0]
    assert report.differences[0].startswith("u")


async def test_rows_of_nobody(kept: tuple[Path, Logs]) -> None:
    """Rows whose execution does not exist are found too."""
    model, logs = kept
    change(
        model,
        "UPDATE steps SET eid = 3 WHERE rowid = (SELECT min(rowid) FROM steps)",
    )
    report = await verified(model, logs)
    assert any("steps" in said and "must not" in said for said in report.differences)


async def test_only_the_first_are_told(kept: tuple[Path, Logs]) -> None:
    """The rest is counted."""
    model, logs = kept
    connection = duckdb.connect(str(model))
    connection.execute("UPDATE steps SET cost = 99")
    connection.close()
    report = await verified(model, logs)
    assert report.wrong > len(report.differences) == verification.TOLD


async def test_a_chain_that_is_broken_is_seen(tmp_path: Path) -> None:
    """The projector does not prove the chain; this does, as every reader."""
    model, logs = tmp_path / "readmodel.duckdb", Logs.empty()
    log: Any = logs.events
    story = Story(Key("ada", "one"))
    story.running()
    story.respond(text="Done.")
    await append(logs, story)
    edited = log._stored[2].body.replace(b"Done.", b"Gone.")
    log._stored[2] = msgspec.structs.replace(log._stored[2], body=edited)
    async with projecting(model, logs):
        pass
    report = await verified(model, logs)
    assert report.wrong
    assert "ada/one" in report.differences[0]


async def test_while_it_goes_on(kept: tuple[Path, Logs]) -> None:
    """A projector verifies what it has at one moment, and writes on meanwhile."""
    model, logs = kept
    async with projecting(model, logs) as projector:
        story = Story(Key("ada", "late"))
        story.running()
        report = await projector.verify()
        await append(logs, story)
        await settled(projector)
        assert report.wrong == 0
        assert (await projector.verify()).executions == report.executions + 1

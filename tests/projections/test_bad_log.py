"""What cannot be folded: put aside with a reason, and it stops nothing else."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from histories import Story, call
from readmodels import Logs, append, ask, drift, projecting, raws, settled, verified

from events.catalog import ModelResponded
from events.commit import GENESIS, Commit, seal
from events.messages import Usage
from events.names import Key

KEY = Key("ada", "bad")
NEWER = {"type": "teleported.v1", "to": "mars"}
POISON: dict[str, bytes] = {
    "no JSON": b"\x00\xff{{{",
    "empty": b"",
    "another shape": b'{"version": "one", "events": 7}',
    "deep": b"[" * 100_000,
    "a newer event": json.dumps(
        {"version": 3, "id": "x", "at": "2026-01-01T00:00:00Z", "by": "y"}
        | {"events": [NEWER], "chain": "0"}
    ).encode(),
    "a newer version of an event": json.dumps(
        {"version": 3, "id": "x", "at": "2026-01-01T00:00:00Z", "by": "y"}
        | {"events": [{"type": "paused.v9"}], "chain": "0"}
    ).encode(),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where the read model is."""
    return tmp_path / "readmodel.duckdb"


def running(key: Key = KEY) -> Story:
    """An execution that a runner has taken."""
    story = Story(key)
    story.running()
    return story


def good() -> Story:
    """One that ended well."""
    story = running(Key("ada", "good"))
    story.respond(text="Done.")
    return story


@pytest.mark.parametrize("body", POISON.values(), ids=POISON)
async def test_poison_is_put_aside(model: Path, body: bytes) -> None:
    """A commit that nobody can read: its execution stays as it was, others go on."""
    logs: Any = Logs.empty()
    bad = running()
    async with projecting(model, logs) as projector:
        await append(logs, bad)
        position = logs.events.add("events.ada.bad.log", body)
        await append(logs, good())
        await settled(projector)
        letters = await ask(
            projector, 'SELECT position, "user", execution, reason FROM dead_letters'
        )
        found = await ask(
            projector,
            "SELECT version, problem FROM executions WHERE execution = 'bad'",
        )
        stuck = await ask(projector, "SELECT execution, why FROM stuck")
    assert [letter[:3] for letter in letters] == [(position, "ada", "bad")]
    assert letters[0][3]
    assert found == [(2, f"position {position}: {letters[0][3]}")]
    assert ("bad", "its history cannot be read") in stuck
    assert drift(model, raws(logs.events)) == []
    report = await verified(model, logs)
    assert (report.aside, report.differences) == (1, [])


async def test_what_follows_poison_is_put_aside_too(model: Path) -> None:
    """It stands on what cannot be read; also after a restart."""
    logs: Any = Logs.empty()
    bad = running()
    await append(logs, bad)
    logs.events.add("events.ada.bad.log", b"?")
    bad.respond(call("a"))
    body = bad.log[-1].body.replace(b'"version":3', b'"version":4')
    async with projecting(model, logs) as projector:
        logs.events.add("events.ada.bad.log", body)
        await logs.events.stir()
        await settled(projector)
    async with projecting(model, logs) as projector:
        logs.events.add("events.ada.bad.log", body)
        await logs.events.stir()
        await settled(projector)
        found = await ask(projector, "SELECT count(*) FROM dead_letters")
        assert found == [(3,)]
        found = await ask(projector, "SELECT version FROM executions")
        assert found == [(2,)]


@pytest.mark.parametrize("version", [1, 5])
async def test_poison_of_nobody(model: Path, version: int) -> None:
    """Commits of a history that has no readable beginning make no row."""
    logs: Any = Logs.empty()
    strange = running(Key("ada", "headless"))
    logs.events.add("events.ada.headless.agents", b"poison" if version == 1 else b"{}")
    for recorded in strange.log[1:]:
        logs.events.add("events.ada.headless.log", recorded.body)
    async with projecting(model, logs) as projector:
        await append(logs, good())
        await settled(projector)
        found = await ask(projector, "SELECT execution FROM executions")
        assert found == [("good",)]
        found = await ask(projector, "SELECT count(*) FROM dead_letters")
        assert found == [(2,)]
    assert (await verified(model, logs)).differences == []


async def test_subjects_that_are_no_commits(model: Path) -> None:
    """``events.>`` lets more through than there is meant to be."""
    logs: Any = Logs.empty()
    for subject in ("events.x", "events.a.b.c.d", "events.", "events.ada.bad"):
        logs.events.add(subject, b"{}")
    async with projecting(model, logs) as projector:
        await append(logs, good())
        await settled(projector)
        found = await ask(projector, "SELECT subject FROM dead_letters ORDER BY 1")
    assert len(found) == 4
    assert drift(model, raws(logs.events)[4:]) == []


async def test_log_lines_that_are_none(model: Path) -> None:
    """Whatever is in LOGS is put aside, and the next line is a row."""
    logs: Any = Logs.empty()
    for subject, body in (("logs.a.b.info", b"?"), ("logs.x", b"{}")):
        logs.logs.add(subject, body)
    logs.line(KEY, "tool.completed", "fine")
    async with projecting(model, logs) as projector:
        found = await ask(projector, "SELECT message FROM logs")
        assert found == [("fine",)]
        found = await ask(projector, "SELECT stream FROM dead_letters")
        assert found == [("LOGS",), ("LOGS",)]


async def test_numbers_that_fit_no_column(model: Path) -> None:
    """Whoever may append can make up a number; it becomes the largest there is."""
    logs: Any = Logs.empty()
    bad = running()
    await append(logs, bad)
    fact = ModelResponded(
        step=1, model="m\x00", usage=Usage(input=10**15, output=2**63 - 1), cost=1e308
    )
    new = Commit(
        version=3,
        id="x",
        at=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        by="y",
        events=(fact, fact),
    )
    _, body = seal(new, KEY, bad.log[-1].commit.chain or GENESIS)
    async with projecting(model, logs) as projector:
        logs.events.add("events.ada.bad.log", body)
        await logs.events.stir()
        await settled(projector)
        found = await ask(projector, "SELECT input_tokens FROM steps")
        assert found == [(2**31 - 1,)] * 2
        found = await ask(projector, "SELECT output_tokens FROM executions")
        assert found == [(2**63 - 1,)]


async def test_a_history_that_is_being_deleted(model: Path) -> None:
    """A projector that comes late finds the rest of one, and makes no row of it."""
    logs: Any = Logs.empty()
    gone = good()
    gone.do(lambda x: x.purge("old"))
    await append(logs, gone)
    for position in (1, 2):
        logs.events.delete(position)
    async with projecting(model, logs) as projector:
        assert await ask(projector, "SELECT * FROM executions") == []
        assert await ask(projector, "SELECT * FROM dead_letters") == []
    assert (await verified(model, logs)).differences == []


async def test_a_lost_commit(model: Path) -> None:
    """A hole in a history ends it for the model; the rows are those before it."""
    logs: Any = Logs.empty()
    bad = running()
    bad.respond(call("a"))
    bad.finish("a")
    await append(logs, bad)
    logs.events.delete(3)
    async with projecting(model, logs) as projector:
        await settled(projector)
        found = await ask(projector, "SELECT version, problem FROM executions")
    assert found[0][0] == 2
    assert "version 4 follows 2" in found[0][1]
    assert drift(model, raws(logs.events)) == []


async def test_a_rebuild_with_numbers_that_fit_no_column(model: Path) -> None:
    """Many rows at once are written in another way; it comes to the same."""
    logs: Any = Logs.empty()
    bad = running()
    await append(logs, bad)
    usages = [Usage(input=n) for n in range(1, 1_200)] + [Usage(input=10**15)]
    facts = tuple(
        ModelResponded(step=n, model="m\x00\u2028", text='"\\\n', usage=usage)
        for n, usage in enumerate(usages, 1)
    )
    new = Commit(version=3, id="x", at=bad.log[-1].commit.at, by="y", events=facts)
    _, body = seal(new, KEY, bad.log[-1].commit.chain)
    logs.events.add("events.ada.bad.log", body)
    async with projecting(model, logs) as projector:
        found = await ask(
            projector, "SELECT count(*), max(input_tokens), min(model) FROM steps"
        )
        assert found == [(1_200, 2**31 - 1, "m\x00\u2028")]
        found = await ask(projector, "SELECT DISTINCT text FROM steps")
        assert found == [('"\\\n',)]
    assert drift(model, raws(logs.events)) == []
    assert [path.name for path in sorted(model.parent.iterdir())] == [
        model.name,
        f"{model.name}.lock",
    ]

"""Files that are no good: said in words, rebuilt where that is safe, never harmed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from histories import Story
from readmodels import Logs, append, ask, drift, projecting, raws, settled

from events.catalog import Event
from events.errors import Misconfigured
from events.names import Key
from projections import schema, store
from projections.projector import Projector
from projections.rebuild import rebuild


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where the read model is."""
    return tmp_path / "readmodel.duckdb"


async def made(model: Path) -> Logs:
    """A log of one execution, and its read model."""
    logs = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    async with projecting(model, logs) as projector:
        await append(logs, story)
        await settled(projector)
    return logs


async def refused(model: Path, logs: Logs) -> str:
    """Run on a file that cannot be used; returns what is said."""
    with pytest.raises(Misconfigured) as caught:
        await Projector(model, logs).run()
    return str(caught.value)


async def test_a_file_of_another_version_is_rebuilt(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were made by other rules are made anew, without being told to."""
    monkeypatch.setattr(schema, "RULES", schema.RULES - 1)
    logs = await made(model)
    monkeypatch.undo()
    async with projecting(model, logs) as projector:
        assert await ask(projector, "FROM about") == [(schema.fingerprint(),)]
        assert await ask(projector, "SELECT status FROM executions") == [("running",)]
    assert drift(model, raws(logs.events)) == []


async def test_in_place_of_a_directory_nothing_is_built(tmp_path: Path) -> None:
    """It is said before the log is read, and the directory stays as it is."""
    model = tmp_path
    logs = Logs.empty()
    with pytest.raises(Misconfigured, match="is a directory: name a file"):
        await rebuild(model, logs)
    assert "is a directory" in (await refused(model, logs)).lower()
    assert not list(model.parent.glob(f"{model.name}.new*"))


async def test_what_made_a_file_is_the_same_in_every_process() -> None:
    """Whatever else is loaded: or each would rebuild what another one made."""

    class Elsewhere(  # type: ignore[misc]  # frozen on the library's own
        Event, frozen=True, kw_only=True, tag="elsewhere.v1"
    ):
        """An event that no commit can hold."""

    assert Elsewhere in Event.__subclasses__()
    there = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-c",
            "from projections import schema as s; print(s.fingerprint())",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert there.stdout.strip() == schema.fingerprint()


def spoiled(path: Path, spoil: Callable[[bytes], bytes]) -> bytes:
    """Change a file; returns what it has now."""
    body = spoil(path.read_bytes())
    path.write_bytes(body)
    return body


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"This is a text of somebody.\n" * 200,
        lambda body: body[: len(body) // 2],
        lambda body: body[:100],
        lambda body: body[:4096] + os.urandom(8192) + body[12288:],
        lambda body: b"\x00" * len(body),
        lambda body: body[:12] + b"\x10\x27" + body[14:],
        lambda _: b"",
    ],
    ids=["a text", "half", "a stump", "noise", "zeros", "a header", "nothing"],
)
async def test_a_damaged_file_is_said_and_left_alone(model: Path, spoil: Any) -> None:
    """It may be somebody's: only an order to rebuild replaces it."""
    logs = await made(model)
    body = spoiled(model, spoil)
    said = await refused(model, logs)
    assert "wake rebuild" in said
    assert str(model) in said
    assert spoiled(model, lambda same: same) == body


async def test_a_database_of_something_else_is_left_alone(model: Path) -> None:
    """Not even with the order that is given for a damaged one."""
    other = duckdb.connect(str(model))
    other.execute("CREATE TABLE customers (name VARCHAR)")
    other.close()
    said = await refused(model, Logs.empty())
    assert "database of something else" in said


async def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """The message names it."""
    (tmp_path / "file").write_text("no folder")
    said = await refused(tmp_path / "file" / "readmodel.duckdb", Logs.empty())
    assert str(tmp_path / "file") in said


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from histories import Story
from lifelike import interleaved
from readmodels import Logs, settled
from events.errors import Misconfigured
from projections.projector import Projector
from projections.rebuild import rebuild

model, logs = Path(sys.argv[1]), Logs.empty()

async def main():
    for subject, body in interleaved(9, 20):
        logs.events.add(subject, body)
    projector = Projector(model, logs, interval=0.001)
    async with asyncio.TaskGroup() as group:
        group.create_task(projector.run())
        while projector._store is None:
            await asyncio.sleep(0.01)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        most = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        for seed in range(100, 10_000):
            for subject, body in interleaved(seed, 20):
                logs.events.add(subject, body)
            await logs.events.stir()
            await asyncio.sleep(0.01)

try:
    asyncio.run(main())
except* Misconfigured as errors:
    print(errors.exceptions[0])
try:
    asyncio.run(rebuild(model, logs))
except Misconfigured as error:
    print(error)
print(*sorted(path.name for path in model.parent.iterdir()))
"""


@pytest.mark.timeout(600)
async def test_a_full_disk_is_said_and_leaves_no_half_rows(model: Path) -> None:
    """The projector stops; what is in the file is the fold up to its position.

    Nor can it be built anew, and what was begun of that is removed.

    The disk is full for that process alone: the kernel limits what it may write.
    """
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FULL, str(model), "60000"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        timeout=500,
    )
    followed, rebuilt, left = ended.stdout.splitlines() or [ended.stderr] * 3
    assert "the disk is full" in followed
    assert str(model) in followed
    assert "the disk is full" in rebuilt
    assert f"{model.name}.new" not in left.split()
    opened = store.Store.open(model)
    position = opened.checkpoints()["EVENTS"].position
    opened.close()
    assert position > 0
    assert drift(model, _log_of_the_process(position)) == []


def _log_of_the_process(position: int) -> list[Any]:
    """What the process above had in its log, as far as the position."""
    from lifelike import interleaved  # noqa: PLC0415 - as in the process

    logs = Logs.empty()
    log: Any = logs.events
    seeds = iter([9, *range(100, 10_000)])
    while len(log._stored) < position:
        for subject, body in interleaved(next(seeds), 20):
            log.add(subject, body)
    return raws(log)[:position]

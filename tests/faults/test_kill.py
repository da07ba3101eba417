"""kill -9 at every append, of process and server: nothing is lost or done again."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import waking
from form import by_form

from events.jetstream import JetStreamJournal
from events.wire import Wire
from services.embedded import EmbeddedServer
from services.folder import DataFolder

PROMPT = """script:
todo_write {"tasks": [{"title": "work", "status": "in_progress"}]}
list_dir {"path": "."} && read_file {"path": "notes.txt"}
bash {"command": "echo $WAKE_CALL_ID >> effects.log"}
write_file {"path": "out.txt", "content": "written"}
bash {"command": "echo $WAKE_CALL_ID >> effects.log"} && list_dir {"path": "."}
read_file {"path": "out.txt"}
say All is done.
"""
APPENDS = 16


class Place(NamedTuple):
    """A data folder and a workspace that the sandboxed user may write to."""

    data: Path
    workspace: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Give an empty data folder and a workspace."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "notes.txt").write_text("remember the milk\n")
    for directory in (workspace, tmp_path):
        directory.chmod(0o777)
    return Place(tmp_path / "data", workspace)


def wake(place: Place, *arguments: str, crash: str = "") -> "subprocess.Popen[str]":
    """Start ``wake`` on the data folder, armed to crash or not."""
    environment = waking.environment(WAKE_CRASH=crash)
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", *arguments, "--data", str(place.data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=place.workspace,
    )


def start(place: Place, *, crash: str = "", model: str = "scripted") -> Any:
    """Start the run."""
    workspace = str(place.workspace)
    return wake(
        place,
        *("run", PROMPT, "--agent", "coder", "--json", "--model", model),
        *("--workspace", workspace),
        crash=crash,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for the end; returns exit code and what was printed."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def history(place: Place) -> list[Any]:
    """Return what is recorded of the one execution, if there is one."""
    return asyncio.run(_history(place.data))


async def _history(data: Path) -> list[Any]:
    with DataFolder.open(data) as folder:
        async with EmbeddedServer.start(folder) as server:
            wire = await Wire.connect(
                server.url, user=server.user, password=server.password
            )
            journal = await JetStreamJournal.open(wire)
            runs = [run async for run in journal.follow(live=False)]
            await wire.close()
    recorded = [commit for run in runs for commit in run]
    assert len({commit.key for commit in recorded}) <= 1
    return [{"execution": c.key.execution, **json.loads(c.body)} for c in recorded]


def check_whole(place: Place, before: list[Any], after: list[Any]) -> None:
    """Nothing recorded was changed or done again, and no effect came twice."""
    assert after[: len(before)] == before
    assert [commit["version"] for commit in after] == list(range(1, len(after) + 1))
    events = [event for commit in after for event in commit["events"]]
    kinds = Counter(event["type"] for event in events)
    steps = [e["step"] for e in events if e["type"] == "model_responded.v1"]
    assert steps == list(range(1, 8))
    assert kinds["completed.v1"] == kinds["created.v1"] == 1
    assert kinds["started.v1"] <= 2
    results = Counter(
        event["call_id"] for event in events if event["type"] == "tool_completed.v1"
    )
    doubts = Counter(
        event["call_id"] for event in events if event["type"] == "tool_in_doubt.v1"
    )
    assert set((results + doubts).values()) == {1}
    assert len(results + doubts) == 8
    effects = (place.workspace / "effects.log").read_text().split()
    assert all(count == 1 for count in Counter(effects).values())
    assert len(effects) + len(doubts) >= 2
    assert (place.workspace / "out.txt").read_text() == "written"


def resume(place: Place, before: list[Any]) -> list[Any]:
    """Go on with the execution; returns its history."""
    execution = before[0]["execution"]
    code, out, err = ended(wake(place, "run", "--resume", execution, "--json"))
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert (result["status"], result["output"]) == ("completed", "All is done.")
    return history(place)


def test_the_run_without_a_crash(place: Place) -> None:
    """The run that the others crash has the appends that they count on."""
    code, _, err = ended(start(place))
    assert code == 0, err
    after = history(place)
    assert len(after) >= 10
    assert len(after) <= APPENDS
    check_whole(place, [], after)


@pytest.mark.parametrize(
    ("when", "number"),
    by_form(
        [("before", 1), ("after", 1), ("before", 4), ("after", 6), ("before", 8)],
        list(product(("before", "after"), range(1, APPENDS + 1))),
    ),
)
def test_killed_at_an_append(place: Place, when: str, number: int) -> None:
    """The process dies before or after an append; the resumed run completes."""
    code, out, _ = ended(start(place, crash=f"append.{when}:{number}"))
    before = history(place)
    if code == 0:  # this run had fewer appends, results came together
        assert json.loads(out.splitlines()[-1])["status"] == "completed"
        check_whole(place, [], before)
        return
    assert code == -signal.SIGKILL
    assert len(before) == (number if when == "after" else number - 1)
    if not before:
        return  # it died before anything was recorded, and nothing is
    check_whole(place, before, resume(place, before))


def server_of(process: "subprocess.Popen[str]") -> int:
    """Find the nats-server that a run started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    for child in map(int, children.split()):
        if "nats-server" in Path(f"/proc/{child}/comm").read_text():
            return child
    raise AssertionError(f"no nats-server below {process.pid}: {children}")


def wait_for_step(process: "subprocess.Popen[str]", number: int) -> None:
    """Read the progress until a step was shown."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"step {number}"):
            return
    raise AssertionError(f"the run ended before step {number}")


@pytest.mark.parametrize("number", by_form([3], [1, 3, 5, 6]))
def test_the_server_killed(place: Place, number: int) -> None:
    """The nats-server dies under the run, which says so; resumed, it completes."""
    process = start(place, model="scripted?delay_ms=400")
    wait_for_step(process, number)
    os.kill(server_of(process), signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 5, err
    assert "--resume" in err
    before = history(place)
    check_whole(place, before, resume(place, before))


@pytest.mark.parametrize("seed", range(by_form(1, 12)))
def test_killed_at_random(place: Place, seed: int) -> None:
    """The process dies at any moment; resumed, the run completes."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
    process = start(place, model="scripted?delay_ms=400")
    wait_for_step(process, 1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=chance.uniform(0.0, 0.25))
    process.kill()
    ended(process)
    before = history(place)
    check_whole(place, before, resume(place, before))

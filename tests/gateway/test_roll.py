"""``wake runners`` and ``wake recover``, as whoever operates runners meets them."""

import asyncio
import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import waking
from nats_server import NatsServer
from running import start
from serving import serving
from waking import facts, wake

from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.names import Key
from events.spec import AgentSpec
from events.wire import Wire
from services.handler import Handler

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

NEVER = "scripted?delay_ms=60000"
SLOW = "scripted?delay_ms=1000"
SCRIPT = 'script:\nlist_dir {"path": "."}\nlist_dir {"path": "."}\nsay All is done.\n'
GHOST = Key("local", "haunted")


def lines(cwd: Path, *arguments: str) -> list[Any]:
    """What a command prints with --json."""
    ended = wake(cwd, *arguments, "--json")
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def recover(cwd: Path, *options: str) -> list[Any]:
    """What ``wake recover`` finds, however young it is."""
    return lines(cwd, "recover", "--older-than", "0s", *options)


def begun(cwd: Path, execution: str) -> None:
    """Wait until a runner has begun it."""
    following = waking.start(cwd, "events", execution, "--follow", "--json")
    waking.until(following, "started.v1")
    following.kill()
    following.communicate()


@contextmanager
def runner(server: NatsServer, cwd: Path) -> "Iterator[subprocess.Popen[str]]":
    """Run ``wake service runner`` as long as the block runs."""
    options = ("--json", "--nats", server.url, "--data", "data")
    process = waking.start(cwd, "service", "runner", *options)
    try:
        waking.until(process, "listening")
        yield process
    finally:
        process.kill()
        process.communicate()


async def haunt(server: NatsServer) -> None:
    """Let a runner that never existed begin an execution, and settle its work."""
    wire = await Wire.connect(server.url)
    journal = await JetStreamJournal.open(wire)
    spec = AgentSpec(name="explorer", tools=("list_dir",))
    await start(journal, GHOST, spec, workspace=None)
    queue = await journal.work("agents")
    [work] = await queue.fetch(1, 5.0)
    begin = partial(Execution.begin, runner="ghost", version=1)
    await Handler(journal, "runner:ghost").handle(GHOST, begin)
    await work.done()
    await queue.close()
    await wire.close()


@pytest.fixture
def haunted(own_server: NatsServer, tmp_path: Path) -> tuple[NatsServer, Path]:
    """A server on which something is stuck, and where to look from."""
    asyncio.run(haunt(own_server))
    return own_server, tmp_path


def test_who_holds_what(tmp_path: Path) -> None:
    """A row for the runner, and one for what it works on; as a table and as JSON."""
    with serving(tmp_path):
        ended = wake(tmp_path, "start", SCRIPT, "--model", NEVER, "--workspace", ".")
        execution = ended.out.strip()
        begun(tmp_path, execution)
        [row] = lines(tmp_path, "runners")
        assert row["holds"] == [f"local/{execution}"]
        assert row["lanes"] == ["agents", "agents_long", "agents_priority"]
        assert (row["concurrency"], row["draining"]) == (64, False)
        assert Path(f"/proc/{row['pid']}").exists()
        table = wake(tmp_path, "runners").out.splitlines()
        assert table[0].split() == ["RUNNER", "PID", "UP", "HOLDS", "LANES"]
        assert table[1].startswith(row["runner"])
        assert "1/64  agents, agents_long, agents_priority" in table[1]
        assert table[2] == f"    local/{execution}"
        assert recover(tmp_path) == []


def test_nothing_runs(own_server: NatsServer, tmp_path: Path) -> None:
    """That is said, with what to do; a program gets nothing, and no error."""
    wire = ("--nats", own_server.url)
    told = wake(tmp_path, "runners", *wire).out
    assert told == "no runner is here: start one with wake up, or wake service runner\n"
    assert lines(tmp_path, "runners", *wire) == []
    assert wake(tmp_path, "recover", *wire).out == (
        "nothing is stuck: whatever says running is in a runner's hands\n"
    )


def test_a_dry_run_changes_nothing(haunted: tuple[NatsServer, Path]) -> None:
    """It says what is stuck, since when, in whose hands; and leaves it so."""
    server, cwd = haunted
    wire = ("--nats", server.url)
    before = waking.history(cwd, GHOST.execution, *wire)
    [found] = recover(cwd, "--dry-run", *wire)
    assert found == {
        "user": "local",
        "execution": "haunted",
        "status": "running",
        "runner": "ghost",
        "attempt": 1,
        "since": before[-1]["at"],
        "put_back": False,
    }
    told = wake(cwd, "recover", "--older-than", "0s", "--dry-run", *wire).out
    assert told.startswith("local/haunted is stuck: running since ")
    assert told.endswith(", runner ghost\n")
    assert waking.history(cwd, GHOST.execution, *wire) == before
    assert lines(cwd, "recover", *wire) == []  # it is no 30 minutes old


def test_what_is_stuck_is_put_back(haunted: tuple[NatsServer, Path]) -> None:
    """While runners are there: one of them takes it, and there is no more to find."""
    server, cwd = haunted
    wire = ("--nats", server.url)
    with runner(server, cwd):
        [found] = recover(cwd, *wire)
        assert (found["execution"], found["put_back"]) == ("haunted", True)
        assert wake(cwd, "watch", GHOST.execution, *wire).code == 0
        assert recover(cwd, *wire) == []
    kinds = facts(waking.history(cwd, GHOST.execution, *wire))
    [why] = [fact["reason"] for fact in kinds if fact["type"] == "recovered.v1"]
    assert why == "nobody held it (wake recover)"
    assert [f["attempt"] for f in kinds if f["type"] == "started.v1"] == [1, 2]
    assert kinds[-1]["type"] == "completed.v1"


def test_in_a_folder_that_nobody_serves(tmp_path: Path) -> None:
    """What a dead process held is found, put back, and can be resumed."""
    process = waking.start(tmp_path, "run", SCRIPT, "--model", SLOW, "--json")
    waking.until(process, "step 1", "stderr")
    process.kill()
    waking.end(process)
    [found] = recover(tmp_path, "--dry-run")
    assert found["status"] == "running"
    assert lines(tmp_path, "runners") == []
    [put_back] = recover(tmp_path)
    assert put_back == {**found, "put_back": True}
    assert waking.history(tmp_path, found["execution"])[-1]["by"] == "operator"
    resumed = wake(tmp_path, "run", "--resume", found["execution"], "--json")
    assert resumed.last["status"] == "completed"


def test_where_there_is_nothing(tmp_path: Path) -> None:
    """Neither command makes a data folder."""
    for command in ("runners", "recover"):
        ended = wake(tmp_path, command, "--data", "nowhere")
        assert ended.code == 2
        assert "there is no wakestream data in nowhere" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_no_time_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    """The exit code is that of wrong usage."""
    ended = wake(tmp_path, "recover", "--older-than", "soon")
    assert ended.code == 2
    assert ended.err == (
        "wake: --older-than 'soon': write a time as 90s, 30m, 2h, 1d, of at most "
        "36500d\n"
    )

"""Services that end by themselves at a limit, as a supervisor sees them."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import waking
from fake_openai import FakeOpenAI
from fake_provider import Answer
from nats_server import NatsServer
from waking import Ended, facts, wake

if TYPE_CHECKING:
    import subprocess

STEPS = 12
LONG = "script:\n" + 'list_dir {"path": "."}\n' * STEPS + "say All is done.\n"
SLOW = "scripted?delay_ms=400"


@pytest.fixture
def at(tmp_path: Path, own_server: NatsServer) -> tuple[str, ...]:
    """Flags that lead to a server, and to a configuration without patience."""
    config = tmp_path / "hasty.toml"
    config.write_text(f'workspaces.allowed = ["{tmp_path}"]\nrunner.drain = 0\n')
    return ("--nats", own_server.url, "--config", str(config))


@contextmanager
def service(
    cwd: Path, name: str, *options: str, **environment: str
) -> Iterator["subprocess.Popen[str]"]:
    """Serve one service; killed at the end if it still runs."""
    command = ("service", name, "--json", *options)
    process = waking.start(cwd, *command, stdin=None, **environment)
    try:
        waking.until(process, "listening")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def started(cwd: Path, at: tuple[str, ...], prompt: str, model: str) -> str:
    """Start an execution; returns its id."""
    options = ("--model", model, "--workspace", ".", *at[:2])
    ended = wake(cwd, "start", prompt, *options)
    assert ended.code == 0, ended.err
    return ended.out.strip()


def said(ended: Ended, limit: str) -> list[Any]:
    """The log lines that speak of a limit."""
    lines = [json.loads(line) for line in ended.err.splitlines()]
    return [line for line in lines if line.get("limit") == limit]


def test_at_its_time_limit_a_runner_gives_back_and_the_next_goes_on(
    tmp_path: Path, at: tuple[str, ...]
) -> None:
    """It ends with 0 and one line; no step is lost and none is done again."""
    with service(tmp_path, "lifecycle", *at):
        execution = started(tmp_path, at, LONG, SLOW)
        with service(tmp_path, "runner", *at, "--time-limit", "3") as process:
            ended = waking.end(process)
        before = waking.history(tmp_path, execution, *at[:2])
        with service(tmp_path, "runner", *at):
            assert wake(tmp_path, "watch", execution, *at[:2]).code == 0
        after = waking.history(tmp_path, execution, *at[:2])
    assert ended.code == 0, ended.err
    (line,) = said(ended, "process.time_limit")
    assert line["event"] == "process.time_limit: served for 3 s; ending in order"
    kinds = [fact["type"] for fact in facts(after)]
    assert 0 < sum("tool_completed" in str(commit) for commit in before) < STEPS
    assert after[: len(before)] == before
    assert (kinds.count("started.v1"), kinds.count("recovered.v1")) == (2, 0)
    steps = [f["step"] for f in facts(after) if f["type"] == "model_responded.v1"]
    assert steps == list(range(1, STEPS + 2))


async def test_at_its_memory_limit_a_runner_gives_back_what_hangs(
    tmp_path: Path, at: tuple[str, ...]
) -> None:
    """A model's library makes it too large while it works on an execution."""
    limit = str(int(at_rest(tmp_path)) + 25)
    async with FakeOpenAI(Answer(ending="hang")) as provider:
        check = partial(grown_too_large, tmp_path, at, limit, provider)
        ended = await asyncio.to_thread(check)
    assert ended.code == 0, ended.err
    (line,) = said(ended, "process.memory_limit")
    assert f"more than {limit}; ending in order" in line["event"]


def grown_too_large(
    cwd: Path, at: tuple[str, ...], limit: str, provider: FakeOpenAI
) -> Ended:
    """Let a runner reach its memory limit, and another one end its work."""
    keys = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-test"}
    with service(cwd, "lifecycle", *at):
        execution = started(cwd, at, "Say done.", "openai-chat:gpt-4o")
        limited = (*at, "--memory-limit", limit)
        with service(cwd, "runner", *limited, **keys) as process:
            ended = waking.end(process)
        provider.script.clear()  # whether it was asked before the limit or not
        provider.script.append(Answer(text=("done",)))
        with service(cwd, "runner", *at, **keys):
            assert wake(cwd, "watch", execution, *at[:2]).code == 0
        kinds = [f["type"] for f in facts(waking.history(cwd, execution, *at[:2]))]
    assert kinds == [
        "created.v1",
        "started.v1",
        "started.v1",
        "model_responded.v1",
        "completed.v1",
    ]
    return ended


def at_rest(cwd: Path) -> str:
    """The size of a process that does nothing yet, in MiB, as it is refused with."""
    ended = wake(cwd, "up", "--memory-limit", "1")
    assert ended.code == 5
    found = re.search(r"1 MiB, and the process takes (\d+) before it does", ended.err)
    assert found, ended.err
    return found[1]


def test_everything_in_one_process_ends_at_its_limit(tmp_path: Path) -> None:
    """Also wake up does: its nats-server ends with it, and the folder is free again."""
    process = waking.start(tmp_path, "up", "--json", "--time-limit", "1")
    ended = waking.end(process)
    assert ended.code == 0, ended.err
    assert len(said(ended, "process.time_limit")) == 1
    assert not (tmp_path / ".wake" / "service.json").exists()
    assert wake(tmp_path, "ls").code == 0


def test_the_first_signal_after_a_limit_does_not_hurry(
    tmp_path: Path, at: tuple[str, ...]
) -> None:
    """A supervisor's SIGTERM while it drains leaves the work in hand its time."""
    patient = tmp_path / "patient.toml"
    patient.write_text(f'workspaces.allowed = ["{tmp_path}"]\nrunner.drain = 60\n')
    options = (*at[:2], "--config", str(patient), "--time-limit", "3")
    model = "scripted?delay_ms=5000"
    with service(tmp_path, "lifecycle", *at):
        execution = started(tmp_path, at, LONG, model)
        with service(tmp_path, "runner", *options) as process:
            waking.until(process, "ending in order", "stderr")
            process.terminate()
            ended = waking.end(process)
        after = waking.history(tmp_path, execution, *at[:2])
    assert ended.code == 0
    assert [f["type"] for f in facts(after)][2] == "model_responded.v1"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--time-limit", "0.5"), "process.time_limit must be a number from 1 to"),
        (("--time-limit", "nan"), "process.time_limit must be a number from 1 to"),
        (("--time-limit", "1h"), "Invalid value for '--time-limit'"),
        (("--memory-limit", "0"), "process.memory_limit must be a whole number"),
        (("--memory-limit", "-5"), "process.memory_limit must be a whole number"),
        (("--memory-limit", "9" * 30), "process.memory_limit must be a whole number"),
        (("--memory-limit", "1G"), "Invalid value for '--memory-limit'"),
    ],
)
def test_values_that_are_no_limits(
    tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    """They are refused before anything is made."""
    ended = wake(tmp_path, "up", *flags)
    assert ended.code in (2, 5)
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["null", "none", "1e400", "12 h", "0x10"])
def test_words_that_are_no_limits(tmp_path: Path, text: str) -> None:
    """In a variable, neither another language's nothing nor a huge number is one."""
    ended = wake(tmp_path, "config", WAKE_PROCESS_TIME_LIMIT=text)
    assert ended.code == 5
    assert "process.time_limit must be a number from 1 to" in ended.err

"""Texts that are larger than a commit, as ``wake`` shows them: whole."""

import fcntl
import json
import signal
import struct
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import pytest
from waking import LIMIT, decide, end, start, wake

from events.catalog import Created
from events.execution import Execution
from events.messages import Reply, ToolCall, ToolResult
from events.names import MAX_COMMIT, Key
from events.spec import AgentSpec

KEY = Key("local", "long-1")
ANSWER = "A line of the answer, which has many.\n" * 60_000
"""Two megabytes and more."""

ARGUMENTS = json.dumps({"path": "x" * 2_000_000})
AGENT = AgentSpec(name="tester", tools=("read_file",), effects={"read_file": "read"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an execution that said much."""
    place = tmp_path_factory.mktemp("long")
    call = ToolCall(id="c1", name="read_file", arguments=ARGUMENTS)
    asks = Reply(model="m", tool_calls=(call,))
    result = ToolResult(call_id="c1", output="no such file", outcome="failed")
    decide(
        place / ".wake",
        KEY,
        partial(Execution.create, created=Created(agent=AGENT, input="Go")),
        partial(Execution.begin, runner="r1", version=1),
        partial(Execution.respond, attempt=1, reply=asks),
        partial(Execution.finish_calls, attempt=1, results=[result]),
        partial(Execution.respond, attempt=1, reply=Reply(model="m", text=ANSWER)),
    )
    return place


def test_show_for_people_has_all_of_the_result(place: Path) -> None:
    """No preview stands in its place."""
    ended = wake(place, "show", KEY.execution)
    assert ended.code == 0, ended.err
    result = ended.out.partition("\nresult\n")[2]
    assert result == "".join(f"  {line}\n" for line in ANSWER.rstrip().split("\n"))
    assert "read_file path=xxx" in ended.out
    assert "in BLOBS]" not in ended.out


def test_show_for_programs_has_all_that_was_said(place: Path) -> None:
    """The result, the arguments of the call, the conversation."""
    state = wake(place, "show", KEY.execution, "--json").last
    assert state["output"] == ANSWER
    assert state["turns"][0]["calls"][0]["arguments"] == ARGUMENTS
    _, asked, _, answered = state["conversation"]
    assert asked["tool_calls"][0]["arguments"] == ARGUMENTS
    assert answered["text"] == ANSWER


@pytest.mark.parametrize("more", [(), ("--follow",)])
def test_events_for_people_tell_the_texts(place: Path, more: tuple[str, ...]) -> None:
    """A line for each commit, with the beginning of what was said."""
    ended = wake(place, "events", KEY.execution, *more)
    assert len(ended.out.splitlines()) == 5
    assert "completed final_answer: A line of the answer" in ended.out
    assert "in BLOBS]" not in ended.out


def test_events_for_programs_are_as_they_are_stored(place: Path) -> None:
    """Each with the blobs that it names."""
    out = wake(place, "events", KEY.execution, "--json").out
    lines = out.splitlines()
    assert max(len(line.encode()) for line in lines) <= MAX_COMMIT
    third, fifth = json.loads(lines[2]), json.loads(lines[4])
    assert [blob["path"] for blob in third["blobs"]] == ["/0/tool_calls/0/arguments"]
    assert [(b["path"], b["size"]) for b in fifth["blobs"]] == [
        ("/0/text", len(ANSWER)),
        ("/1/output", len(ANSWER)),
    ]
    assert fifth["events"][1]["output"].endswith(f"[…: {len(ANSWER):,} bytes in BLOBS]")


def test_ls_and_watch_work_on_it(place: Path) -> None:
    """The one needs no texts, the other ends with the result."""
    assert wake(place, "ls", "--json").last["status"] == "completed"
    ended = wake(place, "watch", KEY.execution)
    assert ended.code == 0, ended.err
    assert ANSWER.rstrip() in ended.out


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_command_stopped_while_it_prints_prints_all(
    place: Path, more: tuple[str, ...], unbuffered: str
) -> None:
    """A write that a full pipe took in part is finished when it goes on."""
    arguments = ("show", KEY.execution, *more)
    printed = wake(place, *arguments).out
    process = start(place, *arguments, PYTHONUNBUFFERED=unbuffered)
    _until(lambda: _waiting(process.stdout) >= PIPE)
    process.send_signal(signal.SIGSTOP)
    _until(lambda: _state(process.pid) == "T")
    process.send_signal(signal.SIGCONT)
    _until(lambda: _state(process.pid) != "T")
    assert len(end(process).out) == len(printed) > len(ANSWER)


PIPE = 60_000
"""Bytes in a pipe that is full: of 65,536 the last page may stay open."""


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _waiting(pipe: IO[str] | None) -> int:
    """Bytes that were written and nobody read."""
    assert pipe is not None
    answer = fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def _state(pid: int) -> str:
    """The letter of the kernel's state of a process, see proc(5)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(") ")[2][0]

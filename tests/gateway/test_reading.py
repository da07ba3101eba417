import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from running import start as begin
from waking import Ended, facts, start, wake

from events import catalog as e
from events.errors import InvalidInput
from events.execution import Execution
from events.names import Key
from events.spec import AgentSpec
from events.state import Failure
from gateway.composition import Log, Place, with_log
from gateway.listing import STATUSES, Row, checked, table
from services.handler import Handler

PROMPT = """script:
todo_write {"tasks": [{"title": "read", "status": "done"}]}
read_file {"path": "notes.txt"} && read_file {"path": "missing.txt"}
metadata_write {"notes": {"found": "milk"}}
say The *milk*.
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two executions in it."""
    place = tmp_path_factory.mktemp("reading")
    (place / "ws").mkdir()
    (place / "ws" / "notes.txt").write_text("remember the milk\n")
    for user, prompt in (("local", PROMPT), ("ada", "script:\nsay Later.")):
        ended = wake(place, "run", prompt, "--workspace", "ws", "--user", user)
        assert ended.code == 0, ended.err
    return place


@pytest.fixture(scope="module")
def listed(place: Path) -> Ended:
    """What ``wake ls --json`` prints."""
    return wake(place, "ls", "--json")


@pytest.fixture(scope="module")
def execution(listed: Ended) -> str:
    """The id of the first execution."""
    return str(listed.last["id"])


def test_ls_for_programs(listed: Ended) -> None:
    """One object a line, the newest first, whoever's it is."""
    newest, oldest = map(json.loads, listed.out.splitlines())
    assert (newest["user"], oldest["user"]) == ("ada", "local")
    assert oldest["prompt"] == PROMPT
    assert oldest["agent"] == "explorer"
    assert oldest["status"] == "completed"
    assert oldest["steps"] == 4
    assert oldest["tokens"] > 0
    assert newest["started"] > oldest["started"]


def test_ls_for_people(place: Path, execution: str) -> None:
    """A table with a heading; without a terminal each execution is one line."""
    ended = wake(place, "ls")
    lines = ended.out.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == [
        *("ID", "STATUS", "STEPS", "TOKENS", "STARTED", "AGENT", "PROMPT")
    ]
    assert lines[2].startswith(f"{execution}  completed")
    assert lines[2].endswith(
        'metadata_write {"notes": {"found": "milk"}} say The *milk*.'
    )


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one execution that failed, and one that did not."""
    place = tmp_path_factory.mktemp("failed")
    (place / "empty.jsonl").touch()
    for model in (f"cassette:{place / 'empty.jsonl'}", "scripted"):
        wake(place, "run", "script:\nsay Fine.", "--model", model, "--workspace", ".")
    return place


def test_ls_tells_programs_why_one_failed(failed: Path) -> None:
    """The error is the object that run and watch give too; the others have none."""
    fine, broken = map(json.loads, wake(failed, "ls", "--json").out.splitlines())
    assert (fine["status"], fine["error"]) == ("completed", None)
    shown = json.loads(wake(failed, "show", broken["id"], "--json").out)
    assert broken["status"] == "failed"
    assert broken["error"] == shown["failure"]
    assert set(broken["error"]) == {"error", "message", "retryable"}


def test_ls_tells_people_why_one_failed(failed: Path) -> None:
    """At the end of its line: error and message."""
    line = wake(failed, "ls", "--status", "failed").out.splitlines()[-1]
    row = json.loads(wake(failed, "ls", "--status", "failed", "--json").out)
    assert line.endswith(f"({row['error']['error']}: {row['error']['message']})")


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (("failed",), 1),
        (("failed", "completed"), 2),
        (("failed,completed", "paused"), 2),
        (("paused", "corrupt"), 0),
    ],
)
def test_ls_of_some_statuses(failed: Path, asked: tuple[str, ...], count: int) -> None:
    """Only those asked for; several by several flags, or by commas."""
    flags = [word for status in asked for word in ("--status", status)]
    assert len(wake(failed, "ls", *flags, "--json").out.splitlines()) == count
    lines = wake(failed, "ls", *flags).out.splitlines()
    assert len(lines) == count + 1
    assert count or lines == ["none is corrupt or paused"]


@pytest.mark.parametrize(
    "status", ["dead", "", "failed,", "Failed", "x" * 10_000, "\0"]
)
def test_a_status_that_there_is_not(tmp_path: Path, status: str) -> None:
    """It is refused with those that there are, before anything is read."""
    with pytest.raises(InvalidInput) as caught:
        checked([status])
    assert f"there are: {', '.join(STATUSES)}" in str(caught.value)
    assert len(str(caught.value)) < 250
    if "\0" not in status:  # no argument of a process can hold one
        assert wake(tmp_path, "ls", "--status", status).code == 2
    assert list(tmp_path.iterdir()) == []


def test_ls_of_nothing_says_how_to_start(tmp_path: Path) -> None:
    """Where nothing ran it says so, and makes nothing."""
    ended = wake(tmp_path, "ls")
    assert ended.code == 0
    assert 'start with wake run "PROMPT"' in ended.out
    assert wake(tmp_path, "ls", "--json").out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_table_in_two_widths() -> None:
    """Wide terminals get a line for each, narrow ones two; nothing is wider."""
    row = Row(
        id="x" * 36,
        user="local",
        agent="explorer",
        status="awaiting_input",
        steps=12345,
        tokens=1234567,
        started=datetime(2026, 1, 2, tzinfo=UTC),
        prompt="word\x1b " * 100,
    )
    for width, count in ((79, 3), (80, 3), (119, 3), (120, 2), (200, 2)):
        lines = list(table([row], width))
        assert len(lines) == count
        assert all(len(line) <= max(width, 81) for line in lines)
        assert all(line.isprintable() for line in lines)


def test_the_reason_is_one_line_more() -> None:
    """In a terminal it stands below, cut to the width; a message cannot forge a row."""
    evil = "bad\x1b[2J\n" + "y" * 36 + "  completed" + " word" * 100
    row = Row(
        id="x" * 36,
        user="local",
        agent="explorer",
        status="failed",
        steps=1,
        tokens=2,
        started=None,
        prompt="Do it.",
        error=Failure(error="model_refused", message=evil, retryable=False),
    )
    for width, count in ((80, 4), (120, 3), (None, 2)):
        lines = list(table([row], width))
        assert len(lines) == count
        assert "model_refused: bad" in lines[-1]
        assert all(line.isprintable() for line in lines)
        assert width is None or all(len(line) <= max(width, 81) for line in lines)


def test_show_for_people(place: Path, execution: str) -> None:
    """State, plan, steps with their calls, notes and the result."""
    out = wake(place, "show", execution).out
    for expected in (
        f"execution  {execution}",
        "status     completed",
        "because    final_answer",
        "agent      explorer on scripted",
        f"workspace  {place / 'ws'}",
        'note       found: "milk"',
        "  [x] read\n",
        "     read_file path=notes.txt [success]\n",
        "     read_file path=missing.txt [failed]: there is no 'missing.txt'",
        "   4 the answer [",
        "\nresult\n  The *milk*.\n",
    ):
        assert expected in out, out


def test_show_for_programs(place: Path, execution: str) -> None:
    """The whole state as one object, with the conversation."""
    state = wake(place, "show", execution, "--json").last
    assert state["status"] == "completed"
    assert state["notes"] == {"found": "milk"}
    assert state["conversation"][0] == {"type": "user", "text": PROMPT}
    assert state["conversation"][-1]["text"] == "The *milk*."
    outcomes = [m["outcome"] for m in state["conversation"] if m["type"] == "tool"]
    assert outcomes == ["success", "success", "failed", "success"]


def test_show_at_a_version(place: Path, execution: str) -> None:
    """It is shown as it was; the first version is the order alone."""
    first = wake(place, "show", execution, "--at", "1", "--json").last
    assert (first["version"], first["status"], first["steps"]) == (1, "pending", 0)
    third = wake(place, "show", execution, "--at", "3")
    assert "status     running" in third.out
    assert "result" not in third.out


def test_show_at_a_version_has_its_subagents(tmp_path: Path) -> None:
    """Those that were asked for later were not there yet."""
    boss = Key("local", "boss")

    def spawn(execution: Execution) -> None:
        execution.trigger_event(
            e.ChildSpawned, call_id="c", child="helper", agent="explorer", prompt=""
        )

    async def spawned(log: Log) -> None:
        await begin(log.journal, boss, AgentSpec(name="boss"))
        await Handler(log.journal, "t").handle(boss, spawn)

    assert wake(tmp_path, "run", "script:\nsay Hi.").code == 0
    with_log(Place(tmp_path / ".wake"), spawned)
    first = wake(tmp_path, "show", "boss", "--at", "1", "--json").last
    assert first["subagents"] == []
    now = wake(tmp_path, "show", "boss", "--json").last
    assert [one["id"] for one in now["subagents"]] == ["helper"]


@pytest.mark.parametrize("at", ["0", "-1", "999", "99999999999999999999"])
def test_show_at_no_version(place: Path, execution: str, at: str) -> None:
    """A version that is not there is refused with those that are."""
    ended = wake(place, "show", execution, "--at", at, "--json")
    assert ended.code == 2
    assert "has the versions 1 to " in ended.last["message"]
    assert ended.err.count("\n") == 1


def test_show_at_nonsense(place: Path, execution: str) -> None:
    """What is no number is wrong usage."""
    ended = wake(place, "show", execution, "--at", "last")
    assert ended.code == 2
    assert "--at" in ended.err


def test_events_for_people(place: Path, execution: str) -> None:
    """A line for each commit: version, time, route, who, and what."""
    lines = wake(place, "events", execution).out.splitlines()
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == list(range(1, len(lines) + 1))
    assert "  agents    user:local  created explorer on scripted: script:" in lines[0]
    assert "  started attempt 1 by " in lines[1]
    assert "  finished  runner:" in lines[-1]
    assert "completed final_answer: The *milk*." in lines[-1]


def test_events_for_programs(place: Path, execution: str) -> None:
    """Each line is a commit as it is stored, its chain value last."""
    ended = wake(place, "events", execution, "--json")
    lines = ended.out.splitlines()
    commits = [json.loads(line) for line in lines]
    assert [commit["version"] for commit in commits] == list(range(1, len(lines) + 1))
    kinds = [fact["type"] for fact in facts(commits)]
    assert (kinds[0], kinds[-1]) == ("created.v1", "completed.v1")
    for line, commit in zip(lines, commits, strict=True):
        assert line.endswith(f',"chain":"{commit["chain"]}"}}')


def test_a_closed_pipe_is_no_traceback(place: Path, execution: str) -> None:
    """``wake events ID | head -1`` ends without a word on stderr."""
    process = start(place, "events", execution, "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) in (0, 1)

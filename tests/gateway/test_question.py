"""What an execution asks, as a person is shown it."""

import io
from pathlib import Path
from typing import Any

import pytest
from histories import Story, call, spec
from rich.console import Console
from waking import ESCAPES, end, start, until, wake

from events.names import Key
from events.state import State
from gateway import question
from gateway.composition import Place
from gateway.display import TerminalDisplay
from gateway.plain import PlainDisplay
from gateway.progress import Progress

EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\nexecution forged"
ASKS = """script:
ask_user {"question": "Which?", "schema": {"type": "string", "minLength": 2}}
say Thanks.
"""


def asking(**arguments: Any) -> Story:
    """An execution whose model asks the user."""
    story = Story()
    story.running(workspace="/work")
    story.respond(call("q", "ask_user", {"question": "Which?", **arguments}))
    return story


def approving(arguments: Any) -> Story:
    """An execution that needs an approval."""
    story = Story()
    story.running(spec(approvals=("launch",)), workspace="/work")
    story.respond(call("a", "launch", arguments))
    return story


def doubting() -> Story:
    """An execution whose runner was lost while it launched."""
    story = Story()
    story.running(spec(on_doubt="ask"), workspace="/work")
    story.respond(call("a", "launch", {"n": 1}))
    story.begin(again=True)
    return story


def state(story: Story) -> State:
    """How it stands."""
    return story.load().state


def test_a_question_is_shown_with_its_schema_and_deadline() -> None:
    """All that whoever answers has to know."""
    story = asking(schema={"enum": ["red"]}, within=60)
    assert list(question.asked(state(story))) == [
        "it asks:",
        "    Which?",
        '  the answer must fit {"enum": ["red"]}',
        "  until 2026-01-01 00:01:00 UTC",
        "  request 1-question-q",
    ]


def test_what_needs_approval_is_shown_whole() -> None:
    """However long the arguments are, and with every space that is in them."""
    command = "ls" + " " * 600 + "; rm -rf x"
    lines = list(question.asked(state(approving({"command": command}))))
    assert lines[0] == "it asks whether this may run:"
    assert lines[1] == f'    launch {{"command":"{command}"}}'


def test_what_is_too_long_to_read_says_how_much_is_not_shown() -> None:
    """And where it is."""
    lines = list(question.asked(state(approving({"command": "x" * 30_000}))))
    assert lines[1].endswith("… (10,021 characters more: see wake show --json)")


def test_a_doubt_is_shown_with_what_was_under_way() -> None:
    """The call, and that nobody knows."""
    lines = list(question.asked(state(doubting())))
    assert lines[0].startswith("its runner was lost while this ran")
    assert lines[1] == '    launch {"n":1}'


@pytest.mark.parametrize(
    ("story", "flags"),
    [
        (asking(), ["'ANSWER'"]),
        (approving({}), ["--approve", "--deny 'REASON'", "--edit '{…}'"]),
        (doubting(), ["--run-again", "--tell 'WHAT YOU KNOW'"]),
    ],
    ids=["question", "approval", "doubt"],
)
def test_the_commands_that_answer_can_be_copied(
    story: Story, flags: list[str], tmp_path: Path
) -> None:
    """With the user and the place; where nobody serves, also how to go on."""
    place = Place(tmp_path / "data")
    where = f" --user ada --data {tmp_path / 'data'}"
    *lines, last = question.answers(story.key, state(story), place)
    assert [line.partition(": ")[2] for line in lines] == [
        f"wake input run-1 {flag}{where}" for flag in flags
    ]
    assert last == f"and go on with: wake run --resume run-1 --data {tmp_path / 'data'}"
    served = Place(Path(".wake"), "nats://h:1")
    (one, *_) = question.answers(Key("local", "x"), state(story), served)
    assert one == f"answer with: wake input x {flags[0]} --nats nats://h:1"


def test_nothing_is_shown_of_what_asks_nothing() -> None:
    """No lines, no commands, no object."""
    story = Story()
    story.running()
    assert list(question.asked(state(story))) == []
    assert question.answers(story.key, state(story), Place(Path(".wake"))) == []
    assert question.as_object(state(story)) is None


@pytest.mark.parametrize(
    "story",
    [
        asking(question=EVIL, schema={"title": EVIL}),
        approving({"command": EVIL}),
    ],
    ids=["question", "approval"],
)
def test_a_question_can_neither_act_nor_look_like_something_else(story: Story) -> None:
    """In both displays, from the start and as it comes."""
    for begun in (2, len(story.log)):
        out, drawn = io.StringIO(), io.StringIO()
        console = Console(file=drawn, force_terminal=True, width=80, height=24)
        for display in (PlainDisplay(out), TerminalDisplay(console)):
            progress = Progress.of(story.key, story.log[:begun])
            with display:
                display.begin(progress)
                for recorded in story.log[begun:]:
                    progress.take(recorded)
                    display.update(progress, recorded)
                display.end(progress, [])
        lines = out.getvalue().splitlines()
        assert all(line.isprintable() for line in lines)
        assert sum(line.startswith("execution ") for line in lines) == 2
        assert any(line.startswith("it asks") for line in lines)
        assert "\x1b]" not in drawn.getvalue()
        assert "\u202e" not in drawn.getvalue()
        assert "it asks" in ESCAPES.sub("", drawn.getvalue())


def test_a_run_that_asks_parks_and_says_how_to_answer(tmp_path: Path) -> None:
    """Code 4; the command that it prints answers it, and it goes on to its end."""
    asked = wake(tmp_path, "run", ASKS, "--agent", "coder", "--json")
    assert asked.code == 4
    assert (asked.last["status"], asked.last["asks"]["kind"]) == (
        "awaiting_input",
        "question",
    )
    command = f"wake input {asked.id} "
    assert f"answer with: {command}'ANSWER'\n" in asked.err
    assert f"and go on with: wake run --resume {asked.id}\n" in asked.err
    again = wake(tmp_path, "run", "--resume", asked.id)
    assert again.code == 4
    assert "it asks:\n    Which?\n" in again.out
    refused = wake(tmp_path, "input", asked.id, "r", "--json")
    assert (refused.code, refused.last["error"]) == (2, "invalid_input")
    assert "'r' is too short" in refused.err
    answered = wake(tmp_path, "input", asked.id, "red", "--json", "--command-id", "c-1")
    assert answered.code == 0, answered.err
    assert answered.last["command_id"] == "c-1"
    assert (answered.last["accepted"], answered.last["status"]) == (True, "pending")
    done = wake(tmp_path, "run", "--resume", asked.id, "--json")
    assert (done.code, done.last["output"]) == (0, "Thanks.")
    assert done.last["asks"] is None


def test_who_answers_where_nobody_serves_is_in_the_history(tmp_path: Path) -> None:
    """By the user, because of the command; and what is not there is not answered."""
    none = wake(tmp_path, "input", "nix", "red")
    assert (none.code, "no wakestream data" in none.err) == (2, True)
    asked = wake(tmp_path, "run", ASKS, "--agent", "coder", "--user", "ada")
    assert f"wake input {asked.id} 'ANSWER' --user ada\n" in asked.out
    mine = ("input", asked.id, "red", "--command-id", "c-1")
    other = wake(tmp_path, *mine)
    assert (other.code, "is not there: it asks for nothing" in other.err) == (2, True)
    assert wake(tmp_path, *mine, "--user", "ada").code == 0
    history = wake(tmp_path, "events", asked.id).out
    assert 'user:ada  input_received 1-question-s1-1: "red"' in history


def test_a_watch_shows_what_is_asked_and_how_to_answer(tmp_path: Path) -> None:
    """As soon as it is asked, and goes on watching until the end."""
    service = start(tmp_path, "up", "--json")
    try:
        until(service, "listening")
        started = wake(tmp_path, "start", ASKS, "--agent", "coder", "--id", "w-1")
        assert started.code == 0, started.err
        watching = start(tmp_path, "watch", "w-1")
        shown = until(watching, "answer with: wake input w-1 'ANSWER'")
        assert "it asks:\n    Which?\n" in shown
        assert wake(tmp_path, "input", "w-1", "red").code == 0
        ended = end(watching)
        assert (ended.code, "Thanks." in ended.out) == (0, True), ended.err
        assert "go on with" not in shown + ended.out
    finally:
        service.terminate()
        end(service)

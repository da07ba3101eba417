from pathlib import Path

import pytest
from waking import ESCAPES, Terminal, history, wake

LONG = "script:\n" + 'list_dir {"path": "."}\n' * 4 + "say # Done\\n\\nIt *is*."
PLANNED = """script:
todo_write {"tasks": [{"title": "look around", "status": "in_progress"}]}
list_dir {"path": "."}
say It *is* done.
"""
SLOW = ("--model", "scripted?delay_ms=500")
STUCK = ("--model", "scripted?delay_ms=60000")
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a workspace in it."""
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "notes.txt").write_text("remember the milk\n")
    return tmp_path


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (30, 10)])
def test_a_run_in_a_terminal(place: Path, size: tuple[int, int]) -> None:
    """Plan, steps and calls are shown live, then the result and where there is more."""
    with Terminal(
        place, "run", PLANNED, "--workspace", "ws", *SLOW, size=size
    ) as terminal:
        terminal.until("asking the model")
        terminal.until("look around")
        terminal.until("list_dir")
        assert terminal.end() == 0
        text = terminal.text
    assert "It is done." in text
    assert "completed (final_answer): 3" in text
    assert "wake events " in text
    assert terminal.raw.rfind(SHOWN) > terminal.raw.rfind(HIDDEN)  # the cursor is back


def test_no_color_means_no_colour(place: Path) -> None:
    """With NO_COLOR nothing is coloured; bold and dim may stay."""
    with Terminal(place, "run", PLANNED, "--workspace", "ws", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    colours = [code for code in ESCAPES.findall(terminal.raw) if code.endswith("m")]
    used = {part for code in colours for part in code[2:-1].split(";")}
    assert not used & {str(n) for n in [*range(30, 39), *range(40, 49)]}


def test_a_dumb_terminal_gets_plain_lines(place: Path) -> None:
    """Where the cursor cannot move there are no escapes at all."""
    with Terminal(place, "run", PLANNED, "--workspace", "ws", TERM="dumb") as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.raw
    assert "step 3: the answer" in terminal.text


def test_ctrl_c_cancels_in_order(place: Path) -> None:
    """One Ctrl-C: it says what it does, the step is recorded, the code is 130."""
    with Terminal(place, "run", LONG, "--workspace", "ws", *SLOW) as terminal:
        terminal.until("list_dir")
        terminal.press("\x03")
        terminal.until("press Ctrl-C again to kill it")
        assert terminal.end() == 130
    assert "cancelled: " in terminal.text
    execution = terminal.text.split()[1]
    last = history(place, execution)[-1]["events"][-1]
    assert (last["type"], last.get("forced", False)) == ("cancelled.v1", False)


def test_ctrl_c_twice_kills(place: Path) -> None:
    """The second Ctrl-C does not wait for a model call of a minute."""
    with Terminal(place, "run", LONG, "--workspace", "ws", *STUCK) as terminal:
        terminal.until("asking the model")
        terminal.press("\x03")
        terminal.until("cancel requested")
        terminal.press("\x03")
        assert terminal.end() == 130
    execution = terminal.text.split()[1]
    last = history(place, execution)[-1]["events"][-1]
    assert (last["type"], last["forced"]) == ("cancelled.v1", True)


def test_a_file_with_escapes_cannot_reach_the_terminal(place: Path) -> None:
    """What a tool read and a model said is shown, and acts on nothing."""
    evil = "\\u001b]0;owned\\u0007"
    (place / "ws" / "evil.txt").write_text("\x1b]0;owned\x07\x1b[2J")
    prompt = (
        'script:\nread_file {"path": "evil.txt"}\n'
        f'read_file {{"path": "{evil}"}}\n'
        "say &#27;]0;owned&#7; \x1b]0;owned\x07 \x9b2J end"
    )
    with Terminal(place, "run", prompt, "--workspace", "ws") as terminal:
        assert terminal.end() == 0
    for raw in (terminal.raw, wake(place, "events", terminal.text.split()[1]).out):
        assert "\x1b]" not in raw
        assert "\x07" not in raw
        assert "\x9b" not in raw
    with Terminal(place, "show", terminal.text.split()[1], "--json") as shown:
        assert shown.end() == 0
    assert "\x1b" not in shown.raw
    assert "owned" in shown.raw


def test_the_list_fits_a_terminal(place: Path) -> None:
    """At 80 columns an execution takes two lines, none of them broken."""
    assert wake(place, "run", LONG, "--workspace", "ws").code == 0
    with Terminal(place, "ls") as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert lines[2].startswith("    explorer: script: ")

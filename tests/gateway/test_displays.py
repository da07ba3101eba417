import io
import re
from collections.abc import Callable

import histories
import pytest
from rich.console import Console
from waking import ESCAPES

from events import catalog as e
from events.commands import Cancel, Pause
from events.messages import Task, ToolCall, ToolResult
from events.spec import AgentSpec
from gateway.display import TerminalDisplay
from gateway.plain import PlainDisplay
from gateway.progress import Progress
from gateway.running import Display

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m[bold red]loud[/] [link=http://x]y[/link]\u202e"
RESULT = (
    f"# Title {EVIL}\n\n&#x0d;&#x202e;entity [name](http://evil.example)\n\n"
    f"```sh\nls {EVIL}\n```\n\n| a | b |\n|---|---|\n| 1 | {EVIL} |\n"
)


def terminal(width: int = 80, height: int = 24) -> tuple[TerminalDisplay, io.StringIO]:
    """A display on a terminal of that size."""
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        width=width,
        height=height,
        highlight=False,
        markup=False,
        emoji=False,
        color_system="truecolor",
        legacy_windows=False,
    )
    return TerminalDisplay(console), out


def play(
    story: histories.Story, display: Display, *, begun_at: int = 1, end: bool = True
) -> Progress:
    """Show a history commit by commit, as the log would tell it."""
    progress = Progress.of(story.key, story.log[:begun_at])
    with display:
        display.begin(progress)
        for recorded in story.log[begun_at:]:
            for piece in ("some ", EVIL, " tokens"):
                display.text(piece)
            progress.take(recorded)
            display.update(progress, recorded)
        display.refresh()
        if end:
            display.end(progress, ["look: wake events run-1"])
    return progress


def told(story: histories.Story) -> list[str]:
    """The lines that a plain display writes of a history."""
    out = io.StringIO()
    play(story, PlainDisplay(out))
    return out.getvalue().splitlines()


def a_story() -> histories.Story:
    """Two steps with a plan, a tool that fails, and a result."""
    story = histories.Story()
    story.running(workspace="/work")
    tasks = (Task(title="look", status="in_progress"), Task(title="write"))
    calls = (
        ToolCall(id="c1", name="look", arguments='{"path": "src"}'),
        ToolCall(id="c2", name="write", arguments='{"path": "x"}'),
    )
    story.respond(*calls, text="I begin.")
    attempt = story.load().state.attempt
    results = (
        ToolResult(call_id="c1", output="seen", latency_ms=12, tasks=tasks),
        ToolResult(call_id="c2", output="disk full", outcome="failed", latency_ms=3),
    )
    story.do(lambda x: x.finish_calls(attempt, results))
    story.respond(text="# Done\n\nAll *good*.")
    return story


def a_hostile_story() -> histories.Story:
    """A history in which model, tools and user wrote what they could."""
    story = histories.Story()
    agent = AgentSpec(name="tester", tools=("look",), effects={"look": "read"})
    story.running(agent, workspace=f"/work{EVIL}")
    call = ToolCall(id=f"c{EVIL}", name=f"look{EVIL}", arguments=f'{{"p": "{EVIL}"}}')
    odd = ToolCall(id="c2", name="look", arguments=EVIL)
    story.respond(call, odd, text=EVIL)
    attempt = story.load().state.attempt
    plan = (Task(title=EVIL),)
    bad = [
        ToolResult(call_id=call.id, output=EVIL, outcome="failed", tasks=plan),
        ToolResult(call_id="c2", output=EVIL, notes={EVIL: EVIL}),
    ]
    story.do(lambda x: x.finish_calls(attempt, bad))
    story.command(Cancel(reason=EVIL))
    return story


def a_hostile_result() -> histories.Story:
    """A history whose result is Markdown that tries everything."""
    story = histories.Story()
    story.running(workspace="/work")
    story.respond(text=RESULT)
    return story


def test_plain_lines_tell_the_whole_run() -> None:
    """Header, steps with tokens, calls with outcome and time, plan, result, hints."""
    lines = told(a_story())
    assert lines[:2] == [
        "execution run-1",
        "agent tester, model scripted, workspace /work",
    ]
    text = "\n".join(lines)
    for expected in (
        r"step 1: I begin\. \[\d+ \+ \d+ tokens, ",
        r"  look path=src \[ok, 12 ms\]",
        r"  write path=x \[failed, 3 ms\]: disk full",
        r"  plan \[>\] look\n  plan \[ \] write",
        r"step 2: the answer",
        r"\n# Done\n\nAll \*good\*\.\n",
        r"\ncompleted \(final_answer\): 2 steps, ",
        r"\nlook: wake events run-1$",
    ):
        assert re.search(expected, text), text


def test_a_terminal_shows_the_whole_run() -> None:
    """The same in a terminal: marks, durations, the result as rendered Markdown."""
    display, out = terminal()
    play(a_story(), display)
    text = ESCAPES.sub("", out.getvalue())
    for expected in (
        "execution run-1",
        " 1 I begin.",
        "✓ look path=src",
        "12 ms",
        "✗ write path=x",
        "disk full",
        "▸ look",
        "· write",
        "completed (final_answer): 2 steps",
        "look: wake events run-1",
    ):
        assert expected in text
    assert "All good." in text  # rendered: the stars are gone


@pytest.mark.parametrize("story", [a_hostile_story, a_hostile_result])
@pytest.mark.parametrize("width", [12, 80])
def test_a_terminal_is_not_controlled_by_what_it_shows(
    story: Callable[[], histories.Story], width: int
) -> None:
    """No escape, no hidden link and no markup of others reaches the terminal."""
    display, out = terminal(width)
    play(story(), display)
    raw = out.getvalue()
    assert "\x1b]" not in raw  # titles, links, the clipboard
    assert "\x07" not in raw
    assert "\x9b" not in raw
    assert "\u202e" not in raw
    shown = ESCAPES.sub("", raw).replace("\n", "").replace("\r", "")
    assert shown.isprintable()
    if width == 80:
        assert "[bold red]loud[/]" in shown


@pytest.mark.parametrize("story", [a_hostile_story, a_hostile_result])
def test_plain_lines_cannot_be_forged(story: Callable[[], histories.Story]) -> None:
    """What others wrote is printable and stays in its own line."""
    lines = told(story())
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("execution ") for line in lines) == 2


@pytest.mark.parametrize("size", [(1, 1), (8, 3), (20, 5), (80, 24), (300, 100)])
def test_no_terminal_is_too_small(size: tuple[int, int]) -> None:
    """The live part never is higher than the screen, nor a line wider."""
    display, out = terminal(*size)
    story = a_story()
    progress = Progress.of(story.key, story.log[:2])
    with display:
        display.begin(progress)
        out.truncate(0)
        out.seek(0)
        display.text("word " * 500)
        for recorded in story.log[2:-1]:
            progress.take(recorded)
        display.refresh()
        drawn = ESCAPES.sub("", out.getvalue()).replace("\r", "").split("\n")
    assert len(drawn) <= size[1]
    assert all(len(line) <= size[0] for line in drawn)


def test_streaming_text_is_shown_until_the_reply_is_recorded() -> None:
    """Tokens are seen as they come, and go when the log has the reply."""
    display, out = terminal()
    story = a_story()
    progress = Progress.of(story.key, story.log[:2])
    with display:
        display.begin(progress)
        display.text("thinking ")
        display.text("aloud")
        display.refresh()
        assert "thinking aloud" in ESCAPES.sub("", out.getvalue())
        progress.take(story.log[2])
        display.update(progress, story.log[2])
        out.truncate(0)
        out.seek(0)
        display.refresh()
        assert "aloud" not in out.getvalue()


def test_what_is_recorded_is_told_briefly_on_a_resume() -> None:
    """Steps of an earlier attempt take a line each, then it says where it goes on."""
    story = a_story()
    out = io.StringIO()
    play(story, PlainDisplay(out), begun_at=len(story.log) - 1)
    lines = out.getvalue().splitlines()
    assert lines[2:4] == ["step 1: look, write (recorded)", "resumed at step 2"]
    display, drawn = terminal()
    play(story, display, begun_at=len(story.log) - 1)
    text = ESCAPES.sub("", drawn.getvalue())
    assert "1 look, write (recorded)" in text
    assert "resumed at step 2" in text


def test_signals_are_told_in_both() -> None:
    """A pause and what it waits for is said."""
    story = histories.Story()
    story.running()
    story.command(Pause())
    story.respond(ToolCall(id="c1", name="look"), text="x")
    assert any(isinstance(fact, e.Paused) for fact in story.all_facts)
    display, out = terminal()
    play(story, display)
    for text in ("\n".join(told(story)), ESCAPES.sub("", out.getvalue())):
        assert "pause requested" in text
        assert "it is paused" in text


def test_without_unicode_marks_are_ascii() -> None:
    """A terminal that cannot show check marks gets letters."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="replace")
    console = Console(file=out, force_terminal=True, width=60, height=20)
    play(a_story(), TerminalDisplay(console))
    out.flush()
    text = ESCAPES.sub("", raw.getvalue().decode())
    assert "+ look path=src" in text
    assert "x write path=x" in text


def test_the_result_may_be_left_out() -> None:
    """Beside JSON the progress goes without the result, which the object has."""
    out = io.StringIO()
    play(a_story(), PlainDisplay(out, result=False))
    assert "# Done" not in out.getvalue()
    assert "completed (final_answer)" in out.getvalue()

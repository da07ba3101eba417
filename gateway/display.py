"""A run live in a terminal: what ended scrolls up, what is happening stays below.

All that models, tools and files wrote is shown as text (``wording.printable``),
never as markup and never as it came.
"""

import time
from collections.abc import Iterator
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from events import catalog as e
from events.commit import Recorded
from events.messages import Task
from events.state import Call
from gateway import facts, question
from gateway.plain import SAID, recorded_already
from gateway.progress import Progress, Step
from gateway.rendering import Harmless, Row
from gateway.summary import ended
from gateway.wording import arguments, one_line, printable, seconds, short

SPINNER = "|/-\\"
STREAMED = 4_000
"""Characters of a streaming text that are kept: more than a screen shows."""

STYLES = {
    "success": "green",
    "failed": "red",
    "denied": "yellow",
    "in_doubt": "yellow",
    "done": "green",
    "in_progress": "cyan",
    "pending": "dim",
}
UNICODE = {
    "success": "✓",
    "failed": "✗",
    "denied": "✗",
    "in_doubt": "?",
    "done": "✓",
    "in_progress": "▸",
    "pending": "·",
}
ASCII = {
    "success": "+",
    "failed": "x",
    "denied": "x",
    "in_doubt": "?",
    "done": "+",
    "in_progress": ">",
    "pending": "-",
}


class TerminalDisplay:
    """Shows a run in a terminal, of whatever size."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False, emoji=False)
        self._marks = ASCII if self.console.options.ascii_only else UNICODE
        self._live = Live(
            get_renderable=lambda: _Below(self),
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self.progress: Progress | None = None
        self.streamed = ""
        self._shown = 0
        self._began = self._asked = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back as it was."""
        self._live.stop()

    def begin(self, progress: Progress) -> None:
        """Say what runs, what of it is recorded, and begin to be live."""
        self.progress, state = progress, progress.state
        about = f"agent {state.agent.name}  model {state.agent.model}"
        self._print(Text(f"execution {state.id}", "bold"))
        self._print(
            Text(one_line(about)), Text(one_line(f"workspace {state.workspace}"), "dim")
        )
        for step in progress.steps:
            self._print(Row("", f" {step.number} {recorded_already(step)}", "", "dim"))
        if progress.steps:
            self._print(Text(f"resumed at step {len(progress.steps) + 1}", "cyan"))
        self._shown = len(progress.steps)
        self._asked = time.monotonic()
        self._question(progress)
        self._live.start(refresh=True)

    def update(self, progress: Progress, recorded: Recorded) -> None:
        """Show what a commit brought."""
        self._asked = time.monotonic()
        for fact in recorded.commit.events:
            if isinstance(fact, e.ModelResponded):
                self.streamed = ""
            elif isinstance(fact, e.InputRequested):
                self._question(progress)
            elif isinstance(fact, SAID):
                self.notice(facts.told(fact).replace("_", " ", 1))
        for step in progress.steps[self._shown :]:
            if step.turn.done:
                self._print(*self.step(step))
                self._shown += 1
        self.refresh()

    def text(self, piece: str) -> None:
        """Take in tokens; the next frame shows them."""
        self.streamed = (self.streamed + piece)[-STREAMED:]

    def refresh(self) -> None:
        """Draw the part that is live anew."""
        if self._live.is_started:
            self._live.refresh()

    def notice(self, line: str) -> None:
        """Say something that is no step."""
        self._print(Text(f"  {one_line(line)}", "yellow"))

    def end(self, progress: Progress, hints: list[str]) -> None:
        """Show the plan as it ended, the result, and where there is more."""
        self._live.stop()
        for step in progress.steps[self._shown :]:
            self._print(*self.step(step))
        state = progress.state
        self._print(*self.plan(state.tasks))
        if state.output:
            result = Harmless(Markdown(printable(state.output), hyperlinks=False))
            line = "-" if self._marks is ASCII else "─"
            self._print(Rule("result", characters=line, style="dim"), result)
            self._print(Rule(characters=line, style="dim"))
        status, *rest = ended(state)
        self._print(Text(status, "bold"), *map(Text, rest))
        for hint in hints:  # unbroken, so that it can be copied
            self.console.print(Text(hint, "dim"), soft_wrap=True)

    def _question(self, progress: Progress) -> None:
        """Show what is asked, so that it is seen."""
        for line in question.asked(progress.state):
            self._print(Text(line, "bold yellow"))

    def _print(self, *what: RenderableType) -> None:
        for renderable in what:
            self.console.print(renderable, soft_wrap=False)

    # ── what is shown ────────────────────────────────────────────────────────

    def step(self, step: Step) -> Iterator[RenderableType]:
        """A step with its calls."""
        used = f"{step.usage.total:,} tokens, {seconds(step.seconds)}"
        yield Row(f"{step.number:>2} ", one_line(step.said), used, "bold")
        for call in step.turn.calls:
            yield self.call(call, step.milliseconds.get(call.id))
            if call.phase == "done" and call.outcome != "success":
                yield Padding(Text(short(call.output, 300), "red"), (0, 0, 0, 5))

    def call(self, call: Call, milliseconds: float | None) -> RenderableType:
        """One call: its mark, its name, its arguments, how long it took."""
        name = short(call.name, 30)
        about = f"{name} {arguments(call.arguments, self.console.width)}"
        if call.phase != "done":
            waits = {"asked": "asked", "waiting": "waits"}.get(call.phase)
            spin = SPINNER[int(time.monotonic() * 8) % 4]
            return Row(f"   {spin} ", about, waits or self.waited(), "cyan")
        took = "" if milliseconds is None else seconds(milliseconds / 1000)
        style = STYLES[call.outcome]
        return Row(f"   {self._marks[call.outcome]} ", about, took, "", style)

    def plan(self, tasks: tuple[Task, ...]) -> Iterator[RenderableType]:
        """The todo list, each with its mark."""
        if tasks:
            yield Text("plan", "bold")
        for task in tasks:
            style = STYLES[task.status]
            mark = f"   {self._marks[task.status]} "
            said = "dim" if task.status == "pending" else ""
            yield Row(mark, one_line(task.title), "", said, style)

    def waited(self) -> str:
        """How long nothing was recorded."""
        return seconds(time.monotonic() - self._asked)

    def elapsed(self) -> str:
        """How long it has been shown."""
        return seconds(time.monotonic() - self._began)


class _Below:
    """The live part: the step that runs, what the model says, the plan, a footer.

    At most a screen high; what matters least is left out first.
    """

    def __init__(self, display: TerminalDisplay) -> None:
        self._display = display

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Lay out what there is room for."""
        display, progress = self._display, self._display.progress
        assert progress is not None  # noqa: S101 - begun before it is live
        room = max(1, console.height - 1)
        footer = [self._footer(progress)]
        running = list(self._running(progress))[: max(0, room - 1)]
        plan = list(display.plan(progress.state.tasks))
        left = room - len(footer) - len(running)
        plan = plan if len(plan) <= left else []
        said = self._said(console, options, left - len(plan))
        yield Group(*running, *said, *plan, *footer)

    def _running(self, progress: Progress) -> Iterator[RenderableType]:
        display, steps = self._display, progress.steps
        if steps and not steps[-1].turn.done:
            yield from display.step(steps[-1])
        elif progress.state.status == "running":
            spin = SPINNER[int(time.monotonic() * 8) % 4]
            asked = f"{spin} asking the model"
            yield Row(f"{len(steps) + 1:>2} ", asked, display.waited(), "cyan")

    def _said(
        self, console: Console, options: ConsoleOptions, room: int
    ) -> Iterator[RenderableType]:
        """The end of what the model is saying."""
        text = Text(printable(self._display.streamed).strip(), "italic")
        if text and room > 0:
            lines = text.wrap(console, max(1, options.max_width - 4))[-min(room, 8) :]
            yield from (Padding(line, (0, 0, 0, 4)) for line in lines)

    def _footer(self, progress: Progress) -> RenderableType:
        state = progress.state
        parts = [
            state.status,
            self._display.elapsed(),
            f"step {state.steps} of {state.agent.limits.max_steps}",
            f"{state.usage.total:,} tokens",
            "Ctrl-C cancels",
        ]
        text = Text(" · ".join(parts), "dim", no_wrap=True, overflow="ellipsis")
        if self._display.console.options.ascii_only:
            text = Text(text.plain.replace("·", "-"), "dim", no_wrap=True)
        return text

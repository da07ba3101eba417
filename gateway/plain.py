"""A run as plain lines: for pipes, logs and simple terminals."""

import sys
from typing import Self, TextIO

from events import catalog as e
from events.commit import Recorded
from events.messages import Task
from gateway import facts, question
from gateway.output import room
from gateway.progress import Progress, Step
from gateway.summary import ended
from gateway.wording import arguments, one_line, printable, seconds, short, tokens

MARKS = {"done": "[x]", "in_progress": "[>]", "pending": "[ ]"}

SAID = (
    e.PauseRequested,
    e.Paused,
    e.Resumed,
    e.CancelRequested,
    e.Cancelled,
    e.Recovered,
    e.ToolInDoubt,
    e.ChunkCompleted,
    e.ChildSpawned,
    e.ChildFinished,
    e.EventReceived,
    e.InputReceived,
)
"""Events that a person wants to hear of as they are; the others are told better."""


class PlainDisplay:
    """Writes what happens line by line, each at once.

    ``result``: whether the output of the agent belongs to what is written.
    """

    def __init__(self, out: TextIO | None = None, *, result: bool = True) -> None:
        self._out, self._result = out or sys.stdout, result
        self._planned: tuple[Task, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def begin(self, progress: Progress) -> None:
        """Say what runs, and what of it is recorded already."""
        state = progress.state
        self._line(f"execution {state.id}")
        about = f"agent {state.agent.name}, model {state.agent.model}"
        self._line(f"{about}, workspace {state.workspace}")
        if progress.steps:
            for step in progress.steps:
                self._line(f"step {step.number}: {recorded_already(step)}")
            self._line(f"resumed at step {len(progress.steps) + 1}")
        self._planned = state.tasks
        self._asked(progress)

    def update(self, progress: Progress, recorded: Recorded) -> None:
        """Say what the commit tells."""
        for fact in recorded.commit.events:
            match fact:
                case e.Started():
                    self._line(facts.told(fact))
                case e.ModelResponded():
                    self._step(progress.steps[-1])
                case e.ToolCompleted():
                    self._call(progress, fact)
                case e.TasksPlanned(tasks=tasks):
                    self._plan(tasks)
                case e.InputRequested():
                    self._asked(progress)
                case _ if isinstance(fact, SAID):
                    self._line(facts.told(fact).replace("_", " ", 1))

    def text(self, piece: str) -> None:
        """Tokens as they come are for terminals."""

    def refresh(self) -> None:
        """Everything was written at once."""

    def notice(self, line: str) -> None:
        """Say something that is no part of the history."""
        self._line(f"note: {one_line(line)}")

    def end(self, progress: Progress, hints: list[str]) -> None:
        """Say what came of it, and where there is more."""
        state = progress.state
        if self._result and state.output is not None:
            self._line("")
            self._line(state.output.rstrip())
            self._line("")
        for line in (*ended(state), *hints):
            self._line(line)

    def _asked(self, progress: Progress) -> None:
        for line in question.asked(progress.state):
            self._line(line)

    def _step(self, step: Step) -> None:
        used = f"[{tokens(step.usage)}, {seconds(step.seconds)}]"
        self._line(f"step {step.number}: {short(step.said, 100)} {used}")

    def _call(self, progress: Progress, fact: e.ToolCompleted) -> None:
        call = progress.call(fact.call_id)
        if call is None:
            return
        outcome = "ok" if fact.outcome == "success" else fact.outcome
        took = seconds(fact.latency_ms / 1000)
        said = f"  {one_line(call.name)} {arguments(call.arguments)}".rstrip()
        why = "" if fact.outcome == "success" else f": {short(fact.output, 160)}"
        self._line(f"{said} [{outcome}, {took}]{why}")

    def _plan(self, tasks: tuple[Task, ...]) -> None:
        before = {task.title: task.status for task in self._planned}
        for task in tasks:
            if before.get(task.title) != task.status:
                self._line(f"  plan {MARKS[task.status]} {one_line(task.title)}")
        self._planned = tasks

    def _line(self, line: str) -> None:
        with room():
            print(printable(line), file=self._out, flush=True)


def recorded_already(step: Step) -> str:
    """A step of an earlier attempt, in a few words."""
    names = ", ".join(short(call.name, 30) for call in step.turn.calls)
    return short(f"{names or 'the answer'} (recorded)", 100)

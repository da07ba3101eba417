"""What a person wants to see of an execution: its steps, as they happen.

The fold of the history (``events.execution``), and beside it what only a
person asks for: how long a call took, what a step used.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from events import catalog as e
from events.commit import Recorded
from events.execution import Execution
from events.messages import Usage
from events.names import Key
from events.state import Call, State, Turn


@dataclass
class Step:
    """One reply of the model with its calls; ``turn`` is the execution's own.

    ``milliseconds`` has the calls that ended, by their id.
    """

    turn: Turn
    usage: Usage
    cost: float | None
    seconds: float
    milliseconds: dict[str, float] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Which step it is, from 1."""
        return self.turn.step

    @property
    def final(self) -> bool:
        """It asked for nothing: its text is the result."""
        return not self.turn.calls

    @property
    def said(self) -> str:
        """What the model said with it; of the result only that it is one."""
        names = ", ".join(call.name for call in self.turn.calls)
        return (self.turn.text or f"calls {names}") if names else "the answer"


class Progress:
    """An execution as far as it was followed."""

    def __init__(self, key: Key) -> None:
        self.execution = Execution(key)
        self.steps: list[Step] = []

    @classmethod
    def of(cls, key: Key, history: Iterable[Recorded]) -> "Progress":
        """Fold a history; raises Corrupt."""
        progress = cls(key)
        for recorded in history:
            progress.take(recorded)
        return progress

    @property
    def key(self) -> Key:
        """Whose execution, and which."""
        return self.execution.key

    @property
    def state(self) -> State:
        """The execution at the version followed to."""
        return self.execution.state

    @property
    def position(self) -> int:
        """Where in the log that version stands."""
        return self.execution.position

    def take(self, recorded: Recorded) -> None:
        """Take in the next commit; raises Corrupt if it is not that."""
        self.execution.follow(recorded)
        for fact in recorded.commit.events:
            if isinstance(fact, e.ModelResponded):
                self._begin_step(fact)
            elif isinstance(fact, e.ToolCompleted) and self.steps:
                self.steps[-1].milliseconds[fact.call_id] = fact.latency_ms

    def _begin_step(self, fact: e.ModelResponded) -> None:
        turns = self.state.turns
        turn = next(t for t in reversed(turns) if isinstance(t, Turn))
        seconds = fact.latency_ms / 1000
        self.steps.append(Step(turn, fact.usage, fact.cost, seconds))

    def call(self, call_id: str) -> Call | None:
        """The call of the last step that has this id."""
        calls = self.steps[-1].turn.calls if self.steps else []
        return next((call for call in calls if call.id == call_id), None)

    def waits_for(self) -> str | None:
        """What it waits for, in words; None while it does not."""
        return waits_for(self.state)


def waits_for(state: State) -> str | None:
    """What an execution waits for, in words; None if it is running or ended."""
    if state.status == "paused":
        return "it is paused"
    if state.request is not None and state.status == "awaiting_input":
        asked = state.request
        return f"it waits for an answer to {asked.request}: {asked.question}"
    if state.status == "awaiting_event":
        children = [c.agent for c in state.children.values() if c.status == "running"]
        if state.awaited is None:
            return f"it waits for its subagents: {', '.join(children)}"
        until = state.awaited.deadline
        bound = f", at most until {until:%Y-%m-%d %H:%M:%S} UTC" if until else ""
        return f"it waits for the event {state.awaited.event_type!r}{bound}"
    if state.status == "pending" and state.scheduled_for is not None:
        return f"it starts at {state.scheduled_for:%Y-%m-%d %H:%M:%S} UTC"
    return None

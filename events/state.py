"""What an execution is at one version: plain data, the fold of its history."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec

from events.catalog import Awaited, FinishReason, InputRequested, Parent
from events.messages import (
    AssistantMessage,
    Message,
    Outcome,
    Task,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from events.spec import AgentSpec, Lane

Status = Literal[
    "pending",
    "running",
    "paused",
    "awaiting_event",
    "awaiting_input",
    "completed",
    "failed",
    "cancelled",
]
FINAL: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})

Phase = Literal["open", "asked", "started", "in_doubt", "waiting", "done"]


class Call(msgspec.Struct, kw_only=True):
    """One tool call of a turn, and how far it got."""

    id: str
    name: str
    arguments: str
    phase: Phase = "open"
    attempt: int = 0
    approved: bool = False
    output: str = ""
    outcome: Outcome = "success"

    def close(self, output: str, outcome: Outcome = "success") -> None:
        """End the call with what the model is told."""
        self.phase, self.output, self.outcome = "done", output, outcome


class Turn(msgspec.Struct, kw_only=True, tag="turn"):
    """One reply of the model and the calls it asked for."""

    step: int
    text: str
    calls: list[Call]
    opaque: Any = None

    @property
    def done(self) -> bool:
        """No call of this turn is left to do."""
        return all(call.phase == "done" for call in self.calls)

    def messages(self) -> Iterator[Message]:
        """Say it again, results in the order of the calls."""
        asked = tuple(
            ToolCall(id=call.id, name=call.name, arguments=call.arguments)
            for call in self.calls
        )
        yield AssistantMessage(self.text, asked, self.opaque)
        for call in self.calls:
            yield ToolMessage(call.id, call.name, call.output, call.outcome)


class Said(msgspec.Struct, frozen=True, tag="said"):
    """Something the model is told that is no tool's result."""

    text: str


class Child(msgspec.Struct, kw_only=True):
    """A subagent, as its parent knows it."""

    agent: str
    call_id: str
    prompt: str = ""
    status: str = "running"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an execution failed."""

    error: str
    message: str
    retryable: bool


class State(msgspec.Struct, kw_only=True):
    """An execution at one version. Times are those of the commits.

    ``active_seconds`` counts running time only, up to ``running_since``.
    ``cost`` is in US dollars and leaves out ``unpriced`` replies, whose price is
    unknown. ``idle_attempts`` counts consecutive starts without progress.
    ``work_version`` is the last commit that was work for a runner, ``delivery``
    how often it had been handed out when the last attempt began, ``own`` whether
    that was through a queue of this execution alone. ``origin`` is the execution
    and version that it was forked from.
    """

    user: str
    id: str
    version: int = 0
    chain: str = ""
    status: Status = "pending"
    agent: AgentSpec = AgentSpec(name="")
    input: str = ""
    digest: str = ""
    output: str | None = None
    metadata: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    tasks: tuple[Task, ...] = ()
    lane: Lane = "agents"
    workspace: str | None = None
    parent: Parent | None = None
    origin: tuple[str, int] | None = None
    finish_reason: FinishReason | None = None
    failure: Failure | None = None
    purged: bool = False

    steps: int = 0
    usage: Usage = Usage()
    cost: float = 0.0
    unpriced: int = 0
    turns: list[Turn | Said] = []

    runner: str | None = None
    attempt: int = 0
    idle_attempts: int = 0
    delivery: int = 1
    own: bool = False
    chunk: int = 0
    chunk_steps: int = 0
    work_version: int = 0

    pause_requested: bool = False
    cancel_requested: bool = False
    cancel_reason: str = ""
    request: InputRequested | None = None
    awaited: Awaited | None = None
    scheduled_for: datetime | None = None
    children: dict[str, Child] = {}
    applied: set[str] = set()

    created_at: datetime | None = None
    started_at: datetime | None = None
    paused_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None
    running_since: datetime | None = None
    active_seconds: float = 0.0

    @property
    def final(self) -> bool:
        """It has ended."""
        return self.status in FINAL

    @property
    def runnable(self) -> bool:
        """A runner may start it now."""
        return self.status == "pending" and self.scheduled_for is None

    @property
    def turn(self) -> Turn | None:
        """The model's last reply, unless something was said since."""
        last = self.turns[-1] if self.turns else None
        return last if isinstance(last, Turn) else None

    @property
    def last_text(self) -> str:
        """The last words of the model."""
        texts = (t.text for t in reversed(self.turns) if isinstance(t, Turn) and t.text)
        return next(texts, "")

    @property
    def child_running(self) -> bool:
        """A subagent has not ended yet."""
        return any(child.status == "running" for child in self.children.values())

    @property
    def may_spawn(self) -> bool:
        """It may start subagents: it is not too deep down itself."""
        depth = self.parent.depth if self.parent else 0
        return depth < self.agent.max_depth

    @property
    def resting(self) -> Status:
        """Where it goes when nothing holds it back: to a runner, or on waiting."""
        if self.request:
            return "awaiting_input"
        if self.awaited or self.child_running:
            return "awaiting_event"
        return "pending"

    def call(self, call_id: str) -> Call | None:
        """Return the call of the last reply that has this id."""
        calls = self.turn.calls if self.turn else []
        return next((call for call in calls if call.id == call_id), None)

    def running_time(self, now: datetime) -> float:
        """Seconds it has been running until ``now``; parked time does not count."""
        since = self.running_since
        current = (now - since).total_seconds() if since else 0.0
        return self.active_seconds + max(0.0, current)

    def conversation(self, since: int = 0) -> Iterator[Message]:
        """Say it again, oldest first: the input (0), then the turns (1, 2 …)."""
        if since == 0:
            yield UserMessage(self.input)
        for turn in self.turns[max(0, since - 1) :]:
            if isinstance(turn, Said):
                yield UserMessage(turn.text)
            else:
                yield from turn.messages()

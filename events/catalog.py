"""Every event there is: facts, past tense, immutable.

The wire name is written out and versioned; it never changes with the class.
An old shape stays in the union with an ``upcast`` to its successor. What an
event means for the execution stands in ``execution.py``. Who, when and why
are the commit's, not the event's.
"""

from collections.abc import Callable
from datetime import datetime
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
from eventsourcing.dcb.domain import decorated_funcs
from eventsourcing.dcb.msgpack import Decision

from events.messages import Outcome, Task, ToolCall, Usage
from events.spec import AgentSpec, Lane

if TYPE_CHECKING:
    from eventsourcing.dcb.domain import MetaPerspective

FinishReason = Literal[
    "final_answer", "max_steps", "max_tokens", "max_cost", "timeout", "max_chunks"
]
AskKind = Literal["question", "approval", "doubt"]


class Event(Decision, frozen=True, kw_only=True, tag_field="type"):
    """Base of all events."""

    def upcast(self) -> "Event":
        """Return this fact in its newest shape."""
        return self

    def mutate(self, obj: Any) -> Any:
        """Apply to an execution; as the library does, with the lookups kept."""
        kind = type(self)
        applier = _appliers.get((type(obj), kind))
        if applier is None:
            applier = _appliers[type(obj), kind] = _applier(type(obj), kind)
        function, names = applier
        function(obj, **{name: getattr(self, name) for name in names})
        return obj


_Applier = tuple[Callable[..., None], tuple[str, ...]]
_appliers: dict[tuple[type, type], _Applier] = {}


def _applier(perspective: type, kind: type[Event]) -> _Applier:
    """Find the ``@event`` method for an event, and the fields that it takes.

    Raises KeyError where there is none: an event that changes nothing is one
    that somebody forgot to apply.
    """
    function = decorated_funcs[cast("MetaPerspective", perspective), kind]
    fields = kind.__struct_fields__
    taken = signature(function).parameters
    return function, tuple(name for name in fields if name in taken)


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """Who started a subagent: the execution and the call that asked for it.

    ``root`` is the execution at the top, in whose own directory all below work.
    """

    execution: str
    call_id: str
    depth: int
    root: str = ""


class Awaited(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a parked execution waits for.

    ``after_trigger`` is the last position of TRIGGERS when the wait began;
    ``where`` are equalities on the payload's top-level fields.
    """

    event_type: str
    where: dict[str, Any] = {}
    deadline: datetime | None = None
    after_trigger: int = 0
    call_id: str | None = None

    def wants(self, event_type: str, payload: Any, position: int | None) -> bool:
        """Whether this is what it waits for; a position of None is beyond any."""
        if event_type != self.event_type:
            return False
        if position is not None and position <= self.after_trigger:
            return False
        if not self.where:
            return True
        return isinstance(payload, dict) and all(
            name in payload and same(payload[name], value)
            for name, value in self.where.items()
        )


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same(v, other[k]) for k, v in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Created(Event, frozen=True, kw_only=True, tag="created.v1", omit_defaults=True):
    """Somebody asked for an execution, and it was admitted.

    ``digest`` is that of the request: who asks for the same again gets this one.
    """

    agent: AgentSpec
    input: str
    metadata: dict[str, Any] = {}
    lane: Lane = "agents"
    workspace: str | None = None
    parent: Parent | None = None
    scheduled_for: datetime | None = None
    awaited: Awaited | None = None
    digest: str = ""


class StartAbandoned(Event, frozen=True, kw_only=True, tag="start_abandoned.v1"):
    """It was admitted and never created; closed so that it never will be."""


class Started(Event, frozen=True, kw_only=True, tag="started.v1", omit_defaults=True):
    """A runner took the lease, with the ``delivery``-th handing out of the work.

    ``own``: the work came through a queue of this execution alone.
    """

    runner: str
    attempt: int
    delivery: int = 1
    own: bool = False


class ModelResponded(
    Event, frozen=True, kw_only=True, tag="model_responded.v1", omit_defaults=True
):
    """The model answered; ``cost`` None means unknown, not free."""

    step: int
    model: str
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    cost: float | None = None
    latency_ms: float = 0.0
    finish_reason: str = "stop"
    opaque: Any = None


class ToolStarted(Event, frozen=True, kw_only=True, tag="tool_started.v1"):
    """An irreversible tool is about to run."""

    call_id: str
    attempt: int


class ToolCompleted(
    Event, frozen=True, kw_only=True, tag="tool_completed.v1", omit_defaults=True
):
    """A tool call came to an end, good or bad."""

    call_id: str
    output: str = ""
    outcome: Outcome = "success"
    latency_ms: float = 0.0


class ToolInDoubt(Event, frozen=True, kw_only=True, tag="tool_in_doubt.v1"):
    """A runner was lost within an irreversible tool; nobody knows if it happened."""

    call_id: str


class TasksPlanned(Event, frozen=True, kw_only=True, tag="tasks_planned.v1"):
    """The agent replaced its todo list."""

    tasks: tuple[Task, ...]


class MetadataWritten(Event, frozen=True, kw_only=True, tag="metadata_written.v1"):
    """The agent wrote notes; None removes one."""

    notes: dict[str, Any]


class InputRequested(
    Event, frozen=True, kw_only=True, tag="input_requested.v1", omit_defaults=True
):
    """A person is asked; ``schema`` is a JSON schema of the answer."""

    request: str
    kind: AskKind
    call_id: str
    question: str
    schema: dict[str, Any] | None = None
    digest: str | None = None
    deadline: datetime | None = None


class InputReceived(
    Event, frozen=True, kw_only=True, tag="input_received.v1", omit_defaults=True
):
    """The person answered, or the deadline did."""

    request: str
    answer: Any = None
    timed_out: bool = False


class EventAwaited(Event, frozen=True, kw_only=True, tag="event_awaited.v1"):
    """The execution waits for something outside."""

    awaited: Awaited


class EventReceived(
    Event, frozen=True, kw_only=True, tag="event_received.v1", omit_defaults=True
):
    """What was awaited arrived, or its deadline did, or a start came due."""

    event_type: str
    payload: Any = None
    trigger: str | None = None
    timed_out: bool = False


class PauseRequested(Event, frozen=True, kw_only=True, tag="pause_requested.v1"):
    """Its runner shall stop at the next commit."""


class Paused(Event, frozen=True, kw_only=True, tag="paused.v1"):
    """It rests until somebody resumes it."""


class Resumed(Event, frozen=True, kw_only=True, tag="resumed.v1"):
    """It may go on; or a pause was withdrawn before it took effect."""


class CancelRequested(
    Event, frozen=True, kw_only=True, tag="cancel_requested.v1", omit_defaults=True
):
    """Its runner shall end it at the next commit."""

    reason: str = ""


class Cancelled(
    Event, frozen=True, kw_only=True, tag="cancelled.v1", omit_defaults=True
):
    """Ended on request; ``forced`` for a kill."""

    reason: str = ""
    forced: bool = False


class ChunkCompleted(Event, frozen=True, kw_only=True, tag="chunk_completed.v1"):
    """A long execution goes to the back of its lane."""

    chunk: int


class ChildSpawned(Event, frozen=True, kw_only=True, tag="child_spawned.v1"):
    """A subagent was asked for; the reactor starts it."""

    call_id: str
    child: str
    agent: str
    prompt: str


class ChildFinished(
    Event, frozen=True, kw_only=True, tag="child_finished.v1", omit_defaults=True
):
    """A subagent ended; ``cost`` leaves out ``unpriced`` replies of its."""

    child: str
    status: str
    summary: str = ""
    usage: Usage = Usage()
    cost: float | None = None
    unpriced: int = 0


class Recovered(
    Event, frozen=True, kw_only=True, tag="recovered.v1", omit_defaults=True
):
    """Its runner is gone; it is work again."""

    reason: str = ""


class Retried(Event, frozen=True, kw_only=True, tag="retried.v1", omit_defaults=True):
    """It had failed; somebody wants it to go on from its last recorded step."""

    reason: str = ""


class Forked(Event, frozen=True, kw_only=True, tag="forked.v1", omit_defaults=True):
    """All before this was copied from another execution; here the ways part."""

    source: str
    source_version: int
    source_chain: str
    model: str | None = None
    input: str | None = None


class Completed(Event, frozen=True, kw_only=True, tag="completed.v1"):
    """It ended by itself; only ``final_answer`` is a normal end."""

    output: str
    finish_reason: FinishReason


class Failed(Event, frozen=True, kw_only=True, tag="failed.v1"):
    """It ended by an error; ``retryable`` says whether a retry could help."""

    error: str
    message: str
    retryable: bool


class Purged(Event, frozen=True, kw_only=True, tag="purged.v1", omit_defaults=True):
    """It is about to be deleted."""

    reason: str = ""


AnyEvent = (
    Created
    | StartAbandoned
    | Started
    | ModelResponded
    | ToolStarted
    | ToolCompleted
    | ToolInDoubt
    | TasksPlanned
    | MetadataWritten
    | InputRequested
    | InputReceived
    | EventAwaited
    | EventReceived
    | PauseRequested
    | Paused
    | Resumed
    | CancelRequested
    | Cancelled
    | ChunkCompleted
    | ChildSpawned
    | ChildFinished
    | Recovered
    | Retried
    | Forked
    | Completed
    | Failed
    | Purged
)

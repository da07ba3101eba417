"""The messages of the live feed: what is told of an execution, and made of what.

A commit gives a ``step.completed`` or ``tool.completed`` for each such event, by
its place in the commit, and in the end one ``status.changed`` if it decided about
the status (``standing.py``). A log line gives a ``log``. Each is encoded once; its
cursor is put before it where it is sent.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from events import catalog as e
from events.commit import Commit
from events.deltas import Delta
from events.logbook import Line
from events.messages import Outcome, ToolCall, Usage
from events.names import Key, Level
from events.state import Status
from projections.feedcursor import Cursor

Kind = Literal["step.completed", "tool.completed", "status.changed", "log", "delta"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class StepCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """The model's reply at a step is recorded: ``delta`` of it are superseded.

    ``truncated``: the texts were too long for a commit, these are their beginnings.
    """

    version: int
    step: int
    model: str
    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    cost: float | None
    latency_ms: float
    finish_reason: str
    truncated: bool = False


class ToolCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of the last step came to an end; ``in_doubt``: nobody knows."""

    version: int
    call_id: str
    outcome: Outcome
    output: str
    latency_ms: float
    truncated: bool = False


class StatusChanged(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    repr_omit_defaults=True,
):
    """A commit decided about the status, which is now this.

    What says more is there where it applies: ``runner`` and ``attempt`` of
    ``running``; ``request`` of ``awaiting_input``; ``event_type`` of
    ``awaiting_event``; of the end what it came to.
    """

    version: int
    status: Status
    runner: str | None = None
    attempt: int | None = None
    reason: str | None = None
    request: e.InputRequested | None = None
    event_type: str | None = None
    output: str | None = None
    finish_reason: e.FinishReason | None = None
    error: str | None = None
    message: str | None = None
    retryable: bool | None = None
    truncated: bool = False


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A log line, as ``wake logs`` shows it."""

    id: int
    level: Level
    event_type: str
    message: str
    by: str
    context: dict[str, Any]


class DeltaText(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what the model is saying; see ``events/deltas.py``."""

    step: int
    attempt: int
    try_: int = msgspec.field(name="try")
    offset: int
    text: str


Payload = StepCompleted | ToolCompleted | StatusChanged | LogLine | DeltaText

_KIND: dict[type[Payload], Kind] = {
    StepCompleted: "step.completed",
    ToolCompleted: "tool.completed",
    StatusChanged: "status.changed",
    LogLine: "log",
    DeltaText: "delta",
}


def payload_of(kind: Kind) -> type[Payload]:
    """What a message of a kind carries."""
    return next(payload for payload, one in _KIND.items() if one == kind)


class _Notice(msgspec.Struct, frozen=True):
    """What a message is but its cursor, which comes first."""

    type: Kind | Literal["status"]
    user: str
    execution: str
    at: datetime
    payload: Payload


_encode = msgspec.json.Encoder().encode


class Notice(NamedTuple):
    """A message of the feed, encoded but for its cursor.

    ``number`` is its number in its commit; ``step`` is set for a recorded reply, and
    ``status`` for a new status.
    """

    key: Key
    kind: Kind
    number: int
    body: bytes
    step: int = 0
    status: Status | Literal[""] = ""

    def text(self, cursor: Cursor) -> bytes:
        """The whole message, as JSON."""
        return b'{"cursor":"%b",%b' % (str(cursor).encode(), self.body)


def notice(key: Key, at: datetime, payload: Payload, number: int = 0) -> Notice:
    """Encode a message."""
    kind = _KIND[type(payload)]
    body = _encode(_Notice(kind, key.user, key.execution, at, payload))[1:]
    step = payload.step if isinstance(payload, StepCompleted) else 0
    status = payload.status if isinstance(payload, StatusChanged) else ""
    return Notice(key, kind, number, body, step, status)


def of_standing(
    key: Key, at: datetime, payload: StatusChanged, cursor: Cursor
) -> bytes:
    """Tell the status that an execution has, to who asks for it: a whole message."""
    body = _encode(_Notice("status", key.user, key.execution, at, payload))[1:]
    return b'{"cursor":"%b",%b' % (str(cursor).encode(), body)


def of_events(key: Key, commit: Commit) -> Iterator[Notice]:
    """What the events of a commit give, in their order."""
    packed = bool(commit.blobs)
    for number, fact in enumerate(commit.events, 1):
        payload = _completed(commit.version, fact.upcast(), truncated=packed)
        if payload is not None:
            yield notice(key, commit.at, payload, number)


def _completed(
    version: int, fact: e.Event, *, truncated: bool
) -> StepCompleted | ToolCompleted | None:
    match fact:
        case e.ModelResponded():
            return StepCompleted(
                version=version,
                step=fact.step,
                model=fact.model,
                text=fact.text,
                tool_calls=fact.tool_calls,
                usage=fact.usage,
                cost=fact.cost,
                latency_ms=fact.latency_ms,
                finish_reason=fact.finish_reason,
                truncated=truncated,
            )
        case e.ToolCompleted():
            return ToolCompleted(
                version=version,
                call_id=fact.call_id,
                outcome=fact.outcome,
                output=fact.output,
                latency_ms=fact.latency_ms,
                truncated=truncated,
            )
        case e.ToolInDoubt():
            return ToolCompleted(
                version=version,
                call_id=fact.call_id,
                outcome="in_doubt",
                output="",
                latency_ms=0.0,
            )
    return None


def of_line(line: Line) -> Notice:
    """What a log line gives."""
    payload = LogLine(
        id=line.id,
        level=line.level,
        event_type=line.event_type,
        message=line.message,
        by=line.by,
        context=line.context,
    )
    return notice(line.key, line.at, payload)


def of_delta(key: Key, delta: Delta) -> Notice:
    """What a delta gives."""
    payload = DeltaText(
        step=delta.step,
        attempt=delta.attempt,
        try_=delta.try_,
        offset=delta.offset,
        text=delta.text,
    )
    return notice(key, delta.at, payload)

"""What goes over REST: the bodies, the queries and the answers.

These structs are the one place where they are written down: requests are read by
them, answers are made of them, ``/openapi.json`` is generated from them.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from events import control
from events.catalog import AnyEvent, AskKind
from events.messages import Task
from events.names import Level, Route
from events.state import Said, Status, Turn
from events.timetable import Missed, Overlap
from projections import queries as q
from services import requests as r

MOST_PAGE = 1_000
"""Items of a page."""

END = r"$(?!\n)"
"""The end of a text in a pattern: as Python and JavaScript both understand it."""

Id = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_-]{{1,64}}{END}")]
Reason = Annotated[str, Meta(max_length=2_000)]
Moment = Annotated[datetime, Meta(tz=True)]
Limit = Annotated[int, Meta(ge=1, le=MOST_PAGE)]
Cursor = Annotated[int, Meta(ge=0, le=2**53)]
User = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=256)]


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query or a body in which nothing is asked."""


# ── what is asked ────────────────────────────────────────────────────────────


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an execution is to be started.

    With ``idempotency_key`` (or the header ``Idempotency-Key``) asking twice gives
    the same execution. ``run_at`` lets it begin then, ``await_event`` when that
    arrives. ``limits`` may be tighter than those of the agent type.
    """

    metadata: dict[str, Any] = {}
    model: r.Name | None = None
    limits: r.Tighter = r.Tighter()
    idempotency_key: Annotated[str, Meta(max_length=256)] = ""
    run_at: Moment | None = None
    await_event: control.AwaitEvent | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start an agent of a type on a task."""

    agent_type: r.Name
    input: r.Prompt
    options: Options = Options()


class Ending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why it is cancelled or tried again; kept in its history."""

    reason: Reason = ""


class Answering(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to what an execution asks; by default to the request that is open.

    A question is answered by any JSON that fits its schema; an approval by
    ``{"decision": "approve" | "deny" | "edit", …}``, a doubt by ``{"decision":
    "run_again" | "tell"}``.
    """

    answer: Any
    request: Annotated[str, Meta(max_length=256)] | None = None


class Recurrence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a start recur: by ``cron`` in a time zone, or ``every`` so many seconds."""

    name: Id
    start: Start
    cron: Annotated[str, Meta(max_length=r.MOST_CRON)] = ""
    every: Annotated[int, Meta(ge=1, le=r.YEAR)] | None = None
    time_zone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    overlap: Overlap = "skip"
    missed: Missed = "once"


class Happening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something happened: wake those of one's own executions that wait for it.

    With ``everybody``, which is for admins, those of all users.
    """

    event_type: Annotated[
        str,
        Meta(pattern=rf"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*{END}", max_length=256),
    ]
    payload: Any = None
    everybody: bool = False


class Whose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``user`` names somebody else's; for admins."""

    user: User = ""


class Killing(Whose, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why it is ended at once."""

    reason: Reason = ""


class One(Whose, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``logs`` is how many of its log lines are given with it, from the first on."""

    logs: Annotated[int, Meta(ge=0, le=MOST_PAGE)] = 100


class At(Whose, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``at`` is a version, or a time with its zone; without it: now."""

    at: Annotated[str, Meta(max_length=64)] = ""


class After(Whose, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes after the version ``after``."""

    after: Cursor = 0
    limit: Limit = 100


class Lines(Whose, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lines with a larger id than ``after_id``, of ``level`` and above."""

    after_id: Cursor = 0
    level: Level = "debug"
    limit: Limit = 100


class Listing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which executions, and in which order; what is left out is no condition.

    ``text`` stands somewhere in input, output or error. ``metadata`` is ``NAME:VALUE``.
    ``cursor`` is the ``next`` of the page before. The list has at least what happened
    up to ``min_position``; what came through this gateway it has anyway.
    """

    status: Annotated[tuple[Status | Literal["corrupt"], ...], Meta(max_length=16)] = ()
    agent_type: Text = ""
    model: Text = ""
    parent: Text = ""
    user: User = ""
    text: Text = ""
    metadata: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[^:]+:", max_length=512)], ...],
        Meta(max_length=16),
    ] = ()
    created_from: Moment | None = None
    created_to: Moment | None = None
    updated_from: Moment | None = None
    updated_to: Moment | None = None
    sort: q.Sort = "created_at"
    order: q.Order = "desc"
    limit: Limit = 50
    cursor: Annotated[str, Meta(max_length=4_096)] = ""
    min_position: Cursor = 0


# ── what is answered ─────────────────────────────────────────────────────────


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A command took effect: how the execution stands now.

    ``position`` given as ``min_position`` to the list shows what this did.
    """

    id: str
    status: Status
    version: int
    position: int
    command_id: str


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """A command is stored, and takes effect as soon as a service takes it."""

    id: str
    command_id: str
    detail: str


class TokenUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all replies so far."""

    input: int
    output: int
    total: int
    cache_read: int = 0
    cache_write: int = 0


class AgentError(msgspec.Struct, frozen=True, kw_only=True):
    """Why it failed; ``retryable``: whether a retry could help."""

    type: str
    message: str
    retryable: bool


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution waits to be told; ``schema`` is that of the answer."""

    request: str
    kind: AskKind
    question: str
    schema: dict[str, Any] | None = None
    digest: str | None = None
    deadline: datetime | None = None


class AwaitedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event that an execution waits for."""

    event_type: str
    where: dict[str, Any]
    deadline: datetime | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log; ids grow."""

    id: int
    at: datetime
    level: Level
    event_type: str
    message: str
    by: str
    context: dict[str, Any]


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An execution.

    In a list ``input`` and ``output`` have their first 4,000 characters, and there are
    no ``logs``. ``duration_seconds`` is from its first start to its end, or to now.
    ``cost`` is in US dollars.
    """

    id: str
    user: str
    agent_type: str
    status: Status | Literal["corrupt"]
    step_count: int
    token_usage: TokenUsage
    input: str
    output: str | None
    metadata: dict[str, Any]
    created_at: datetime | None
    started_at: datetime | None
    paused_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime | None
    duration_seconds: float | None
    logs: tuple[LogLine, ...] = ()
    version: int
    position: int
    model: str
    cost: float
    finish_reason: str | None = None
    error: AgentError | None = None
    parent: str | None = None


class AgentPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list, as of ``position``; ``next`` is the cursor of what follows."""

    items: tuple[Agent, ...]
    next: str | None
    position: int


class AgentDetail(Agent, frozen=True, kw_only=True):
    """An execution with all that it is."""

    request: Asked | None = None
    awaiting: AwaitedEvent | None = None
    scheduled_for: datetime | None = None
    pause_requested: bool = False
    cancel_requested: bool = False
    tasks: tuple[Task, ...] = ()
    notes: dict[str, Any] = {}
    children: tuple[str, ...] = ()


class Snapshot(AgentDetail, frozen=True, kw_only=True):
    """An execution as it was at a version, with what was said until then."""

    turns: tuple[Turn | Said, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A commit: the events of one decision; ``version`` counts them from 1."""

    version: int
    position: int
    id: str
    at: datetime
    by: str
    cause: str | None
    route: Route
    events: tuple[AnyEvent, ...]


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a history; ``next`` is the ``after`` of what follows, if there is."""

    items: tuple[History, ...]
    next: int | None


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some lines; ``next`` is the ``after_id`` of those that follow."""

    items: tuple[LogLine, ...]
    next: int


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A feed token: good for /ws and streams, for an hour."""

    token: str
    expires_at: datetime


class AgentType(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of agent that can be started."""

    name: str
    description: str
    model: str
    tools: tuple[str, ...]
    subagents: tuple[str, ...]
    max_steps: int
    max_tokens: int
    max_cost: float | None
    timeout: float


class AgentTypes(msgspec.Struct, frozen=True, kw_only=True):
    """All kinds."""

    items: tuple[AgentType, ...]


class Scheduled(msgspec.Struct, frozen=True, kw_only=True):
    """A recurring start; ``last_outcome`` is what became of the last time."""

    name: str
    status: str
    agent_type: str
    input: str
    cron: str
    every: int | None
    time_zone: str
    overlap: Overlap
    missed: Missed
    next: datetime | None
    last: datetime | None
    last_outcome: str
    last_execution: str
    problem: str
    started: int
    skipped: int
    times_missed: int


class Schedules(msgspec.Struct, frozen=True, kw_only=True):
    """All of a user's."""

    items: tuple[Scheduled, ...]


class ScheduleAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """A command about a schedule took effect."""

    name: str
    status: str
    next: datetime | None
    command_id: str


class Triggered(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger is stored; ``woken`` is how many it woke, if that was told in time.

    ``duplicate``: it was stored before, under the same key, and wakes nobody now.
    """

    trigger: str = ""
    woken: int | None = None
    duplicate: bool = False

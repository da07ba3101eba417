"""What can be asked of the read model over NATS, and what is answered.

Each request has an endpoint of its own. ``min_position`` is a position of EVENTS:
the answer has all up to there, so whoever passes on the ``position`` that a
command was answered with sees what it did. Times have a time zone; a range is
from its beginning to just before its end. ``next`` of a page, if there is one,
is the ``cursor`` of the same request for what comes after it. A page may have
fewer items than its ``limit``: it has to fit a message.
"""

from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from events.names import Level, projector_subject
from events.state import Status

T = TypeVar("T")

MOST_ITEMS = 1_000
"""Items of a page."""

MOST_ROWS = 10_000_000
"""Rows of an SQL query: whoever wants more wants an export."""

LONGEST_SQL = 100_000
"""Characters of an SQL query."""

MOST_SECONDS = 600.0
"""Seconds that an SQL query may take."""

Moment = Annotated[datetime, Meta(tz=True)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(min_length=1, max_length=1_000)]
Limit = Annotated[int, Meta(ge=1, le=MOST_ITEMS)]
Position = Annotated[int, Meta(ge=0, le=2**62)]
Wait = Annotated[float, Meta(ge=0, le=60)]
Label = Annotated[str, Meta(max_length=1_000)]

Sort = Literal["created_at", "updated_at", "completed_at", "steps", "tokens", "cost"]
Order = Literal["asc", "desc"]
Grouping = Literal["day", "user", "agent", "model"]
Kind = Literal["input", "output", "log"]


class Request(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Base of all requests; ``wait`` is how many seconds ``min_position`` is worth.

    ``user`` shows only what is that user's; the gateway sets it for all but admins.
    """

    endpoint: ClassVar[str]
    subject: ClassVar[str]

    user: Name | None = None
    min_position: Position = 0
    wait: Wait = 5.0


class Paged(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of requests whose answer is a page."""

    limit: Limit = 50
    cursor: Annotated[str, Meta(max_length=4_096)] | None = None


class ListRequest(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List executions; what is left out is no condition.

    Status ``corrupt`` is that of executions whose history cannot be read. ``error``
    is the kind of error that it failed by. ``metadata`` are values as text.
    ``text`` stands somewhere in input, output or error message, in any case.
    """

    endpoint = "executions-list"
    subject = "queries.executions.list"

    status: Annotated[tuple[Status | Literal["corrupt"], ...], Meta(max_length=16)] = ()
    agent: Name | None = None
    model: Name | None = None
    lane: Name | None = None
    parent: Name | None = None
    error: Name | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    updated_from: Moment | None = None
    updated_to: Moment | None = None
    metadata: Annotated[dict[Label, Label], Meta(max_length=16)] = {}
    text: Text | None = None
    sort: Sort = "created_at"
    order: Order = "desc"


class CountRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Count executions by status."""

    endpoint = "executions-count"
    subject = "queries.executions.count"

    agent: Name | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


class ActiveRequest(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Count executions that have not ended, by user."""

    endpoint = "executions-active"
    subject = "queries.executions.active"


class AwaitingRequest(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List executions that wait for an event of a type, or any; the oldest first."""

    endpoint = "executions-awaiting"
    subject = "queries.executions.awaiting"

    event_type: Name | None = None


class StuckRequest(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List executions that should have moved on; the oldest first."""

    endpoint = "executions-stuck"
    subject = "queries.executions.stuck"

    agent: Name | None = None


class UsageRequest(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sum up what was used, by any of day, user, agent and model.

    ``from_`` and ``to`` (on the wire ``from`` and ``to``) are when models answered.
    """

    endpoint = "usage"
    subject = "queries.usage"

    by: Annotated[tuple[Grouping, ...], Meta(max_length=4)] = ("day",)
    agent: Name | None = None
    model: Name | None = None
    from_: Moment | None = msgspec.field(default=None, name="from")
    to: Moment | None = None


class SearchRequest(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Find a text in prompts, outputs and log lines, in any case; the newest first."""

    endpoint = "search"
    subject = "queries.search"

    text: Text
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=3)] = (
        "input",
        "output",
        "log",
    )
    level: Level | None = None
    from_: Moment | None = msgspec.field(default=None, name="from")
    to: Moment | None = None


class SqlRequest(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Ask by SQL: at most ``limit`` rows in at most ``timeout`` seconds.

    For whoever may see everything. The answer is one message, and an error if it
    would be too large for one; with ``stream`` it comes in pieces, see
    ``docs/read-model.md``.
    """

    endpoint: ClassVar[str] = "sql"
    subject: ClassVar[str] = "queries.sql"

    sql: Annotated[str, Meta(min_length=1, max_length=LONGEST_SQL)]
    limit: Annotated[int, Meta(ge=1, le=MOST_ROWS)] = 1_000
    timeout: Annotated[float, Meta(gt=0, le=MOST_SECONDS)] = 30.0
    stream: bool = False
    min_position: Position = 0
    wait: Wait = 5.0


class CancelRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Stop what was asked with this reply subject: nobody waits for it any more."""

    endpoint: ClassVar[str] = "cancel"
    subject: ClassVar[str] = "queries.cancel"

    reply: Annotated[str, Meta(min_length=1, max_length=1_024)]


class Ordered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is ordered of the projector, and takes as long as it takes."""

    endpoint: ClassVar[str]
    subject: ClassVar[str]


class RebuildRequest(Ordered, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Build the read model anew; the old one is asked meanwhile."""

    endpoint = "rebuild"
    subject = projector_subject("rebuild")


class VerifyRequest(Ordered, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fold the log anew, and compare every row."""

    endpoint = "verify"
    subject = projector_subject("verify")


# ── answers ──────────────────────────────────────────────────────────────────


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """An answer. ``position`` is how far EVENTS was folded, at least."""

    items: list[T]
    next: str | None = None
    position: int


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """An execution in a list; see ``projections.rows`` for what the fields mean.

    ``input`` and ``output`` have their first 4,000 characters, ``input_size`` and
    ``output_size`` the bytes of all of them.
    """

    id: str
    user: str
    status: str
    agent: str
    model: str
    lane: str
    workspace: str | None
    input: str
    input_size: int
    output: str | None
    output_size: int
    metadata: dict[str, Any]
    finish_reason: str | None
    error: str | None
    error_message: str | None
    retryable: bool | None
    cancel_reason: str
    problem: str | None
    parent: str | None
    depth: int
    origin: str | None
    origin_version: int | None
    version: int
    position: int
    steps: int
    tokens: int
    input_tokens: int
    output_tokens: int
    cache_read: int
    cache_write: int
    cost: float
    unpriced: int
    runner: str | None
    attempt: int
    pause_requested: bool
    cancel_requested: bool
    created_at: datetime | None
    started_at: datetime | None
    paused_at: datetime | None
    updated_at: datetime | None
    completed_at: datetime | None


class StatusCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many executions have a status."""

    status: str
    executions: int


class UserCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many executions of a user have not ended, and how they stand."""

    user: str
    executions: int
    pending: int
    running: int
    paused: int
    awaiting: int


class Awaiting(msgspec.Struct, frozen=True, kw_only=True):
    """An execution that waits for an event whose payload equals ``filter``."""

    id: str
    user: str
    agent: str
    status: str
    event_type: str
    filter: Any
    call_id: str | None
    since: datetime
    deadline: datetime | None


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """An execution that should have moved on, and why that is thought."""

    id: str
    user: str
    agent: str
    status: str
    why: str
    since: datetime | None
    runner: str | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What was used; None where it was not asked by that."""

    day: date | None = None
    user: str | None = None
    agent: str | None = None
    model: str | None = None
    steps: int
    input_tokens: int
    output_tokens: int
    cache_read: int
    cache_write: int
    cost: float
    unpriced: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Where a text was found; ``excerpt`` has it with what stands around it.

    ``line`` and ``level`` are those of a log line.
    """

    kind: Kind
    id: str
    user: str
    at: datetime | None
    excerpt: str
    line: int | None = None
    level: str | None = None


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of an SQL answer; ``type`` is DuckDB's name for it."""

    name: str
    type: str


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """What an SQL query came to; ``more`` says that the limit cut it off."""

    columns: list[Column]
    rows: list[list[Any]]
    more: bool = False
    next: None = None
    position: int


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild came to."""

    messages: int
    seconds: float


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification came to; ``differences`` are the first of ``wrong``.

    ``aside`` counts the messages that could not be folded: ``dead_letters``.
    """

    executions: int
    rows: int
    lines: int
    aside: int
    position: int
    wrong: int
    differences: list[str]

"""Commands as they are written: JSON in, a decision and an answer out.

What a foreign client may send and what it gets back; ``docs/subjects.md`` shows
it by example.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from events import commands, control
from events.errors import InvalidInput, WakeError
from events.execution import Execution
from events.inbox import Order
from events.names import Key, check_id
from events.timetable import Missed, Overlap

NEW = "new"
"""In place of an execution id: the id follows from idempotency or command id."""

MOST = 10**9
"""The largest number a limit may be: past any use, and safe in JSON."""

MOST_CRON = 128
"""Characters of a cron expression."""

YEAR = 366 * 86_400
"""Seconds that an interval may be."""

DEEPEST = 64
"""Levels of free JSON: what can be read here must be readable from anywhere."""

LATE = timedelta(seconds=60)
"""How long past a time may be: clocks differ. What is older is a mistake."""

LATEST = timedelta(days=3660)
"""How far away a time may be: ten years. What is beyond is a mistake."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Prompt = Annotated[str, Meta(min_length=1, max_length=200_000)]


Moment = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=1, le=MOST)]


class Tighter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one start; they may be lower than the agent type's, not higher."""

    max_steps: Count | None = None
    max_tokens: Count | None = None
    max_cost: Annotated[float, Meta(ge=0, le=MOST)] | None = None
    timeout: Annotated[float, Meta(gt=0, le=MOST)] | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start an execution of an agent type; see ``events.catalog.Created``.

    With ``run_at`` it is there at once, and is work from then on.
    """

    agent_type: Name
    input: Prompt
    command_id: str = ""
    idempotency_key: Annotated[str, Meta(max_length=256)] = ""
    metadata: dict[str, Any] = {}
    model: Name | None = None
    limits: Tighter = Tighter()
    workspace: str | None = None
    await_event: control.AwaitEvent | None = None
    run_at: Moment | None = None

    @property
    def digest(self) -> str:
        """What makes two starts the same: all but the id of the command."""
        return digest_of(self)


class AboutSchedule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Base of what is asked of a schedule; its name is in place of an execution."""

    command_id: str = ""


class Schedule(AboutSchedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a start recur: by ``cron`` in a time zone, or ``every`` so many seconds."""

    start: Start
    cron: Annotated[str, Meta(max_length=MOST_CRON)] = ""
    every: Annotated[int, Meta(ge=1, le=YEAR)] | None = None
    time_zone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    overlap: Overlap = "skip"
    missed: Missed = "once"

    @property
    def digest(self) -> str:
        """What makes two schedules the same: all but the id of the command."""
        return digest_of(self)


class Unschedule(AboutSchedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forget a schedule; what it started goes on."""


class PauseSchedule(
    AboutSchedule, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Start nothing until it is resumed; what it started goes on."""


class ResumeSchedule(
    AboutSchedule, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Go on with the next time to come."""


def digest_of(request: Start | Schedule) -> str:
    """What makes two requests the same: all but the id of the command.

    What is not given is left out, so that a newer version, which knows more that
    may be given, finds the same.
    """
    given = _given(msgspec.to_builtins(request))
    given.pop("command_id")
    encoded = msgspec.json.encode(given, order="deterministic")
    return blake2b(encoded, digest_size=16).hexdigest()


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


Request = Start | AboutSchedule | commands.AnyCommand

VERBS: dict[str, type[Any]] = {
    "start": Start,
    "pause": commands.Pause,
    "resume": commands.Resume,
    "cancel": commands.Cancel,
    "kill": commands.Kill,
    "input": commands.Input,
    "retry": commands.Retry,
    "schedule": Schedule,
    "unschedule": Unschedule,
    "pause_schedule": PauseSchedule,
    "resume_schedule": ResumeSchedule,
}


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a command: accepted, or refused with code and message.

    Of one about a schedule, ``execution`` is its name and ``next`` its next time.
    With the code ``limit_reached``, ``retry_after`` is in how many seconds that can
    change.
    """

    command_id: str
    execution: str
    accepted: bool
    version: int = 0
    position: int = 0
    status: str = ""
    next: datetime | None = None
    code: str = ""
    message: str = ""
    retry_after: float | None = None


MAX_REASON = 2_000
"""Characters of a refusal's message: it may quote what a stranger sent."""

_FREE = frozenset({"metadata", "answer"})
"""Fields that may have any JSON."""

_TOKEN = re.compile(r"[^\s.*>\x00-\x20\x7f]{1,256}")


class _Id(msgspec.Struct):
    command_id: str = ""


_ids = msgspec.json.Decoder(_Id)


def parse(verb: str, body: bytes) -> Any:
    """Decode a command's body; raises InvalidInput with what is wrong and where."""
    kind = VERBS.get(verb)
    if kind is None:
        raise InvalidInput(f"no command {verb!r:.40}; there are: {', '.join(VERBS)}")
    try:
        request = msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"{verb}: {error}") from error
    if request.command_id:
        check_id(request.command_id, "command_id")
    for name in _FREE.intersection(kind.__struct_fields__):
        _check_depth(f"{verb}: {name}", getattr(request, name))
    if isinstance(request, Schedule):
        _check_depth("schedule: start.metadata", request.start.metadata)
    return request


def _check_depth(what: str, value: Any) -> None:
    level = list(_nested([value]))
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _nested(outer)]
    if level:
        raise InvalidInput(f"{what} has more than {DEEPEST} levels")


def _nested(outer: dict[str, Any] | list[Any]) -> Iterable[Any]:
    values = outer.values() if isinstance(outer, dict) else outer
    return (value for value in values if isinstance(value, dict | list))


def command_id(body: bytes, position: int) -> str:
    """Return the id to answer under, even of a body that is not right.

    Without one, or with one that is no id, it is ``seq-<position of the command>``.
    """
    try:
        return check_id(_ids.decode(body or b"{}").command_id, "command_id")
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidInput):
        return f"seq-{position}"


def execution_of(key: Key, request: Any, command: str) -> Key:
    """Name the execution that a start on ``new`` is for.

    Raises InvalidInput for an idempotency key beside an explicit id.
    """
    if not isinstance(request, Start):
        return key
    if key.execution != NEW:
        if request.idempotency_key:
            raise InvalidInput(
                "give an execution id or an idempotency_key, not both: with a key, "
                f"publish on commands.{key.user}.{NEW}.start"
            )
        return key
    same = request.idempotency_key or f"\0{command}"
    name = f"{key.user}\n{same}".encode()
    return Key(key.user, blake2b(name, digest_size=16).hexdigest())


def target(order: Order) -> Key:
    """Say whose turn a command waits for: that of the execution it is for."""
    if order.key.execution != NEW:
        return order.key
    try:
        request = parse(order.verb, order.body)
    except InvalidInput:
        return order.key
    return execution_of(order.key, request, command_id(order.body, order.position))


def check_time(when: datetime | None, sent: datetime) -> datetime | None:
    """Return a time that is asked for, in UTC; raises InvalidInput.

    It is judged by when the command was stored (``sent``), so that one which had
    to wait for a service is not refused for it.
    """
    if when is None:
        return None
    if when < sent - LATE:
        raise InvalidInput(
            f"run_at {when.isoformat()} is past, it was {sent.isoformat()}: name a "
            "time to come, or leave it out to start now"
        )
    if when > sent + LATEST:
        raise InvalidInput(
            f"run_at {when.isoformat()} is more than ten years away: name an "
            "earlier time"
        )
    return when.astimezone(UTC)


def answerable(user: str) -> bool:
    """Whether a subject may have this user in it, who may be no user of ours."""
    return _TOKEN.fullmatch(user) is not None


def acceptance(command: str, execution: Execution) -> Answer:
    """Say yes, and what is so now."""
    return Answer(
        command_id=command,
        execution=execution.key.execution,
        accepted=True,
        version=execution.state.version,
        position=execution.position,
        status=execution.state.status,
    )


def refusal(command: str, key: Key, error: WakeError) -> Answer:
    """Say no."""
    return Answer(
        command_id=command,
        execution=key.execution,
        accepted=False,
        code=error.code,
        message=_short(str(error)),
        retry_after=getattr(error, "retry_after", None),
    )


def _short(message: str) -> str:
    return message if len(message) <= MAX_REASON else message[:MAX_REASON] + "…"

"""Every name on the wire, with a line of purpose: streams, subjects, headers.

Ids are single subject tokens; what comes from outside is checked by
``check_id`` before it becomes part of a subject.
"""

import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from events.errors import InvalidInput
from events.spec import Lane

# ── streams ──────────────────────────────────────────────────────────────────
EVENTS = "EVENTS"  # the truth: one message per commit

COMMANDS = "COMMANDS"  # what was asked, for seven days
LOGS = "LOGS"  # what is told of executions, for some days
DELTAS = "DELTAS"  # what models say while they say it, for some minutes
TRIGGERS = "TRIGGERS"  # what happened outside, for seven days
SCHEDULES = "SCHEDULES"  # timers: what is to be done at a time, and what is due
RECURRING = "RECURRING"  # recurring starts: how they are defined, what came of them

# ── buckets ──────────────────────────────────────────────────────────────────
BLOBS = "BLOBS"  # strings too long for a commit: <user>/<execution>/<sha-256>
BLOBS_STREAM = f"OBJ_{BLOBS}"  # the stream that an object store lives in (ADR-20)
QUOTAS = "QUOTAS"  # <user>: who was admitted, and how many starts there were
ACCOUNTS = "ACCOUNTS"  # <user>: tier and roles of who comes without a token

# ── consumers ────────────────────────────────────────────────────────────────
LIFECYCLE = "lifecycle"  # hands out commands, to one client at a time
DUE = "due"  # hands out timers that went off, to any reactor

# ── subjects ─────────────────────────────────────────────────────────────────
EVENTS_ALL = "events.>"  # what EVENTS stores
FEED_ALL = "feed.>"  # EVENTS republished for live readers, after it was stored
FEED_SIGNALS = "feed.*.*.signal"  # what a runner must hear while it holds
COMMANDS_ALL = "commands.*.*.*"  # <user>.<execution>.<verb>: who asks is who may
GATEWAY_ALL = "gateway.*.*.*"  # the same, where the gateway vouches for who asks
FEED_FINISHED = "feed.*.*.finished"  # likewise: a kill ends what it holds
LOGS_ALL = "logs.*.*.*"  # <user>.<execution>.<level>
DELTAS_ALL = "deltas.*.*"  # <user>.<execution>
TRIGGERS_ALL = "triggers.>"  # <user>.<event type>, which may have dots
SCHEDULES_ALL = "schedules.*.*"  # <user>.<timer>: waits for its time in the server
DUE_ALL = "due.*.*"  # <user>.<timer>: its time has come
RECURRING_ALL = "recurring.*.*.*"  # <user>.<schedule>.<part>
RUNNERS_ALL = "runners.*"  # <runner>: what each holds, not stored
QUERIES_ALL = "queries.>"  # what the read model is asked: NATS micro services (ADR-32)
ANSWERS_ALL = "answers.*.*"  # <user>.<command id>: what becomes of commands
SERVICES = "$SRV"  # .<PING, INFO or STATS>[.<name>[.<id>]]: who serves what (ADR-32)
DEPARTED_ALL = "$SYS.ACCOUNT.*.DISCONNECT"  # who is gone, told to the system account
BLOBS_CHUNKS = f"$O.{BLOBS}.C"  # .<user>.<execution>.<sha-256>: a blob's pieces
BLOBS_INFOS = f"$O.{BLOBS}.M"  # .<name in base64>: that a blob is there, all of it

# ── headers ──────────────────────────────────────────────────────────────────
EXPECTED_POSITION = "Nats-Expected-Last-Subject-Sequence"  # optimistic concurrency
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"  # … over all routes
MESSAGE_ID = "Nats-Msg-Id"  # a log line written twice is stored once
WANTS_ANSWER = "Wake-Answer"  # the id under which a trigger is answered
SCHEDULE = "Nats-Schedule"  # when the server is to send a message on (NATS ADR-51)
SCHEDULE_TARGET = "Nats-Schedule-Target"  # … and to which subject
TTL = "Nats-TTL"  # seconds after which the server forgets a message
BEATS = "Wake-Beats"  # on a query: signs of life may come before its answer
BEAT = "Wake-Beat"  # on one of them: the query is worked on
SERVICE_ERROR = "Nats-Service-Error"  # what a micro service could not do (ADR-32)
SERVICE_ERROR_CODE = "Nats-Service-Error-Code"  # … as a number, as HTTP has them
ASKED_BY = "Wake-By"  # on gateway.: the user who asks, as the gateway knows it
TIER = "Wake-Tier"  # on gateway.: the tier of the user whose execution it is
TRACE = "traceparent"  # W3C Trace Context: the span in which a message was sent

# ── limits of the log ────────────────────────────────────────────────────────
MAX_MESSAGE = 512 * 1024  # bytes of one stored message, headers included
MAX_COMMIT = 256 * 1024  # bytes of one encoded commit
MOST_ADMITTED = 1000  # executions at a time: their ids have room in one value of QUOTAS

Route = Literal[
    "agents", "agents_long", "agents_priority", "signal", "parked", "finished", "log"
]
"""Who has to act on a commit next: the last token of its subject."""

ROUTES: tuple[Route, ...] = get_args(Route)
LANES: tuple[Lane, ...] = get_args(Lane)

Level = Literal["debug", "info", "warning", "error"]
"""How much a log line matters, from the least: the last token of its subject."""

LEVELS: tuple[Level, ...] = get_args(Level)

EVERYBODY = "all"
"""In place of a user: triggers that are for everybody's executions."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EVENT_TYPE = re.compile(r"(?=.{1,256}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Key(NamedTuple):
    """Whose execution, and which: the consistency boundary."""

    user: str
    execution: str

    def __str__(self) -> str:
        return f"{self.user}/{self.execution}"


def check_id(value: str, what: str = "id") -> str:
    """Return ``value`` if it may be a subject token, else raise InvalidInput."""
    if what == "user" and value == EVERYBODY:
        raise InvalidInput(f"user {EVERYBODY!r} is reserved: it stands for everybody")
    if _ID.fullmatch(value):
        return value
    raise InvalidInput(
        f"{what} {value!r:.80} is not allowed: use 1 to 64 of A-Z a-z 0-9 _ -"
    )


def check_event_type(value: str) -> str:
    """Return ``value`` if it may be the end of a subject, else raise InvalidInput."""
    if _EVENT_TYPE.fullmatch(value):
        return value
    raise InvalidInput(
        f"event type {value!r:.80} is not allowed: use words of A-Z a-z 0-9 _ - with "
        "dots between them, 256 characters in all"
    )


def commit_subject(key: Key, route: Route) -> str:
    """Where a commit of ``key`` is stored."""
    return f"events.{key.user}.{key.execution}.{route}"


def history_filter(key: Key) -> str:
    """All commits of ``key``: for conditions and consumers, never for reads."""
    return f"events.{key.user}.{key.execution}.*"


def anybodys_filter(execution: str) -> str:
    """All commits of the executions of this id, whoever's: to find whose it is."""
    return f"events.*.{execution}.*"


def lane_filter(lane: Lane, key: Key | None = None) -> str:
    """All work of a lane, or only that of one execution."""
    user, execution = key or ("*", "*")
    return f"events.{user}.{execution}.{lane}"


def lane_consumer(lane: Lane, key: Key | None = None) -> str:
    """The durable pull consumer that hands out the work of a lane."""
    if key is None:
        return f"runners-{lane}"
    return f"runner-{lane}-{key.user}={key.execution}"  # ids have no =: never ambiguous


def runner_subject(runner: str) -> str:
    """Where a runner says what it holds."""
    return f"runners.{runner}"


def projector_subject(order: str) -> str:
    """Where the projector is told to do something."""
    return f"projector.{order}"


def feed_filter(lane: Lane) -> str:
    """New work of a lane, republished after it was stored."""
    return f"feed.*.*.{lane}"


def command_subject(door: str, key: Key, verb: str) -> str:
    """Where a command is published; ``door`` is commands or gateway."""
    return f"{door}.{key.user}.{key.execution}.{verb}"


def answer_subject(user: str, command_id: str) -> str:
    """Where a command is answered."""
    return f"answers.{user}.{command_id}"


def trigger_subject(user: str, event_type: str) -> str:
    """Where a trigger for ``user`` (or for ``EVERYBODY``) is published.

    Raises InvalidInput.
    """
    if user != EVERYBODY:
        check_id(user, "user")
    return f"triggers.{user}.{check_event_type(event_type)}"


def split_trigger(subject: str) -> tuple[str, str]:
    """Take a subject of TRIGGERS apart: user and event type; raises InvalidInput."""
    _, user, event_type = subject.split(".", 2)
    trigger_subject(user, event_type)
    return user, event_type


def timer_subject(user: str, timer: str) -> str:
    """Where a timer waits for its time."""
    return f"schedules.{user}.{timer}"


def due_subject(user: str, timer: str) -> str:
    """Where a timer comes back when its time has come."""
    return f"due.{user}.{timer}"


def recurring_subject(user: str, schedule: str, part: str) -> str:
    """Where one part of what is known of a recurring start is stored."""
    return f"recurring.{user}.{schedule}.{part}"


@lru_cache(maxsize=4096)  # asked for each line, of few executions at a time
def log_subject(key: Key, level: Level) -> str:
    """Where a log line of ``key`` is stored; raises InvalidInput."""
    check_id(key.user, "user")
    check_id(key.execution, "execution")
    return f"logs.{key.user}.{key.execution}.{check_level(level)}"


def delta_subject(key: Key) -> str:
    """Where the words of a model are sent as it says them."""
    return f"deltas.{key.user}.{key.execution}"


def user_filters(user: str) -> tuple[str, str]:
    """All commits and all log lines of a user: for consumers, never for reads."""
    return f"events.{user}.*.*", f"logs.{user}.*.*"


def blob_name(key: Key, sha256: str) -> str:
    """What a blob of an execution is called in its bucket."""
    return f"{key.user}/{key.execution}/{sha256}"


def blob_chunks(name: str) -> str:
    """Where the pieces of a blob are stored, one after the other."""
    return f"{BLOBS_CHUNKS}.{name.replace('/', '.')}"  # ids have neither


def blob_info(name: str) -> str:
    """Where it is said that a blob is there, as any object store does."""
    return f"{BLOBS_INFOS}.{urlsafe_b64encode(name.encode()).decode()}"


def bucket_stream(bucket: str) -> str:
    """The stream that a key-value bucket lives in (ADR-8)."""
    return f"KV_{bucket}"


def bucket_subject(bucket: str, key: str) -> str:
    """Where the value of a key is stored; ``>`` for all of them."""
    return f"$KV.{bucket}.{key}"


def blobs_filter(key: Key) -> str:
    """The pieces of all blobs of ``key``."""
    return f"{BLOBS_CHUNKS}.{key.user}.{key.execution}.*"


def log_filters(key: Key | None, level: Level | None) -> list[str]:
    """The log lines of ``key`` (None: of all), of ``level`` and above."""
    user, execution = key or ("*", "*")
    first = 0 if level is None else LEVELS.index(check_level(level))
    return [f"logs.{user}.{execution}.{name}" for name in LEVELS[first:]]


def log_subject_filter(key: Key) -> str:
    """All log lines of ``key``, to delete them."""
    return f"logs.{key.user}.{key.execution}.*"


def check_level(level: str) -> Level:
    """Return ``level`` if there is such a level, else raise InvalidInput."""
    for known in LEVELS:
        if level == known:
            return known
    raise InvalidInput(f"no level {level!r:.80}; there are: {', '.join(LEVELS)}")


def split_subject(subject: str) -> tuple[Key, Route]:
    """Take a subject of EVENTS (or of its feed) apart."""
    _, user, execution, route = subject.split(".")
    return Key(user, execution), route  # type: ignore[return-value]  # we wrote it

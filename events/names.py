"""Every name on the wire, with a line of purpose: streams, subjects, headers.

Ids are single subject tokens; what comes from outside is checked by
``check_id`` before it becomes part of a subject.
"""

import re
from typing import Literal, NamedTuple, get_args

from events.errors import InvalidInput
from events.spec import Lane

# ── streams ──────────────────────────────────────────────────────────────────
EVENTS = "EVENTS"  # the truth: one message per commit

COMMANDS = "COMMANDS"  # what was asked, for seven days

# ── consumers ────────────────────────────────────────────────────────────────
LIFECYCLE = "lifecycle"  # hands out commands, to one client at a time

# ── subjects ─────────────────────────────────────────────────────────────────
EVENTS_ALL = "events.>"  # what EVENTS stores
FEED_ALL = "feed.>"  # EVENTS republished for live readers, after it was stored
FEED_SIGNALS = "feed.*.*.signal"  # what a runner must hear while it holds
COMMANDS_ALL = "commands.*.*.*"  # <user>.<execution>.<verb>: who asks is who may
GATEWAY_ALL = "gateway.*.*.*"  # the same, where the gateway vouches for who asks
FEED_FINISHED = "feed.*.*.finished"  # likewise: a kill ends what it holds

# ── headers ──────────────────────────────────────────────────────────────────
EXPECTED_POSITION = "Nats-Expected-Last-Subject-Sequence"  # optimistic concurrency
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"  # … over all routes

# ── limits of the log ────────────────────────────────────────────────────────
MAX_MESSAGE = 512 * 1024  # bytes of one stored message, headers included
MAX_COMMIT = 256 * 1024  # bytes of one encoded commit

Route = Literal[
    "agents", "agents_long", "agents_priority", "signal", "parked", "finished", "log"
]
"""Who has to act on a commit next: the last token of its subject."""

ROUTES: tuple[Route, ...] = get_args(Route)
LANES: tuple[Lane, ...] = get_args(Lane)

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Key(NamedTuple):
    """Whose execution, and which: the consistency boundary."""

    user: str
    execution: str

    def __str__(self) -> str:
        return f"{self.user}/{self.execution}"


def check_id(value: str, what: str = "id") -> str:
    """Return ``value`` if it may be a subject token, else raise InvalidInput."""
    if _ID.fullmatch(value):
        return value
    raise InvalidInput(
        f"{what} {value!r:.80} is not allowed: use 1 to 64 of A-Z a-z 0-9 _ -"
    )


def commit_subject(key: Key, route: Route) -> str:
    """Where a commit of ``key`` is stored."""
    return f"events.{key.user}.{key.execution}.{route}"


def history_filter(key: Key) -> str:
    """All commits of ``key``: for conditions and consumers, never for reads."""
    return f"events.{key.user}.{key.execution}.*"


def lane_filter(lane: Lane, key: Key | None = None) -> str:
    """All work of a lane, or only that of one execution."""
    user, execution = key or ("*", "*")
    return f"events.{user}.{execution}.{lane}"


def lane_consumer(lane: Lane, key: Key | None = None) -> str:
    """The durable pull consumer that hands out the work of a lane."""
    return f"runners-{lane}" if key is None else f"runner-{lane}-{key.execution}"


def command_subject(door: str, key: Key, verb: str) -> str:
    """Where a command is published; ``door`` is commands or gateway."""
    return f"{door}.{key.user}.{key.execution}.{verb}"


def answer_subject(user: str, command_id: str) -> str:
    """Where a command is answered."""
    return f"answers.{user}.{command_id}"


def split_subject(subject: str) -> tuple[Key, Route]:
    """Take a subject of EVENTS (or of its feed) apart."""
    _, user, execution, route = subject.split(".")
    return Key(user, execution), route  # type: ignore[return-value]  # we wrote it

"""What a message says of how it came: from a consumer, or republished."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from events.commit import Recorded, unseal
from events.journal import WorkHeard
from events.names import LANES, TRACE, split_subject

if TYPE_CHECKING:
    from nats.aio.msg import Msg

RAN_OUT = "408"
"""The status of a request that asked for more than came in its time."""


def delivery(message: "Msg") -> tuple[int, int, int]:
    """Return times delivered, stream and consumer sequence (NATS ADR-15).

    ``$JS.ACK.<stream>.<consumer>.<n>.<stream seq>.<consumer seq>.…``, with a
    domain and an account before the stream in the newer form.
    """
    return _delivery(message.reply)


@lru_cache(maxsize=2048)  # a feed asks twice for each, within RUN or two
def _delivery(reply: str) -> tuple[int, int, int]:
    tokens = reply.split(".")
    first = 4 if len(tokens) < 11 else 6  # noqa: PLR2004 - the two forms' lengths
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 2])


def behind(message: "Msg") -> int:
    """Return how many messages the consumer had still to deliver (NATS ADR-15)."""
    tokens = message.reply.split(".")
    return int(tokens[8 if len(tokens) < 11 else 10])  # noqa: PLR2004 - see above


def stored_at(message: "Msg") -> datetime:
    """Return when the server stored a delivered message (NATS ADR-15)."""
    tokens = message.reply.split(".")
    nanoseconds = int(tokens[7 if len(tokens) < 11 else 9])  # noqa: PLR2004 - see above
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def recorded_from(message: "Msg") -> Recorded:
    """Read a delivered commit; the reply subject tells its position."""
    key, route = split_subject(message.subject)
    position = delivery(message)[1]
    trace = (message.headers or {}).get(TRACE, "")
    commit = unseal(message.data, key)
    return Recorded(position, key, route, commit, message.data, trace)


def pending(message: "Msg", unknown: int) -> int:
    """Return what a request that is over had still asked for."""
    return int((message.headers or {}).get("Nats-Pending-Messages", unknown))


Heard = Callable[[Recorded], None]


def work_heard_from(message: "Msg", heard: WorkHeard) -> None:
    """Pass on whose work was republished, and where it stands."""
    key, route = split_subject(message.subject)
    if route in LANES:  # always: it is what was subscribed
        heard(route, key.user, int((message.headers or {}).get("Nats-Sequence", 0)))


def heard_from(message: "Msg", heard: Heard) -> None:
    """Pass a republished commit on."""
    headers: dict[str, Any] = message.headers or {}
    key, route = split_subject(message.subject)
    position = int(headers.get("Nats-Sequence", 0))
    commit, trace = unseal(message.data, key), headers.get(TRACE, "")
    heard(Recorded(position, key, route, commit, message.data, trace))

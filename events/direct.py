"""Reading stored messages without a consumer: from the leader, or from any replica.

``ask_leader`` gives one message and is never stale. ``read_subject`` gives all
of a literal subject in batched direct gets: cheap, and on a cluster maybe
without the newest (a lagging follower answers too). ``subjects_of`` tells what
there is to read.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import OutcomeUnknown, Unavailable
from events.provisioning import NO_STREAM
from events.wire import ANSWER, ApiError, Wire, status

if TYPE_CHECKING:
    from nats.aio.msg import Msg

BATCH = 1_000
"""Messages one direct get asks for."""

BATCH_BYTES = 4 * 1024 * 1024
"""Bytes it asks for: a server that sends more than it may buffer cuts us off."""

NOT_FOUND = 10037

NOTHING_THERE = (NOT_FOUND, NO_STREAM)
"""What is answered where nobody may ever have served, too."""


class StoredMessage(msgspec.Struct):
    """One message as the leader gives it."""

    subject: str
    seq: int
    data: bytes = b""
    hdrs: bytes = b""


class _Found(msgspec.Struct):
    message: StoredMessage


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _Info(msgspec.Struct):
    state: _State
    total: int = 0


_found = msgspec.json.Decoder(_Found)
_info = msgspec.json.Decoder(_Info)


async def ask_leader(
    wire: Wire,
    stream: str,
    query: Mapping[str, Any],
    *,
    absent: Collection[int] = (NOT_FOUND,),
) -> StoredMessage | None:
    """Ask the leader for one message; ``absent`` are the errors that mean none.

    Raises OutcomeUnknown.
    """
    try:
        answer = await wire.api(f"STREAM.MSG.GET.{stream}", query)
    except ApiError as error:
        if error.number in absent:
            return None
        raise OutcomeUnknown(str(error)) from error
    return _found.decode(answer).message


async def subjects_of(
    wire: Wire, stream: str, matching: str, *, absent: Collection[int] = ()
) -> list[str]:
    """Return the subjects that have messages, page by page, as the leader knows it.

    ``absent`` are the errors that mean none. Raises OutcomeUnknown.
    """
    found: dict[str, None] = {}
    while True:
        query = {"subjects_filter": matching, "offset": len(found)}
        try:
            info = _info.decode(await wire.api(f"STREAM.INFO.{stream}", query))
        except ApiError as error:
            if error.number in absent:
                return []
            raise OutcomeUnknown(str(error)) from error
        before = len(found)
        found |= dict.fromkeys(info.state.subjects or ())
        if len(found) in (before, info.total):
            return list(found)


async def read_subject(
    wire: Wire, stream: str, subject: str, after: int = 0
) -> "list[tuple[int, Msg]]":
    """Return all messages of a literal subject with their sequence numbers.

    Those beyond ``after``. Raises Unavailable.
    """
    messages: list[tuple[int, Msg]] = []
    while True:
        query = {
            "seq": (messages[-1][0] if messages else after) + 1,
            "next_by_subj": subject,
            "batch": BATCH,
            "max_bytes": BATCH_BYTES,
        }
        parts, more = await _batch(wire, stream, msgspec.json.encode(query))
        messages += [(_sequence(message), message) for message in parts]
        if not more:
            return messages


def _sequence(message: "Msg") -> int:
    return int((message.headers or {})["Nats-Sequence"])


async def _batch(wire: Wire, stream: str, query: bytes) -> "tuple[list[Msg], bool]":
    """Collect the parts of a batched direct get; True if there are more.

    A batch may end early, when it has enough bytes.
    """
    parts: list[Msg] = []
    done = wire.promise()

    def take(message: "Msg") -> None:
        if status(message) is None:
            parts.append(message)
        elif not done.done():
            done.set_result(message)

    reply = wire.open(take)
    try:
        async with asyncio.timeout(ANSWER):
            await wire.send(f"$JS.API.DIRECT.GET.{stream}", query, reply=reply)
            last = await done
    except (TimeoutError, OutcomeUnknown) as error:
        raise Unavailable("the log cannot be read now") from error
    finally:
        wire.forgive(done)
        wire.shut(reply)
    what = status(last)
    if what not in ("204", "404"):
        raise Unavailable(f"the log cannot be read now (status {what})")
    pending = int((last.headers or {}).get("Nats-Num-Pending", 0))
    return parts, bool(parts) and pending > 0

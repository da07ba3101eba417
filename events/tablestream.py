"""Recurring starts on JetStream: the last of each part counts, some before it stay.

What is decided on is read from the leader, so it is never stale.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from events.direct import NOTHING_THERE, ask_leader, subjects_of
from events.errors import (
    Conflict,
    OutcomeUnknown,
    ServerUnsuitable,
    Unavailable,
    UnknownEvent,
)
from events.feed import Feed, Source
from events.names import (
    EXPECTED_POSITION,
    RECURRING,
    RECURRING_ALL,
    TTL,
    recurring_subject,
)
from events.provisioning import provision
from events.timetable import Definition, Entry, Name, Ran, Removal, Timetable
from events.wire import ApiError, Wire, raise_problem

if TYPE_CHECKING:
    from nats.aio.msg import Msg

DEFINED, RAN, REMOVED = "defined", "ran", "removed"
"""The parts of a schedule: how it is, what came of it, who removed it."""

KEPT = 16
"""Revisions that are kept of each part: who changed it, and how its runs went."""

REMEMBERED = 30 * 24 * 3600
"""Seconds for which a removal is kept."""

MAX_PART = 128 * 1024
"""Bytes of a stored part; what may be defined is bounded well below."""

AT_ONCE = 64
"""Schedules read at once."""

WRONG_LAST_SEQUENCE = 10071

_stream: dict[str, Any] = {
    "name": RECURRING,
    "description": "wakestream: recurring starts, and what came of them",
    "subjects": [RECURRING_ALL],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_msgs_per_subject": KEPT,
    "max_msg_size": MAX_PART,
    "duplicate_window": int(100e6),
    "allow_direct": True,
    "allow_msg_ttl": True,
}

T = TypeVar("T", Definition, Ran, Removal)


class _Ack(msgspec.Struct):
    seq: int = 0


_ack = msgspec.json.Decoder(_Ack)


class JetStreamTimetable(Timetable):
    """The schedules of one account."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reading = asyncio.Semaphore(AT_ONCE)

    @classmethod
    async def open(cls, wire: Wire, *, replicas: int | None = None) -> Self:
        """Provision the stream; asking again is fine.

        Raises ServerUnsuitable, Unavailable.
        """
        try:
            await provision(wire, _stream, replicas=replicas)
        except ApiError as error:
            raise ServerUnsuitable(
                f"this nats-server cannot keep schedules: {error}"
            ) from error
        except OutcomeUnknown as error:
            raise Unavailable(f"schedules cannot be opened now: {error}") from error
        return cls(wire)

    # ── writing ──────────────────────────────────────────────────────────────

    async def define(self, definition: Definition) -> Definition:
        """Store a definition and return it with its new revision."""
        name = definition.user, definition.name
        body = msgspec.structs.replace(definition, revision=0)
        stored = await self._store(name, DEFINED, body, definition.revision)
        return msgspec.structs.replace(definition, revision=stored)

    async def record(self, name: Name, ran: Ran) -> Ran:
        """Store what came of a schedule and return it with its new position."""
        body = msgspec.structs.replace(ran, position=0)
        stored = await self._store(name, RAN, body, ran.position)
        return msgspec.structs.replace(ran, position=stored)

    async def remove(self, name: Name, removal: Removal) -> None:
        """Forget a schedule; first it is written down who did it."""
        await self._store(name, REMOVED, removal, None)
        for part in (DEFINED, RAN):
            query = {"filter": recurring_subject(*name, part)}
            await self._api(f"STREAM.PURGE.{RECURRING}", query)

    async def _store(self, name: Name, part: str, body: T, after: int | None) -> int:
        """Store a part, if ``after`` is still its last position (None: anyway)."""
        ends = {TTL: str(REMEMBERED)}
        headers = ends if after is None else {EXPECTED_POSITION: str(after)}
        subject = recurring_subject(*name, part)
        encoded = msgspec.json.encode(body)
        try:
            answer = await self._wire.request(subject, encoded, headers=headers)
            raise_problem(answer.data)
        except ApiError as error:
            if error.number == WRONG_LAST_SEQUENCE:
                raise Conflict(f"{subject} was changed meanwhile: {error}") from error
            raise Unavailable(f"{subject} was not stored: {error}") from error
        except OutcomeUnknown as error:
            raise Unavailable(f"{subject} was not stored: {error}") from error
        return _ack.decode(answer.data).seq

    # ── reading ──────────────────────────────────────────────────────────────

    async def removed(self, name: Name) -> Removal | None:
        """Return who removed one of that name, if it was lately."""
        found = await self._last(name, REMOVED, Removal)
        return found and found[0]

    async def find(self, name: Name) -> Entry | None:
        """Return what is known of a schedule, as the leader knows it."""
        async with self._reading:
            defined = await self._last(name, DEFINED, Definition)
            if defined is None:
                return None
            ran = await self._last(name, RAN, Ran)
        definition, revision = defined
        known, position = ran or (Ran(), 0)
        return Entry(
            msgspec.structs.replace(definition, revision=revision),
            msgspec.structs.replace(known, position=position),
        )

    async def _last(self, name: Name, part: str, kind: type[T]) -> tuple[T, int] | None:
        query = {"last_by_subj": recurring_subject(*name, part)}
        try:
            found = await ask_leader(self._wire, RECURRING, query)
        except OutcomeUnknown as error:
            raise Unavailable(f"schedules cannot be read now: {error}") from error
        return (_decoded(found.data, kind), found.seq) if found else None

    async def names(self, user: str | None = None) -> list[Name]:
        """Return which there are, all or a user's."""
        matching = recurring_subject(user or "*", "*", DEFINED)
        try:
            found = await subjects_of(
                self._wire, RECURRING, matching, absent=NOTHING_THERE
            )
        except OutcomeUnknown as error:
            raise Unavailable(f"schedules are out of reach: {error}") from error
        return list(map(_name, found))

    async def follow(self) -> AsyncGenerator[Sequence[Name], None]:
        """Yield which were defined or changed: first those there are, then live."""
        source = Source(RECURRING, (recurring_subject("*", "*", DEFINED),), _named)
        async with aclosing(Feed(self._wire, source, 0).runs(None)) as runs:
            async for run in runs:
                yield list(dict.fromkeys(run))

    async def _api(self, subject: str, query: dict[str, Any]) -> bytes:
        try:
            return await self._wire.api(subject, query)
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"schedules are out of reach: {error}") from error


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UnknownEvent(f"a schedule cannot be read: {error}") from error


def _named(message: "Msg") -> Name:
    return _name(message.subject)


def _name(subject: str) -> Name:
    _, user, name, _ = subject.split(".")
    return user, name

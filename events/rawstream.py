"""A stream of JetStream as it is stored; see ``rawlog.py``."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from events.bulk import BulkReader, Login
from events.delivery import delivery
from events.direct import ask_leader, read_subject
from events.errors import OutcomeUnknown, Unavailable
from events.feed import Feed, Source
from events.names import (
    EVENTS,
    EVENTS_ALL,
    LOGS,
    LOGS_ALL,
    RECURRING,
    RECURRING_ALL,
    ROUTES,
    TRIGGERS,
    TRIGGERS_ALL,
    Key,
    commit_subject,
)
from events.rawlog import Extent, Raw, RawLog
from events.together import together
from events.wire import ApiError, Wire

if TYPE_CHECKING:
    from nats.aio.msg import Msg

AHEAD = 64
"""Messages that are read ahead of one who takes their time: each may be a commit."""

TRIES = 5
"""How often a history is read again: a replica that lags catches up in a moment."""


class _State(msgspec.Struct):
    first_seq: int
    last_seq: int


class _Info(msgspec.Struct):
    created: str
    state: _State


_info = msgspec.json.Decoder(_Info)


class JetStreamRawLog(RawLog):
    """``login`` is for who reads in bulk, on a connection of its own."""

    def __init__(
        self,
        wire: Wire,
        stream: str,
        subjects: Sequence[str],
        login: Login | None = None,
    ) -> None:
        self._wire, self._login = wire, login
        self._stream, self._subjects = stream, subjects

    async def extent(self) -> Extent:
        """Tell what there is now."""
        try:
            answer = await self._wire.api(f"STREAM.INFO.{self._stream}")
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"{self._stream} cannot be read now: {error}") from error
        info = _info.decode(answer)
        return Extent(info.created, info.state.first_seq, info.state.last_seq)

    def follow(self, after: int) -> AsyncGenerator[Sequence[Raw], None]:
        """Yield every message beyond a position, for ever."""
        source = Source(self._stream, self._subjects, _raw)
        return Feed(self._wire, source, after).runs(None)

    async def tip(self, subject: str) -> int:
        """Ask the leader for the last position on a subject."""
        query = {"last_by_subj": subject}
        try:
            last = await ask_leader(self._wire, self._stream, query)
        except OutcomeUnknown as error:
            raise Unavailable(f"{self._stream} cannot be read now: {error}") from error
        return last.seq if last else 0

    def between(
        self, subject: str, after: int, upto: int
    ) -> AsyncGenerator[Sequence[Raw], None]:
        """Yield what is on a subject beyond ``after``, up to ``upto``."""
        source = Source(self._stream, (subject,), _raw)
        return Feed(self._wire, source, after, AHEAD).runs(upto)

    async def history(self, key: Key, *, at_least: int, after: int = 0) -> list[Raw]:
        """Return the stored commits of an execution."""
        found: list[Raw] = []
        for attempt in range(TRIES):
            await asyncio.sleep(0.02 * attempt)
            found = await self._read(key, after)
            if found and found[-1].position >= at_least:
                break
        return found

    async def _read(self, key: Key, after: int) -> list[Raw]:
        subjects = [commit_subject(key, route) for route in ROUTES]
        routes = await together(*(self._route(name, after) for name in subjects))
        return sorted(raw for route in routes for raw in route)

    async def _route(self, subject: str, after: int) -> list[Raw]:
        stored = await read_subject(self._wire, self._stream, subject, after)
        return [Raw(position, subject, message.data) for position, message in stored]

    def bulk(self, after: int, upto: int) -> Iterator[list[Raw]]:
        """Give all messages beyond ``after``, up to ``upto``."""
        assert self._login is not None  # noqa: S101 - who reads in bulk gave one
        reader = BulkReader.connect(self._login)
        try:
            yield from reader.read(self._stream, after, upto)
        finally:
            reader.close()


def all_streams(wire: Wire, login: Login) -> tuple[JetStreamRawLog, ...]:
    """EVENTS, LOGS, TRIGGERS and RECURRING, in this order."""
    streams = (
        (EVENTS, EVENTS_ALL),
        (LOGS, LOGS_ALL),
        (TRIGGERS, TRIGGERS_ALL),
        (RECURRING, RECURRING_ALL),
    )
    return tuple(
        JetStreamRawLog(wire, name, (subjects,), login) for name, subjects in streams
    )


def _raw(message: "Msg") -> Raw:
    return Raw(delivery(message)[1], message.subject, message.data)

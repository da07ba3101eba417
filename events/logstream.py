"""Log lines on JetStream: one message per line, for some days.

Lines are sent without waiting for each other and confirmed together. They are
read through a consumer that is thrown away: only that gives the lines of
several levels in one order, without overlooking one that is just being stored.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from events.delivery import delivery
from events.direct import ask_leader
from events.errors import InvalidInput, OutcomeUnknown, ServerUnsuitable, Unavailable
from events.feed import Feed, Source, reading
from events.logbook import (
    LINES,
    MAX_LINE,
    MAX_TEXT,
    Line,
    Logbook,
    Stored,
    check_read,
    decode_line,
    encode_line,
)
from events.names import (
    LOGS,
    LOGS_ALL,
    MESSAGE_ID,
    Key,
    Level,
    log_filters,
    log_subject,
    log_subject_filter,
)
from events.provisioning import provision
from events.wire import ANSWER, ApiError, Wire, raise_problem, status

if TYPE_CHECKING:
    from nats.aio.msg import Msg

DAYS = 7
"""Days that a line is kept if nothing else is configured."""

MOST_DAYS = 36_500
"""A hundred years; a server counts nanoseconds and would overflow at three."""

DAY = 24 * 3600

IN_FLIGHT = 256
"""Lines sent before the server confirms: it syncs each, 40 ms for all of them."""

REMEMBERED = 30
"""Seconds a server knows the refs it stored: longer than a lost leader costs."""


STRANGE = "unreadable"
"""The event type of what somebody else put into the stream."""

HEADERS = 512
"""Bytes for the headers of a line, and more."""

_stream: dict[str, Any] = {
    "name": LOGS,
    "description": "wakestream: log lines of executions",
    "subjects": [LOGS_ALL],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_msg_size": MAX_LINE + HEADERS,
    "duplicate_window": int(REMEMBERED * 1e9),
    "allow_direct": True,
}


class _Purged(msgspec.Struct):
    purged: int = 0


_purged = msgspec.json.Decoder(_Purged)
_encoder = msgspec.json.Encoder()


class JetStreamLogbook(Logbook):
    """The log lines of one account of a nats-server or cluster."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @classmethod
    async def open(
        cls, wire: Wire, *, days: float = DAYS, replicas: int | None = None
    ) -> Self:
        """Provision the stream; asking again is fine, with other ``days`` too.

        Limits that an operator set besides are left alone. Raises InvalidInput,
        ServerUnsuitable and Unavailable.
        """
        if not 0 < days <= MOST_DAYS:
            raise InvalidInput(f"logs_days is more than 0, at most {MOST_DAYS:,}")
        age = max(days * DAY, REMEMBERED)
        config = {**_stream, "max_age": int(age * 1e9)}
        try:
            await provision(wire, config, replicas=replicas)
        except ApiError as error:
            raise ServerUnsuitable(
                f"this nats-server cannot hold the log lines: {error}"
            ) from error
        except OutcomeUnknown as error:
            raise Unavailable(f"the log lines cannot be opened now: {error}") from error
        return cls(wire)

    # ── writing ──────────────────────────────────────────────────────────────

    async def write(self, lines: Sequence[Line]) -> None:
        """Store lines in this order; raises InvalidInput, Unavailable."""
        letters = [_Letter.of(line) for line in lines]
        for start in range(0, len(letters), IN_FLIGHT):
            await self._send(letters[start : start + IN_FLIGHT])

    async def _send(self, letters: "Sequence[_Letter]") -> None:
        """Send them all, then wait until all are stored."""
        self._check_connected()
        acks = _Acks(len(letters))
        reply = self._wire.open(acks.take)
        # Not when it is back: what is sent before that is known is answered.
        self._wire.watch_breaks(acks.lose)
        try:
            async with asyncio.timeout(ANSWER):
                for subject, payload, headers in letters:
                    await self._wire.send(
                        subject, payload, reply=reply, headers=headers
                    )
                await acks.all
        except TimeoutError as error:
            raise Unavailable("log lines were not confirmed in time") from error
        except OutcomeUnknown as error:
            raise Unavailable(f"log lines cannot be written: {error}") from error
        finally:
            self._wire.unwatch(acks.lose)
            self._wire.shut(reply)
        if acks.problem:
            raise Unavailable(f"log lines were not stored: {acks.problem}")

    def _check_connected(self) -> None:
        """Raise Unavailable rather than leave lines to a connection that is dead."""
        if not self._wire.connected:
            raise Unavailable("log lines are out of reach: nats-server is away")

    # ── reading ──────────────────────────────────────────────────────────────

    async def read(
        self,
        key: Key,
        *,
        after: int = 0,
        level: Level | None = None,
        limit: int = LINES,
    ) -> list[Line]:
        """Return up to ``limit`` lines with ids beyond ``after``, oldest first."""
        check_read(key, after, level, limit)
        self._check_connected()
        try:
            async with asyncio.timeout(ANSWER):
                return await self._read(_source(key, level), after, limit)
        except (TimeoutError, OutcomeUnknown, ApiError) as error:
            raise Unavailable(f"log lines cannot be read now: {error}") from error

    async def _read(self, source: Source[Line], after: int, limit: int) -> list[Line]:
        read = reading(self._wire, LOGS, source.consumer(after), limit)
        async with aclosing(read) as runs:
            return [source.decode(message) async for run in runs for message in run]

    async def follow(
        self, key: Key | None, *, after: int = 0, level: Level | None = None
    ) -> AsyncGenerator[Sequence[Line], None]:
        """Yield every line beyond ``after``, in runs, for ever."""
        check_read(key, after, level)
        feed = Feed(self._wire, _source(key, level), after)
        async with aclosing(feed.runs(None)) as runs:
            async for run in runs:
                yield run

    # ── deleting ─────────────────────────────────────────────────────────────

    async def forget(self, key: Key) -> int:
        """Delete the lines of an execution."""
        check_read(key, 0, None)
        return await self._purge({"filter": log_subject_filter(key)})

    async def forget_before(self, moment: datetime) -> int:
        """Delete all lines that were stored before ``moment``."""
        try:
            first = await self._first_of(moment)
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"log lines cannot be read now: {error}") from error
        return await self._purge({"seq": first})

    async def _first_of(self, moment: datetime) -> int:
        """The id of the first line from ``moment`` on, or of the next one."""
        info = await self._wire.api(f"STREAM.INFO.{LOGS}")
        following = int(msgspec.json.decode(info)["state"]["last_seq"]) + 1
        query = {"start_time": moment.isoformat(), "next_by_subj": LOGS_ALL}
        found = await ask_leader(self._wire, LOGS, query)
        return found.seq if found else following

    async def _purge(self, what: dict[str, Any]) -> int:
        try:
            answer = await self._wire.api(f"STREAM.PURGE.{LOGS}", what)
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(
                f"log lines are not deleted: {error}; only the user of the janitor "
                "may (nats.janitor_user)"
            ) from error
        return _purged.decode(answer).purged


class _Letter(NamedTuple):
    """A line ready to be sent."""

    subject: str
    payload: bytes
    headers: dict[str, str] | None

    @classmethod
    def of(cls, line: Line) -> Self:
        """Encode a line; raises InvalidInput."""
        headers = {MESSAGE_ID: line.ref} if line.ref else None
        return cls(log_subject(line.key, line.level), encode_line(line), headers)


class _Acks:
    """Counts confirmations; ``problem`` is the first that was none."""

    def __init__(self, wanted: int) -> None:
        self.problem = ""
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = wanted

    def take(self, message: "Msg") -> None:
        """Hear one answer."""
        self._missing -= 1
        if status(message):
            self._end("nobody keeps them")
            return
        try:
            raise_problem(message.data)
        except ApiError as error:
            self._end(str(error))
        if not self._missing:
            self._end("")

    def lose(self) -> None:
        """The connection was lost, and with it maybe the answers."""
        self._end("nats-server was away")

    def _end(self, problem: str) -> None:
        if not self.all.done():
            self.problem = problem
            self.all.set_result(None)


def _source(key: Key | None, level: Level | None) -> Source[Line]:
    return Source(LOGS, log_filters(key, level), _line_of)


def _line_of(message: "Msg") -> Line:
    """Read a delivered line; what is none of ours is shown as the text that it is."""
    position = delivery(message)[1]
    try:
        return decode_line(Stored(position, message.subject, message.data))
    except InvalidInput:
        text = message.data[:MAX_TEXT].decode(errors="replace")
        strange = _encoder.encode(
            {"at": message.metadata.timestamp, "event_type": STRANGE, "message": text}
        )
        return decode_line(Stored(position, message.subject, strange))

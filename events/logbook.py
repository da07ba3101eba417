"""The port of log lines: what is told of executions, beside their histories.

A line's id is where it stands among the lines of all executions: ids increase,
and those of one execution have gaps. Two adapters stand behind the port,
``MemoryLogbook`` here and ``logstream.py``; one test suite runs on both.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from events.commit import MAX_DEPTH, too_deep
from events.errors import InvalidInput
from events.names import (
    LEVELS,
    Key,
    Level,
    check_id,
    check_level,
    log_filters,
    log_subject,
)

MAX_TEXT = 8 * 1024
"""Bytes of a line's message."""

MAX_CONTEXT = 16 * 1024
"""Bytes of a line's context, encoded."""

MAX_LINE = 80 * 1024
"""Bytes of a stored line: a control character takes six bytes in JSON."""

LINES = 1_000
"""Lines that one read gives if nothing else is asked for."""

MAX_LINES = 10_000
"""Lines that one read can give: what is read waits in memory."""

MAX_POSITION = 2**63 - 1
"""Beyond any id that there will be, and the most that every reader can hold."""

EVENT_TYPE = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""A dotted word: ``model.responded``, ``tool.completed``, ``command.refused``."""


MAX_REF = 64
"""Characters of a ref."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of an execution's log.

    ``by`` says who wrote it. ``id`` is given when it is stored. A line with a
    ``ref`` is stored once even if it is written again within half a minute;
    the ref itself is not kept.
    """

    at: datetime
    user: str
    execution: str
    level: Level
    event_type: str
    message: str
    by: str = ""
    context: dict[str, Any] = {}
    id: int = 0
    ref: str = ""

    @property
    def key(self) -> Key:
        """Whose execution, and which."""
        return Key(self.user, self.execution)


class Stored(NamedTuple):
    """A line as it is stored; ``subject`` is true, whatever ``body`` says."""

    id: int
    subject: str
    body: bytes


class _Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is not in the subject."""

    at: datetime
    event_type: str
    message: str
    by: str = ""
    context: dict[str, Any] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Body)


def encode_line(line: Line) -> bytes:
    """Return the body of a line; raises InvalidInput for what no reader could take."""
    if line.at.tzinfo is None:
        raise InvalidInput("the time of a log line needs a time zone")
    if not EVENT_TYPE.fullmatch(line.event_type):
        raise InvalidInput(
            f"event type {line.event_type!r:.80} is not allowed: use words of "
            "A-Z a-z 0-9 _ - with dots between them, 64 characters in all"
        )
    if len(line.ref) > MAX_REF or not line.ref.isascii():
        raise InvalidInput(f"a ref is {MAX_REF} ASCII characters at most")
    body = _encode(_Body(line.at, line.event_type, line.message, line.by, line.context))
    if len(body) > MAX_LINE:
        raise InvalidInput(f"a log line has {len(body):,} bytes; allowed: {MAX_LINE:,}")
    if too_deep(body[1:-1]):
        raise InvalidInput(f"a context is nested deeper than {MAX_DEPTH} levels")
    return body


def _encode(body: _Body) -> bytes:
    try:
        return _encoder.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"a log line has a value that is no JSON: {error}"
        ) from error


def decode_line(stored: Stored) -> Line:
    """Return a line; raises InvalidInput if it is not one."""
    _, user, execution, level = stored.subject.split(".")
    try:
        body = _decoder.decode(stored.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"log line {stored.id} cannot be read: {error}") from error
    return Line(
        at=body.at,
        user=user,
        execution=execution,
        level=check_level(level),
        event_type=body.event_type,
        message=body.message,
        by=body.by,
        context=body.context,
        id=stored.id,
    )


def check_read(
    key: Key | None, after: int, level: Level | None, limit: int = LINES
) -> None:
    """Raise InvalidInput for a question that makes no sense."""
    if key is not None:
        check_id(key.user, "user")
        check_id(key.execution, "execution")
    if level is not None:
        check_level(level)
    if not 0 <= after < MAX_POSITION:
        raise InvalidInput(f"after is the id of a line, 0 or more, not {after}")
    if not 1 <= limit <= MAX_LINES:
        raise InvalidInput(f"limit is 1 to {MAX_LINES:,} lines, not {limit}")


class Logbook(ABC):
    """The log lines of all executions."""

    @abstractmethod
    async def write(self, lines: Sequence[Line]) -> None:
        """Store lines in this order.

        Raises InvalidInput, and nothing is stored; Unavailable, and some may
        be: write the same lines again.
        """

    @abstractmethod
    async def read(
        self,
        key: Key,
        *,
        after: int = 0,
        level: Level | None = None,
        limit: int = LINES,
    ) -> list[Line]:
        """Return up to ``limit`` lines with ids beyond ``after``, oldest first.

        Of ``level`` and above. None only if there are none now. Raises
        InvalidInput and Unavailable.
        """

    @abstractmethod
    def follow(
        self, key: Key | None, *, after: int = 0, level: Level | None = None
    ) -> AsyncGenerator[Sequence[Line], None]:
        """Yield every line beyond ``after``, in order, none twice, in runs, for ever.

        Of one execution, or of all. Close it (``contextlib.aclosing``) when
        done. Raises InvalidInput.
        """

    @abstractmethod
    async def forget(self, key: Key) -> int:
        """Delete the lines of an execution; returns how many there were.

        Only a janitor may. Raises InvalidInput and Unavailable.
        """

    @abstractmethod
    async def forget_before(self, moment: datetime) -> int:
        """Delete all lines that were stored before ``moment``; likewise."""


class MemoryLogbook(Logbook):
    """All in one process: the same promises, nothing stored, nothing too old."""

    def __init__(self) -> None:
        self._stored: list[Stored] = []
        self._refs: set[str] = set()
        self._grown = asyncio.Condition()

    async def write(self, lines: Sequence[Line]) -> None:
        """Keep lines in this order."""
        new = [(ln.ref, log_subject(ln.key, ln.level), encode_line(ln)) for ln in lines]
        for ref, subject, body in new:
            if ref not in self._refs:
                self._stored.append(Stored(len(self._stored) + 1, subject, body))
            if ref:
                self._refs.add(ref)
        async with self._grown:
            self._grown.notify_all()

    async def read(
        self,
        key: Key,
        *,
        after: int = 0,
        level: Level | None = None,
        limit: int = LINES,
    ) -> list[Line]:
        """Return up to ``limit`` lines with ids beyond ``after``."""
        check_read(key, after, level, limit)
        wanted = set(log_filters(key, level))
        found = (s for s in self._stored[after:] if s.subject in wanted)
        return [decode_line(stored) for stored in islice(found, limit)]

    async def follow(
        self, key: Key | None, *, after: int = 0, level: Level | None = None
    ) -> AsyncGenerator[Sequence[Line], None]:
        """Yield every line beyond ``after``, in runs, for ever."""
        check_read(key, after, level)
        levels = LEVELS[LEVELS.index(level or LEVELS[0]) :]
        while True:
            arrived = self._stored[after:]
            after += len(arrived)
            new = [decode_line(stored) for stored in arrived if stored.subject]
            run = [ln for ln in new if key in (None, ln.key) and ln.level in levels]
            if run:
                yield run
            await self._beyond(after)

    async def forget(self, key: Key) -> int:
        """Delete the lines of an execution."""
        gone = set(log_filters(_checked(key), None))
        return self._forget(lambda stored: stored.subject in gone)

    async def forget_before(self, moment: datetime) -> int:
        """Delete all lines of before ``moment``: they are stored as they happen."""
        return self._forget(
            lambda stored: bool(stored.subject) and decode_line(stored).at < moment
        )

    def _forget(self, gone: Callable[[Stored], bool]) -> int:
        """Leave holes: ids are places in the list."""
        found = [n for n, stored in enumerate(self._stored) if gone(stored)]
        for n in found:
            self._stored[n] = Stored(n + 1, "", b"")
        return len(found)

    async def _beyond(self, position: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._stored) > position)


def _checked(key: Key) -> Key:
    check_id(key.user, "user")
    check_id(key.execution, "execution")
    return key

"""Writing log lines of executions, on the side: whoever logs never waits.

Lines wait in a bounded backlog; one task writes them in batches. While the
log cannot be reached they are kept as long as there is room, then the oldest
are lost, and a line says how many.
"""

import asyncio
import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, count, repeat
from types import TracebackType
from typing import Self

import msgspec

from events.errors import InvalidInput, Unavailable
from events.logbook import Line, Logbook
from events.names import LEVELS, Key, Level, check_level, log_subject
from services.backlog import Backlog, Entry
from services.handler import Clock, utc_now
from services.phrasing import particulars, phrase, word_of
from services.redaction import Redaction

logger = logging.getLogger(__name__)

BATCH = 256
"""Lines that are written together: what a logbook has in flight at once."""

CLOSING = 2.0
"""Seconds that lines get to be written when all is over."""

FLUSH = 5.0
"""Seconds that a flush waits if nothing else is said."""

MAX_BY = 128
"""Bytes of who wrote a line."""

NOTHING = b"{}"
"""A context with nothing in it."""

LOST = "log.lost"
"""The event type of the line that says how many are missing."""

_RANK = {level: rank for rank, level in enumerate(LEVELS)}


class LogWriter:
    """Writes to ``logbook`` on behalf of ``by`` what is of ``level`` and above.

    Use it as ``async with writer:``, or run ``writer.run()`` as a task of your
    own and end it with ``stop()``. ``lost`` counts lines that were never
    written, ``refused`` calls that named no execution or no level.
    """

    def __init__(
        self,
        logbook: Logbook,
        by: str,
        *,
        level: Level = "info",
        clock: Clock = utc_now,
        redact: Redaction | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        self.refused = 0
        self._threshold = _RANK[check_level(level)]
        self._logbook, self._clock = logbook, clock
        self._redact = redact or Redaction()
        self._by = phrase(by, self._redact, MAX_BY)
        self._backlog = Backlog() if backlog is None else backlog
        refs = secrets.token_hex(6)
        self._refs = (f"{refs}-{number}" for number in count(1))
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._idle = self._stopping = self._over = self._failing = False
        self._limit: asyncio.Timeout | None = None
        self._in_hand: list[Entry] = []
        self._open_from = 1
        self._progress = asyncio.Event()

    @property
    def lost(self) -> int:
        """Lines that were logged and will never be written."""
        return self._backlog.lost

    def log(
        self,
        key: Key,
        level: Level,
        event_type: str,
        message: str,
        /,
        **context: object,
    ) -> None:
        """Keep a line for writing; never waits, never raises, from any thread.

        Values are taken as they are now. Secrets are hidden, what is too long
        is cut, and what is no JSON becomes text.
        """
        try:
            if _RANK[level] < self._threshold:
                return
            log_subject(key, level)
            word = word_of(event_type)
        except (InvalidInput, LookupError, TypeError, AttributeError) as error:
            self._refuse(error)
            return
        self._keep(
            Entry(
                at=self._clock(),
                key=key,
                level=level,
                event_type=word,
                message=phrase(message, self._redact),
                context=particulars(context, self._redact) if context else NOTHING,
            )
        )

    def _keep(self, entry: Entry) -> None:
        if self._over:
            self._backlog.give_up((entry,))
            return
        self._backlog.put(entry)
        if self._idle:
            self._idle = False
            self._rouse()

    def _refuse(self, error: Exception) -> None:
        """Count it; told once, since whoever did it does it again and again."""
        if not self.refused:
            logger.warning("a log line of %s was refused: %s", self._by, error)
        self.refused += 1

    def _rouse(self) -> None:
        """Wake the task, which may belong to another thread."""
        if threading.get_ident() == self._thread:
            self._wake.set()
        elif self._loop:
            with suppress(RuntimeError):  # that loop has ended, and the task with it
                self._loop.call_soon_threadsafe(self._wake.set)

    # ── the task ─────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name=f"log of {self._by}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        await self._task

    async def run(self) -> None:
        """Write until ``stop``, then what waits, for ``CLOSING`` seconds; once.

        A cancellation ends it at once; what waits is lost.
        """
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as self._limit:
                    self._hurry()
                    await self._work()
        finally:
            self._end()

    def stop(self) -> None:
        """Let ``run`` end; asking twice is fine."""
        if not self._stopping:
            self._stopping = True
            self._hurry()
            self._wake.set()

    def _hurry(self) -> None:
        """Bound the end, once it is wanted."""
        if self._stopping and self._limit and self._loop and not self._over:
            self._limit.reschedule(self._loop.time() + CLOSING)

    def _end(self) -> None:
        self._over, self._idle = True, False
        before = self.lost
        self._backlog.give_up(self._in_hand)
        self._in_hand = []
        self._tell()
        if self.lost > before:
            logger.warning("%d log lines could not be written", self.lost - before)

    async def _work(self) -> None:
        while True:
            if lines := self._next():
                await self._write(lines)
                self._in_hand = []
                self._tell()
            elif self._stopping:
                return
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Wait until there is something to do."""
        self._wake.clear()
        self._idle = True  # from here on, whoever puts a line wakes us
        if not self._backlog and not self._stopping:
            await self._wake.wait()
        self._idle = False

    def _next(self) -> list[Line]:
        """Take what is to be written next; what was lost before it comes first."""
        losses = self._backlog.losses()
        self._open_from = self._backlog.first
        self._in_hand = self._backlog.take(BATCH)
        return [
            *(self._notice(key, missing) for key, missing in losses.items()),
            *(self._line(entry) for entry in self._in_hand),
        ]

    async def _write(self, lines: Sequence[Line]) -> None:
        """Try until they are stored; each is stored once even if an ack is lost."""
        for pause in _pauses():
            try:
                await self._logbook.write(lines)
                break
            except Unavailable as error:
                self._complain(error)
                await asyncio.sleep(pause)
            except InvalidInput:
                logger.exception("%d log lines were refused as they are", len(lines))
                self._backlog.give_up(self._in_hand)
                return
        if self._failing:
            self._failing = False
            logger.info("log lines are written again")

    def _complain(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            logger.warning("log lines are kept back: %s", error)

    def _line(self, entry: Entry) -> Line:
        user, execution = entry.key
        return Line(
            at=entry.at,
            user=user,
            execution=execution,
            level=entry.level,
            event_type=entry.event_type,
            message=entry.message,
            by=self._by,
            context=msgspec.json.decode(entry.context),
            ref=next(self._refs),
        )

    def _notice(self, key: Key, missing: int) -> Line:
        """Say in an execution's log that it has a hole."""
        return self._line(
            Entry(
                at=self._clock(),
                key=key,
                level="warning",
                event_type=LOST,
                message=f"{missing:,} lines are missing here: the log was out of reach",
                context=msgspec.json.encode({"lost": missing}),
            )
        )

    # ── waiting for it ───────────────────────────────────────────────────────

    async def flush(self, wait: float = FLUSH) -> bool:
        """Wait until all that was logged before is written, or lost.

        False if that took more than ``wait`` seconds.
        """
        last = self._backlog.last
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while self._oldest() <= last:
                    await self._progress.wait()
                return True
        return False

    def _oldest(self) -> int:
        """Return the number of the oldest line whose fate is open."""
        return self._open_from if self._in_hand else self._backlog.first

    def _tell(self) -> None:
        """Let those who wait look again."""
        self._progress.set()
        self._progress = asyncio.Event()


def _pauses() -> Iterator[float]:
    return chain((0.05, 0.1, 0.2, 0.5), repeat(1.0))

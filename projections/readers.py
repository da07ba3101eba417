"""Asking the read model, from an event loop, without ever making it wait.

Every question has a thread, a cursor and a snapshot of its own, a limit of rows
and one of time. It is stopped when its time is over, or when whoever asked has
gone. Questions that may take long have a thread of their own, so that those that
do not are never behind them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from threading import Event
from typing import Any, TypeVar

import msgspec

from events.errors import Unavailable
from projections.cursor import Answer, Cursor, Interrupted

T = TypeVar("T")
Columns = tuple[list[str], list[str]]
Rows = list[tuple[Any, ...]]

QUICK = 2
"""Threads for common questions: more would not be faster on the cores there are."""

FREE = 2
"""Threads for queries that people write, and how many of them there are at once."""

AGAIN = 0.05
"""Seconds until a query is told once more to stop: it may not have begun."""

STOPPED = (
    "the query was stopped: the read model is replaced or closed, or what is written "
    "to it needs the memory; ask again"
)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A query and its limits; ``values`` are those of ``?`` or of ``$name``.

    ``heavy`` sends it to the thread for what may take long. With ``wide`` the first
    two columns are a number of one of these and an ``eid``: the rest of the columns
    comes from there, asked about ``$eids``.
    """

    sql: str
    values: Sequence[Any] | Mapping[str, Any] = ()
    limit: int = 1_000
    seconds: float = 5.0
    heavy: bool = False
    wide: tuple[str, ...] = ()


class Readers:
    """The threads that ask; ``open_cursor`` may raise Unavailable."""

    def __init__(self, open_cursor: Callable[[], Cursor]) -> None:
        self._open_cursor = open_cursor
        self._quick = ThreadPoolExecutor(QUICK, "read-model")
        self._heavy = ThreadPoolExecutor(1, "read-model-heavy")
        self._free = ThreadPoolExecutor(FREE, "read-model-sql")
        self._turns = asyncio.Semaphore(FREE)
        self._asking: set[_Asking] = set()

    async def ask(self, question: Question) -> Answer:
        """Return what it comes to.

        Raises InvalidInput for a query that is none, Unavailable when its time is
        over or there is no read model now.
        """
        asking = _Asking(question, self._open_cursor)
        self._asking.add(asking)
        pool = self._heavy if question.heavy else self._quick
        try:
            async with _in_time(question):
                return await _done(asking, pool, asking.run)
        finally:
            self._asking.discard(asking)

    @asynccontextmanager
    async def flow(self, question: Question) -> AsyncIterator["Flow"]:
        """Ask for rows one piece after the other, all within the question's time.

        Only some flow at once; the others wait for their turn. Raises as ``ask``.
        """
        asking = _Asking(question, self._open_cursor)
        self._asking.add(asking)
        try:
            async with _in_time(question), self._turns:
                try:
                    columns = await _done(asking, self._free, asking.begin)
                    yield Flow(columns, question.limit, asking, self._free)
                finally:
                    asking.close()  # its thread is free: _done saw to that
        finally:
            self._asking.discard(asking)

    def interrupt(self) -> None:
        """Stop all that is asked now: the file is about to be closed."""
        for asking in list(self._asking):
            asking.stop()

    def close(self) -> None:
        """Stop all, and end the threads."""
        self.interrupt()
        self._quick.shutdown(wait=True, cancel_futures=True)
        self._heavy.shutdown(wait=True, cancel_futures=True)
        self._free.shutdown(wait=True, cancel_futures=True)


class Flow:
    """Rows that come piece by piece."""

    def __init__(
        self, columns: Columns, limit: int, asking: "_Asking", pool: ThreadPoolExecutor
    ) -> None:
        self.names, self.types = columns
        self.more = False
        self._left, self._asking, self._pool = limit, asking, pool

    async def fetch(self, most: int) -> Rows:
        """Return the next rows; none: that was all, or ``more`` says there are."""
        wanted = min(most, self._left)
        fetch = partial(self._asking.fetch, wanted or 1)
        found = await _done(self._asking, self._pool, fetch)
        if not wanted:
            self.more = bool(found)
            return []
        self._left -= len(found)
        return found


@asynccontextmanager
async def _in_time(question: Question) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(question.seconds):
            yield
    except TimeoutError as error:
        raise Unavailable(
            f"the query was stopped after {question.seconds:g} s"
        ) from error


async def _done(
    asking: "_Asking", pool: ThreadPoolExecutor, work: Callable[[], T]
) -> T:
    """Do work in a thread; who is cancelled stops it, and waits until it has."""
    try:
        future = asyncio.get_running_loop().run_in_executor(pool, work)
    except RuntimeError as error:  # the threads have ended
        raise Unavailable("the projector ends") from error
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _stopped(asking, future)
        raise


async def _stopped(asking: "_Asking", future: "asyncio.Future[Any]") -> None:
    """Stop a query and wait until its thread is free again."""
    while not future.done():
        asking.stop()
        await asyncio.wait([future], timeout=AGAIN)
    if not future.cancelled():
        future.exception()  # nobody is left to hear it


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except Interrupted as error:
        raise Unavailable(STOPPED) from error


class _Asking:
    """One question on its way; all but ``stop`` is for a thread."""

    def __init__(self, question: Question, open_cursor: Callable[[], Cursor]) -> None:
        self._question, self._open_cursor = question, open_cursor
        self._told = Event()
        self._cursor: Cursor | None = None

    def run(self) -> Answer:
        """All at once."""
        try:
            cursor, question = self._open(), self._question
            with _stoppable():
                found = cursor.run(question.sql, question.values, question.limit)
                return cursor.widened(found, question.wide) if question.wide else found
        finally:
            self.close()

    def begin(self) -> Columns:
        """Ask, and keep the cursor for ``fetch`` until ``close``.

        For SQL that people write: without values, and nothing of what it comes to
        is lost.
        """
        cursor, question = self._open(), self._question
        with _stoppable():
            return cursor.begin_faithfully(question.sql)

    def fetch(self, most: int) -> Rows:
        """The next rows; none: that was all."""
        cursor = self._cursor
        if cursor is None or self._told.is_set():
            raise Unavailable(STOPPED)
        with _stoppable():
            return cursor.fetch(most)

    def _open(self) -> Cursor:
        if self._told.is_set():
            raise Unavailable(STOPPED)
        cursor = self._cursor = self._open_cursor()
        return cursor

    def close(self) -> None:
        """Let the cursor go; asking twice is fine."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()

    def stop(self) -> None:
        self._told.set()
        cursor = self._cursor
        if cursor is not None:
            with suppress(Unavailable):
                cursor.interrupt()

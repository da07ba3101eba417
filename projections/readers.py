"""Asking the read model, from an event loop, without ever making it wait.

Every question has a thread, a cursor and a snapshot of its own, a limit of rows
and one of time. It is stopped when its time is over, or when whoever asked has
gone. Questions that may take long have a thread of their own, so that those that
do not are never behind them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import Any

import msgspec

from events.errors import Unavailable
from projections.cursor import Answer, Cursor, Interrupted

QUICK = 2
"""Threads for common questions: more would not be faster on the cores there are."""

AGAIN = 0.05
"""Seconds until a query is told once more to stop: it may not have begun."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A query and its limits; ``values`` are those of ``?`` or of ``$name``.

    ``heavy`` sends it to the thread for what may take long.
    """

    sql: str
    values: Sequence[Any] | Mapping[str, Any] = ()
    limit: int = 1_000
    seconds: float = 5.0
    heavy: bool = False


class Readers:
    """The threads that ask; ``open_cursor`` may raise Unavailable."""

    def __init__(self, open_cursor: Callable[[], Cursor]) -> None:
        self._open_cursor = open_cursor
        self._quick = ThreadPoolExecutor(QUICK, "read-model")
        self._heavy = ThreadPoolExecutor(1, "read-model-heavy")
        self._asking: set[_Asking] = set()

    async def ask(self, question: Question) -> Answer:
        """Return what it comes to.

        Raises InvalidInput for a query that is none, Unavailable when its time is
        over or there is no read model now.
        """
        asking = _Asking(question, self._open_cursor)
        self._asking.add(asking)
        pool = self._heavy if question.heavy else self._quick
        future = asyncio.get_running_loop().run_in_executor(pool, asking.run)
        try:
            async with asyncio.timeout(question.seconds):
                return await asyncio.shield(future)
        except TimeoutError as error:
            await _stopped(asking, future)
            raise Unavailable(
                f"the query was stopped after {question.seconds:g} s"
            ) from error
        except asyncio.CancelledError:
            await _stopped(asking, future)
            raise
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


async def _stopped(asking: "_Asking", future: "asyncio.Future[Answer]") -> None:
    """Stop a query and wait until its thread is free again."""
    while not future.done():
        asking.stop()
        await asyncio.wait([future], timeout=AGAIN)
    if not future.cancelled():
        future.exception()  # nobody is left to hear it


class _Asking:
    """One question on its way; ``run`` is for a thread."""

    def __init__(self, question: Question, open_cursor: Callable[[], Cursor]) -> None:
        self._question, self._open_cursor = question, open_cursor
        self._told = Event()
        self._cursor: Cursor | None = None

    def run(self) -> Answer:
        if self._told.is_set():
            raise Unavailable("the query was stopped before it began")
        cursor = self._cursor = self._open_cursor()
        try:
            question = self._question
            return cursor.run(question.sql, question.values, question.limit)
        except Interrupted as error:
            raise Unavailable("the query was stopped") from error
        finally:
            self._cursor = None
            cursor.close()

    def stop(self) -> None:
        self._told.set()
        cursor = self._cursor
        if cursor is not None:
            with suppress(Unavailable):
                cursor.interrupt()

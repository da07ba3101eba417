"""The live feed: one reader of the log for all who watch, and how they join.

Whoever joins gets all that comes after their cursor, each message once, then what
happens. What is new is read here, by position; what they missed comes from the ring,
or else from the log.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from events.deltas import Deltas
from events.errors import InvalidInput, NotFound, Unavailable
from events.names import Key
from events.rawlog import RawLog
from events.state import State
from projections.feedcursor import Cursor
from projections.hub import Frame, Hub, Subscriber
from projections.past import Past, lines, plain, readable
from projections.ring import MOST, Entry, Topic
from projections.standing import Unsaid

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3
"""How often an execution is looked for that was created a moment ago."""

LOOK = 0.25
"""Seconds without anything new after which is looked whether anything can come."""

AT_A_TIME = 64
"""Messages that are put to somebody without looking whether they are taken."""

BEHIND = 5.0
"""Seconds to wait for the feed to come as far as a cursor: usually milliseconds."""

AGAIN = 0.5
"""Seconds before the log is asked again that could not be read."""

EVERY_COMMIT, EVERY_LINE = "events.*.*.*", "logs.*.*.*"


class LiveFeed:
    """Follows EVENTS, LOGS and the deltas; ``run`` it while anybody may join."""

    def __init__(
        self, events: RawLog, logs: RawLog, deltas: Deltas, hub: Hub | None = None
    ) -> None:
        self.hub = hub or Hub()
        self.past = Past(events, logs)
        self.ready = asyncio.Event()
        self._events, self._logs, self._deltas = events, logs, deltas

    # ── joining ──────────────────────────────────────────────────────────────

    async def now(self, key: Key) -> tuple[Cursor, State]:
        """Tell how far the feed is, and what an execution is there.

        Raises NotFound, Unavailable; Corrupt and UnknownEvent if it cannot be read.
        """
        for _ in range(TRIES):
            cursor, tip = self.hub.cursor, await self.past.tip(key)
            if not tip:
                break
            state = await self.past.state(key, cursor.position, at_least=tip)
            if state is not None:
                return cursor, state
            await self.reach(Cursor(tip))  # it is younger than that
        raise NotFound(f"there is no execution {key.execution}")

    async def join(self, topic: Topic, cursor: Cursor, subscriber: Subscriber) -> None:
        """Give a subscriber all that comes after ``cursor``; then it is attached.

        Raises InvalidInput for a cursor from beyond the end, and Unavailable.
        """
        await self.reach(cursor)
        hub, missed = self.hub, list[Entry]()
        while (
            not cursor.covers(hub.ring.floor)
            or len(missed := hub.ring.beyond(topic, cursor)) > AT_A_TIME
        ):
            if missed:
                cursor = await _pass_on(missed[:AT_A_TIME], cursor, subscriber)
            else:
                cursor = await self._read_on(topic, cursor, subscriber)
            missed = []
        # From here on nothing may wait, or something would come in between.
        for entry in missed:
            cursor = entry.past(cursor) or cursor
            if entry.notice.kind in subscriber.kinds:
                subscriber.put(Frame(entry.notice, cursor))
        hub.attach(topic, subscriber)

    async def _read_on(
        self, topic: Topic, cursor: Cursor, subscriber: Subscriber
    ) -> Cursor:
        """Let it have what only the log has; returns how far it is then."""
        upto, kinds = self.hub.cursor, subscriber.kinds
        async with aclosing(self.past.missed(topic, kinds, cursor, upto)) as missed:
            async for notice, there in missed:
                if notice.kind in kinds:
                    await subscriber.send(Frame(notice, there))
        return cursor.furthest(upto)

    async def reach(self, cursor: Cursor) -> None:
        """Wait until the feed is as far as a cursor.

        Raises InvalidInput for one from beyond the end of the log, and Unavailable.
        """
        if self.hub.cursor.covers(cursor):
            return
        ends = await self._extents()
        if not ends.covers(cursor):
            raise InvalidInput(
                f"the cursor {cursor} is beyond the end of the log ({ends}): it is of "
                "another log; leave it out, or give 0 for the beginning"
            )
        try:
            async with asyncio.timeout(BEHIND):
                await self._until(cursor)
        except TimeoutError as error:
            raise Unavailable("the live feed is behind: try again") from error

    async def _until(self, cursor: Cursor) -> None:
        while not self.hub.cursor.covers(cursor):
            try:
                async with asyncio.timeout(LOOK):
                    await self.hub.grown()
            except TimeoutError:
                await self._skip()

    async def _skip(self) -> None:
        """Go on past what is deleted: it will never come."""
        ends, hub = await self._extents(), self.hub
        last = await self._events.tip(EVERY_COMMIT)
        if hub.cursor.position >= last:
            hub.advance(hub.cursor.furthest(Cursor(ends.position)))
        last = await self._logs.tip(EVERY_LINE)
        if hub.cursor.line >= last:
            hub.advance(hub.cursor.furthest(Cursor(line=ends.line)))

    async def _extents(self) -> Cursor:
        events, logs = await self._events.extent(), await self._logs.extent()
        return Cursor(events.last, line=logs.last)

    # ── reading ──────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Read until cancelled; raises Unavailable once the log is lost for good."""
        ends = await _insist(self._extents)
        start = Cursor(max(0, ends.position - MOST), line=max(0, ends.line - MOST))
        self.hub.begin(start)
        async with (
            self._deltas.hear(self.hub.delta),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._follow_events(start.position))
            group.create_task(self._follow_lines(start.line))
            group.create_task(self._deltas.keep())
            await _insist(partial(self._until, ends))
            await self._recall()
            self.ready.set()

    async def _recall(self) -> None:
        """Hear what models have said of what they are in the middle of."""
        try:
            await self._deltas.kept(self.hub.delta)
        except Unavailable as error:
            logger.info("what was being said before is not known: %s", error)

    async def _follow_events(self, after: int) -> None:
        async with aclosing(self._events.follow(after)) as runs:
            async for run in runs:
                for recorded in readable(run):
                    try:
                        notices = plain(recorded)
                    except Unsaid:
                        notices = await _insist(partial(self.past.notices, recorded))
                    self.hub.commit(recorded.position, notices)
                    if recorded.commit.purges:
                        self.hub.ring.forget(recorded.key)
                # What could not be read has been passed, too.
                self.hub.pass_commit(run[-1].position)

    async def _follow_lines(self, after: int) -> None:
        async with aclosing(self._logs.follow(after)) as runs:
            async for run in runs:
                for number, notice in lines(run):
                    self.hub.line(number, notice)
                self.hub.pass_line(run[-1].position)


async def _pass_on(
    missed: Sequence[Entry], cursor: Cursor, subscriber: Subscriber
) -> Cursor:
    """Let it have some messages; returns how far it is then."""
    for entry in missed:
        cursor = entry.past(cursor) or cursor
        if entry.notice.kind in subscriber.kinds:
            await subscriber.send(Frame(entry.notice, cursor))
    return cursor


async def _insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the log answers: what is not known must not be left out."""
    while True:
        try:
            return await ask()
        except Unavailable as error:
            logger.warning("the live feed waits: %s", error)
            await asyncio.sleep(AGAIN)

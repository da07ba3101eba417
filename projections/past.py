"""What is older than the ring: read from the log, for who was away for longer.

Nothing is overlooked on a cluster either, where a replica that lags may answer: the
leader says how far a history goes, and its versions show if a commit is missing.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from events.commit import Recorded, leftover, unseal
from events.errors import Corrupt, InvalidInput, Unavailable, UnknownEvent
from events.execution import Execution
from events.logbook import Stored, decode_line
from events.names import (
    Key,
    history_filter,
    log_subject_filter,
    split_subject,
    user_filters,
)
from events.rawlog import Raw, RawLog
from events.state import State
from projections.feedcursor import WHOLE, Cursor
from projections.hub import Numbered
from projections.notices import (
    Kind,
    Notice,
    StatusChanged,
    notice,
    of_events,
    of_line,
)
from projections.ring import Topic
from projections.standing import said, standing

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Reads at the same time: after a restart everybody comes back at once."""

REREADS = 3
"""How often a history looks damaged before it is: a replica may leave one out."""

LONGEST = 30.0
"""Seconds to wait for the next of what is known to be there."""

Missed = tuple[Notice, Cursor]
"""A message, and the cursor of who has had it."""


class Past:
    """Reads EVENTS and LOGS."""

    def __init__(self, events: RawLog, logs: RawLog) -> None:
        self._events, self._logs = events, logs
        self._room = asyncio.Semaphore(AT_ONCE)

    async def missed(
        self, topic: Topic, kinds: frozenset[Kind], cursor: Cursor, upto: Cursor
    ) -> AsyncGenerator[Missed, None]:
        """Yield what comes after ``cursor`` and not after ``upto``: events, then lines.

        Raises Unavailable.
        """
        if kinds - {"log", "delta"} and cursor.place < upto.place:
            async with aclosing(self._notices(topic, cursor, upto)) as notices:
                async for missed in notices:
                    yield missed
        if "log" in kinds and cursor.line < upto.line:
            there = upto._replace(line=cursor.line)
            async with aclosing(self._lines(topic, there, upto.line)) as lines:
                async for missed in lines:
                    yield missed

    async def _notices(
        self, topic: Topic, cursor: Cursor, upto: Cursor
    ) -> AsyncGenerator[Missed, None]:
        async with aclosing(self._commits(topic, cursor)) as commits:
            async for recorded in commits:
                if recorded.position > upto.position:
                    return
                for one, number in await self.notices(recorded):
                    there = cursor._replace(position=recorded.position, number=number)
                    if there.place > cursor.place:
                        yield one, there

    async def notices(self, recorded: Recorded) -> list[Numbered]:
        """Make the messages of a commit; raises Unavailable."""
        return _numbered(recorded, await standing(recorded, self._after))

    async def state(self, key: Key, upto: int, *, at_least: int) -> State | None:
        """Fold an execution as of a position; ``at_least`` is one in its history.

        None if it was not there yet, or is being deleted. Raises Corrupt and
        UnknownEvent if it cannot be read, Unavailable.
        """
        damage = Corrupt()
        for attempt in range(REREADS):
            await asyncio.sleep(0.02 * attempt)
            raws = await self._events.history(key, at_least=at_least)
            try:
                return _folded(key, raws, upto)
            except Corrupt as error:
                damage = error
        raise damage

    async def _after(self, recorded: Recorded) -> State | None:
        key, position = recorded.key, recorded.position
        try:
            return await self.state(key, position, at_least=position)
        except (Corrupt, UnknownEvent) as error:
            logger.warning("%s: its status is not known: %s", key, error)
            return None

    async def tip(self, key: Key) -> int:
        """Where the last commit of an execution stands; 0 if there is none."""
        return await self._events.tip(history_filter(key))

    async def last(self) -> int:
        """The last position that was ever given, also if it is deleted."""
        return (await self._events.extent()).last

    async def end(self, key: Key) -> Cursor:
        """Where somebody is who has all of an execution."""
        line = await self._logs.tip(log_subject_filter(key))
        return Cursor(await self.tip(key), line=line)

    # ── reading ──────────────────────────────────────────────────────────────

    async def _commits(
        self, topic: Topic, cursor: Cursor
    ) -> AsyncGenerator[Recorded, None]:
        """Yield commits from that of the cursor on; those that are damaged are left."""
        before = max(0, cursor.position - 1)  # of that one some messages may be missing
        if isinstance(topic, Key):
            subject = history_filter(topic)
        else:
            subject, _ = user_filters(topic)
        history: list[Recorded] | None = None
        async with self._room:
            goal = await self._events.tip(subject)
            if goal <= (cursor.position if cursor.number == WHOLE else before):
                return
            if isinstance(topic, Key):
                history = await self._history(topic, cursor, before, goal)
        if history is not None:
            for recorded in history:
                yield recorded
            return
        async with aclosing(self._runs(self._events, subject, before, goal)) as runs:
            async for run in runs:
                for recorded in readable(run):
                    yield recorded

    async def _runs(
        self, log: RawLog, subject: str, after: int, upto: int
    ) -> AsyncGenerator[Sequence[Raw], None]:
        """Read on when it is our turn, and let others while a client takes its time.

        Nor does it keep others from reading if the message it is to end with was
        deleted meanwhile, and never comes.
        """
        async with aclosing(log.between(subject, after, upto)) as runs:
            while True:
                try:
                    async with self._room, asyncio.timeout(LONGEST):
                        run = await anext(runs, None)
                except TimeoutError as error:
                    raise Unavailable("the log says nothing: try again") from error
                if run is None:
                    return
                yield run

    async def _history(
        self, key: Key, cursor: Cursor, before: int, goal: int
    ) -> list[Recorded] | None:
        """Read one history the cheap way; None if something may be missing from it."""
        raws = await self._events.history(key, at_least=goal, after=before)
        history = list(readable(raws))
        if len(history) < len(raws) or not history or history[-1].position < goal:
            return None
        first = history[0]
        known = first.position == cursor.position or first.commit.version == 1
        versions = [recorded.commit.version for recorded in history]
        whole = versions == list(range(versions[0], versions[0] + len(versions)))
        return history if known and whole else None

    async def _lines(
        self, topic: Topic, cursor: Cursor, upto: int
    ) -> AsyncGenerator[Missed, None]:
        if isinstance(topic, Key):
            subject = log_subject_filter(topic)
        else:
            _, subject = user_filters(topic)
        async with self._room:
            goal = await self._logs.tip(subject)
        if goal <= cursor.line:
            return
        runs = self._runs(self._logs, subject, cursor.line, goal)
        async with aclosing(runs):
            async for run in runs:
                for number, one in lines(run):
                    if number <= upto:
                        yield one, cursor._replace(line=number)


def _folded(key: Key, raws: Sequence[Raw], upto: int) -> State | None:
    history = sorted(map(decoded, raws), key=lambda r: r.commit.version)
    known = [one for one in history if one.position <= upto]
    if not known or leftover(history):
        return None
    return Execution.fold(key, known).state


def plain(recorded: Recorded) -> list[Numbered]:
    """Make the messages of a commit that says all by itself; raises Unsaid."""
    return _numbered(recorded, said(recorded))


def _numbered(recorded: Recorded, status: StatusChanged | None) -> list[Numbered]:
    key, commit = recorded.key, recorded.commit
    notices = list(of_events(key, commit))
    if status is not None:
        notices.append(notice(key, commit.at, status, len(commit.events) + 1))
    last = len(notices) - 1
    return [
        (one, WHOLE if place == last else one.number)
        for place, one in enumerate(notices)
    ]


def decoded(raw: Raw) -> Recorded:
    """Decode a commit; raises Corrupt, UnknownEvent."""
    key, route = split_subject(raw.subject)
    return Recorded(raw.position, key, route, unseal(raw.body, key), raw.body)


def readable(raws: Sequence[Raw]) -> list[Recorded]:
    """Decode commits; one that cannot be read is left out: the feed goes on."""
    commits = []
    for raw in raws:
        try:
            commits.append(decoded(raw))
        except (Corrupt, UnknownEvent) as error:
            logger.warning("left out of the live feed: %s", error)
    return commits


def lines(raws: Sequence[Raw]) -> list[tuple[int, Notice]]:
    """Decode log lines, with their numbers; what is none of ours is left out."""
    found = []
    for raw in raws:
        try:
            line = decode_line(Stored(raw.position, raw.subject, raw.body))
        except (InvalidInput, ValueError) as error:
            logger.debug("left out of the live feed: %s", error)
            continue
        found.append((raw.position, of_line(line)))
    return found

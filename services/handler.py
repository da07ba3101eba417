"""The one path by which anything happens: load, decide, append.

Lifecycle, runner and reactor all change an execution here. When somebody else
appended first, the history is read again and the decision is made again; an
old decision is never put behind a new commit.
"""

import asyncio
import copy
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

from events.blobs import pack
from events.commit import Commit, Recorded, seal
from events.errors import Conflict, Refused
from events.execution import Execution
from events.journal import Journal
from events.names import MAX_COMMIT, Key
from services.telemetry import current

ROUNDS = 20
"""Times a decision is made anew before giving up: each means that somebody won."""

Decision = Callable[[Execution], None]
Clock = Callable[[], datetime]
Chance = random.Random
CHANCE = random.SystemRandom()
"""The system's own: no two processes draw the same."""


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def steady(clock: Clock) -> Clock:
    """Return a clock that goes on from what ``clock`` shows now, and never jumps."""
    loop, shown = asyncio.get_running_loop(), clock()
    since = loop.time()
    return lambda: shown + timedelta(seconds=loop.time() - since)


class Handler:
    """Decides and appends on behalf of ``by``, at the time that ``clock`` tells.

    ``chance`` makes its commit ids differ from everybody else's.
    """

    def __init__(
        self,
        journal: Journal,
        by: str,
        clock: Clock = utc_now,
        chance: Chance = CHANCE,
    ) -> None:
        self.journal, self.by, self.clock = journal, by, clock
        self._ids = (f"{chance.randbytes(6).hex()}-{number}" for number in count(1))

    def steady(self) -> "Handler":
        """Return the same, for one attempt: running time is not for clocks to change.

        A clock that is set forward would end whatever has a limit of time.
        """
        one = copy.copy(self)
        one.clock = steady(self.clock)
        return one

    async def load(self, key: Key, *, at_least: int = 0) -> Execution:
        """Fold an execution from the log; version 0 if there is none."""
        history = await self.journal.read(key, at_least=at_least)
        return Execution.fold(key, history)

    async def load_newest(self, key: Key) -> Execution:
        """Fold an execution as it is now: never an answer that is behind."""
        return await self.load(key, at_least=await self.journal.tip(key))

    async def handle(
        self,
        key: Key,
        decide: Decision,
        *,
        cause: str | None = None,
        known: Execution | None = None,
        by: str | None = None,
    ) -> Execution:
        """Make ``decide``'s decision durable and return the execution after it.

        Applied once however often it is asked: a ``cause`` (command id) that
        the history knows changes nothing, nor does a decision that triggers no
        event. ``by`` stands for whoever asked. ``known`` is taken over by this
        call: use what it returns, and after an error nothing. Raises what
        ``decide`` raises, and Conflict after ``ROUNDS`` lost races. What was read
        may be behind, so nothing is refused, nor said to be so already, unless
        the newest state was seen to say the same.
        """
        execution = known or await self.load(key)
        for _ in range(ROUNDS):
            if cause is not None and cause in execution.state.applied:
                return execution
            try:
                if await self._once(execution, decide, cause, by or self.by):
                    return execution
            except Conflict:
                pass
            except Refused:
                if not await self._behind(execution):
                    raise
            else:
                if not await self._behind(execution):
                    return execution
            execution = await self.load_newest(key)
        raise Conflict(f"{key} changes too fast: {ROUNDS} decisions were overtaken")

    async def _behind(self, execution: Execution) -> bool:
        return await self.journal.tip(execution.key) > execution.position

    async def _once(
        self, execution: Execution, decide: Decision, cause: str | None, by: str
    ) -> bool:
        """Decide and append; False if nothing was decided."""
        execution.now, execution.last_trigger = self.clock(), None
        decide(execution)
        events = tuple(tagged.decision for tagged in execution.collect_events())
        if not events:
            return False
        commit = Commit(
            version=execution.state.version + 1,
            id=next(self._ids),
            at=execution.now,
            by=by,
            cause=cause,
            events=events,  # type: ignore[arg-type]  # every Event is in AnyEvent
        )
        sealed, body = await self._sealed(commit, execution)
        route = execution.route(events)
        new = Recorded(0, execution.key, route, sealed, body, current())
        stored = await self.journal.append(new, after=execution.position)
        execution.committed(stored)
        return True

    async def _sealed(
        self, commit: Commit, execution: Execution
    ) -> tuple[Commit, bytes]:
        """Seal it; what it has no room for is stored first. Raises TooLarge."""
        key, previous = execution.key, execution.state.chain
        sealed, body = seal(commit, key, previous)
        if len(body) <= MAX_COMMIT:
            return sealed, body
        packed, contents = pack(commit, key)
        await self.journal.keep(key, contents)
        return seal(packed, key, previous)

"""Dead runners: what they held is work again about a second after their end.

The server announces every connection that ends. Whoever it was is known by the
server's ids, never by a name; what it held is known from its presence. If its
process can be seen to be gone (it was on this machine), its work is put back at
once; else it has a grace to come back in, for a network that failed. Without a
system account there are no announcements: then leases run out, as always.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple

from events.commit import Recorded
from events.errors import Retryable, WakeError
from events.execution import Execution
from events.names import LANES, Key
from events.presence import Connection, Departures, Presence, Presences, Process
from events.spec import Lane
from services import metrics
from services.handler import Handler
from services.process import is_gone

logger = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds in which a runner that lost its connection may come back."""

LOOK = 0.01
"""Seconds between two looks whether its process is gone."""

SILENT = 3.0
"""Seconds of silence after which a presence tells nothing any more."""

MEMORY = 600.0
"""Seconds of silence after which a runner is forgotten: its end was never told."""

AT_ONCE = 8
"""Executions put back side by side: the first is with a new runner at once."""

RETRY = 0.5
"""Seconds until what could not be put back is tried again."""


@dataclass
class Seen:
    """A runner as it was last heard of."""

    presence: Presence
    heard: float
    holds: dict[Key, int] = field(default_factory=dict)
    lost: Connection | None = None

    def take(self, presence: Presence, now: float) -> None:
        """Take in what it says."""
        self.presence, self.heard = presence, now
        if presence.whole:
            self.holds.clear()
        for one in presence.took:
            self.holds[Key(one.user, one.execution)] = one.version
        for one in presence.dropped:
            if self.holds.get(Key(one.user, one.execution)) == one.version:
                del self.holds[Key(one.user, one.execution)]


class Roll:
    """The runners that there are, by what they say."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}

    def hear(self, presence: Presence) -> None:
        """Take in what a runner says."""
        now = asyncio.get_running_loop().time()
        seen = self.seen.setdefault(presence.instance, Seen(presence, now))
        seen.take(presence, now)

    def of(self, connection: Connection) -> Seen | None:
        """Find the runner that last spoke through a connection."""
        found = (s for s in self.seen.values() if s.presence.connection == connection)
        return next(found, None)

    def live(self) -> list[Seen]:
        """Return those that were heard of lately."""
        oldest = asyncio.get_running_loop().time() - SILENT
        return [seen for seen in self.seen.values() if seen.heard >= oldest]

    def forget(self, seen: Seen) -> None:
        """Strike one off, and those that fell silent long ago."""
        self.seen.pop(seen.presence.instance, None)
        oldest = asyncio.get_running_loop().time() - MEMORY
        self.seen = {i: s for i, s in self.seen.items() if s.heard >= oldest}

    def held(self) -> set[Key]:
        """Everything that is in somebody's hands."""
        return {key for seen in self.live() for key in seen.holds}


class Waiting(NamedTuple):
    """A work commit that nothing but runners can bring on."""

    position: int
    version: int
    lane: Lane
    at: datetime


class Recovery:
    """Puts back what dead runners held; see the top."""

    def __init__(
        self,
        handler: Handler,
        presences: Presences,
        departures: Departures | None,
        *,
        grace: float = GRACE,
        gone: Callable[[Process], bool] = is_gone,
    ) -> None:
        self._handler, self._presences = handler, presences
        self._departures, self._grace, self._gone = departures, grace, gone
        self._roll = Roll()
        self._work: dict[Key, Waiting] = {}
        self._deaths: asyncio.Queue[Seen] = asyncio.Queue()
        self._hands = asyncio.Semaphore(AT_ONCE)

    def see(self, recorded: Recorded) -> None:
        """Note what is work, and what is not any more."""
        if recorded.route in LANES:
            position, commit = recorded.position, recorded.commit
            self._work[recorded.key] = Waiting(
                position, commit.version, recorded.route, commit.at
            )
        elif recorded.route in ("parked", "finished"):
            self._work.pop(recorded.key, None)

    async def run(self) -> None:
        """Listen, and see to each death."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._presences.hear(self._roll.hear))
            if self._departures is not None:
                await stack.enter_async_context(self._departures.hear(self._lost))
            deaths = await stack.enter_async_context(asyncio.TaskGroup())
            while True:
                deaths.create_task(self._see_to(await self._deaths.get()))

    def _lost(self, connection: Connection) -> None:
        seen = self._roll.of(connection)
        if seen is not None and seen.lost != connection:  # it may be told twice
            seen.lost = connection
            self._deaths.put_nowait(seen)

    async def _see_to(self, seen: Seen) -> None:
        """Put back what a runner held, if it does not come back itself."""
        runner = seen.presence.runner
        if not await self._has_gone(seen):
            logger.info("runner %s is back within the grace", runner)
            return
        self._roll.forget(seen)
        held = self._roll.held()
        mine = {key: version for key, version in seen.holds.items() if key not in held}
        logger.warning("runner %s is gone, it held %d executions", runner, len(mine))
        async with asyncio.TaskGroup() as group:
            for key, version in mine.items():
                group.create_task(self._put_back(key, version, runner))
            for key, version in (await self._adrift()).items():
                if key not in mine and key not in held:
                    group.create_task(self._put_back(key, version, None))

    async def _has_gone(self, seen: Seen) -> bool:
        """Say whether it is gone for good; time without a connection does not count."""
        left = self._grace
        while left > 0 and seen.presence.connection == seen.lost:
            if self._gone(seen.presence.process):
                return True
            await asyncio.sleep(LOOK)
            left -= LOOK if self._presences.connected else 0.0
        return seen.presence.connection == seen.lost

    async def _adrift(self) -> dict[Key, int]:
        """Find what was handed out by now, to whomever."""
        known, journal = dict(self._work), self._handler.journal
        try:
            handed_out = {lane: await journal.handed_out(lane) for lane in LANES}
        except WakeError as error:
            logger.warning("cannot look what was handed out: %s", error)
            return {}
        return {
            key: work.version
            for key, work in known.items()
            if work.position <= handed_out[work.lane]
        }

    async def _put_back(self, key: Key, version: int, runner: str | None) -> None:
        """Make a work commit work again; try until the log has said yes or no."""
        decide = partial(put_back, version=version, runner=runner)
        while True:
            try:
                async with self._hands:
                    await self._handler.handle(key, decide, cause=f"lost-{version}")
            except Retryable as error:
                logger.warning("%s is not put back yet: %s", key, error)
                await asyncio.sleep(RETRY)
            except WakeError as error:
                logger.error("%s cannot be put back: %s", key, error)  # noqa: TRY400
                return
            else:
                metrics.recovered("departure" if runner else "sweep")
                return


def put_back(execution: Execution, version: int, runner: str | None) -> None:
    """Decide that the work of commit ``version`` is work again.

    ``runner`` is who is gone; None: nobody had begun it.
    """
    state = execution.state
    if state.work_version != version:
        return
    began = runner is not None and state.status == "running" and state.runner == runner
    if began or state.runnable:
        who = f"runner {runner}" if began else "who took it"
        execution.recover(state.attempt, f"{who} is gone")

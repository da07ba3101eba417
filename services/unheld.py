"""How many executions say that they run while no runner says that it holds them.

In a healthy service that number is 0: whoever died was noticed, or its lease ran
out. This counts, and acts on nothing; ``wake recover`` does.
"""

import asyncio
import logging
from typing import NamedTuple

from events.commit import Recorded
from events.errors import WakeError
from events.names import LANES, Key
from events.presence import Presences
from events.spec import Lane
from services import metrics
from services.handler import Handler
from services.recovery import Roll

logger = logging.getLogger(__name__)

LOOK = 15.0
"""Seconds between two counts."""

PATIENCE = 60.0
"""Seconds without a holder from which on it counts: a lease takes 30 to run out."""


class Work(NamedTuple):
    """The last work commit of an execution, and where it waits."""

    position: int
    lane: Lane


class Unheld:
    """A part of the reactor: keeps ``metrics.stuck`` up to date."""

    def __init__(
        self,
        handler: Handler,
        presences: Presences,
        *,
        look: float = LOOK,
        patience: float = PATIENCE,
    ) -> None:
        self._handler, self._presences = handler, presences
        self._look, self._patience = look, patience
        self._roll = Roll()
        self._work: dict[Key, Work] = {}
        self._since: dict[Key, float] = {}

    def see(self, recorded: Recorded) -> None:
        """Note what is work, and what is not any more."""
        if recorded.route in LANES:
            self._work[recorded.key] = Work(recorded.position, recorded.route)
        elif recorded.route in ("parked", "finished"):
            self._work.pop(recorded.key, None)

    async def run(self) -> None:
        """Count, again and again."""
        async with self._presences.hear(self._roll.hear):
            while True:
                await asyncio.sleep(self._look)
                try:
                    metrics.stuck(await self._count())
                except WakeError as error:
                    logger.warning("cannot count what nobody holds: %s", error)

    async def _count(self) -> int:
        now = asyncio.get_running_loop().time()
        free = await self._handed_out() - self._roll.held()
        self._since = {key: self._since.get(key, now) for key in free}
        latest = now - self._patience
        silent = [key for key, since in self._since.items() if since <= latest]
        return sum([await self._runs(key) for key in silent])

    async def _handed_out(self) -> set[Key]:
        """Find what a runner may have begun; what waits in its lane is nobody's yet."""
        journal = self._handler.journal
        newest = {lane: await journal.handed_out(lane) for lane in LANES}
        works = self._work.items()
        return {key for key, work in works if work.position <= newest[work.lane]}

    async def _runs(self, key: Key) -> bool:
        return (await self._handler.load(key)).state.status == "running"

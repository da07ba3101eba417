"""A log whose user dies at a chosen append, as by kill -9."""

import asyncio

from events.commit import Recorded
from events.faulty import FaultyJournal, Plan
from events.journal import Journal


class DyingJournal(FaultyJournal):
    """Passes ``passes`` appends; then its user is gone.

    ``stored`` says whether the append at which it dies still reaches the log.
    Nothing is settled or given back after that: whoever died cannot.
    """

    def __init__(self, inner: Journal, passes: int, *, stored: bool) -> None:
        super().__init__(inner, Plan())
        self.dead = asyncio.Event()
        self._left, self._stored = passes, stored

    async def _publish(self, new: Recorded, after: int) -> int:
        if self.dead.is_set():
            await asyncio.Event().wait()
        if self._left > 0:
            self._left -= 1
            return await super()._publish(new, after)
        if self._stored:
            await super()._publish(new, after)
        self.dead.set()
        await asyncio.Event().wait()
        raise AssertionError

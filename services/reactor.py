"""The reactor: sees every commit that somebody must act on, and acts.

It keeps an index of its own, rebuilt from the log at each start; what it
decides goes through the same ``handle()`` as everybody's decisions, with a
cause that follows from what happened, so that doing it twice is harmless and
any number of reactors may run.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

from events.commit import Recorded
from events.journal import Journal
from events.names import ROUTES, Route

logger = logging.getLogger(__name__)

TELLING: tuple[Route, ...] = tuple(route for route in ROUTES if route != "log")
"""Routes on which somebody is told to act; the bulk is on ``log``."""


class Part(Protocol):
    """One thing that a reactor looks after."""

    def see(self, recorded: Recorded) -> None:
        """Take a commit into the index; at once, and whatever it is."""

    async def run(self) -> None:
        """Act, from when everything that was there at the start has been seen."""


class Reactor:
    """Lets ``parts`` see the log and act, until ``stop``."""

    def __init__(self, journal: Journal, parts: Sequence[Part]) -> None:
        self._journal, self._parts = journal, parts
        self._position = 0
        self._acting: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Read the log to its end, then act on it and on what is to come."""
        self._acting = asyncio.ensure_future(self._act())
        try:
            await self._acting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise

    async def stop(self) -> None:
        """End it; what it was about to do, another one does, or it does later."""
        if self._acting is not None:
            self._acting.cancel()

    async def _act(self) -> None:
        await self._see(live=False)
        logger.info("the reactor has read the log to position %d", self._position)
        async with asyncio.TaskGroup() as group:
            for part in self._parts:
                group.create_task(part.run())
            self.ready.set()
            await self._see(live=True)

    async def _see(self, *, live: bool) -> None:
        followed = self._journal.follow(
            after=self._position, routes=TELLING, live=live, whole=False
        )
        async with aclosing(followed) as runs:
            async for run in runs:
                for recorded in run:
                    for part in self._parts:
                        part.see(recorded)
                self._position = run[-1].position

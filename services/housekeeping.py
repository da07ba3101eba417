"""The daily clean-up: rung by a timer of the server, done by one reactor.

The timer says nothing but its time, so however many reactors arm it there is one;
whoever takes it arms the next and cleans in a task of its own, because that may
take longer than the timer's lease. A run that is cut short is gone on with the
next day, or by ``wake cleanup``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from events.commit import Recorded
from events.errors import Retryable, WakeError
from events.names import EVERYBODY
from events.timers import Timer, Timers
from services.handler import Clock, utc_now

logger = logging.getLogger(__name__)

NAME = "housekeeping"
"""What its timer is about."""

RETRY = 5.0
"""Seconds until the timer is tried to be armed again."""


class Housekeeping:
    """Cleans every day at ``hour``:``minute`` UTC; a part of the reactor."""

    def __init__(
        self,
        timers: Timers,
        clean: Callable[[], Awaitable[None]],
        *,
        hour: int,
        minute: int,
        clock: Clock = utc_now,
    ) -> None:
        self._timers, self._clean, self._clock = timers, clean, clock
        self._hour, self._minute = hour, minute
        self._rung = asyncio.Event()

    def see(self, recorded: Recorded) -> None:
        """Make nothing of it: what is old is looked for when its time has come."""

    async def run(self) -> None:
        """Arm the next time; clean whenever one has come."""
        await self._arm_patiently()
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                await self._clean()
            except WakeError as error:
                logger.error("the clean-up was cut short: %s", error)  # noqa: TRY400

    async def ring(self, timer: Timer) -> None:
        """Take the timer that went off: arm the next, and let the clean-up begin."""
        await self._timers.arm(self.following(timer.due))
        self._rung.set()

    def following(self, moment: datetime) -> Timer:
        """Return the first time behind ``moment``, and behind now."""
        after = max(moment, self._clock())
        due = after.replace(
            hour=self._hour, minute=self._minute, second=0, microsecond=0
        )
        if due <= after:
            due += timedelta(days=1)
        return Timer(user=EVERYBODY, about=NAME, kind="housekeeping", due=due)

    async def _arm_patiently(self) -> None:
        while True:
            try:
                await self._timers.arm(self.following(self._clock()))
            except Retryable as error:
                logger.warning("the clean-up is not armed yet: %s", error)
                await asyncio.sleep(RETRY)
            else:
                return

"""The network of a simulation: what is asked takes its time, or never arrives.

What arrives is done even if who asked has died meanwhile.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

from events.errors import OutcomeUnknown, WakeError

T = TypeVar("T")

ANSWER = 0.5
"""Seconds to wait for one answer."""


@dataclass
class Weather:
    """How bad the network is; chances are per message, or per read."""

    lost: float = 0.0
    late: float = 0.0
    latest: float = 10.0
    behind: float = 0.0
    down: bool = False

    def come_back(self) -> None:
        """End an outage."""
        self.down = False

    def clear_up(self) -> None:
        """Be calm from now on."""
        self.lost = self.late = self.behind = 0.0
        self.down = False


class Net:
    """Carries requests; ``weather`` may change at any time."""

    def __init__(self, chance: random.Random, weather: Weather) -> None:
        self.chance, self.weather = chance, weather
        self._outside = Context()
        self._doing: set[asyncio.Task[None]] = set()

    def lost(self) -> bool:
        """Draw whether a message gets lost."""
        return self.weather.down or self.chance.random() < self.weather.lost

    def lag(self) -> int:
        """Draw how many commits the server that answers a read has not heard of."""
        behind = self.chance.random() < self.weather.behind
        return self.chance.randint(1, 3) if behind else 0

    def delay(self) -> float:
        """Draw how long a message takes, in seconds."""
        if self.chance.random() < self.weather.late:
            return self.chance.random() * self.weather.latest
        return self.chance.random() * 0.02

    async def ask(self, request: Callable[[], Awaitable[T]], wait: float = ANSWER) -> T:
        """Let it be done at the other side; raises what that raises.

        Raises OutcomeUnknown after ``wait`` seconds; it may still happen then.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T | WakeError] = loop.create_future()
        if not self.lost():
            loop.call_later(
                self.delay(), self._arrived, request, answer, context=self._outside
            )
        try:
            async with asyncio.timeout(wait):
                told = await answer
        except TimeoutError:
            raise OutcomeUnknown("no answer came") from None
        if isinstance(told, WakeError):
            raise told
        return told

    def _arrived(self, request: Callable[[], Awaitable[Any]], answer: Any) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._do(request, answer), context=self._outside)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard, context=self._outside)

    async def _do(self, request: Callable[[], Awaitable[Any]], answer: Any) -> None:
        try:
            told = await request()
        except WakeError as error:
            told = error
        if not self.lost():
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay(), _told, answer, told)


def _told(answer: "asyncio.Future[Any]", what: Any) -> None:
    if not answer.done():
        answer.set_result(what)

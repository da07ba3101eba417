"""What has come from the streams and waits to be folded; never more than a bound."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

from events.rawlog import Raw

BOUND = 20_000
"""Messages of a stream that may wait: beyond, it is not read on."""

Batch = dict[str, list[Raw]]


class Inflow:
    """Messages by stream."""

    def __init__(self, streams: Sequence[str]) -> None:
        self._waiting: Batch = {stream: [] for stream in streams}
        self._stirred = asyncio.Event()
        self._taken = asyncio.Event()

    async def pump(
        self, stream: str, runs: AsyncGenerator[Sequence[Raw], None]
    ) -> None:
        """Let a stream flow in, for ever."""
        waiting = self._waiting[stream]
        async with aclosing(runs):
            async for run in runs:
                waiting.extend(run)
                self._stirred.set()
                while len(waiting) >= BOUND:
                    self._taken.clear()
                    await self._taken.wait()

    @property
    def count(self) -> int:
        """How many messages wait."""
        return sum(map(len, self._waiting.values()))

    async def stirred(self) -> None:
        """Wait until something is there."""
        while not self.count:
            self._stirred.clear()
            await self._stirred.wait()

    async def filled(self, count: int, due: float) -> None:
        """Wait until so many are there, or for a time of the event loop's clock."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                while self.count < count:
                    self._stirred.clear()
                    await self._stirred.wait()

    def take(self, most: int) -> Batch:
        """Take up to so many of each stream, oldest first."""
        batch = {stream: waiting[:most] for stream, waiting in self._waiting.items()}
        for stream, taken in batch.items():
            del self._waiting[stream][: len(taken)]
        self._taken.set()
        return batch

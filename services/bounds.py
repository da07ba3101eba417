"""When a process has served long enough: bounds of its time and of its memory.

Whoever reaches one drains as on SIGTERM and ends with 0; its supervisor starts
it anew. That is how what grows slowly (a library's leak, a fragmented heap)
never becomes an outage.
"""

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from events.errors import Misconfigured

SPREAD = 0.1
"""Up to this part of the time limit is cut off by chance: a fleet that was started
together must not restart together."""

LOOK = 1.0
"""Seconds between two looks at the memory; each takes some 7 microseconds."""

STATM = Path("/proc/self/statm")
"""Where Linux tells the size of a process in pages: all of it, then the resident."""

MIB = 1024 * 1024


@dataclass(frozen=True)
class Reached:
    """Which limit was reached, and how that was seen."""

    limit: Literal["process.time_limit", "process.memory_limit"]
    why: str


def resident() -> float:
    """Return the resident set of this process in MiB; raises OSError but on Linux.

    Memory that is shared with other processes (libraries) counts in full, swapped
    memory does not, and the nats-server and the commands of agents are processes
    of their own.
    """
    pages = int(STATM.read_bytes().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


class Bounds:
    """The limits of a process: ``seconds`` from when it serves, ``mebibytes`` resident.

    ``chance`` gives a number from 0 to 1, ``measure`` the memory in use. Raises
    Misconfigured where the memory cannot be measured, or is over its limit already:
    each new process would end at once.
    """

    def __init__(
        self,
        seconds: float | None,
        mebibytes: int | None,
        *,
        chance: Callable[[], float] = random.random,
        measure: Callable[[], float] = resident,
    ) -> None:
        self._seconds = None if seconds is None else seconds * (1 - SPREAD * chance())
        self._mebibytes, self._measure = mebibytes, measure
        if mebibytes is not None:
            self._check(mebibytes)

    async def reached(self) -> Reached:
        """Wait until one is reached; for ever, if there is none."""
        if self._mebibytes is None:
            return await self._time_is_over()
        try:
            async with asyncio.timeout(self._seconds):
                return await self._memory_is_full(self._mebibytes)
        except TimeoutError:
            return self._late()

    async def _time_is_over(self) -> Reached:
        if self._seconds is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self._seconds)
        return self._late()

    def _late(self) -> Reached:
        return Reached("process.time_limit", f"served for {self._seconds:.0f} s")

    async def _memory_is_full(self, most: int) -> Reached:
        while (used := self._measure()) <= most:  # noqa: ASYNC110 - the kernel's number
            await asyncio.sleep(LOOK)
        why = f"{used:.0f} MiB of memory in use, more than {most}"
        return Reached("process.memory_limit", why)

    def _check(self, most: int) -> None:
        try:
            used = self._measure()
        except OSError as error:
            raise Misconfigured(
                f"process.memory_limit: cannot be watched here, {STATM} is missing: "
                "leave it out"
            ) from error
        if used > most:
            raise Misconfigured(
                f"process.memory_limit: {most} MiB, and the process takes {used:.0f} "
                "before it does anything: set a higher one"
            )

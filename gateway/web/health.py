"""Whether a gateway can serve: its server, its streams, how far the read model is."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from events.errors import OutcomeUnknown
from events.names import COMMANDS, EVENTS, LOGS
from events.wire import ApiError, Wire

NEEDED: Final = (EVENTS, COMMANDS, LOGS)
"""Streams without which nothing can be asked or told."""

FRESH: Final = 1.0
"""Seconds that what was found holds: many probes are one look."""

LOOK: Final = 2.0
"""Seconds that a look may take."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it can serve; ``reasons`` say why not."""

    ready: bool
    nats: bool
    streams: bool
    reasons: tuple[str, ...] = ()


class Health:
    """Looks, but not more often than once in ``FRESH`` seconds."""

    def __init__(self, wire: Wire, clock: Callable[[], float] = time.monotonic) -> None:
        self._wire, self._clock = wire, clock
        self._found: tuple[str, ...] = ()
        self._at = float("-inf")
        self._looking = asyncio.Lock()

    async def look(self, *, leaving: bool) -> Readiness:
        """Say whether it can serve now."""
        if not self._wire.connected:
            self._at = float("-inf")
            return _readiness(("nats-server cannot be reached",), leaving=leaving)
        async with self._looking:
            if self._clock() - self._at >= FRESH:
                self._found = await self._missing()
                self._at = self._clock()
        return _readiness(self._found, leaving=leaving, nats=True)

    async def _missing(self) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(LOOK):
                return tuple([why for s in NEEDED if (why := await self._wrong(s))])
        except (TimeoutError, OutcomeUnknown):
            return ("nats-server does not answer",)

    async def _wrong(self, stream: str) -> str:
        try:
            await self._wire.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            return f"stream {stream}: {error}"
        return ""


def _readiness(
    reasons: tuple[str, ...], *, leaving: bool, nats: bool = False
) -> Readiness:
    told = (*reasons, *(("it is about to end",) if leaving else ()))
    return Readiness(
        ready=not told, nats=nats, streams=nats and not reasons, reasons=told
    )

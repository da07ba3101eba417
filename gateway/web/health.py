"""Whether a gateway can serve: its server, its streams, how far the read model is.

Without a read model everything can be served but lists: that is told, and no reason
to be taken out of service.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from events.errors import OutcomeUnknown, WakeError
from events.names import COMMANDS, EVENTS, LANES, LOGS, lane_consumer
from events.wire import ApiError, Wire
from gateway.querying import Queries
from projections.queries import ListRequest
from services import metrics

NEEDED: Final = (EVENTS, COMMANDS, LOGS)
"""Streams without which nothing can be asked or told."""

FRESH: Final = 1.0
"""Seconds that what was found holds: many probes are one look."""

LOOK: Final = 2.0
"""Seconds that each part of a look may take."""

NEAR: Final = 1_000
"""Positions that the read model may be behind and still be called current."""

ReadModel = Literal["current", "behind", "away"]


class _State(msgspec.Struct, frozen=True):
    last_seq: int = 0


class _Stream(msgspec.Struct):
    state: _State = _State()


class _Lane(msgspec.Struct):
    num_pending: int = 0


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it can serve; ``reasons`` say why not.

    ``behind`` is how many positions the read model is behind the log.
    """

    ready: bool
    nats: bool
    streams: bool
    read_model: ReadModel
    behind: Annotated[int, Meta(ge=0)] | None
    reasons: tuple[str, ...] = ()


class Health:
    """Looks, but not more often than once in ``FRESH`` seconds."""

    def __init__(
        self,
        wire: Wire,
        queries: Queries,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire, self._queries, self._clock = wire, queries, clock
        self._reasons: tuple[str, ...] = ()
        self._behind: int | None = None
        self._at = float("-inf")
        self._looking = asyncio.Lock()

    async def look(self, *, leaving: bool) -> Readiness:
        """Say whether it can serve now."""
        if not self._wire.connected:
            self._at = float("-inf")
            return self._readiness(("nats-server cannot be reached",), leaving=leaving)
        async with self._looking:
            if self._clock() - self._at >= FRESH:
                await self._look()
                self._at = self._clock()
        return self._readiness(self._reasons, leaving=leaving, nats=True)

    async def _look(self) -> None:
        self._behind = None
        try:
            async with asyncio.timeout(LOOK):
                ends = [await self._end(stream) for stream in NEEDED]
        except (TimeoutError, OutcomeUnknown):
            self._reasons = ("nats-server does not answer",)
            return
        self._reasons = tuple(why for _, why in ends if why)
        if not self._reasons:
            self._behind = await self._lag(ends[0][0])

    async def _end(self, stream: str) -> tuple[int, str]:
        """The last position of a stream, or why there is none."""
        try:
            info = await self._wire.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            return 0, f"stream {stream}: {error}"
        return msgspec.json.decode(info, type=_Stream).state.last_seq, ""

    async def _lag(self, end: int) -> int | None:
        """How far the read model is behind; None if it is not there."""
        try:
            async with asyncio.timeout(LOOK):
                page = await self._queries.list(ListRequest(limit=1, wait=0))
        except (TimeoutError, WakeError):
            return None
        return max(0, end - page.position)

    def _readiness(
        self, reasons: tuple[str, ...], *, leaving: bool, nats: bool = False
    ) -> Readiness:
        behind = self._behind if nats else None
        told = (*reasons, *(("it is about to end",) if leaving else ()))
        return Readiness(
            ready=not told,
            nats=nats,
            streams=nats and not reasons,
            read_model=_model(behind),
            behind=behind,
            reasons=told,
        )

    async def count_lanes(self) -> None:
        """Note for the numbers how much waits in each lane for a runner."""
        if not self._wire.connected:
            return
        for lane in LANES:
            subject = f"CONSUMER.INFO.{EVENTS}.{lane_consumer(lane)}"
            try:
                info = await self._wire.api(subject)
            except (ApiError, OutcomeUnknown):
                continue  # no runner ever opened it, or nobody can tell now
            waits = msgspec.json.decode(info, type=_Lane).num_pending
            metrics.waiting(lane, waits)


def _model(behind: int | None) -> ReadModel:
    if behind is None:
        return "away"
    return "current" if behind <= NEAR else "behind"

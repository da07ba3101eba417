"""The read model where nothing serves: this process keeps it for a moment."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from events.names import EVENTS
from gateway.composition import Log, address_of
from gateway.querying import Queries, Request
from gateway.settings import Settings
from gateway.viewing import provision, sources_of
from projections import queries as q
from projections import sqlrows
from projections.desk import Desk
from projections.projector import Projector

CATCHING_UP = 3600.0
"""Seconds for a read model that nobody kept to take in what it lacks."""


@asynccontextmanager
async def kept(log: Log, settings: Settings) -> AsyncIterator[Queries]:
    """Keep it on a server of our own; it has all that there is when this begins."""
    assert log.server is not None  # noqa: S101 - on a folder of our own
    await provision(log.wire, settings)
    sources = sources_of(log.wire, address_of(log.server))
    projector = Projector(settings.projector.file, sources)
    last = (await sources.extents())[EVENTS].last
    async with asyncio.TaskGroup() as group:
        group.create_task(projector.run())
        try:
            await projector.reached(last, seconds=CATCHING_UP)
            yield Here(projector)
        finally:
            await projector.stop()


class Here(Queries):
    """The same questions, of a projector in this process."""

    def __init__(self, projector: Projector) -> None:
        self._desk, self._readers = Desk(projector), projector.readers

    async def _ask(self, request: Request) -> bytes:
        if isinstance(request, q.SqlRequest):
            return await sqlrows.whole(self._readers, request, self._desk.position)
        return await self._desk.answer(request)

    async def _pieces(self, request: q.SqlRequest) -> AsyncGenerator[bytes, None]:
        """The pieces of a stream, each when the one before was taken in."""
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        position = self._desk.position

        async def produce() -> None:
            send = pieces.put
            last = await sqlrows.stream(self._readers, request, position, send)
            await pieces.put(last)
            await pieces.put(None)

        async with asyncio.TaskGroup() as group:
            producing = group.create_task(produce())
            try:
                while (piece := await pieces.get()) is not None:
                    yield piece
            finally:
                producing.cancel()

"""Where the read model is asked: its service, or this process where nothing serves."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import uvloop

from events.names import EVENTS
from gateway.composition import BRIEFLY, Held, Log, Place, hold, open_log
from gateway.querying import Queries
from gateway.settings import Settings
from gateway.viewing import login_of, provision, sources_of
from projections import queries as q
from projections import sqlrows
from projections.desk import Desk
from projections.projector import Projector
from projections.rebuild import Sources

T = TypeVar("T")

CATCHING_UP = 3600.0
"""Seconds for a read model that nobody kept to take in what it lacks."""

Talk = Callable[[Queries, int], Awaitable[T]]
"""What is asked; the number is the position up to which all can be seen."""


def ask(place: Place, settings: Settings, talk: "Talk[T]") -> T:
    """Ask the projector, or where nothing serves do its work; raises WakeError."""
    place.check()

    async def main(held: Held) -> T:
        async with open_log(held) as log, opened(held, log, settings) as asked:
            return await talk(*asked)

    with hold(place, wait=BRIEFLY) as held:
        return uvloop.run(main(held))


@asynccontextmanager
async def opened(
    held: Held, log: Log, settings: Settings
) -> AsyncIterator[tuple[Queries, int]]:
    """What can be asked where a log is, and how far that goes now."""
    sources = sources_of(log.wire, login_of(held, log))
    if log.server is None:
        yield Queries(log.wire), (await sources.events.extent()).last
        return
    await provision(log.wire, settings)  # on a folder of our own
    async with _kept(Projector(settings.projector.file, sources), sources) as queries:
        yield queries, 0


@asynccontextmanager
async def _kept(projector: Projector, sources: Sources) -> AsyncIterator[Queries]:
    """Keep the read model for a while; it has all that there is when this begins."""
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

    async def _ask(self, request: q.Request | q.SqlRequest) -> bytes:
        if isinstance(request, q.SqlRequest):
            return await sqlrows.whole(self._readers, request, self._desk.position)
        return await self._desk.page(request)

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

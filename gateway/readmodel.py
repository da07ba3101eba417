"""Where the read model is asked: its service, or this process where nothing serves."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import uvloop

from events.bulk import Login
from events.rawstream import all_streams
from gateway.address import Address
from gateway.composition import BRIEFLY, Held, Log, Place, hold, open_log
from gateway.querying import Queries
from gateway.settings import Settings

T = TypeVar("T")

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
    if isinstance(held, Address):
        events, *_ = all_streams(log.wire, Login(held.url, held.user, held.password))
        yield Queries(log.wire), (await events.extent()).last
        return
    # imported here: who asks a service needs no DuckDB
    from gateway.keeping import kept  # noqa: PLC0415

    async with kept(log, settings) as queries:
        yield queries, 0

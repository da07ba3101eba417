"""What a runner says of itself, so that its end is noticed at once.

Each change is told before anything that follows from it is appended; all of it
once a second, for whoever began to listen later.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from events.presence import BEAT, Connection, Heard, Held, Presence, Presences
from events.spec import Lane
from services.lease import Holding, Holdings
from services.process import this_process


class Unheard(Presences):
    """Nobody listens: an execution of one's own, on a log of one's own."""

    connection = Connection("", 0)
    connected = False

    async def tell(self, presence: Presence) -> None:
        """Say it to nobody."""

    @asynccontextmanager
    async def hear(self, heard: Heard) -> AsyncIterator[None]:  # noqa: ARG002 - the port's
        """Hear nothing."""
        yield


class Announcer:
    """Tells of what one runner holds."""

    def __init__(
        self,
        presences: Presences,
        holdings: Holdings,
        *,
        runner: str,
        lanes: Sequence[Lane],
        concurrency: int,
    ) -> None:
        self._presences, self._holdings = presences, holdings
        self._self = Presence(
            runner=runner,
            instance=secrets.token_hex(8),
            connection=presences.connection,
            process=this_process(),
            host=socket.gethostname(),
            since=time.time(),
            lanes=tuple(lanes),
            concurrency=concurrency,
        )

    def drain(self) -> None:
        """Let it be known from now on that nothing new is taken."""
        self._self = msgspec.structs.replace(self._self, draining=True)

    async def took(self, holding: Holding) -> None:
        """Tell of a work before it is begun."""
        await self._tell(took=(held(holding),))

    async def dropped(self, holding: Holding) -> None:
        """Tell that a work is in these hands no more."""
        await self._tell(dropped=(held(holding),))

    async def beat(self) -> None:
        """Tell everything, once a second, for ever."""
        while True:
            everything = tuple(map(held, self._holdings.all()))
            await self._tell(took=everything, whole=True)
            await asyncio.sleep(BEAT)

    async def leave(self) -> None:
        """Tell that nothing is held any more."""
        await self._tell(whole=True)

    async def _tell(
        self,
        *,
        took: tuple[Held, ...] = (),
        dropped: tuple[Held, ...] = (),
        whole: bool = False,
    ) -> None:
        said = msgspec.structs.replace(
            self._self,
            connection=self._presences.connection,
            took=took,
            dropped=dropped,
            whole=whole,
        )
        await self._presences.tell(said)


def held(holding: Holding) -> Held:
    """Name what is held."""
    return Held(*holding.key, holding.work.recorded.commit.version)

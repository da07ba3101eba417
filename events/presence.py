"""The port of presence: runners say what they hold, the server says who is gone.

Core NATS, nothing is stored: on ``runners.<runner>`` a runner tells all that it
holds once a second, and each change at once. Messages of one runner keep their
order, and a change is told before what follows from it is appended: whoever
listens knows of everything that a runner had begun.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import msgspec

BEAT = 1.0
"""Seconds between two tellings of everything."""


class Connection(NamedTuple):
    """A client of a nats-server, by ids that the server gave and nobody can claim."""

    server: str
    client: int


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process of this operating system: pid and start time (clock ticks) name it.

    ``machine`` is the boot and the pid namespace in which they count.
    """

    machine: str
    pid: int
    began: int


class Held(NamedTuple):
    """A work in a runner's hands: whose, and the version of its work commit."""

    user: str
    execution: str
    version: int


class Presence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a runner says of itself; ``instance`` is new with every start of one.

    With ``whole``, ``took`` is all that it holds; without, what changed. ``host``
    and ``since`` (seconds since the epoch) are for people.
    """

    runner: str
    instance: str
    connection: Connection
    process: Process
    host: str
    since: float
    lanes: tuple[str, ...] = ()
    concurrency: int = 0
    draining: bool = False
    whole: bool = False
    took: tuple[Held, ...] = ()
    dropped: tuple[Held, ...] = ()


Heard = Callable[[Presence], None]
Lost = Callable[[Connection], None]


class Presences(ABC):
    """Where presence is told and heard, by one client."""

    @property
    @abstractmethod
    def connection(self) -> Connection:
        """Who we are to the server now."""

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether we hear anything now."""

    @abstractmethod
    async def tell(self, presence: Presence) -> None:
        """Say it to whoever listens; best effort."""

    @abstractmethod
    def hear(self, heard: Heard) -> AbstractAsyncContextManager[None]:
        """Call ``heard`` with what every runner says."""


class Departures(ABC):
    """Where the server tells which clients are gone."""

    @abstractmethod
    def hear(self, lost: Lost) -> AbstractAsyncContextManager[None]:
        """Call ``lost`` with each connection that ended."""


class MemoryDepartures(Departures):
    """Departures that somebody makes up."""

    def __init__(self) -> None:
        self._lost: list[Lost] = []

    def leave(self, connection: Connection) -> None:
        """Tell that a connection ended, as by kill -9."""
        for lost in list(self._lost):
            lost(connection)

    @asynccontextmanager
    async def hear(self, lost: Lost) -> AsyncIterator[None]:
        """Call ``lost`` with each connection that ended."""
        self._lost.append(lost)
        try:
            yield
        finally:
            self._lost.remove(lost)


class MemoryPresences(Presences):
    """All in one process: who is made with the same ``room`` hears each other."""

    def __init__(self, room: list[Heard], client: int = 1) -> None:
        self._room, self.client = room, client
        self.reached = True

    @property
    def connection(self) -> Connection:
        """Who we are."""
        return Connection("memory", self.client)

    @property
    def connected(self) -> bool:
        """Whether we hear anything now."""
        return self.reached

    async def tell(self, presence: Presence) -> None:
        """Say it to whoever listens."""
        for heard in list(self._room):
            heard(presence)

    @asynccontextmanager
    async def hear(self, heard: Heard) -> AsyncIterator[None]:
        """Call ``heard`` with what every runner says."""
        self._room.append(heard)
        try:
            yield
        finally:
            self._room.remove(heard)

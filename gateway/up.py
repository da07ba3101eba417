"""``wake up`` and ``wake service``: services in one process, until told to end.

Each service has a connection of its own. The first SIGINT or SIGTERM ends them
in order: no new work, what is in hand is seen to its next commit or given
back; a second one gives back at once. So does a limit of the process, which is
no signal: after it, the first one does not hurry yet.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from events.errors import InvalidInput, WakeError
from events.jetstream import JetStreamJournal
from events.names import Key
from gateway import address
from gateway.address import Address
from gateway.composition import Bench, address_of, connect
from gateway.parts import ALL, Assembly, Name, Part
from gateway.settings import Settings
from services import metrics
from services.boot import recover_all
from services.bounds import Bounds
from services.embedded import EmbeddedServer
from services.folder import DataFolder
from services.handler import Handler
from services.process import tune_collector
from services.telemetry import bound

logger = logging.getLogger(__name__)

HURRY = 1.0
"""Seconds to give back what is in hand, when told for the second time to end."""

LATE = 0.5
"""Seconds in which a server's end is known after its connections broke."""


@dataclass(frozen=True)
class Started:
    """What a start came to: where it listens, and what was put back."""

    login: Address
    put_back: list[Key]
    lacking: str | None
    url: str | None = None


def workspaces_here(settings: Settings) -> Settings:
    """Allow the current directory as workspace, on a server of our own.

    Who starts ``wake up`` in a project wants agents to work there. Where
    directories are configured, or others may reach the server, only those count.
    """
    workspaces = settings.workspaces
    if settings.nats.url is not None or workspaces.allowed:
        return settings
    here = msgspec.structs.replace(workspaces, allowed=(Path.cwd(),))
    return msgspec.structs.replace(settings, workspaces=here)


def everything(settings: Settings) -> tuple[Name, ...]:
    """Return all services; the gateway only if it is said where it listens."""
    listens = settings.gateway.listen is not None
    return tuple(name for name in ALL if name != "gateway" or listens)


def checked(names: Sequence[str], settings: Settings) -> tuple[Name, ...]:
    """Return the services of these names; raises InvalidInput."""
    unknown = [name for name in names if name not in ALL]
    if unknown:
        raise InvalidInput(f"no service {unknown[0]!r}; there are: {', '.join(ALL)}")
    if settings.nats.url is None:
        raise InvalidInput(
            "a single service needs a nats-server: name it with --nats; or serve "
            "everything here with wake up"
        )
    if "gateway" in names and settings.gateway.listen is None:
        raise InvalidInput("say where the gateway listens: --port 8787")
    return tuple(name for name in ALL if name in names)


class Services:
    """Some services on one server; ``started`` is called once they serve."""

    def __init__(
        self,
        settings: Settings,
        names: Collection[Name],
        started: Callable[[Started], None],
    ) -> None:
        self._settings, self._names, self._started = settings, names, started
        self._told = False
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._stack = AsyncExitStack()

    async def run(self, folder: DataFolder | None) -> None:
        """Serve until a signal; raises WakeError when it cannot go on.

        On ``folder`` it runs a nats-server of its own; without, on ``nats.url``.
        """
        tune_collector()
        limits = self._settings.process
        self._bounds = Bounds(limits.time_limit, limits.memory_limit)
        with self._signals():
            async with self._stack:
                self._show_numbers()
                server, login = await self._server(folder)
                async with _explained(server):
                    await self._serve(server, login)

    def _show_numbers(self) -> None:
        """Count, and show the numbers, if it is configured where."""
        address = self._settings.metrics.address
        if address is not None:
            shown = metrics.served(address.host, address.port)
            logger.info("metrics on %s", self._stack.enter_context(shown))

    async def _server(
        self, folder: DataFolder | None
    ) -> tuple[EmbeddedServer | None, Address]:
        nats = self._settings.nats
        if folder is None:
            user, password = nats.login
            login = Address(
                url=str(nats.url),
                user=user,
                password=password,
                system=nats.system_login,
            )
            return None, login
        server = await self._stack.enter_async_context(EmbeddedServer.start(folder))
        return server, address_of(server)

    async def _serve(self, server: EmbeddedServer | None, login: Address) -> None:
        bench = await Bench.find(self._settings.sandbox.mode)
        put_back = [] if server is None else await self._recover(login)
        alone = len(self._names) == 1
        assembly = Assembly(
            self._settings, login, bench, self._stack, self._hurrying, alone=alone
        )
        parts = [await assembly.part(name) for name in self._names]
        if server is not None:
            published = address.published(self._settings.data, login)
            self._stack.enter_context(published)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(server.watch()) if server else None
            running = [group.create_task(part.run()) for part in parts]
            bounded = group.create_task(self._until_a_limit())
            url = next((part.url for part in parts if part.url), None)
            self._started(Started(login, put_back, bench.lacking, url))
            await self._stopping.wait()
            bounded.cancel()
            hurry = group.create_task(self._hurrying.wait())
            await self._stop_edge(parts, group, hurry)
            await asyncio.gather(*(part.stop() for part in parts if not part.url))
            await _finished(running, hurry)
            for task in filter(None, (hurry, watching, *running)):
                task.cancel()

    async def _stop_edge(
        self,
        parts: Sequence[Part],
        group: asyncio.TaskGroup,
        hurry: "asyncio.Task[Literal[True]]",
    ) -> None:
        """Let the edge end before what it needs, unless somebody is in a hurry."""
        stops = [group.create_task(part.stop()) for part in parts if part.url]
        for stop in stops:
            await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()

    async def _recover(self, login: Address) -> list[Key]:
        """Put back what a dead process held: nobody else can be on our server."""
        wire = await connect(login)
        try:
            journal = await JetStreamJournal.open(wire)
            return await recover_all(Handler(journal, "boot"))
        finally:
            await wire.close()

    async def _until_a_limit(self) -> None:
        """End in order at a limit of the process: its supervisor starts it anew."""
        reached = await self._bounds.reached()
        with bound(limit=reached.limit):
            logger.warning("%s: %s; ending in order", reached.limit, reached.why)
        self._stopping.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """End in order; asked again, in a hurry. A signal does the same."""
        (self._hurrying if self._told else self._stopping).set()
        self._told = True


async def _finished(
    running: "Collection[asyncio.Task[None]]", hurry: "asyncio.Task[Literal[True]]"
) -> None:
    """Wait for what is in hand; not for long once somebody is in a hurry."""
    left = set(running)
    while left and not hurry.done():
        await asyncio.wait({hurry, *left}, return_when=asyncio.FIRST_COMPLETED)
        left = {task for task in left if not task.done()}
    if left:
        await asyncio.wait(left, timeout=HURRY)


@asynccontextmanager
async def _explained(server: EmbeddedServer | None) -> AsyncIterator[None]:
    """Let the end of our server explain what failed by it: its clients see it first."""
    try:
        yield
    except (WakeError, ExceptionGroup):
        if server is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LATE):
                    await server.watch()
        raise

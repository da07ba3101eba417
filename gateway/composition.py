"""Where things are put together: the log, what agents work with, who runs them."""

import asyncio
import os
import re
import shlex
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Never, TypeVar

import uvloop

from events.errors import FolderInUse, NotFound, OutcomeUnknown, Unavailable
from events.jetstream import JetStreamJournal
from events.journal import Journal
from events.muster import NatsPresences
from events.names import EVENTS, Key, lane_consumer
from events.spec import Lane
from events.triggers import LastTrigger, none_sent
from events.wire import ApiError, Wire
from gateway import address
from gateway.address import Address
from services.agents.loop import Means
from services.agents.open import open_model
from services.agents.speech import Speak, mute
from services.embedded import EmbeddedServer
from services.folder import DataFolder
from services.runner import Runner
from services.telling import Tell, silent
from services.tools import sandbox
from services.tools.base import Tool
from services.tools.toolbox import all_tools

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds to wait for a data folder: a dying server may take eight to let go."""

BRIEFLY = 1.0
"""Seconds after which a wait is worth a word; who only reads waits no longer."""


@dataclass(frozen=True)
class Place:
    """Where the log is: a server's address, or else a data folder of our own."""

    data: Path
    nats: str | None = None
    login: tuple[str, str] | tuple[None, None] = (None, None)

    @property
    def options(self) -> str:
        """The flags that lead another ``wake`` to the same log."""
        if self.nats is None:
            data = shlex.quote(str(self.data))
            return "" if self.data == Path(".wake") else f" --data {data}"
        if "@" in self.nats:  # a password is nothing to print
            return " --nats URL"
        return f" --nats {shlex.quote(self.nats)}"

    @property
    def empty(self) -> bool:
        """Nothing was ever recorded here, as far as can be seen from outside."""
        return self.nats is None and not self.data.exists()

    def check(self) -> None:
        """Raise NotFound if there is nothing to read."""
        if self.empty:
            raise NotFound(
                f"there is no wakestream data in {self.data}: name the folder with "
                '--data, or start here with wake run "PROMPT"'
            )


@dataclass(frozen=True)
class Log:
    """An open log, and the server under it if it is our own."""

    journal: Journal
    wire: Wire
    server: EmbeddedServer | None

    @property
    def connected(self) -> bool:
        """Whether the server can be talked to right now."""
        return bool(self.wire.client.is_connected)

    async def watch(self) -> Never:
        """Wait until there is no more hope for it; raises Unavailable then."""
        if self.server is not None:
            await self.server.watch()
        await self.wire.closed.wait()
        raise Unavailable("nats-server closed the connection for good")

    async def forget(self, key: Key, lane: Lane) -> None:
        """Drop the work queue of an execution that has ended; best effort."""
        try:
            name = lane_consumer(lane, key)
            await self.wire.api(f"CONSUMER.DELETE.{EVENTS}.{name}")
        except (ApiError, OutcomeUnknown):
            return


Held = DataFolder | Address
"""A data folder of our own to run a server on, or a server that is there."""


@contextmanager
def hold(
    place: Place, *, wait: float, say: Callable[[str], None] | None = None
) -> Iterator[Held]:
    """Find the server of a place, or hold its data folder; raises FolderInUse.

    Blocks: to be entered before the event loop runs, in the main thread.
    """
    running = reach(place)
    if running is not None:
        yield running
        return
    with _opened(place.data, wait, say) as folder:
        yield folder


@contextmanager
def own_folder(place: Place, *, wait: float) -> Iterator[DataFolder | None]:
    """Hold the data folder of a place to serve on it; None with a server named."""
    if place.nats is not None:
        yield None
        return
    with _opened(place.data, wait, None) as folder:
        yield folder


def reach(place: Place) -> Address | None:
    """Return the address of a server that runs already, if there is one."""
    if place.nats is not None:
        user, password = place.login
        return Address(url=place.nats, user=user, password=password)
    return address.read(place.data)


def _opened(path: Path, wait: float, say: Callable[[str], None] | None) -> DataFolder:
    try:
        folder = DataFolder.open(path, wait=min(wait, BRIEFLY))
    except FolderInUse as error:
        if wait <= BRIEFLY:
            raise
        if say is not None:
            say(f"{error}; waiting for up to {wait:.0f} s")
        folder = DataFolder.open(path, wait=wait - BRIEFLY)
    address.forget(path)
    return folder


@asynccontextmanager
async def open_log(held: Held) -> AsyncIterator[Log]:
    """Open the log, on a server of our own if a folder is held for it.

    When the server is gone for good, what the block does is cancelled, and
    Unavailable raised (in a group).
    """
    async with AsyncExitStack() as stack:
        server = None
        if isinstance(held, DataFolder):
            server = await stack.enter_async_context(EmbeddedServer.start(held))
            held = address_of(server)
        wire = await connect(held)
        stack.push_async_callback(wire.close)
        log = Log(await JetStreamJournal.open(wire), wire, server)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        watching = group.create_task(log.watch())
        yield log
        watching.cancel()


def with_log(place: Place, talk: Callable[[Log], Awaitable[T]]) -> T:
    """Open the log of a place for one talk, where it is served or not; blocks.

    Raises WakeError.
    """

    async def main() -> T:
        async with open_log(held) as log:
            return await talk(log)

    with hold(place, wait=BRIEFLY) as held:
        return uvloop.run(main())


def address_of(server: EmbeddedServer) -> Address:
    """Say where our own server listens, and who may talk to it."""
    return Address(
        url=server.url,
        user=server.user,
        password=server.password,
        pid=os.getpid(),
        system=(server.system_user, server.system_password),
    )


async def connect(login: Address) -> Wire:
    """Connect to a server; raises Unavailable, ServerUnsuitable."""
    return await Wire.connect(login.url, user=login.user, password=login.password)


@dataclass(frozen=True)
class Bench:
    """The tools that agents are offered here; ``lacking`` says why bash is none."""

    tools: Mapping[str, Tool[Any]]
    lacking: str | None = None
    adopt: Callable[[Path], None] = lambda _root: None

    @classmethod
    async def find(cls, mode: Literal["required", "off"] = "required") -> "Bench":
        """Look what this machine has to offer; raises Misconfigured."""
        found = await sandbox.find_sandbox(mode)
        if isinstance(found, sandbox.Unavailable):
            return cls(all_tools(found), found.reason)
        return cls(all_tools(found), adopt=found.adopt)

    @asynccontextmanager
    async def means(
        self,
        data: Path,
        workspaces: Path,
        speak: Speak = mute,
        tell: Tell = silent,
        last_trigger: LastTrigger = none_sent,
    ) -> AsyncIterator[Means]:
        """What executions are driven with; closed at the end."""
        means = Means(
            open_model=open_model,
            tools=self.tools,
            workspaces=workspaces,
            closed=(data,),
            adopt=self.adopt,
            speak=speak,
            tell=tell,
            last_trigger=last_trigger,
        )
        try:
            yield means
        finally:
            await means.close()


def runner_name() -> str:
    """Name a runner after this process; a subject token, whatever the host's name."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}"


def runner(log: Log, means: Means, key: Key, lane: Lane) -> Runner:
    """A runner for this one execution."""
    return Runner(
        log.journal,
        means,
        name=runner_name(),
        lanes=(lane,),
        concurrency=1,
        only=key,
        presences=NatsPresences(log.wire),
    )

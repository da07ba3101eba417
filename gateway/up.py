"""``wake up`` and ``wake service``: services in one process, until told to end.

Each service has a connection of its own. The first SIGINT or SIGTERM ends them
in order: no new work, what is in hand is seen to its next commit or given
back; a second one gives back at once. So does a limit of the process, which is
no signal: after it, the first one does not hurry yet.
"""

import asyncio
import logging
import signal
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from events.deltastream import NatsDeltas
from events.errors import InvalidInput, Unavailable, WakeError
from events.jetstream import JetStreamJournal
from events.logstream import JetStreamLogbook
from events.muster import NatsDepartures, NatsPresences
from events.names import Key
from events.pinned import JetStreamInbox
from events.spec import AgentSpec
from events.tablestream import JetStreamTimetable
from events.timers import Timers
from events.timerstream import JetStreamTimers
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from gateway import address
from gateway.address import Address
from gateway.admitting import admission
from gateway.cleaning import clean_daily
from gateway.composition import Bench, address_of, connect, runner_name
from gateway.settings import Settings
from services import metrics
from services.admission import Admission
from services.agents.registry import Registry
from services.allowed import Allowed
from services.boot import recover_all
from services.bounds import Bounds
from services.children import Children
from services.embedded import EmbeddedServer
from services.folder import DataFolder
from services.handler import Handler
from services.housekeeping import Housekeeping
from services.lifecycle import Lifecycle, Resolve
from services.logwriter import LogWriter
from services.process import tune_collector
from services.reactor import Part as ReactorPart
from services.reactor import Reactor
from services.recovery import Recovery
from services.recurring import Recurring
from services.runner import Runner
from services.schedules import Allowance, Schedules
from services.speaker import Speaker
from services.telemetry import bound
from services.telling import Tell
from services.timers import Timekeeper, nothing_recurs
from services.tools.toolbox import TOOLS
from services.triggers import Waker
from services.unheld import Unheld

logger = logging.getLogger(__name__)

HURRY = 1.0
"""Seconds to give back what is in hand, when told for the second time to end."""

LATE = 0.5
"""Seconds in which a server's end is known after its connections broke."""

NO_SYSTEM = (
    "no system account is known (nats.system_password): the reactor does not hear of "
    "runners that are gone, their work comes back when its lease runs out"
)

NOT_LIMITED = (
    "limits.default_tier is not set: whoever comes over NATS without an account "
    "(wake user set) may start as much as they want"
)

Name = Literal["lifecycle", "reactor", "runner", "projector", "gateway"]
ALL: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True)
class Part:
    """One service: what runs it, and what ends it in order.

    The edge ends before the others: what it has in hand needs them. ``url`` is
    where it is reached over HTTP.
    """

    run: Callable[[], Coroutine[Any, Any, None]]
    stop: Callable[[], Coroutine[Any, Any, None]]
    url: str | None = None


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
        parts = [await self._part(name, login, bench) for name in self._names]
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

    async def _part(self, name: Name, login: Address, bench: Bench) -> Part:
        wire = await connect(self._as_whom(name, login))
        self._stack.push_async_callback(wire.close)
        replicas = self._settings.nats.replicas
        journal = await JetStreamJournal.open(wire, replicas=replicas)
        tell = await self._logs(name, wire)
        match name:
            case "runner":
                return await self._runner(wire, journal, bench, tell)
            case "reactor":
                return await self._reactor(wire, journal, login, bench)
            case "lifecycle":
                return await self._lifecycle(wire, journal, bench, tell)
            case "projector":
                return await self._projector(wire, login)
            case "gateway":
                return await self._gateway(wire, journal)

    def _as_whom(self, name: Name, login: Address) -> Address:
        """Let the gateway be a user of its own: it speaks for others."""
        nats = self._settings.nats
        if name != "gateway" or nats.url is None:
            return login
        user, password = nats.gateway_login
        return msgspec.structs.replace(login, user=user, password=password)

    async def _logs(self, name: Name, wire: Wire) -> Tell:
        """Open the log lines of executions; written as long as the services run."""
        settings, replicas = self._settings.logs, self._settings.nats.replicas
        logbook = await JetStreamLogbook.open(
            wire, days=settings.days, replicas=replicas
        )
        writer = LogWriter(logbook, name, level=settings.level)
        await self._stack.enter_async_context(writer)
        return writer.log

    async def _lifecycle(
        self, wire: Wire, journal: JetStreamJournal, bench: Bench, tell: Tell
    ) -> Part:
        replicas = self._settings.nats.replicas
        inbox = await JetStreamInbox.open(wire, replicas=replicas)
        timetable = await JetStreamTimetable.open(wire, replicas=replicas)
        allowed = self._settings.schedules
        allowance = Allowance(allowed.least_interval, allowed.most)
        lifecycle = Lifecycle(
            Handler(journal, "lifecycle"),
            inbox,
            self._resolve(bench),
            self._allowed(),
            tell,
            Schedules(timetable, lambda _user: allowance),
            last_trigger=JetStreamTriggers(wire).last,
            admission=await self._admission(wire, journal),
        )
        return Part(partial(_watched, wire, lifecycle.run), lifecycle.stop)

    async def _admission(self, wire: Wire, journal: JetStreamJournal) -> Admission:
        """Say so where strangers may not be limited."""
        settings = self._settings
        if settings.nats.url is not None and settings.limits.default_tier is None:
            logger.warning(NOT_LIMITED)
        return await admission(wire, journal, settings)

    def _resolve(self, bench: Bench) -> Resolve:
        registry = Registry.load(self._settings.agents.file)

        def resolve(agent: str, model: str | None) -> AgentSpec:
            return registry.resolve(
                agent, model=model, effects=TOOLS, offered=bench.tools
            )

        return resolve

    def _allowed(self) -> Allowed:
        workspaces, data = self._settings.workspaces, self._settings.data
        return Allowed(workspaces.allowed, own=workspaces.root, closed=data)

    async def _runner(
        self, wire: Wire, journal: JetStreamJournal, bench: Bench, tell: Tell
    ) -> Part:
        settings = self._settings.runner
        root = self._settings.workspaces.root
        speaker = Speaker(NatsDeltas(wire))
        means = await self._stack.enter_async_context(
            bench.means(
                self._settings.data,
                root,
                speak=speaker.speak,
                tell=tell,
                last_trigger=JetStreamTriggers(wire).last,
            )
        )
        runner = Runner(
            journal,
            means,
            name=str(settings.name or runner_name()),
            lanes=settings.lanes,
            concurrency=settings.concurrency,
            lease=settings.lease,
            cancel_grace=settings.cancel_grace,
            presences=NatsPresences(wire),
        )
        run = partial(_spoken, speaker, runner)
        return Part(partial(_watched, wire, run), partial(self._drain, runner))

    async def _reactor(
        self, wire: Wire, journal: JetStreamJournal, login: Address, bench: Bench
    ) -> Part:
        handler, presences = Handler(journal, "reactor"), NatsPresences(wire)
        recovery = Recovery(handler, presences, await self._departures(login))
        unheld = Unheld(handler, presences)
        replicas = self._settings.nats.replicas
        timers = await JetStreamTimers.open(wire, replicas=replicas)
        timetable = await JetStreamTimetable.open(wire, replicas=replicas)
        recurring = Recurring(handler, timetable, timers, JetStreamInbox(wire))
        housekeeping = self._housekeeping(timers, login)
        ring = housekeeping.ring if housekeeping else nothing_recurs
        timekeeper = Timekeeper(handler, timers, recurring.ring, ring)
        triggers = await JetStreamTriggers.open(wire, replicas=replicas)
        waker = Waker(handler, triggers, JetStreamInbox(wire).answer)
        children = Children(handler, self._resolve(bench))
        parts: list[ReactorPart] = [recovery, unheld, timekeeper, recurring]
        parts += [waker, children, *filter(None, [housekeeping])]
        reactor = Reactor(journal, parts)
        return Part(partial(_watched, wire, reactor.run), reactor.stop)

    def _housekeeping(self, timers: Timers, login: Address) -> Housekeeping | None:
        """Let what is old be deleted every day, unless nothing is to be deleted."""
        retention = self._settings.retention
        if retention.days is None:
            return None
        at, days = retention.at, retention.days
        clean = partial(self._clean, login, days)
        return Housekeeping(timers, clean, hour=at.hour, minute=at.minute)

    async def _clean(self, login: Address, days: int) -> None:
        """Delete what is old, as the user who may."""
        if self._settings.nats.url is not None:
            user, password = self._settings.nats.janitor_login
            login = msgspec.structs.replace(login, user=user, password=password)
        wire = await connect(login)
        try:
            journal, logs = JetStreamJournal(wire), JetStreamLogbook(wire)
            await clean_daily(journal, logs, self._settings, days)
        finally:
            await wire.close()

    async def _projector(self, wire: Wire, login: Address) -> Part:
        # imported here: no other service needs DuckDB
        from gateway.viewing import Viewing, provision  # noqa: PLC0415

        await provision(wire, self._settings)
        file, patient = self._settings.projector.file, len(self._names) > 1
        viewing = Viewing(wire, login, file, patient=patient)
        return Part(partial(_watched, wire, viewing.run), viewing.stop)

    async def _gateway(self, wire: Wire, journal: JetStreamJournal) -> Part:
        # imported here: no other service needs aiohttp
        from gateway.web.opening import open_gateway  # noqa: PLC0415

        front = await open_gateway(self._stack, self._settings, wire, journal)
        return Part(partial(_watched, wire, front.run), front.stop, front.url)

    async def _departures(self, login: Address) -> NatsDepartures | None:
        """Listen on the system account, if it is known."""
        if login.system is None:
            logger.warning(NO_SYSTEM)
            return None
        user, password = login.system
        wire = await Wire.connect(login.url, user=user, password=password)
        self._stack.push_async_callback(wire.close)
        return NatsDepartures(wire)

    async def _drain(self, runner: Runner) -> None:
        """Give what is in hand its time, unless somebody is in a hurry."""
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(self._hurrying.wait())
            drain = group.create_task(runner.drain(self._settings.runner.drain))
            await asyncio.wait((hurry, drain), return_when=asyncio.FIRST_COMPLETED)
            if hurry.done():
                drain.cancel()
                await runner.drain(0)
            hurry.cancel()

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


async def _spoken(speaker: Speaker, runner: Runner) -> None:
    """Run a runner, and let be heard what its models say."""
    async with asyncio.TaskGroup() as group:
        speaking = group.create_task(speaker.run())
        await runner.run()
        speaking.cancel()


async def _watched(wire: Wire, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a service as long as its connection is not lost for good."""
    async with asyncio.TaskGroup() as group:
        closed = group.create_task(wire.closed.wait())
        running = group.create_task(run())
        await asyncio.wait((closed, running), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise Unavailable("nats-server closed the connection for good")
        closed.cancel()

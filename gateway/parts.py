"""How each service is put together: a connection of its own, and what it needs."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import msgspec

from events.deltastream import NatsDeltas
from events.errors import Unavailable
from events.jetstream import JetStreamJournal
from events.logstream import JetStreamLogbook
from events.muster import NatsDepartures, NatsPresences
from events.pinned import JetStreamInbox
from events.spec import AgentSpec
from events.tablestream import JetStreamTimetable
from events.timers import Timers
from events.timerstream import JetStreamTimers
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from gateway.address import Address
from gateway.admitting import admission
from gateway.cleaning import clean_daily
from gateway.composition import Bench, connect, runner_name
from gateway.settings import Settings
from services.admission import Admission
from services.agents.registry import Registry
from services.allowed import Allowed
from services.children import Children
from services.handler import Handler
from services.housekeeping import Housekeeping
from services.lifecycle import Lifecycle, Resolve
from services.logwriter import LogWriter
from services.reactor import Part as ReactorPart
from services.reactor import Reactor
from services.recovery import Recovery
from services.recurring import Recurring
from services.runner import Runner
from services.schedules import Allowance, Schedules
from services.speaker import Speaker
from services.telling import Tell
from services.timers import Timekeeper, nothing_recurs
from services.tools.toolbox import TOOLS
from services.triggers import Waker
from services.unheld import Unheld

logger = logging.getLogger(__name__)

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


class Assembly:
    """Makes parts on one server; ``stack`` closes what they need.

    With ``alone`` a service has its process to itself. Once ``hurrying`` is set, a
    runner gives back at once.
    """

    def __init__(
        self,
        settings: Settings,
        login: Address,
        bench: Bench,
        stack: AsyncExitStack,
        hurrying: asyncio.Event,
        *,
        alone: bool,
    ) -> None:
        self._settings, self._login, self._bench = settings, login, bench
        self._stack, self._hurrying, self._alone = stack, hurrying, alone

    async def part(self, name: Name) -> Part:
        """Make a service; raises WakeError."""
        wire = await connect(self._as_whom(name))
        self._stack.push_async_callback(wire.close)
        replicas = self._settings.nats.replicas
        journal = await JetStreamJournal.open(wire, replicas=replicas)
        tell = await self._logs(name, wire)
        match name:
            case "runner":
                return await self._runner(wire, journal, tell)
            case "reactor":
                return await self._reactor(wire, journal)
            case "lifecycle":
                return await self._lifecycle(wire, journal, tell)
            case "projector":
                return await self._projector(wire)
            case "gateway":
                return await self._gateway(wire, journal)

    def _as_whom(self, name: Name) -> Address:
        """Let the gateway be a user of its own: it speaks for others."""
        nats, login = self._settings.nats, self._login
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
        self, wire: Wire, journal: JetStreamJournal, tell: Tell
    ) -> Part:
        replicas = self._settings.nats.replicas
        inbox = await JetStreamInbox.open(wire, replicas=replicas)
        timetable = await JetStreamTimetable.open(wire, replicas=replicas)
        allowed = self._settings.schedules
        allowance = Allowance(allowed.least_interval, allowed.most)
        lifecycle = Lifecycle(
            Handler(journal, "lifecycle"),
            inbox,
            self._resolve(),
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

    def _resolve(self) -> Resolve:
        registry = Registry.load(self._settings.agents.file)

        def resolve(agent: str, model: str | None) -> AgentSpec:
            return registry.resolve(
                agent, model=model, effects=TOOLS, offered=self._bench.tools
            )

        return resolve

    def _allowed(self) -> Allowed:
        workspaces, data = self._settings.workspaces, self._settings.data
        return Allowed(workspaces.allowed, own=workspaces.root, closed=data)

    async def _runner(self, wire: Wire, journal: JetStreamJournal, tell: Tell) -> Part:
        settings = self._settings.runner
        root = self._settings.workspaces.root
        speaker = Speaker(NatsDeltas(wire))
        means = await self._stack.enter_async_context(
            self._bench.means(
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

    async def _reactor(self, wire: Wire, journal: JetStreamJournal) -> Part:
        handler, presences = Handler(journal, "reactor"), NatsPresences(wire)
        recovery = Recovery(handler, presences, await self._departures())
        unheld = Unheld(handler, presences)
        replicas = self._settings.nats.replicas
        timers = await JetStreamTimers.open(wire, replicas=replicas)
        timetable = await JetStreamTimetable.open(wire, replicas=replicas)
        recurring = Recurring(handler, timetable, timers, JetStreamInbox(wire))
        housekeeping = self._housekeeping(timers)
        ring = housekeeping.ring if housekeeping else nothing_recurs
        timekeeper = Timekeeper(handler, timers, recurring.ring, ring)
        triggers = await JetStreamTriggers.open(wire, replicas=replicas)
        waker = Waker(handler, triggers, JetStreamInbox(wire).answer)
        children = Children(handler, self._resolve())
        parts: list[ReactorPart] = [recovery, unheld, timekeeper, recurring]
        parts += [waker, children, *filter(None, [housekeeping])]
        reactor = Reactor(journal, parts)
        return Part(partial(_watched, wire, reactor.run), reactor.stop)

    def _housekeeping(self, timers: Timers) -> Housekeeping | None:
        """Let what is old be deleted every day, unless nothing is to be deleted."""
        retention = self._settings.retention
        if retention.days is None:
            return None
        at, days = retention.at, retention.days
        clean = partial(self._clean, days)
        return Housekeeping(timers, clean, hour=at.hour, minute=at.minute)

    async def _clean(self, days: int) -> None:
        """Delete what is old, as the user who may."""
        login = self._login
        if self._settings.nats.url is not None:
            user, password = self._settings.nats.janitor_login
            login = msgspec.structs.replace(login, user=user, password=password)
        wire = await connect(login)
        try:
            journal, logs = JetStreamJournal(wire), JetStreamLogbook(wire)
            await clean_daily(journal, logs, self._settings, days)
        finally:
            await wire.close()

    async def _projector(self, wire: Wire) -> Part:
        # imported here: no other service needs DuckDB
        from gateway.viewing import Viewing, provision  # noqa: PLC0415

        await provision(wire, self._settings)
        file, patient = self._settings.projector.file, not self._alone
        viewing = Viewing(wire, self._login, file, patient=patient)
        return Part(partial(_watched, wire, viewing.run), viewing.stop)

    async def _gateway(self, wire: Wire, journal: JetStreamJournal) -> Part:
        # imported here: no other service needs aiohttp
        from gateway.web.opening import open_gateway  # noqa: PLC0415

        front = await open_gateway(self._stack, self._settings, wire, journal)
        return Part(partial(_watched, wire, front.run), front.stop, front.url)

    async def _departures(self) -> NatsDepartures | None:
        """Listen on the system account, if it is known."""
        login = self._login
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

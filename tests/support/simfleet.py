"""The processes of a simulation, as a supervisor knows them: started, and again.

What runs in them is production code; what it is given is of the simulated world:
connections, clocks, chance, the model and the tools.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from auditor import Act
from simdesk import DeskLine
from simloop import PROCESS, Process
from simnet import Net
from simplans import Provider, Workshop
from simwire import Line, PresenceLine

from events.errors import NotFound
from events.execution import Execution
from events.faulty import Fault, FaultyJournal, Primitive
from events.faulty import Plan as Faults
from events.names import LANES, Key
from events.presence import Heard, MemoryDepartures
from events.spec import AgentSpec
from services.agents.loop import Means
from services.allowed import Allowed
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.reactor import Reactor
from services.recovery import Recovery
from services.requests import Answer
from services.runner import Runner
from services.tools.workspace import Workspace

if TYPE_CHECKING:
    from simworld import World

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

LEASE = 3.0
"""Seconds of a lease; also how long an append is retried."""


class Nowhere(Workspace):
    """A directory that nobody opens."""

    def __init__(self) -> None:
        """Open nothing."""

    def close(self) -> None:
        """Nothing to close."""


class SimMeans(Means):
    """Means without a disk."""

    def workspace(self, execution: Execution) -> Workspace:  # noqa: ARG002 - the port's
        """Open nothing."""
        return Nowhere()


class BadDay(Faults):
    """Faults at the primitives of a journal, as long as the day is bad."""

    def __init__(self, world: "World", odds: float) -> None:
        super().__init__(seed=world.chance.randrange(2**32), odds=odds)
        self._world = world

    def draw(self, primitive: Primitive) -> Fault | None:
        """Decide about the next use; in calm weather all goes well."""
        return None if self._world.calm else super().draw(primitive)


class Fleet:
    """Runners, lifecycles and perhaps a reactor: as many as chance wants.

    A further kind of process is one more entry of ``_mains``.
    """

    def __init__(self, world: "World") -> None:
        self._world, self._chance, self._loop = world, world.chance, world.loop
        self.alive: dict[str, Process] = {}
        self._stops: dict[Process, Callable[[], Awaitable[None]]] = {}
        self._room: list[Heard] = []
        self._clients = 0
        self._connected: dict[Process, PresenceLine] = {}
        self._departures = MemoryDepartures()
        runners = self._chance.randint(2, 3)
        lifecycles = self._chance.randint(1, 2)
        self._mains: dict[str, Callable[[], Any]] = {
            **{f"runner{n}": self._runner for n in range(1, runners + 1)},
            **{f"lifecycle{n}": self._lifecycle for n in range(1, lifecycles + 1)},
        }
        if self._chance.random() < 0.5:  # else it is all up to the leases
            self._mains["reactor"] = self._reactor

    def start_all(self) -> None:
        """Start every process."""
        for name in self._mains:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a process, new or anew."""
        process = self._loop.spawn(name, self._mains[name])
        self.alive[name] = process
        assert process.main is not None
        process.main.add_done_callback(partial(self._ended, process))

    def _ended(self, process: Process, main: asyncio.Task[Any]) -> None:
        """What ends by an error is started again, and it shows."""
        if process.state == "dead" or main.cancelled() or main.exception() is None:
            return
        self._world.findings.append(f"{process.name} ended by {main.exception()!r}")
        self._world.later(1.0, self.start, process.name)

    def wake_all(self) -> None:
        """Let whoever is stopped go on."""
        for process in self.alive.values():
            self._loop.go_on(process)

    async def end_all(self) -> list[str]:
        """Tell every process to end; returns the names of those that do not."""
        up = {p.main: p for p in self.alive.values() if p.up and p.main is not None}
        for process in up.values():
            await self._stops[process]()
        _, left = await asyncio.wait(up, timeout=60)
        return [process.name for main, process in up.items() if main in left]

    def lose(self, process: Process) -> None:
        """Let the server see that a connection has ended, and tell."""
        line = self._connected.get(process)
        if line is not None and not process.up:
            self._world.note("departed", process)
            self._departures.leave(line.connection)
            self._clients += 1
            line.client = self._clients  # what comes back has another connection

    # ── what runs in them ────────────────────────────────────────────────────

    async def _runner(self) -> None:
        process, chance = _me(), self._chance
        generation = sum(p.name == process.name for p in self._loop.processes)
        name = f"{process.name}-{generation}"
        runner = Runner(
            self._journal(),
            self._means(name),
            name=name,
            lanes=LANES,
            concurrency=chance.choice((1, 4)),
            lease=LEASE,
            cancel_grace=chance.uniform(0, LEASE),
            presences=self._presences(process),
            clock=self._clock(),
            chance=chance,
        )
        self._stops[process] = runner.drain
        await runner.run()

    async def _lifecycle(self) -> None:
        process = _me()
        inbox = DeskLine(self._world.desk, self._net(), self._answered)
        handler = self._handler(process.name)
        lifecycle = Lifecycle(
            handler,
            inbox,
            self._resolve,
            Allowed([]),
            admission=self._world.counters.admission(handler, self._world),
        )
        self._stops[process] = lifecycle.stop
        await lifecycle.run()

    async def _reactor(self) -> None:
        process = _me()
        recovery = Recovery(
            self._handler(process.name),
            self._presences(process),
            self._departures,
            gone=lambda _process: False,
        )
        reactor = Reactor(self._journal(), [recovery])
        self._stops[process] = reactor.stop
        await reactor.run()

    # ── what they are given ──────────────────────────────────────────────────

    def _net(self) -> Net:
        return Net(self._chance, self._world.weather)

    def _journal(self) -> FaultyJournal:
        line = Line(self._world.log, self._net(), LEASE)
        return FaultyJournal(line, BadDay(self._world, self._world.odds), pause=0.1)

    def _handler(self, by: str) -> Handler:
        return Handler(self._journal(), by, self._clock(), self._chance)

    def _clock(self) -> Callable[[], datetime]:
        """A clock of its own, some seconds wrong."""
        wrong = timedelta(seconds=self._chance.choice((0.0, 0.0, -5.0, 5.0)))

        def clock() -> datetime:
            return BEGINNING + timedelta(seconds=self._loop.time()) + wrong

        return clock

    def _presences(self, process: Process) -> PresenceLine:
        self._clients += 1
        line = PresenceLine(self._room, self._clients, self._net())
        self._connected[process] = line
        return line

    def _means(self, name: str) -> SimMeans:
        world = self._world

        def asked(key: Key, step: int) -> None:
            world.acts.append(Act(key, step, name, world.log.end))

        def ran(effect_key: str) -> None:
            world.effects[effect_key] += 1
            execution, step, call_id = effect_key.split("-")
            key = world.plans[execution].key
            world.acts.append(Act(key, int(step), name, world.log.end, call_id))

        provider = Provider(self._chance, world.plans, asked, LEASE)
        return SimMeans(
            open_model=lambda _: provider,
            models={provider.name: provider},
            tools=Workshop(self._chance, ran, LEASE).tools(),
            workspaces=Path("/nowhere"),
            stopwatch=self._loop.time,
        )

    def _resolve(self, agent_type: str, _model: str | None) -> AgentSpec:
        plan = self._world.plans.get(agent_type)
        if plan is None:
            raise NotFound(f"no agent type {agent_type!r}")
        return plan.agent

    def _answered(self, _user: str, _command: str, body: bytes) -> None:
        self._world.answers.append(msgspec.json.decode(body, type=Answer))


def _me() -> Process:
    process = PROCESS.get()
    assert process is not None
    return process

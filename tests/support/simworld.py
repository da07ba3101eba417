"""One simulated world: a log, runners, lifecycles, people, and a bad day.

Everything that happens follows from the seed. While the bad day lasts,
processes are killed or stopped at any await, messages are lost, late, or come
twice; then the network is calm, whoever is down comes up again, and what was
begun has to come to its end. ``World(seed).run()`` says what was found.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import auditor
import msgspec
import stamina
from auditor import Act, Sent
from simloop import PROCESS, Process, SimLoop, Stuck
from simpeople import Person
from simplans import Plan, Provider, Workshop, draw
from simwire import Desk, DeskLine, Line, Net, PresenceLine, Weather

from events.commit import Recorded
from events.errors import NotFound
from events.execution import Execution
from events.faulty import Fault, FaultyJournal, Primitive
from events.faulty import Plan as Faults
from events.memory import MemoryJournal
from events.names import LANES, Key
from events.presence import Heard, MemoryDepartures
from events.spec import AgentSpec
from services.agents.loop import Means
from services.agents.patience import MODEL_TRIES
from services.allowed import Allowed
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.reactor import Reactor
from services.recovery import Recovery
from services.requests import Answer
from services.runner import Runner
from services.tools.workspace import Workspace

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

LEASE = 3.0
"""Seconds of a lease; also how long an append is retried."""

IDLE = LEASE
"""Seconds without a commit after which nothing goes on."""

CALM = 300.0
"""Seconds in which all must come to its end once nothing goes wrong any more."""


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


class Told(MemoryJournal):
    """The log; it knows when it grew, and tells the world's story."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.loop.time)
        self._world = world
        self.grown_at = 0.0

    async def _publish(self, new: Recorded, after: int) -> int:
        position = await super()._publish(new, after)
        self.grown_at = self.clock()
        facts = " ".join(type(fact).__name__ for fact in new.commit.events)
        self._world.tell(f"{new.key} {new.commit.version} {new.commit.by}: {facts}")
        return position


class BadDay(Faults):
    """Faults at the primitives of a journal, as long as the day is bad."""

    def __init__(self, world: "World", odds: float) -> None:
        super().__init__(seed=world.chance.randrange(2**32), odds=odds)
        self._world = world

    def draw(self, primitive: Primitive) -> Fault | None:
        """Decide about the next use; in calm weather all goes well."""
        return None if self._world.calm else super().draw(primitive)


@dataclass
class Found:
    """What a simulation came to."""

    seed: int
    findings: list[str]
    digest: str
    log: list[Recorded] = field(repr=False, default_factory=list)
    story: list[str] = field(repr=False, default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    steps: int = 0


class World:
    """Everything there is, made from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not secret
        self.loop = SimLoop(self.chance)
        self.log = Told(self)
        self.desk = Desk()
        self.calm = False
        self.weather = Weather()
        self.faults: Counter[str] = Counter()
        self.findings: list[str] = []
        self.acts: list[Act] = []
        self.effects: Counter[str] = Counter()
        self.sent: list[Sent] = []
        self.answers: list[Answer] = []
        self.plans: dict[str, Plan] = {}
        self._mains: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        self._alive: dict[str, Process] = {}
        self._stops: dict[Process, Callable[[], Awaitable[None]]] = {}
        self._until_strike = 0
        self.story: list[str] = []
        self._room: list[Heard] = []
        self._clients = 0
        self._connected: dict[Process, PresenceLine] = {}
        self._departures = MemoryDepartures()

    def run(self) -> Found:
        """Let it happen; the same seed gives the same."""
        with stamina.set_testing(True, attempts=MODEL_TRIES):
            try:
                self.loop.run_until_complete(self._happen())
            except Stuck as error:
                self.findings.append(str(error))
            log, seconds = list(self.log._log), self.loop.time()
            self.findings += self._audit(log)
            self.loop.clear_away()
        digest = blake2b(b"\n".join(r.body for r in log), digest_size=8).hexdigest()
        return Found(
            seed=self.seed,
            findings=self.findings,
            digest=digest,
            log=log,
            story=self.story,
            faults=self.faults,
            seconds=seconds,
            steps=self.loop.steps,
        )

    def _audit(self, log: list[Recorded]) -> list[str]:
        parked = [plan.key for plan in self.plans.values() if plan.parks]
        return [
            *self.loop.troubles,
            *auditor.check_log(log),
            *auditor.check_effects(log, self.effects),
            *auditor.check_acts(log, self.acts),
            *auditor.check_answers(log, self.sent, self.answers),
            *auditor.check_ended(log, parked),
        ]

    # ── the course of the day ────────────────────────────────────────────────

    async def _happen(self) -> None:
        chance = self.chance
        self._make_weather()
        for number in range(1, chance.randint(1, 4) + 1):
            plan = draw(chance, number)
            self.plans[plan.agent.name] = plan
        for number in range(1, chance.randint(2, 3) + 1):
            self._mains[f"runner{number}"] = partial(self._runner, f"runner{number}")
        for number in range(1, chance.randint(1, 2) + 1):
            self._mains[f"lifecycle{number}"] = partial(
                self._lifecycle, f"lifecycle{number}"
            )
        if chance.random() < 0.5:  # else it is all up to the leases
            self._mains["reactor"] = self._reactor
        for name in self._mains:
            self._start(name)
        self.loop.strike = self._strike
        people = [Person(self, plan) for plan in self.plans.values()]
        try:
            async with asyncio.timeout(CALM), asyncio.TaskGroup() as group:
                for person in people:
                    group.create_task(person.live())
                await asyncio.sleep(chance.uniform(2, 20))
                self._become_calm()
        except TimeoutError:
            self.findings.append("somebody waits for an answer for ever")
        await self._end(people)

    def _make_weather(self) -> None:
        chance = self.chance
        self.weather.lost = chance.choice((0.0, 0.0, 0.02, 0.1))
        self.weather.behind = chance.choice((0.0, 0.2, 0.5))
        self.weather.late = chance.choice((0.0, 0.01, 0.05))
        self.weather.latest = 3 * LEASE
        self.odds = chance.choice((0.0, 0.02, 0.15))
        self.pace = chance.choice((10, 30, 100, 300))
        self._plan_strike()

    def _become_calm(self) -> None:
        self.calm = True
        self.weather.lost = self.weather.late = self.weather.behind = 0.0
        self.weather.down = False
        for process in self._alive.values():
            self.loop.go_on(process)

    async def _end(self, people: list[Person]) -> None:
        """All comes to its end, and every process ends when it is told to."""
        try:
            async with asyncio.timeout(CALM):
                for person in people:
                    await person.settle()
                while not self.desk.empty or self._work_left():  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
        except TimeoutError:
            self.findings.append(f"not all is done: {self._work_left()}")
        await asyncio.sleep(2 * LEASE)  # whoever was killed late is up again
        up = [p for p in self._alive.values() if p.up and p.main is not None]
        for process in up:
            await self._stops[process]()
        mains = [process.main for process in up if process.main is not None]
        ended, _ = await asyncio.wait(mains, timeout=60)
        for process in up:
            if process.main not in ended:
                self.findings.append(f"{process.name} does not end")

    def _work_left(self) -> list[str]:
        """Name the work that is leased, or that nobody fetched."""
        left = []
        for (lane, key), leases in self.log._leases.items():
            left += [f"{lane} {position}" for position in leases.open]
            left += [
                f"{lane} {r.position}" for r in self.log.lane(lane, key, leases.seen)
            ]
        return left

    # ── processes ────────────────────────────────────────────────────────────

    def _start(self, name: str) -> None:
        process = self.loop.spawn(name, self._mains[name])
        self._alive[name] = process
        assert process.main is not None
        process.main.add_done_callback(partial(self._ended, name, process))

    def _ended(self, name: str, process: Process, main: asyncio.Task[Any]) -> None:
        """A supervisor: what ends by an error is started again, and it shows."""
        if process.state == "dead" or main.cancelled() or main.exception() is None:
            return
        self.findings.append(f"{name} ended by {main.exception()!r}")
        self._later(1.0, self._start, name)

    def _strike(self, process: Process) -> None:
        """Now and then, kill or stop the process that is about to run.

        Only while something goes on: nothing is learned from a death in idleness.
        """
        if self.calm or self.loop.time() > self.log.grown_at + IDLE:
            return
        self._until_strike -= 1
        if self._until_strike > 0:
            return
        self._plan_strike()
        luck, chance = self.chance.random(), self.chance
        if luck < 0.1:
            self._hit("outage", None)
            self.weather.down = True
            self._later(chance.uniform(0, 2 * LEASE), self._clear_up)
        elif luck < 0.6:
            self._hit("killed", process)
            self.loop.kill(process)
            self._later(chance.uniform(0, 0.1), self._lose, process)
            self._later(chance.uniform(0, 1.5 * LEASE), self._start, process.name)
        else:
            self._hit("stopped", process)
            self.loop.stop_process(process)
            self._later(chance.uniform(0, 3 * LEASE), self.loop.go_on, process)
            self._later(LEASE, self._lose, process)

    def tell(self, what: str) -> None:
        """Add to the story."""
        self.story.append(f"{self.loop.time():9.3f}  {what}")

    def _hit(self, how: str, process: Process | None) -> None:
        self.faults[how] += 1
        self.tell(f"{process.name if process else 'the server'}: {how}")

    def _plan_strike(self) -> None:
        self._until_strike = 1 + int(self.chance.expovariate(1 / self.pace))

    def _later(self, wait: float, what: Callable[..., object], *args: Any) -> None:
        self.loop.call_later(wait, what, *args, context=self.loop.outside)

    def _clear_up(self) -> None:
        self.weather.down = False

    def _journal(self) -> FaultyJournal:
        net = Net(self.chance, self.weather)
        faults = BadDay(self, self.odds)
        return FaultyJournal(Line(self.log, net, LEASE), faults, pause=0.1)

    def _handler(self, by: str, journal: FaultyJournal) -> Handler:
        return Handler(journal, by, self._clock(), self.chance)

    def _clock(self) -> Callable[[], datetime]:
        """A clock of its own, some seconds wrong."""
        wrong = timedelta(seconds=self.chance.choice((0.0, 0.0, -5.0, 5.0)))

        def clock() -> datetime:
            return BEGINNING + timedelta(seconds=self.loop.time()) + wrong

        return clock

    async def _runner(self, name: str) -> None:
        process = PROCESS.get()
        assert process is not None
        generation = sum(p.name == name for p in self.loop.processes)
        own, chance = f"{name}-{generation}", self.chance
        runner = Runner(
            self._journal(),
            self._means(own),
            name=own,
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

    async def _reactor(self) -> None:
        process = PROCESS.get()
        assert process is not None
        recovery = Recovery(
            self._handler("reactor", self._journal()),
            self._presences(process),
            self._departures,
            gone=lambda _process: False,
        )
        reactor = Reactor(self._journal(), [recovery])
        self._stops[process] = reactor.stop
        await reactor.run()

    def _presences(self, process: Process) -> PresenceLine:
        self._clients += 1
        line = PresenceLine(self._room, self._clients, Net(self.chance, self.weather))
        self._connected[process] = line
        return line

    def _lose(self, process: Process) -> None:
        """The server sees that a connection has ended, and tells."""
        line = self._connected.get(process)
        if line is not None and not process.up:
            self._hit("departed", process)
            self._departures.leave(line.connection)
            self._clients += 1
            line.client = self._clients  # what comes back has another connection

    def _means(self, name: str) -> SimMeans:
        def asked(key: Key, step: int) -> None:
            self.acts.append(Act(key, step, name, len(self.log._log)))

        def ran(effect_key: str) -> None:
            self.effects[effect_key] += 1
            execution, step, call_id = effect_key.split("-")
            key = self.plans[execution].key
            self.acts.append(Act(key, int(step), name, len(self.log._log), call_id))

        provider = Provider(self.chance, self.plans, asked, LEASE)
        return SimMeans(
            open_model=lambda _: provider,
            models={provider.name: provider},
            tools=Workshop(self.chance, ran, LEASE).tools(),
            workspaces=Path("/nowhere"),
            stopwatch=self.loop.time,
        )

    async def _lifecycle(self, name: str) -> None:
        process = PROCESS.get()
        assert process is not None
        inbox = DeskLine(self.desk, Net(self.chance, self.weather), self._answered)
        handler = self._handler(name, self._journal())
        lifecycle = Lifecycle(handler, inbox, self._resolve, Allowed([]))
        self._stops[process] = lifecycle.stop
        await lifecycle.run()

    def _resolve(self, agent_type: str, _model: str | None) -> AgentSpec:
        plan = self.plans.get(agent_type)
        if plan is None:
            raise NotFound(f"no agent type {agent_type!r}")
        return plan.agent

    def _answered(self, _user: str, _command: str, body: bytes) -> None:
        self.answers.append(msgspec.json.decode(body, type=Answer))

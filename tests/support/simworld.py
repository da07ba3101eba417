"""One simulated world: a log, processes, people, and a bad day.

Everything that happens follows from the seed. While the day is bad, processes
are killed or stopped at any await, messages are lost, late, or come twice; then
the network is calm, whoever is down comes up again, and what was begun has to
come to its end. ``World(seed).run()`` says what was found.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import auditor
import stamina
from auditor import Act, Sent
from simdesk import Desk
from simfleet import LEASE, Fleet
from simloop import Process, SimLoop, Stuck
from simnet import Weather
from simpeople import LATEST, Person
from simplans import Plan, draw
from simquota import Counters

from events.commit import Recorded
from events.memory import MemoryJournal
from services.agents.patience import MODEL_TRIES

if TYPE_CHECKING:
    from services.requests import Answer

IDLE = LEASE
"""Seconds without a commit after which nothing goes on."""

CALM = 300.0
"""Seconds in which all must come to its end once nothing goes wrong any more."""


class Told(MemoryJournal):
    """The log; it knows when it grew, and tells the world's story."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.loop.time)
        self._world = world
        self.grown_at = 0.0

    @property
    def end(self) -> int:
        """The position of the last commit."""
        return len(self._log)

    @property
    def commits(self) -> list[Recorded]:
        """All that it holds."""
        return list(self._log)

    async def _publish(self, new: Recorded, after: int) -> int:
        position = await super()._publish(new, after)
        self.grown_at = self.clock()
        facts = " ".join(type(fact).__name__ for fact in new.commit.events)
        self._world.tell(f"{new.key} {new.commit.version} {new.commit.by}: {facts}")
        return position

    def work_left(self) -> list[str]:
        """Name the work that is leased, or that nobody fetched."""
        left = []
        for (lane, key), leases in self._leases.items():
            waiting = [r.position for r in self.lane(lane, key, leases.seen)]
            left += [f"{lane} {position}" for position in (*leases.open, *waiting)]
        return left


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a simulation came to; ``seconds`` are virtual."""

    seed: int
    findings: list[str]
    digest: str
    log: list[Recorded]
    story: list[str]
    faults: Counter[str]
    seconds: float
    steps: int


class World:
    """Everything there is, made from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not secret
        self.loop = SimLoop(self.chance)
        self.log, self.desk = Told(self), Desk()
        self.counters = Counters(seed)
        self.calm, self.weather = False, Weather()
        self.findings: list[str] = []
        self.story: list[str] = []
        self.faults: Counter[str] = Counter()
        self.acts: list[Act] = []
        self.effects: Counter[str] = Counter()
        self.sent: list[Sent] = []
        self.answers: list[Answer] = []
        self.plans: dict[str, Plan] = {}
        self._make_day()
        self.fleet = Fleet(self)

    def _make_day(self) -> None:
        """Draw how bad it is, and what there is to do."""
        chance, weather = self.chance, self.weather
        weather.lost = chance.choice((0.0, 0.0, 0.02, 0.1))
        weather.behind = chance.choice((0.0, 0.2, 0.5))
        weather.late = chance.choice((0.0, 0.01, 0.05))
        weather.latest = 3 * LEASE
        self.odds = chance.choice((0.0, 0.02, 0.15))
        self._pace = chance.choice((10, 30, 100, 300))
        self._plan_strike()
        for number in range(1, chance.randint(1, 4) + 1):
            plan = draw(chance, number)
            self.plans[plan.agent.name] = plan

    def run(self) -> Found:
        """Let it happen; the same seed gives the same."""
        with stamina.set_testing(True, attempts=MODEL_TRIES):
            try:
                self.loop.run_until_complete(self._happen())
            except Stuck as error:
                self.findings.append(str(error))
            found = self._found(self.log.commits)
            self.loop.clear_away()
        return found

    def _found(self, log: list[Recorded]) -> Found:
        parked = [plan.key for plan in self.plans.values() if plan.parks]
        findings = [
            *self.findings,
            *self.loop.troubles,
            *auditor.check_log(log),
            *auditor.check_effects(log, self.effects),
            *auditor.check_acts(log, self.acts),
            *auditor.check_answers(log, self.sent, self.answers),
            *auditor.check_ended(log, parked),
            *self.counters.findings(self),
        ]
        return Found(
            seed=self.seed,
            findings=findings,
            digest=blake2b(b"\n".join(r.body for r in log), digest_size=8).hexdigest(),
            log=log,
            story=self.story,
            faults=self.faults,
            seconds=self.loop.time(),
            steps=self.loop.steps,
        )

    # ── the course of the day ────────────────────────────────────────────────

    async def _happen(self) -> None:
        self.fleet.start_all()
        self.loop.strike = self._strike
        people = [Person(self, plan) for plan in self.plans.values()]
        try:
            async with asyncio.timeout(CALM), asyncio.TaskGroup() as group:
                for person in people:
                    group.create_task(person.live())
                await asyncio.sleep(self.chance.uniform(2, 20))
                self._become_calm()
        except TimeoutError:
            self.findings.append("somebody waits for an answer for ever")
        await self._end(people)

    def _become_calm(self) -> None:
        self.calm = True
        self.weather.clear_up()
        self.fleet.wake_all()

    async def _end(self, people: list[Person]) -> None:
        """All comes to its end, and every process ends when it is told to."""
        try:
            async with asyncio.timeout(CALM):
                await asyncio.sleep(LATEST)
                while not await self._settled(people):  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
        except TimeoutError:
            self.findings.append(f"not all is done: {self.log.work_left()}")
        await asyncio.sleep(2 * LEASE)  # whoever was killed late is up again
        for name in await self.fleet.end_all():
            self.findings.append(f"{name} does not end")

    async def _settled(self, people: list[Person]) -> bool:
        """See to everything; True if nothing can come any more that changes it."""
        empty = self.desk.empty
        for person in people:
            await person.settle()
        return empty and not self.log.work_left()

    # ── what goes wrong ──────────────────────────────────────────────────────

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
        luck = self.chance.random()
        if luck < 0.1:
            self._cut_off()
        elif luck < 0.6:
            self._kill(process)
        else:
            self._stop(process)

    def _plan_strike(self) -> None:
        self._until_strike = 1 + int(self.chance.expovariate(1 / self._pace))

    def _cut_off(self) -> None:
        self.note("outage")
        self.weather.down = True
        self.later(self.chance.uniform(0, 2 * LEASE), self.weather.come_back)

    def _kill(self, process: Process) -> None:
        self.note("killed", process)
        self.loop.kill(process)
        self.later(self.chance.uniform(0, 0.1), self.fleet.lose, process)
        self.later(self.chance.uniform(0, 1.5 * LEASE), self.fleet.start, process.name)

    def _stop(self, process: Process) -> None:
        self.note("stopped", process)
        self.loop.stop_process(process)
        self.later(self.chance.uniform(0, 3 * LEASE), self.loop.go_on, process)
        self.later(LEASE, self.fleet.lose, process)

    def note(self, fault: str, process: Process | None = None) -> None:
        """Count a fault, and tell of it."""
        self.faults[fault] += 1
        self.tell(f"{process.name if process else 'the server'}: {fault}")

    def tell(self, what: str) -> None:
        """Add to the story."""
        self.story.append(f"{self.loop.time():9.3f}  {what}")

    def later(self, wait: float, what: Callable[..., object], *args: Any) -> None:
        """Let something happen outside of all processes, ``wait`` seconds from now."""
        self.loop.call_later(wait, what, *args, context=self.loop.outside)

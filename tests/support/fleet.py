"""Services in processes of their own, on a server of their own, and what they did."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import auditor
import msgspec
import running
from auditor import Sent
from ledger import LOOK, Ledger, check_calls, seen
from nats_server import NatsServer
from nursery import Child, Nursery
from plan import Plan
from private import created
from waking import environment

from events.catalog import Event
from events.commit import Recorded
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.names import DEPARTED_ALL, Key
from events.state import State
from events.wire import Wire
from services.handler import Handler
from services.stuck import find_stuck

if TYPE_CHECKING:
    from services.requests import Answer

ACCOUNTS = """
accounts {
  WAKE { jetstream: enabled, users: [{user: wake, password: w}] }
  SYS { users: [{user: system, password: s}] }
}
system_account: SYS
"""
PASSWORDS = {"wake": "w", "system": "s"}
USER = "ada"
LIMIT = 120.0
"""Seconds until a test gives up on something."""

EVER = -1e6
"""Seconds; also what is younger, by whatever clock, counts as old enough."""


class Fleet:
    """A server, the processes that a test starts, and the test's own connection."""

    def __init__(
        self,
        folder: Path,
        nursery: Nursery,
        server: NatsServer,
        journal: JetStreamJournal,
    ) -> None:
        self.server, self._folder, self._nursery = server, folder, nursery
        self.journal, self.wire = journal, journal.wire
        self.ledger = Ledger(folder / "ledger")
        self.children: list[Child] = []
        self.sent: list[Sent] = []
        self.answers: list[Answer] = []
        self._names = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: Path, nursery: Nursery, server: NatsServer
    ) -> AsyncIterator["Fleet"]:
        """Connect; end every process in the end."""
        wire = await Wire.connect(server.url, user="wake", password=PASSWORDS["wake"])
        fleet = cls(folder, nursery, server, await JetStreamJournal.open(wire))
        try:
            yield fleet
        finally:
            for child in fleet.children:
                child.close()
            await wire.close()

    # ── processes ────────────────────────────────────────────────────────────

    def born(self, *arguments: str, name: str = "", **more: str) -> Child:
        """Run ``wake`` on the server; ``more`` is set in its environment."""
        number = next(self._names)
        variables = {
            "WAKE_NATS": self.server.url,
            "WAKE_NATS_PASSWORD": PASSWORDS["wake"],
            "WAKE_DATA": str(self._folder / "data"),
            "FAULTS_LEDGER": str(self._folder / "ledger"),
            "FAULTS_NAME": name,
            **more,
        }
        child = self._nursery.bear(
            *arguments,
            folder=self._folder,
            name=f"{number}-{name or arguments[0]}",
            environment=environment(**variables),
        )
        self.children.append(child)
        return child

    async def runner(self, name: str, *, lease: float = 30.0, **more: str) -> Child:
        """Start a runner; returns once it serves."""
        more |= {"WAKE_RUNNER_NAME": name, "WAKE_RUNNER_LEASE": str(lease)}
        return await self._serving("runner", name, **more)

    async def lifecycle(self, name: str = "lifecycle", **more: str) -> Child:
        """Start a lifecycle; returns once it serves."""
        return await self._serving("lifecycle", name, **more)

    async def reactor(self, **more: str) -> Child:
        """Start a reactor; returns once it hears who is gone."""
        more |= {"WAKE_NATS_SYSTEM_PASSWORD": PASSWORDS["system"]}
        child = await self._serving("reactor", "reactor", **more)
        async with self.system() as system:
            while not await _heard(system, DEPARTED_ALL):  # noqa: ASYNC110 - another's
                await asyncio.sleep(LOOK)
        return child

    async def _serving(self, service: str, name: str, **more: str) -> Child:
        child = self.born("service", service, "--json", name=name, **more)
        while '"listening"' not in child.out:
            assert child.alive, child.err
            await asyncio.sleep(LOOK)
        return child

    @asynccontextmanager
    async def system(self) -> AsyncIterator[Wire]:
        """Connect to the system account."""
        wire = await Wire.connect(
            self.server.url, user="system", password=PASSWORDS["system"]
        )
        try:
            yield wire
        finally:
            await wire.close()

    async def ended(self, child: Child) -> None:
        """Wait for the end of a process."""
        await seen(lambda: not child.alive)

    async def said(self, child: Child, what: str) -> None:
        """Wait until a process has logged something."""
        while what not in child.err:
            assert child.alive, child.err
            await asyncio.sleep(LOOK)

    # ── executions ───────────────────────────────────────────────────────────

    async def start(self, plan: Plan) -> Key:
        """Create an execution; returns once it is in the log."""
        key = Key(USER, plan.name)
        create = partial(Execution.create, created=created(plan))
        await Handler(self.journal, "tester").handle(key, create)
        return key

    async def begun(self, key: Key, attempt: int = 1) -> State:
        """Wait until a runner has begun an attempt."""
        return await running.until(self.journal, lambda s: s.attempt >= attempt, key)

    async def begun_by(self, key: Key, runner: str) -> State:
        """Wait until that runner has begun it."""
        return await running.until(self.journal, lambda s: s.runner == runner, key)

    async def happened(self, key: Key, wanted: Callable[[Event], bool]) -> Recorded:
        """Wait for a fact; returns its commit."""
        async with aclosing(running.commits(self.journal, key)) as recorded:
            async for one in recorded:
                if any(map(wanted, one.commit.events)):
                    return one
        raise AssertionError

    async def done(self, effect_key: str) -> None:
        """Wait until a tool has done its work."""
        await seen(lambda: self.ledger.effects()[effect_key])

    async def finished(self, *keys: Key) -> list[State]:
        """Wait for the ends."""
        async with asyncio.timeout(LIMIT):
            waits = (running.finished(self.journal, key) for key in keys)
            return await asyncio.gather(*waits)

    # ── what must hold ───────────────────────────────────────────────────────

    async def check(self, parked: Iterable[Key] = ()) -> None:
        """Hold the whole log, and what was done, against every promise."""
        async with asyncio.timeout(LIMIT):
            assert await self.findings(tuple(parked)) == []

    async def findings(self, parked: tuple[Key, ...] = ()) -> list[str]:
        """Say in words what does not hold."""
        log = await auditor.read_all(self.journal)
        handler = Handler(self.journal, "tester")
        return [
            *auditor.check_log(log),
            *auditor.check_effects(log, self.ledger.effects()),
            *check_calls(log, self.ledger.calls()),
            *auditor.check_answers(log, self.sent, self.answers),
            *auditor.check_ended(log, parked),
            *[f"stuck: {s}" async for s in find_stuck(handler, set(), EVER)],
            *(f"crashed: {x}" for c in self.children for x in _crashes(c)),
        ]


def _crashes(child: Child) -> list[str]:
    """Find what was logged with a traceback."""
    return [line[:2_000] for line in child.err.splitlines() if "Traceback" in line]


async def _heard(system: Wire, subject: str) -> bool:
    """Whether anybody listens on a subject of the system account."""
    query = msgspec.json.encode({"subscriptions": True, "acc": "SYS"})
    answer = await system.request("$SYS.REQ.SERVER.PING.CONNZ", query)
    connections = msgspec.json.decode(answer.data)["data"]["connections"]
    return any(subject in c.get("subscriptions_list", ()) for c in connections)

"""Admissions under test: those of several processes over one log and its buckets."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
from registers import Buckets

from events import quota as rules
from events.catalog import Created
from events.commands import Kill
from events.execution import Execution
from events.journal import Journal
from events.names import Key
from events.quota import Allotment, Quota
from events.register import Register
from events.spec import AgentSpec
from services.accounts import Account, Accounts
from services.admission import Admission
from services.handler import Handler
from services.schedules import Allowance
from services.tiers import Asker, Tier, Tiers

BEGIN = datetime(2026, 11, 26, 12, tzinfo=UTC)
TIERS = {
    "free": Tier("free", Allotment(1, 10), Allowance(600, 5)),
    "pro": Tier("pro", Allotment(5, 100), Allowance(60, 50)),
    "enterprise": Tier(
        "enterprise", Allotment(20, 1000), Allowance(1, 100), priority=True
    ),
    "boundless": Tier("boundless"),
}
FREE = Asker("ada", token=True, tier="free")
PRO = Asker("ada", token=True, tier="pro")
NOBODY = Asker("ada")
CREATED = Created(agent=AgentSpec(name="worker"), input="Do it.", digest="d")


class Office:
    """One log and its buckets; ``now`` is everybody's time, and the test's."""

    def __init__(self, journal: Journal, buckets: Buckets) -> None:
        self.journal, self.buckets = journal, buckets
        self.now = BEGIN
        self.accounts = Accounts(buckets.accounts)
        self.handler = Handler(journal, "lifecycle", clock=lambda: self.now)
        self.admission = self.of(buckets.quotas)

    def of(
        self,
        quotas: Register,
        default: str | None = None,
        tiers: Mapping[str, Tier] | None = None,
        journal: Journal | None = None,
    ) -> Admission:
        """The admission of another process."""
        handler = Handler(journal or self.journal, "a", clock=lambda: self.now)
        return Admission(handler, quotas, Tiers(tiers or TIERS, self.accounts, default))

    async def another(self) -> Admission:
        """The admission of another process, on a connection of its own."""
        return self.of(await self.buckets.again())

    def later(self, **more: float) -> None:
        """Let time pass; it may go back."""
        self.now += timedelta(**more)

    async def start(
        self, name: str, asker: Asker = FREE, admission: Admission | None = None
    ) -> Execution:
        """Admit a start and create it, as lifecycle does."""
        key = Key("ada", name)
        await (admission or self.admission).start(key, asker)
        return await self.create(key)

    async def create(self, key: Key) -> Execution:
        """Create what was admitted."""
        create = partial(Execution.create, created=CREATED)
        return await self.handler.handle(key, create, known=Execution(key))

    async def end(self, name: str, user: str = "ada") -> Execution:
        """Let one end."""
        return await self.handler.handle(Key(user, name), _cancel)

    async def fail(self, name: str) -> int:
        """Let one fail; returns where that stands."""
        key = Key("ada", name)
        await self.handler.handle(key, _begin)
        return (await self.handler.handle(key, _fail)).position

    async def stored(self, user: str = "ada") -> Quota:
        """What is written of a user."""
        return rules.decoded((await self.buckets.quotas.read(user)).value, user)

    async def open(self, user: str = "ada") -> int:
        """How many of a user's executions have not ended, by the log alone."""
        going = set[Key]()
        async for run in self.journal.follow(live=False, whole=False):
            for recorded in run:
                ended = recorded.route == "finished"
                (going.discard if ended else going.add)(recorded.key)
        return sum(key.user == user for key in going)

    async def appoint(self, user: str, tier: str) -> None:
        """Write an account down."""
        await self.accounts.put(user, Account(tier=tier))


async def damage(buckets: Buckets, user: str, value: bytes) -> None:
    """Write what nobody of ours would."""
    held = await buckets.quotas.read(user)
    await buckets.quotas.write(user, value, after=held.revision)


def encoded(quota: Quota) -> bytes:
    """Write a value."""
    return msgspec.json.encode(quota)


def _cancel(execution: Execution) -> None:
    Kill().decide(execution)


def _begin(execution: Execution) -> None:
    execution.begin("r1", execution.state.work_version)


def _fail(execution: Execution) -> None:
    execution.fail(execution.state.attempt, "e", "m", retryable=True)

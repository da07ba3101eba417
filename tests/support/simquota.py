"""Admission in a simulation: the buckets at the server, a process's way to them."""

import random
from typing import TYPE_CHECKING

from simnet import Net

from events import catalog as e
from events import quota as rules
from events.names import MOST_ADMITTED, Key
from events.quota import Allotment
from events.register import Held, MemoryRegister, Register
from services.accounts import Accounts
from services.admission import Admission
from services.handler import Handler
from services.tiers import Tier, Tiers

if TYPE_CHECKING:
    from simworld import World

DAY = Tier("day", Allotment(MOST_ADMITTED, 1_000_000))
"""What everybody may: more than is asked for, so that all must be counted."""


class RegisterLine(Register):
    """A process's connection to a bucket."""

    def __init__(self, register: MemoryRegister, net: Net) -> None:
        self._register, self._net = register, net

    async def read(self, key: str) -> Held:
        """Ask for the value of a key."""
        return await self._net.ask(lambda: self._register.read(key))

    async def write(self, key: str, value: bytes, *, after: int) -> int:
        """Have a value replaced; it may happen late, or be without an answer."""
        return await self._net.ask(
            lambda: self._register.write(key, value, after=after)
        )

    async def keys(self) -> list[str]:
        """Ask for the keys."""
        return await self._net.ask(self._register.keys)


class Counters:
    """The buckets of a world."""

    def __init__(self, seed: int) -> None:
        self._quotas, self._accounts = MemoryRegister(), MemoryRegister()
        # Its own chance, so that the days are as bad as they were without it.
        self._chance = random.Random(f"{seed} quotas")  # noqa: S311 - to be repeated

    def admission(self, handler: Handler, world: "World") -> Admission:
        """That of a process."""
        net = Net(self._chance, world.weather)
        accounts = Accounts(RegisterLine(self._accounts, net))
        tiers = Tiers({"day": DAY}, accounts, "day")
        return Admission(handler, RegisterLine(self._quotas, net), tiers)

    def findings(self, world: "World") -> list[str]:
        """What is written, held against the log: who was created, and how often."""
        return [
            finding
            for user in {recorded.key.user for recorded in world.log.commits}
            for finding in self._of(user, world)
        ]

    def _of(self, user: str, world: "World") -> list[str]:
        quota = rules.decoded(self._quotas._held.get(user, Held()).value, user)
        admitted = {Key(user, one.execution) for one in quota.admitted}
        facts = [(r.key, f) for r in world.log.commits for f in r.commit.events]
        created = {k for k, f in facts if isinstance(f, e.Created) and not f.parent}
        created = {key for key in created if key.user == user}
        retried = sum(isinstance(f, e.Retried) and k.user == user for k, f in facts)
        asked = sum(s.verb == "retry" and s.key.user == user for s in world.sent)
        starts = sum(one.count for one in quota.starts)
        least, most = len(created) + retried, len(created) + retried * 2 + asked
        found = [f"{user} has {created ^ admitted}, admitted or created, not both"]
        counted = [f"{user} is counted {starts} starts, not {least} to {most}"]
        return found * (created != admitted) + counted * (not least <= starts <= most)

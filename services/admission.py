"""Admission: how much a user may start; atomically right, and a refusal is true.

Who is admitted is written into the bucket QUOTAS, on the condition that nobody wrote
meanwhile, before the start is appended. Nothing is given back: when the room is
needed, what it says is held against the log, and what has ended is dropped. What was
admitted and not created for a minute is closed first, so that it never will be.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from math import ceil
from typing import NamedTuple, Never, TypeVar
from weakref import WeakValueDictionary

import msgspec

from events import quota as rules
from events.errors import Conflict, LimitReached
from events.execution import Execution
from events.faults import crash_point
from events.names import Key, check_id
from events.quota import Admitted, Allotment, Claim, Exhausted, Full, Quota, Report
from events.register import Register
from events.together import together
from services import metrics
from services.handler import Handler
from services.tiers import Asker, Tier, Tiers

T = TypeVar("T")

BY = "admission"
"""Who closes what was admitted and never created, as histories say it."""

KNOWN = 200_000
"""Entries of quotas that are kept here, some 30 MB, to be not read again."""

ROUNDS = 20
"""Times a decision is made anew before giving up: each means that somebody won."""

AT_ONCE = 64
"""Histories looked at at once."""


Absent = Callable[[Key], Awaitable[bool]]
"""What is done about one never created; says whether it takes no room any more."""


class Ledger(NamedTuple):
    """What is known of a user, and the revision at which it was written."""

    quota: Quota
    revision: int


class Admission:
    """Admits starts and retries; and tells how far the limits are used."""

    def __init__(self, handler: Handler, quotas: Register, tiers: Tiers) -> None:
        self._handler, self._quotas, self._tiers = handler, quotas, tiers
        self._known: OrderedDict[str, Ledger] = OrderedDict()
        self._weight = 0
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._looking = asyncio.Semaphore(AT_ONCE)

    async def start(self, key: Key, asker: Asker) -> Tier:
        """Admit a start of a user of the tier that is returned.

        Asked twice it counts once, and one that is there does not.

        Raises LimitReached, InvalidInput for a tier that there is not, and what is
        worth another try.
        """
        return await self._insist(key.user, partial(self._admit, key, 0, asker))

    async def retry(self, key: Key, after: int, asker: Asker) -> None:
        """Admit that what ended at the position ``after`` goes on; see ``start``."""
        await self._insist(key.user, partial(self._admit, key, after, asker))

    async def tier(self, user: str, asker: Asker) -> Tier:
        """Find a user's tier; one that the gateway vouches for is kept in mind.

        So it counts too for what is set up now and started later.
        """
        return await self._insist(user, partial(self._tier, user, asker))

    async def limits(
        self, user: str, tier: str | None = None, *, token: bool = True
    ) -> Report:
        """Tell how far a user's limits are used, as the log has it now.

        ``tier`` is the one a token names, if it names one; without a token the
        user's account says it. Raises InvalidInput for a tier that there is not,
        Corrupt, Unavailable.
        """
        asker = Asker(check_id(user, "user"), token=token, tier=tier)
        quota = rules.decoded((await self._quotas.read(user)).value, user)
        found = await self._tiers.of(user, asker, quota.tier)
        if found.allotment.concurrent is not None:
            over = await self._over(user, quota.admitted, _given_up)
            quota = rules.without(quota, over)
        now = self._now()
        concurrent, hourly = rules.uses(rules.current(quota, now), found.allotment, now)
        return Report(user=user, tier=found.name, concurrent=concurrent, hourly=hourly)

    # ── one after the other ──────────────────────────────────────────────────

    async def _insist(self, user: str, once: Callable[[], Awaitable[T]]) -> T:
        """Decide until nobody was faster; of one user one at a time."""
        turn = self._turns.get(user)
        if turn is None:
            turn = self._turns[user] = asyncio.Lock()
        async with turn:
            for _ in range(ROUNDS):
                try:
                    return await once()
                except Conflict:
                    self._forget(user)
        raise Conflict(f"what {user} may start changes too fast: try again")

    async def _tier(self, user: str, asker: Asker) -> Tier:
        ledger, tier = await self._look(user, asker)
        told = _told(ledger.quota, tier)
        if told != ledger.quota:
            await self._store(user, told, ledger)
        return tier

    async def _admit(self, key: Key, after: int, asker: Asker) -> Tier:
        user = key.user
        ledger, tier = await self._look(user, asker)
        told = _told(ledger.quota, tier)
        if tier.allotment.unlimited:
            if told != ledger.quota:
                await self._store(user, told, ledger)
            return tier
        if not after and await self._handler.journal.tip(key):
            return tier  # it is there: whoever asks again is not to be counted again
        ledger = ledger._replace(quota=told)
        decided = await self._decide(
            user, ledger, tier.allotment, Claim(key.execution, after)
        )
        if not isinstance(decided, Quota):
            await self._refuse(user, tier, decided, ledger)
        await self._store(user, decided, ledger)
        crash_point("admission.after")
        return tier

    async def _look(self, user: str, asker: Asker) -> tuple[Ledger, Tier]:
        ledger = await self._ledger(user)
        return ledger, await self._tiers.of(user, asker, ledger.quota.tier)

    async def _decide(
        self, user: str, ledger: Ledger, allotment: Allotment, claim: Claim
    ) -> Quota | Full | Exhausted:
        """Decide by what is written; a no is held against what is so now."""
        now = self._now()
        quota = rules.current(ledger.quota, now)
        decided = rules.admit(quota, allotment, claim, now)
        if not isinstance(decided, Quota):
            await self._check(user, ledger)
        if isinstance(decided, Full):
            over = await self._over(user, decided.doubtful, self._close)
            left = rules.without(quota, over)
            decided = rules.admit(left, allotment, claim, now)
        return decided

    async def _refuse(
        self, user: str, tier: Tier, why: Full | Exhausted, ledger: Ledger
    ) -> Never:
        now = self._now()
        if rules.ahead(ledger.quota, now):  # or it would begin to count ever anew
            await self._store(user, rules.current(ledger.quota, now), ledger)
        error = _refusal(user, tier, why)
        metrics.limited(error.limit)
        raise error

    # ── what is written ──────────────────────────────────────────────────────

    async def _ledger(self, user: str) -> Ledger:
        """What is known here; what another wrote since shows when it is used."""
        known = self._known.get(user)
        if known is None:
            held = await self._quotas.read(user)
            known = Ledger(rules.decoded(held.value, user), held.revision)
            self._keep(user, known)
        if user in self._known:
            self._known.move_to_end(user)
        return known

    async def _check(self, user: str, ledger: Ledger) -> None:
        """Raise Conflict if another wrote since."""
        if (await self._quotas.read(user)).revision != ledger.revision:
            raise Conflict(f"what {user} may start was changed meanwhile")

    async def _store(self, user: str, quota: Quota, ledger: Ledger) -> None:
        """Write it, if nobody wrote meanwhile; raises Conflict."""
        self._forget(user)  # until it is known what became of it
        revision = await self._quotas.write(
            user, rules.encoded(quota), after=ledger.revision
        )
        self._keep(user, Ledger(quota, revision))

    def _keep(self, user: str, ledger: Ledger) -> None:
        self._forget(user)
        self._known[user] = ledger
        self._weight += _weight(ledger)
        while self._weight > KNOWN:
            self._forget(next(iter(self._known)))

    def _forget(self, user: str) -> None:
        known = self._known.pop(user, None)
        self._weight -= _weight(known) if known else 0

    # ── what the log says ────────────────────────────────────────────────────

    async def _over(
        self, user: str, admitted: Collection[Admitted], absent: Absent
    ) -> set[str]:
        """Which of these take no room any more; never what was so a while ago."""
        looks = await together(*(self._is_over(user, one, absent) for one in admitted))
        looked_at = zip(admitted, looks, strict=True)
        return {one.execution for one, is_over in looked_at if is_over}

    async def _is_over(self, user: str, one: Admitted, absent: Absent) -> bool:
        key = Key(user, one.execution)
        async with self._looking:
            last = await self._handler.journal.last(key)
            standing = rules.standing(one, last, self._now())
            if standing == "absent":
                return await absent(key)
            return standing == "over"

    async def _close(self, key: Key) -> bool:
        """See that it is never created, unless it just was."""
        execution = await self._handler.handle(
            key, Execution.abandon, known=Execution(key), by=BY
        )
        return execution.state.final

    def _now(self) -> float:
        return round(self._handler.clock().timestamp(), 3)


def _weight(ledger: Ledger) -> int:
    return 1 + len(ledger.quota.admitted) + len(ledger.quota.starts)


async def _given_up(_key: Key) -> bool:
    """Take what was never created for what is closed when its room is needed."""
    return True


def _told(quota: Quota, tier: Tier) -> Quota:
    """Keep in mind what the gateway vouches for."""
    if not tier.vouched or tier.name is None or quota.tier == tier.name:
        return quota
    return msgspec.structs.replace(quota, tier=tier.name)


def _refusal(user: str, tier: Tier, why: Full | Exhausted) -> LimitReached:
    concurrent, hourly = tier.allotment
    if isinstance(why, Full):
        return LimitReached(
            f"{user} may have {concurrent} at a time ({tier.name}), and has "
            f"{len(why.doubtful)} that did not end yet: let one end, or end one",
            retry_after=rules.SOON,
            limit="concurrent",
        )
    return LimitReached(
        f"{user} started {hourly} executions within an hour, as many as the tier "
        f"{tier.name} may: try again in {ceil(why.retry_after)} s",
        retry_after=why.retry_after,
        limit="hourly",
    )

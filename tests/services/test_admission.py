"""Admission over the log and the buckets, in memory and on a real server."""

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest
from logs import JetStreamLog, MemoryLog
from rationing import FREE, NOBODY, PRO, TIERS, Office, damage, encoded
from registers import Buckets, MemoryBuckets

from events import quota as rules
from events.commands import Pause, Resume, Retry
from events.errors import (
    Conflict,
    Corrupt,
    InvalidInput,
    LimitReached,
    Misconfigured,
    NotAllowedNow,
    OutcomeUnknown,
)
from events.faulty import FaultyJournal, Plan
from events.names import MOST_ADMITTED, Key
from events.quota import GRACE, SOON, Admitted, Allotment, Quota
from events.register import Held, MemoryRegister
from services import admission as module
from services.accounts import Account
from services.admission import Admission
from services.tiers import Asker, Tier


@pytest.fixture(params=["memory", "jetstream"])
def office(request: pytest.FixtureRequest) -> Office:
    """An office over each adapter in turn."""
    log: MemoryLog | JetStreamLog = request.getfixturevalue(f"{request.param}_log")
    buckets: Buckets = request.getfixturevalue(f"{request.param}_buckets")
    return Office(log.journal, buckets)


@pytest.fixture
def quick(memory_log: MemoryLog, memory_buckets: MemoryBuckets) -> Office:
    """An office in memory, for what does not depend on the adapter."""
    return Office(memory_log.journal, memory_buckets)


# ── at a time ────────────────────────────────────────────────────────────────


async def test_a_free_user_has_one_at_a_time(office: Office) -> None:
    """The second is refused until the first has ended; others are not concerned."""
    await office.start("one")
    with pytest.raises(LimitReached, match="may have 1 at a time") as refused:
        await office.start("two")
    assert (refused.value.limit, refused.value.retry_after) == ("concurrent", SOON)
    await office.admission.start(Key("bob", "one"), Asker("bob", token=True))
    await office.end("one")
    await office.start("two")
    assert [one.execution for one in (await office.stored()).admitted] == ["two"]


async def test_what_waits_or_rests_takes_room_too(office: Office) -> None:
    """Only an end makes room: a pause does not, a failure does."""
    await office.start("one")
    await office.handler.handle(Key("ada", "one"), Pause().decide)
    with pytest.raises(LimitReached):
        await office.start("two")
    await office.handler.handle(Key("ada", "one"), Resume().decide)
    await office.fail("one")
    await office.start("two")


async def test_a_start_that_is_there_is_admitted_without_counting(
    office: Office,
) -> None:
    """However often it is asked, and when there is room for no other."""
    await office.start("one")
    before = await office.stored()
    for admission in (office.admission, await office.another()):
        await admission.start(Key("ada", "one"), FREE)
    assert await office.stored() == before
    await office.end("one")
    await office.start("two")
    await office.admission.start(Key("ada", "one"), FREE)  # it ended: still the same


async def test_the_list_is_looked_at_only_when_it_is_full(office: Office) -> None:
    """So a start costs one write; then all that ended go at once."""
    for name in "abcde":
        await office.start(name, PRO)
        await office.end(name)
    assert len((await office.stored()).admitted) == 5
    await office.start("f", PRO)
    assert [one.execution for one in (await office.stored()).admitted] == ["f"]


# ── within an hour ───────────────────────────────────────────────────────────


async def test_a_free_user_starts_ten_within_an_hour(office: Office) -> None:
    """The eleventh hears when the first leaves the hour, and is admitted then."""
    for number in range(10):
        await office.start(f"e{number}")
        await office.end(f"e{number}")
        office.later(seconds=60)
    with pytest.raises(LimitReached, match="try again in 3000 s") as refused:
        await office.start("more")
    assert (refused.value.limit, refused.value.retry_after) == ("hourly", 3000.0)
    office.later(seconds=2999)
    with pytest.raises(LimitReached):
        await office.start("more")
    office.later(seconds=1)
    await office.start("more")


async def test_a_clock_that_goes_back_locks_nobody_out_for_longer_than_an_hour(
    office: Office,
) -> None:
    """However far it went: what counts, counts from the first refusal on."""
    for number in range(10):
        await office.start(f"e{number}")
        await office.end(f"e{number}")
    office.later(days=-400)
    with pytest.raises(LimitReached) as refused:
        await office.start("more")
    assert refused.value.retry_after == 3600.0
    office.later(seconds=3599)
    with pytest.raises(LimitReached):
        await office.start("more")
    office.later(seconds=1)
    await office.start("more")


# ── retries ──────────────────────────────────────────────────────────────────


async def test_a_retry_needs_room(office: Office) -> None:
    """It is a start of what failed: refused while another takes the room."""
    await office.start("one")
    failed = await office.fail("one")
    await office.start("two")
    with pytest.raises(LimitReached):
        await office.admission.retry(Key("ada", "one"), failed, FREE)
    await office.end("two")
    await office.admission.retry(Key("ada", "one"), failed, FREE)
    with pytest.raises(LimitReached):  # it is admitted, if not yet carried out
        await office.start("three")
    await office.handler.handle(Key("ada", "one"), Retry().decide)
    with pytest.raises(LimitReached):
        await office.start("three")
    assert sum(s.count for s in (await office.stored()).starts) == 3


async def test_a_retry_that_nobody_carries_out_makes_room_after_a_minute(
    office: Office,
) -> None:
    """What it would have let go on stays as it ended."""
    await office.start("one")
    failed = await office.fail("one")
    await office.admission.retry(Key("ada", "one"), failed, FREE)
    with pytest.raises(LimitReached):
        await office.start("two")
    office.later(seconds=GRACE)
    await office.start("two")
    assert (await office.handler.load(Key("ada", "one"))).state.status == "failed"


# ── crashes ──────────────────────────────────────────────────────────────────


async def test_admitted_and_never_created_is_closed_after_a_minute(
    office: Office,
) -> None:
    """Before it makes room; a late create finds it closed."""
    key = Key("ada", "lost")
    await office.admission.start(key, FREE)  # and here its process died
    with pytest.raises(LimitReached):
        await office.start("two")
    assert await office.journal.tip(key) == 0
    office.later(seconds=GRACE)
    await office.start("two")
    lost = await office.handler.load(key)
    assert (lost.state.status, lost.state.version) == ("cancelled", 1)
    (recorded,) = await office.journal.read(key)
    assert recorded.commit.by == "admission"
    with pytest.raises(NotAllowedNow, match="given up"):
        await office.create(key)
    assert await office.open() == 1


async def test_who_asks_again_for_what_was_admitted_gets_it(office: Office) -> None:
    """The command comes again after a crash: it counts once, and its minute anew."""
    key = Key("ada", "lost")
    await office.admission.start(key, FREE)
    office.later(seconds=GRACE - 1)
    again = await office.another()
    await again.start(key, FREE)
    office.later(seconds=GRACE - 1)
    with pytest.raises(LimitReached):
        await office.start("two", admission=again)
    assert (await office.create(key)).state.status == "pending"
    assert sum(s.count for s in (await office.stored()).starts) == 1


async def test_a_create_that_was_under_way_is_not_closed(quick: Office) -> None:
    """Of a create and the closing of it one wins, and the room is taken by it."""
    key = Key("ada", "slow")
    await quick.admission.start(key, FREE)
    quick.later(seconds=GRACE)

    class Slow(FaultyJournal):
        async def last(self, key: Key) -> None:
            """See nothing yet; then it is created."""
            assert await self.inner.last(key) is None
            await quick.create(key)

    late = quick.of(quick.buckets.quotas, journal=Slow(quick.journal, Plan()))
    with pytest.raises(LimitReached):
        await late.start(Key("ada", "two"), FREE)
    assert (await quick.handler.load(key)).state.status == "pending"


# ── races ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("asker", [FREE, PRO])
async def test_lifecycles_that_race_never_overshoot(
    office: Office, asker: Asker
) -> None:
    """However many start at once: as many are admitted as may be, the others not."""
    limit = TIERS[asker.tier or ""].allotment.concurrent or 0
    admissions = [await office.another() for _ in range(6)]

    async def one(number: int) -> bool:
        admission = admissions[number % len(admissions)]
        for _ in range(50):  # lifecycle tries again what lost too many races
            try:
                await office.start(f"e{number}", asker, admission)
            except LimitReached:
                return False
            except Conflict:
                continue
            return True
        raise AssertionError

    came = await asyncio.gather(*(one(number) for number in range(30)))
    assert sum(came) == limit
    assert await office.open() == limit
    assert len((await office.stored()).admitted) == limit


class Unreliable(MemoryRegister):
    """Writes that are lost or not confirmed, and others in between.

    ``times`` are those of all starts that were ever admitted in it.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.times = list[float]()

    async def read(self, key: str) -> Held:
        """Take a while."""
        await self._pause()
        return await super().read(key)

    async def write(self, key: str, value: bytes, *, after: int) -> int:
        """Take a while, or get lost on the way there or back."""
        await self._pause()
        fate = self._chance.random()
        if fate < 0.1:
            raise OutcomeUnknown("lost on the way, on purpose")
        before = rules.decoded((await super().read(key)).value, key)
        revision = await super().write(key, value, after=after)
        new = Counter(rules.decoded(value, key).starts) - Counter(before.starts)
        self.times += [start.at for start in new.elements()]
        await self._pause()
        if fate > 0.9:
            raise OutcomeUnknown("its ack was lost, on purpose")
        return revision

    async def _pause(self) -> None:
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)


class BadDay:
    """Lifecycles that die or freeze between the two writes of a start."""

    def __init__(self, seed: int, office: Office) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not secret
        self.limit, self.hourly = self.chance.choice([(1, 10), (3, 12), (5, 100)])
        self.tiers = {"free": Tier("free", Allotment(self.limit, self.hourly))}
        self.register, self.office = Unreliable(self.chance), office
        self.most = 0

    def admission(self) -> Admission:
        """That of a process."""
        return self.office.of(self.register, tiers=self.tiers)

    async def lifecycle(self, name: str) -> None:
        """Start some, one after the other; what froze goes on some time later."""
        admission, frozen = self.admission(), list[Key]()
        for number in range(12):
            key = Key("ada", f"{name}-{number}")
            with suppress(LimitReached):
                await _until_known(admission, key)
                match self.chance.choice(["goes on"] * 6 + ["dies", "freezes"]):
                    case "goes on":
                        await self.create(key)
                    case "freezes":
                        frozen.append(key)
            self.office.later(seconds=self.chance.choice([0, 1, 30, 200, 1000]))
            if frozen and self.chance.random() < 0.3:
                await self.create(frozen.pop())

    async def create(self, key: Key) -> None:
        """Create what was admitted; most of it ends soon."""
        with suppress(NotAllowedNow):  # it took so long that it was given up
            await self.office.create(key)
            self.most = max(self.most, await self.office.open())
            if self.chance.random() < 0.7:
                await self.office.end(key.execution)


@pytest.mark.parametrize("seed", range(60))
async def test_no_bad_day_lets_anybody_overshoot(seed: int, quick: Office) -> None:
    """Processes die or freeze between the writes, acks are lost, time passes.

    At no time has the user more executions that have not ended than may be, and no
    more starts within an hour; when it is over, everything is admitted again.
    """
    day = BadDay(seed, quick)
    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(day.lifecycle(name))
    assert 1 <= day.most <= day.limit
    times = day.register.times
    for at in times:
        assert sum(at - 3600 < other <= at for other in times) <= day.hourly
    await _all_ended(quick)
    quick.later(hours=2)
    for number in range(day.limit):
        key = Key("ada", f"then-{number}")
        await _until_known(day.admission(), key)
        await quick.create(key)


async def _until_known(admission: Admission, key: Key) -> None:
    """Ask until there is an answer, as lifecycle does."""
    for _ in range(100):
        try:
            await admission.start(key, FREE)
        except (OutcomeUnknown, Conflict):
            continue
        return
    raise AssertionError


async def _all_ended(office: Office) -> None:
    keys = set[Key]()
    async for run in office.journal.follow(live=False):
        keys |= {recorded.key for recorded in run}
    for key in keys:
        if not (await office.handler.load(key)).state.final:
            await office.end(key.execution)


async def test_what_another_wrote_shows_before_anybody_is_refused(
    office: Office,
) -> None:
    """Nobody is refused by what was so when it was last looked at."""
    await office.start("one")
    other = await office.another()
    await office.end("one")
    await damage(office.buckets, "ada", encoded(Quota()))  # an operator begins anew
    await office.start("two", admission=office.admission)
    with pytest.raises(LimitReached):
        await office.start("three", admission=other)


# ── tiers ────────────────────────────────────────────────────────────────────


async def test_whose_tier_nobody_has_named(office: Office) -> None:
    """Without a token there is no limit, if no default says so; nothing is kept."""
    for number in range(12):
        await office.start(f"e{number}", NOBODY)
    assert await office.stored() == Quota()
    limited = office.of(office.buckets.quotas, default="free")
    await office.start("one", NOBODY, limited)
    with pytest.raises(LimitReached, match=r"\(free\)"):
        await office.start("two", NOBODY, limited)


async def test_a_token_without_a_tier_is_free(office: Office) -> None:
    """Whatever the default says; an account says more."""
    plain = Asker("ada", token=True)
    await office.start("one", plain)
    with pytest.raises(LimitReached, match=r"\(free\)"):
        await office.start("two", plain)
    await office.appoint("ada", "pro")
    await office.start("two", plain)
    with pytest.raises(LimitReached, match=r"\(free\)"):
        await office.start("three", FREE)  # a token that says it is believed


async def test_what_the_gateway_vouched_for_counts_elsewhere_too(
    office: Office,
) -> None:
    """A schedule starts without a token: it is no way around the limits."""
    await office.start("one", FREE)
    with pytest.raises(LimitReached, match=r"\(free\)"):
        await office.start("two", NOBODY)
    await office.appoint("ada", "pro")
    await office.start("two", NOBODY)
    boundless = Asker("ada", token=True, tier="boundless")
    await office.admission.start(Key("ada", "x"), boundless)
    assert (await office.stored()).tier == "boundless"
    assert (await office.admission.tier("ada", FREE)).name == "free"
    assert (await office.stored()).tier == "free"


async def test_a_tier_that_there_is_not(office: Office) -> None:
    """In a token it is refused; in an account the operator has to change it."""
    for name in ("gold", "", "FREE", "a b", "x" * 5000, "\ud800"):
        asker = Asker("ada", token=True, tier=name)
        with pytest.raises(InvalidInput, match="no tier"):
            await office.start("one", asker)
        with pytest.raises(InvalidInput):
            await office.admission.limits("ada", name)
    await office.appoint("ada", "gold")
    with pytest.raises(Misconfigured, match="wake user set"):
        await office.start("one", NOBODY)
    await office.start("one", FREE)
    assert await office.open() == 1


async def test_a_remembered_tier_that_is_no_more_is_forgotten(office: Office) -> None:
    """The configuration may change; then the default counts."""
    await damage(office.buckets, "ada", encoded(Quota(tier="gold")))
    await office.start("one", NOBODY)
    await office.start("two", NOBODY)


async def test_very_large_tiers(quick: Office) -> None:
    """As many as can be configured: the value has room for all of them."""
    tiers = {"free": Tier("free", Allotment(MOST_ADMITTED, 1_000_000))}
    admission = quick.of(quick.buckets.quotas, tiers=tiers)
    for number in range(MOST_ADMITTED):
        await quick.start(f"{number:064}", FREE, admission)
    with pytest.raises(LimitReached, match="1000 at a time"):
        await quick.start("more", FREE, admission)


async def test_little_is_kept_of_many_users(
    quick: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has not asked for longest is read anew; nobody is counted wrong by it."""
    monkeypatch.setattr(module, "KNOWN", 7)
    free = Asker("x", token=True, tier="free")
    for _ in range(3):
        for number in range(6):
            with suppress(LimitReached):
                key = Key(f"u{number}", "one")
                await quick.admission.start(key, free)
            assert quick.admission._weight <= 7
            assert len(quick.admission._known) <= 3
    for number in range(6):
        assert sum(s.count for s in (await quick.stored(f"u{number}")).starts) == 1


# ── damage ───────────────────────────────────────────────────────────────────


async def test_a_damaged_value_refuses_and_says_what_to_do(office: Office) -> None:
    """Nobody starts anew by it; deleted, it counts anew. Others are not concerned."""
    await damage(office.buckets, "ada", b"nonsense")
    for admission in (office.admission, await office.another()):
        with pytest.raises(Corrupt, match="delete the key ada"):
            await office.start("one", FREE, admission)
        with pytest.raises(Corrupt):
            await admission.limits("ada")
    await office.admission.start(Key("bob", "one"), Asker("bob", token=True))
    await damage(office.buckets, "ada", b"")
    await office.start("one")


async def test_a_damaged_account(office: Office) -> None:
    """A user with a token that names a tier does not need it."""
    held = await office.buckets.accounts.read("ada")
    await office.buckets.accounts.write("ada", b"[1", after=held.revision)
    with pytest.raises(Corrupt, match="wake user set ada"):
        await office.start("one", NOBODY)
    await office.start("one", FREE)
    await office.accounts.put("ada", Account(tier="pro"))
    await office.start("two", NOBODY)


async def test_ids_in_the_value_that_nobody_has(office: Office) -> None:
    """Somebody wrote them there: they are closed like any that was never created."""
    admitted = (Admitted("ghost", office.now.timestamp() - GRACE),)
    await damage(office.buckets, "ada", encoded(Quota(admitted=admitted)))
    await office.start("one")
    ghost = await office.handler.load(Key("ada", "ghost"))
    assert ghost.state.status == "cancelled"


# ── what is told ─────────────────────────────────────────────────────────────


async def test_limits_are_told_as_the_log_has_it(office: Office) -> None:
    """What has ended takes no room, though nobody has looked since."""
    report = await office.admission.limits("ada", "pro")
    assert (report.tier, report.concurrent.used, report.hourly.used) == ("pro", 0, 0)
    for name in "abcde":
        await office.start(name, PRO)
    for name in "ab":
        await office.end(name)
    before = await office.buckets.quotas.read("ada")
    report = await office.admission.limits("ada", "pro")
    concurrent, hourly = report.concurrent, report.hourly
    assert (concurrent.used, concurrent.limit, concurrent.remaining) == (3, 5, 2)
    assert (hourly.used, hourly.limit, hourly.remaining) == (5, 100, 95)
    assert concurrent.retry_after is hourly.retry_after is None
    assert await office.buckets.quotas.read("ada") == before  # it only looks
    lower = await office.admission.limits("ada", "free")
    assert (lower.concurrent.remaining, lower.concurrent.retry_after) == (0, SOON)


async def test_limits_say_what_a_start_would_hear(office: Office) -> None:
    """The same seconds as the refusal, and room as soon as there is some."""
    for number in range(10):
        await office.start(f"e{number}")
        await office.end(f"e{number}")
        office.later(seconds=10)
    with pytest.raises(LimitReached) as refused:
        await office.start("more")
    hourly = (await office.admission.limits("ada", "free")).hourly
    assert (hourly.remaining, hourly.retry_after) == (0, refused.value.retry_after)


async def test_limits_of_who_has_none(office: Office) -> None:
    """Nothing is counted, and nothing is said of it."""
    report = await office.admission.limits("ada", token=False)
    assert (report.tier, report.concurrent.limit, report.hourly.used) == (None,) * 3
    assert (await office.admission.limits("ada")).tier == "free"


@pytest.mark.parametrize("user", ["a.b", "", "*", ">", "all", "x" * 65, "ä", "a b"])
async def test_a_user_that_cannot_be_one(quick: Office, user: str) -> None:
    """It would be another subject, or everybody's."""
    with pytest.raises(InvalidInput):
        await quick.admission.limits(user)
    with pytest.raises(InvalidInput):
        await quick.accounts.put(user, Account(tier="free"))
    with pytest.raises(InvalidInput):
        await quick.accounts.remove(user)

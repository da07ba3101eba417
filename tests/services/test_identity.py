"""Who asks: what the gateway vouches for, what anybody else says, what follows."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from clerks import KEY, START, Clerk, begin, clerk, fail
from logs import MemoryLog
from rationing import Office
from registers import MemoryBuckets

from events.commands import Retry
from events.errors import InvalidInput, LimitReached
from events.inbox import MemoryInbox
from events.names import ASKED_BY, TIER, Key
from events.timetable import MemoryTimetable
from gateway.asking import Vouched, as_answer, ask, identity
from services.requests import NEW, Answer
from services.schedules import Schedules
from services.tiers import Asker


@pytest.fixture
def office(memory_log: MemoryLog, memory_buckets: MemoryBuckets) -> Office:
    """A log and its buckets, and the time."""
    return Office(memory_log.journal, memory_buckets)


@pytest.fixture
def timetable() -> MemoryTimetable:
    """No schedules, at first."""
    return MemoryTimetable()


@pytest.fixture
async def to(office: Office, timetable: MemoryTimetable) -> AsyncIterator[Clerk]:
    """A clerk with a lifecycle that admits."""
    async with clerk(
        MemoryInbox(),
        office.journal,
        schedules=Schedules(timetable),
        admission=office.admission,
    ) as one:
        yield one


async def asked(
    to: Clerk,
    verb: str = "start",
    key: Key = KEY,
    *,
    door: Any = "gateway",
    headers: dict[str, str] | None = None,
    **body: Any,
) -> Answer:
    """Send a command at a door, with headers as they are given."""
    body = {**START, **body} if verb == "start" else body
    payload = msgspec.json.encode(body)
    await to.inbox.publish(key, verb, payload, door=door, headers=headers)
    return await to.hear()


async def by_of(to: Clerk, key: Key = KEY) -> list[str]:
    """Who caused each commit."""
    return [recorded.commit.by for recorded in await to.journal.read(key)]


# ── who asks ─────────────────────────────────────────────────────────────────


async def test_the_history_says_who_asked_by_the_gateways_word(to: Clerk) -> None:
    """An admin steers what is another's, and that is written down."""
    await asked(to, headers={ASKED_BY: "ada"})
    paused = await asked(to, "pause", headers={ASKED_BY: "root"})
    assert (paused.accepted, paused.status) == (True, "paused")
    await asked(to, "resume", headers={})
    assert await by_of(to) == ["user:ada", "user:root", "user:ada"]


async def test_elsewhere_nobody_says_who_asks(to: Clerk) -> None:
    """The subject says it; headers are for whoever may vouch."""
    headers = {ASKED_BY: "root", TIER: "enterprise"}
    await asked(to, door="commands", headers=headers)
    assert await by_of(to) == ["user:ada"]


@pytest.mark.parametrize("by", ["", "a.b", "*", ">", "all", "x" * 65, "ä", "a\tb"])
async def test_who_asks_is_a_user(to: Clerk, by: str) -> None:
    """What the gateway says wrong is refused, and nothing happens."""
    answer = await asked(to, headers={ASKED_BY: by})
    assert (answer.accepted, answer.code) == (False, "invalid_input")
    assert await by_of(to) == []


# ── of which tier ────────────────────────────────────────────────────────────


async def test_who_has_priority_is_served_first(to: Clerk) -> None:
    """What they start goes into the priority lane, what others start does not."""
    for name, tier in (("one", "enterprise"), ("two", "pro")):
        headers = {ASKED_BY: "ada", TIER: tier}
        assert (await asked(to, key=Key("ada", name), headers=headers)).accepted
    [first], [second] = [await to.journal.read(Key("ada", n)) for n in ("one", "two")]
    assert (first.route, second.route) == ("agents_priority", "agents")


async def test_a_tier_the_gateway_vouches_for_limits(to: Clerk) -> None:
    """The refusal says in how many seconds to ask again."""
    free = {ASKED_BY: "ada", TIER: "free"}
    assert (await asked(to, headers=free)).accepted
    refused = await asked(to, key=Key("ada", "two"), headers=free)
    assert (refused.accepted, refused.code) == (False, "limit_reached")
    assert refused.retry_after == 5.0
    assert "may have 1 at a time" in refused.message
    assert (await asked(to, "kill", headers=free)).retry_after is None
    assert (await asked(to, key=Key("ada", "two"), headers=free)).accepted


async def test_a_header_elsewhere_makes_nobody_enterprise(
    office: Office,
) -> None:
    """On ``commands.`` a tier is what an admin wrote down, or the default."""
    admission = office.of(office.buckets.quotas, default="free")
    async with clerk(journal=office.journal, admission=admission) as to:
        rich = {ASKED_BY: "ada", TIER: "enterprise"}
        assert (await asked(to, door="commands", headers=rich)).accepted
        two = Key("ada", "two")
        refused = await asked(to, key=two, door="commands", headers=rich)
        assert refused.code == "limit_reached"
        await office.appoint("ada", "pro")
        assert (await asked(to, key=two, door="commands")).accepted


async def test_an_admins_tier_is_not_the_users(to: Clerk) -> None:
    """Who lets another's go on does not lend a tier."""
    await office_full(to)
    headers = {ASKED_BY: "root", TIER: "enterprise"}
    refused = await asked(to, "retry", KEY, headers=headers)
    assert (refused.accepted, refused.code) == (False, "limit_reached")


async def office_full(to: Clerk) -> None:
    """Let a free user have one that failed and one that goes on."""
    free = {ASKED_BY: "ada", TIER: "free"}
    await asked(to, headers=free)
    await to.decide(begin, fail)
    assert (await asked(to, key=Key("ada", "two"), headers=free)).accepted


@pytest.mark.parametrize("tier", ["gold", "", "FREE", "free ", "x" * 4000])
async def test_a_tier_that_there_is_not_is_refused(to: Clerk, tier: str) -> None:
    """A token of nobody's making, or a configuration that lacks it."""
    answer = await asked(to, headers={ASKED_BY: "ada", TIER: tier})
    assert (answer.accepted, answer.code) == (False, "invalid_input")
    assert "there are: free, pro, enterprise" in answer.message
    assert len(answer.message) < 300


async def test_without_a_tier_a_token_is_free(to: Clerk) -> None:
    """It came through the gateway, so somebody else can be limited by it."""
    for headers in ({ASKED_BY: "ada"}, {}):
        await asked(to, headers=headers)
        refused = await asked(to, key=Key("ada", "two"), headers=headers)
        assert refused.code == "limit_reached"


# ── what counts ──────────────────────────────────────────────────────────────


async def test_a_start_that_is_wrong_does_not_count(to: Clerk, office: Office) -> None:
    """Nor one that names what there is not."""
    free = {ASKED_BY: "ada", TIER: "free"}
    for body in ({"agent_type": "nobody"}, {"input": 7}, {"workspace": "/etc"}):
        answer = await asked(to, headers=free, **body)
        assert not answer.accepted
    assert (await office.stored()).starts == ()


async def test_one_idempotency_key_counts_once(to: Clerk, office: Office) -> None:
    """Asked again it is the same, also where there is room for no other."""
    free, new = {ASKED_BY: "ada", TIER: "free"}, Key("ada", NEW)
    first, again = [
        await asked(to, key=new, headers=free, idempotency_key="k") for _ in range(2)
    ]
    assert first.accepted
    assert again.accepted
    assert first.execution == again.execution
    assert sum(s.count for s in (await office.stored()).starts) == 1
    other = await asked(to, key=new, headers=free, idempotency_key="k", input="Else.")
    assert other.code == "already_exists"


async def test_a_command_that_comes_again_counts_once(
    to: Clerk, office: Office
) -> None:
    """The lifecycle that had it died when it was admitted, and not created."""
    before = await office.another()
    await before.start(KEY, Asker("ada", token=True, tier="free"))
    free = {ASKED_BY: "ada", TIER: "free"}
    assert (await asked(to, key=Key("ada", "x"), headers=free)).code == "limit_reached"
    assert (await asked(to, headers=free)).accepted
    assert sum(s.count for s in (await office.stored()).starts) == 1


async def test_a_retry_is_a_start(to: Clerk, office: Office) -> None:
    """It counts once; what may not be retried does not count."""
    free = {ASKED_BY: "ada", TIER: "free"}
    await asked(to, headers=free)
    assert (await asked(to, "retry", headers=free)).code == "not_allowed_now"
    await to.decide(begin, fail)
    for _ in range(2):
        answer = await asked(to, "retry", headers=free, command_id="r-1")
        assert (answer.accepted, answer.status) == (True, "pending")
    assert sum(s.count for s in (await office.stored()).starts) == 2


async def test_a_retry_is_admitted_from_the_end_that_it_is_for(
    to: Clerk, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went on and failed again meanwhile is admitted anew, as one more start."""
    free = {ASKED_BY: "ada", TIER: "free"}
    await asked(to, headers=free)
    await to.decide(begin, fail)
    admit, seen = office.admission.retry, list[int]()

    async def retry(key: Key, after: int, asker: Asker) -> None:
        await admit(key, after, asker)
        seen.append(after)
        if len(seen) == 1:
            await to.decide(Retry().decide, begin, fail)

    monkeypatch.setattr(office.admission, "retry", retry)
    answer = await asked(to, "retry", headers=free)
    assert (answer.accepted, answer.status) == (True, "pending")
    assert len(seen) == len(set(seen)) == 2
    (admitted,) = (await office.stored()).admitted
    assert admitted.after == seen[1]


# ── schedules ────────────────────────────────────────────────────────────────

EVERY_SECOND = {"start": START, "every": 1}


async def test_how_often_a_schedule_may_recur_follows_the_tier(
    to: Clerk, timetable: MemoryTimetable
) -> None:
    """A free user's not every second, nor ever so many; by whom is written down."""
    free = {ASKED_BY: "ada", TIER: "free"}
    refused = await asked(to, "schedule", headers=free, **EVERY_SECOND)
    assert (refused.accepted, refused.code) == (False, "invalid_input")
    assert "600" in refused.message
    rich = {ASKED_BY: "ada", TIER: "enterprise"}
    assert (await asked(to, "schedule", headers=rich, **EVERY_SECOND)).accepted
    for number in range(4):
        key, body = Key("ada", f"s{number}"), {"start": START, "every": 600}
        assert (await asked(to, "schedule", key, headers=free, **body)).accepted
    full = await asked(to, "schedule", Key("ada", "s5"), headers=free, **body)
    assert full.code == "not_allowed_now"
    assert "may have 5" in full.message
    await asked(to, "pause_schedule", headers={ASKED_BY: "root"})
    entry = await timetable.find(("ada", "run-1"))
    assert entry
    assert entry.definition.by == "user:root"
    await asked(to, "unschedule", headers={ASKED_BY: "root"})
    removed = await timetable.removed(("ada", "run-1"))
    assert removed
    assert removed.by == "user:root"


async def test_what_a_schedule_starts_is_limited_as_its_user_is(to: Clerk) -> None:
    """It comes without a token: the tier that was vouched for counts on."""
    free = {ASKED_BY: "ada", TIER: "free"}
    body = {"start": START, "every": 600}
    assert (await asked(to, "schedule", headers=free, **body)).accepted
    assert (await asked(to, key=Key("ada", "one"), door="commands")).accepted
    refused = await asked(to, key=Key("ada", "two"), door="commands")
    assert refused.code == "limit_reached"


# ── the client's side ────────────────────────────────────────────────────────


async def test_asking_as_the_gateway(to: Clerk) -> None:
    """Who asks goes along, and a refusal comes back with its seconds."""

    async def say(vouched: Vouched, verb: str = "start", key: Key = KEY) -> Answer:
        answer = await asked(to, verb, key, headers=identity(key, vouched))
        return as_answer(msgspec.json.encode(answer))

    await say(Vouched("ada", "free"))
    with pytest.raises(LimitReached) as refused:
        await say(Vouched("ada", "free"), key=Key("ada", "x"))
    assert refused.value.retry_after == 5.0
    await say(Vouched("root", "enterprise"), "pause")
    assert await by_of(to) == ["user:ada", "user:root"]
    with pytest.raises(InvalidInput, match="no tier"):
        await say(Vouched("ada", "gold"))
    await ask(to.inbox, KEY, "resume", {})
    assert (await by_of(to))[-1] == "user:ada"

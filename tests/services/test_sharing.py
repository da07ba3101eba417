import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from events.names import LANES
from events.spec import Lane
from services.handler import CHANCE
from services.sharing import (
    AGAIN,
    BACK,
    LATE,
    LONGEST_BACK,
    ORDER,
    SKIM,
    TURNS,
    Crowd,
    Slots,
    pause,
)


def fill(slots: Slots, lane: Lane, behind: int = 1) -> int:
    """Let a lane take all it may have; returns how much."""
    taken = 0
    while slots.enter(lane, behind):
        taken += 1
    return taken


def test_all_lanes_have_an_order() -> None:
    """A lane that is added must be given its place."""
    assert set(ORDER) == set(LANES)


@pytest.mark.parametrize("total", [1, 2, 5, 6, 64, 1024])
def test_no_more_than_all_slots_are_given(total: int) -> None:
    """However many lanes ask; and all of them are, once each lane had its share."""
    slots = Slots(total, LANES)
    taken = sum(fill(slots, lane) for _ in LANES for lane in ORDER[::-1])
    assert (taken, slots.free) == (total, 0)


def test_a_lane_alone_has_everything() -> None:
    """Nothing is kept for lanes that this runner does not serve."""
    assert fill(Slots(64, ["agents"]), "agents") == 64


def test_a_full_lane_leaves_the_others_their_own() -> None:
    """A thousand long executions, and a short one finds a slot at once."""
    slots = Slots(64, LANES)
    assert fill(slots, "agents_long", behind=1_000) == 56
    assert slots.room("agents") == slots.room("agents_priority") == 4
    assert slots.enter("agents", 0)


def contend(slots: Slots, lanes: Sequence[Lane], times: int) -> list[Lane]:
    """Free a slot again and again; all lanes have work, and come in this order."""
    got: list[Lane] = []
    while len(got) < times:
        entered = [lane for lane in lanes if slots.enter(lane, 1)]
        assert len(entered) <= 1
        for lane in entered:
            got.append(lane)
            slots.leave(lane)
    return got


@pytest.mark.parametrize("lanes", [ORDER, ORDER[::-1]], ids=["first", "last"])
def test_priority_goes_first_and_starves_nobody(lanes: Sequence[Lane]) -> None:
    """With one slot and work in all lanes, whoever comes in whatever order."""
    got = contend(Slots(1, LANES), lanes, 120)
    counts = {lane: got.count(lane) for lane in LANES}
    others = counts["agents"], counts["agents_long"]
    assert counts["agents_priority"] >= 2 * max(others)
    assert min(others) >= 20
    for lane in LANES:
        gaps = [n for n, taken in enumerate(got) if taken == lane]
        longest = max(b - a for a, b in pairwise(gaps))
        assert longest <= 2 * TURNS + 2


async def test_a_slot_is_waited_for() -> None:
    """Who finds none is woken by the first that is freed."""
    slots = Slots(1, ["agents"])
    assert slots.enter("agents", 0)
    waiting = asyncio.create_task(slots.some("agents"))
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.leave("agents")
    assert await waiting == 1


async def test_work_that_does_not_come_is_waited_for_only_briefly() -> None:
    """Another runner took it: the slot that was kept for its lane is free again."""
    slots = Slots(1, LANES)
    assert slots.enter("agents", 0)
    assert not slots.enter("agents_priority", 0)
    slots.leave("agents")
    assert not slots.enter("agents", 1)
    await slots.turn()
    assert slots.enter("agents", 1)


async def test_a_turn_ends_when_somebody_came() -> None:
    """It is not waited for longer than it takes."""
    slots = Slots(1, LANES)
    waiting = asyncio.create_task(slots.turn())
    await asyncio.sleep(0)
    assert slots.enter("agents_priority", 0)
    await waiting


# ── between users ────────────────────────────────────────────────────────────


async def test_who_has_more_steps_back_for_who_waits() -> None:
    """And only as long as somebody else is known to wait behind."""
    crowd = Crowd()
    crowd.enter("agents", "ada")
    assert not crowd.steps_back("agents", "ada")
    crowd.hear("agents", "ada", 6)
    assert not crowd.steps_back("agents", "ada")
    crowd.hear("agents", "bob", 7)
    assert crowd.steps_back("agents", "ada")
    assert not crowd.steps_back("agents_long", "ada")
    assert not crowd.steps_back("agents", "bob")
    crowd.reached("agents", 7, 3)
    assert not crowd.steps_back("agents", "ada")


async def test_who_has_as_much_takes_turns() -> None:
    """Whoever was served longer ago goes first."""
    crowd = Crowd()
    for user in ("ada", "bob"):
        crowd.enter("agents", user)
        crowd.leave(user)
        crowd.hear("agents", user, 9)
    assert crowd.steps_back("agents", "bob")
    assert not crowd.steps_back("agents", "ada")


async def test_at_the_end_of_a_lane_nobody_waits_behind() -> None:
    """What was heard of a while ago went to another runner; the newest may not have."""
    crowd = Crowd()
    crowd.enter("agents", "ada")
    crowd.hear("agents", "bob", 70)
    crowd.reached("agents", 5, 0)
    assert crowd.waits("agents")
    bob = crowd._newest["agents"]["bob"]
    crowd._newest["agents"]["bob"] = bob._replace(heard=bob.heard - LATE)
    crowd.reached("agents", 5, 1)
    assert crowd.waits("agents")
    crowd.reached("agents", 5, 0)
    assert not crowd.waits("agents")


async def test_who_found_no_slot_still_waits() -> None:
    """Its work comes again, whatever the lane's end says; and then it waits no more."""
    crowd = Crowd()
    crowd.enter("agents", "ada")
    crowd.refused("agents", "bob")
    crowd.reached("agents", 9, 0)
    assert crowd.waits("agents")
    assert crowd.steps_back("agents", "ada")
    crowd.enter("agents", "bob")
    assert not crowd.waits("agents")


async def test_who_found_no_slot_may_have_found_one_elsewhere() -> None:
    """After a while it is not waited for any more."""
    crowd = Crowd()
    crowd.refused("agents", "bob")
    crowd._refused["agents"]["bob"] -= AGAIN + 0.01
    assert not crowd.waits("agents")


def test_users_who_are_gone_are_forgotten() -> None:
    """Memory does not grow with everybody who ever came."""
    crowd = Crowd()
    for number in range(10 * SKIM):
        crowd.enter("agents", f"u{number}")
        crowd.leave(f"u{number}")
    assert len(crowd._served) <= 2 * SKIM + 1


def test_stepping_back_takes_longer_each_time() -> None:
    """But never so long that slots stay empty for it."""
    for deliveries in (1, 2, 3, 50):
        longest = min(LONGEST_BACK, BACK * 2 ** (deliveries - 1))
        assert longest / 2 <= pause(deliveries, CHANCE) <= longest

"""Runners that die, hang, or share a name: what they held is done, and done once."""

import asyncio
from itertools import product

import pytest
from fleet import Fleet
from form import by_form
from plan import Plan, Step, Use, step, steps

from events.state import Status

WORK = (step("write", "look"), step("launch"), step("write"))
APPENDS = 9
"""As many as one attempt at WORK makes, if results come one by one."""

HOUR = 3_600.0
"""A lease that no test waits for."""

POINTS = by_form(
    [("before", 1), ("after", 1), ("before", 4), ("after", 5)],
    list(product(("before", "after"), range(1, APPENDS + 1))),
)


@pytest.mark.parametrize(("when", "number"), POINTS)
async def test_killed_at_an_append(fleet: Fleet, when: str, number: int) -> None:
    """Before or after it, by kill -9: another goes on, long before the lease ends."""
    await fleet.reactor()
    crash = f"append.{when}:{number}"
    victim = await fleet.runner("victim", lease=HOUR, WAKE_CRASH=crash)
    key = await fleet.start(Plan("e1", WORK))
    await fleet.runner("other", lease=HOUR)
    (state,) = await fleet.finished(key)
    assert state.status == "completed"
    assert state.attempt <= 2
    if number < APPENDS - 1:  # the last may not be reached: results came together
        await fleet.ended(victim)
    await fleet.check()


async def test_two_of_the_same_name(fleet: Fleet) -> None:
    """The death of one moves what it held, and nothing of its namesake's."""
    await fleet.reactor()
    alone = {"WAKE_RUNNER_CONCURRENCY": "1"}
    dying = await fleet.runner("twin", FAULTS_NAME="dying", **alone)
    one = await fleet.start(Plan("e1", (step("launch"), step("write", gate="go"))))
    await fleet.ledger.asked("e1", 2, "dying")
    await fleet.runner("twin", FAULTS_NAME="living", **alone)
    two = await fleet.start(Plan("e2", (step("launch"), step("write", gate="go"))))
    await fleet.ledger.asked("e2", 2, "living")
    await fleet.runner("third")
    dying.kill()
    assert (await fleet.begun(one, attempt=2)).runner == "third"
    fleet.ledger.open("go")
    states = await fleet.finished(one, two)
    assert [state.attempt for state in states] == [2, 1]
    await fleet.check()


POISON: dict[str, tuple[Step, Status]] = {
    "model": (Step(kills=True), "failed"),
    "idempotent": (Step((Use("write", kills=True),)), "failed"),
    "irreversible": (Step((Use("launch", kills=True),)), "completed"),
}
"""What kills every runner that does it, and how that ends: it is not done twice."""


@pytest.mark.parametrize("what", by_form(["model", "irreversible"], list(POISON)))
async def test_poison(fleet: Fleet, what: str) -> None:
    """Work that kills its runner each time ends, with the reason; the rest goes on."""
    deadly, status = POISON[what]
    await fleet.reactor()
    poison = await fleet.start(Plan("poison", (step("look"), deadly)))
    others = [await fleet.start(Plan(f"e{n}", steps(6, 0.1))) for n in range(8)]
    async with asyncio.TaskGroup() as group:
        supervisor = group.create_task(_keep_one(fleet))
        state, *rest = await fleet.finished(poison, *others)
        supervisor.cancel()
    assert state.status == status
    if status == "failed":
        assert state.failure is not None
        assert state.failure.error == "too_many_attempts"
        assert "lost without any progress" in state.failure.message
    assert state.attempt <= 1 + state.agent.limits.max_attempts
    assert [other.status for other in rest] == ["completed"] * 8
    await fleet.check()


async def _keep_one(fleet: Fleet) -> None:
    """Start a runner whenever there is none, as a supervisor does."""
    while True:
        child = await fleet.runner(f"r{len(fleet.children)}")
        await fleet.ended(child)

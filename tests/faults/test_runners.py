"""Runners that die, hang, or share a name: what they held is done, and done once."""

import time

import pytest
from fleet import Fleet
from plan import Plan, Step, Use, step, steps

WORK = (step("write", "look"), step("launch"), step("write"))
APPENDS = 9
"""More than one attempt at WORK makes: the last points are never reached."""


@pytest.mark.parametrize("number", range(1, APPENDS + 1))
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_an_append(fleet: Fleet, when: str, number: int) -> None:
    """Whatever was recorded then, another goes on with it at once."""
    await fleet.reactor()
    victim = await fleet.runner("victim", WAKE_CRASH=f"append.{when}:{number}")
    key = await fleet.start(Plan("e1", WORK))
    await fleet.runner("other")
    began = time.monotonic()
    (state,) = await fleet.finished(key)
    assert time.monotonic() - began < 10  # the lease is 30 s
    assert state.status == "completed"
    await fleet.check()
    print(victim.alive, state.attempt, state.version)

"""Wall clocks that jump: leases and waits do not count by them."""

from pathlib import Path

import pytest
from fleet import Fleet
from form import by_form
from plan import Plan, step

HOUR = 3_600.0


@pytest.mark.parametrize("jump", by_form([HOUR, -HOUR], [HOUR, -HOUR, 30 * HOUR]))
async def test_a_clock_that_jumps(fleet: Fleet, tmp_path: Path, jump: float) -> None:
    """In the middle of an execution, on its runner: it goes on where it is."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    await fleet.reactor()
    await fleet.runner("jumps", FAULTS_CLOCK=str(clock))
    plan = Plan("e1", (step("launch"), step("write", gate="go"), step("launch")))
    key = await fleet.start(plan)
    await fleet.ledger.asked("e1", 2, "jumps")
    clock.write_text(str(jump))
    fleet.ledger.open("go")
    (state,) = await fleet.finished(key)
    assert (state.status, state.attempt) == ("completed", 1)
    assert state.finish_reason == "final_answer"
    await fleet.check()

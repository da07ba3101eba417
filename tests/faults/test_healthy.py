"""A healthy service, as busy as it can be: nothing in it is stuck."""

import asyncio
import signal

from fleet import Fleet
from form import by_form
from plan import Plan, step, steps
from sender import Sender

LOOKS = by_form(2, 10)


async def test_nothing_is_stuck_in_a_busy_service(fleet: Fleet) -> None:
    """Not what runs, nor what waits, is given back, is paused, or has just ended.

    Each user has more than the slots hold, so work is given back for a while.
    """
    await fleet.reactor()
    await fleet.lifecycle()
    two = {"WAKE_RUNNER_CONCURRENCY": "2"}
    await fleet.runner("r1", **two)
    leaving = await fleet.runner("r2", **two)
    async with Sender.open(fleet) as sender:
        held = await sender.start(Plan("held", (step("write", gate="go"),)))
        paused = await sender.start(Plan("paused", (step("write", gate="go"),)))
        await sender.send("pause", paused)
        enough = asyncio.Event()
        churn = asyncio.create_task(_churn(sender, enough))
        for number in range(LOOKS):
            assert await _stuck(fleet) == ""
            if number == 0:
                leaving.send(signal.SIGTERM)
        enough.set()
        await churn
        fleet.ledger.open("go")
        await sender.send("resume", paused)
        await sender.settled()
        await fleet.finished(held, *{sent.key for sent in fleet.sent})
    await fleet.check()


async def _churn(sender: Sender, enough: asyncio.Event) -> None:
    """Start executions, some short and some not so short, a few at a time."""
    number = 0
    while not enough.is_set():
        for _ in range(4):
            number += 1
            await sender.start(Plan(f"e{number}", steps(number % 5)))
        await asyncio.sleep(0.1)


async def _stuck(fleet: Fleet) -> str:
    """What ``wake recover --dry-run`` finds."""
    asked = fleet.born("recover", "--older-than", "0s", "--dry-run", "--json")
    await fleet.ended(asked)
    assert asked.err == ""
    return asked.out

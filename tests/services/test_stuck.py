"""What is stuck, and what only waits: for its lane, or for its lease."""

from functools import partial

from fake_tools import agent
from logs import Log
from running import KEY, start

from events.execution import Execution
from events.journal import Work
from services.handler import Handler
from services.stuck import find_stuck

EVER = -1e6
"""Seconds; what is younger counts as old enough, whatever the clock."""


async def begun(log: Log) -> Work:
    """Let a runner begin an execution, and be gone; returns the work it had."""
    await start(log.journal, spec=agent())
    queue = await log.journal.work("agents", lease=600.0)
    [work] = await queue.fetch(1, 5.0)
    begin = partial(Execution.begin, runner="r1", version=1)
    await Handler(log.journal, "runner:r1").handle(KEY, begin)
    await queue.close()
    return work


async def stuck(log: Log, *, leases: bool) -> list[str]:
    """The executions that are, though nobody says that they hold anything."""
    handler = Handler(log.journal, "operator")
    found = find_stuck(handler, set(), EVER, leases=leases)
    return [one.execution async for one in found]


async def test_what_was_begun_and_given_back_is_not_stuck(log: Log) -> None:
    """A runner that ends gives it back in the middle: it comes to another again."""
    work = await begun(log)
    await work.give_back()
    assert await stuck(log, leases=True) == []
    assert await stuck(log, leases=False) == [KEY.execution]


async def test_what_is_settled_and_says_running_is_stuck(log: Log) -> None:
    """Nothing will bring it on."""
    work = await begun(log)
    await work.done()
    assert await stuck(log, leases=True) == [KEY.execution]
    assert await stuck(log, leases=False) == [KEY.execution]

"""Executions of whose starts nothing came: begun one at a time."""

import asyncio
from functools import partial
from pathlib import Path

from fake_model import FakeModel, Hang, says, use, wants
from fake_tools import World
from logs import MemoryLog
from running import finished, means, order, runner, start, until

from events.commands import Kill
from events.execution import Execution
from events.journal import Journal
from events.names import Key
from services.handler import Handler
from services.runner import SUSPECT

ONE, TWO, THREE = (Key("ada", f"run-{n}") for n in (1, 2, 3))


async def suspect(journal: Journal, key: Key, starts: int = SUSPECT) -> None:
    """Create an execution, and lose so many runners before they got anywhere."""
    handler = Handler(journal, "tester")
    await start(journal, key)
    for attempt in range(1, starts + 1):
        version = (await handler.load(key)).state.work_version
        await handler.handle(key, partial(Execution.begin, runner="r", version=version))
        lost = partial(Execution.recover, attempt=attempt, reason="lost")
        await handler.handle(key, lost)


async def attempts(journal: Journal, key: Key) -> int:
    """How often it was begun."""
    return (await Handler(journal, "tester").load(key)).state.attempt


async def test_one_suspect_at_a_time(memory_log: MemoryLog, tmp_path: Path) -> None:
    """The second waits until the first has ended; others do not."""
    journal, hang = memory_log.journal, Hang()
    await suspect(journal, ONE)
    await suspect(journal, TWO)
    model = FakeModel([hang, says()])
    async with runner(journal, means(model, World(), tmp_path)):
        await hang.begun.wait()
        await start(journal, THREE)
        assert (await finished(journal, THREE)).status == "completed"
        assert await attempts(journal, TWO) == SUSPECT
        await order(journal, Kill(), ONE)
        assert (await finished(journal, TWO)).status == "completed"


async def test_a_suspect_is_none_once_something_came_of_it(
    memory_log: MemoryLog, tmp_path: Path
) -> None:
    """Its reply is recorded: the next begins while it goes on."""
    journal, hang = memory_log.journal, Hang()
    await suspect(journal, ONE)
    await suspect(journal, TWO)
    model = FakeModel([wants(use("look")), says()], hang)
    async with runner(journal, means(model, World(), tmp_path)):
        await hang.begun.wait()
        assert (await finished(journal, TWO)).status == "completed"
        await order(journal, Kill(), ONE)


async def test_a_waiting_suspect_can_be_killed(
    memory_log: MemoryLog, tmp_path: Path
) -> None:
    """It does not wait for its turn to end."""
    journal, hang = memory_log.journal, Hang()
    await suspect(journal, ONE)
    await suspect(journal, TWO)
    async with runner(journal, means(FakeModel(hang), World(), tmp_path)) as one:
        await hang.begun.wait()
        await order(journal, Kill(), TWO)
        assert (await finished(journal, TWO)).status == "cancelled"
        while TWO in one._holdings._by_key:  # noqa: ASYNC110 - its task ends by itself
            await asyncio.sleep(0)


async def test_who_was_lost_once_is_no_suspect(
    memory_log: MemoryLog, tmp_path: Path
) -> None:
    """As after each kill of a runner with many in hand."""
    journal, hang = memory_log.journal, Hang()
    for key in (ONE, TWO):
        await suspect(journal, key, starts=1)
    async with runner(journal, means(FakeModel(hang), World(), tmp_path)):
        for key in (ONE, TWO):
            await until(journal, lambda state: state.attempt == 2, key)
        for key in (ONE, TWO):
            await order(journal, Kill(), key)

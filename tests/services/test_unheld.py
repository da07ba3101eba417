"""Counting what says that it runs and that nobody holds."""

import asyncio

import pytest
from fake_tools import agent
from logs import Log, MemoryLog
from running import KEY, start

from events.execution import Execution
from events.journal import Journal
from events.names import Key
from events.presence import Connection, Heard, Held, MemoryPresences, Presence
from services import metrics
from services.handler import Handler
from services.process import this_process
from services.reactor import Reactor
from services.unheld import Unheld


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[int]":
    """The numbers, one after the other."""
    told: asyncio.Queue[int] = asyncio.Queue()
    monkeypatch.setattr(metrics, "stuck", told.put_nowait)
    return told


async def begun(journal: Journal) -> None:
    """Let a runner fetch an execution, begin it and be gone."""
    await start(journal, spec=agent())
    queue = await journal.work("agents")
    assert await queue.fetch(1, 5.0)

    def begin(execution: Execution) -> None:
        execution.begin("r1", execution.state.work_version)

    await Handler(journal, "runner:r1").handle(KEY, begin)


def watch(journal: Journal, room: list[Heard], patience: float = 0.0) -> Reactor:
    """Make a reactor that does nothing but count."""
    part = Unheld(
        Handler(journal, "reactor"),
        MemoryPresences(room, client=9),
        look=0.005,
        patience=patience,
    )
    return Reactor(journal, [part])


async def until(counts: "asyncio.Queue[int]", wanted: int) -> None:
    """Wait for a number."""
    while await counts.get() != wanted:
        pass


async def hold(room: list[Heard], *held: Held) -> None:
    """Let a runner say what it holds."""
    said = Presence(
        runner="r2",
        instance="i2",
        connection=Connection("memory", 2),
        process=this_process(),
        host="here",
        since=0.0,
        whole=True,
        took=held,
    )
    await MemoryPresences(room, client=2).tell(said)


async def test_what_nobody_holds_is_counted_until_somebody_does(
    log: Log, counts: "asyncio.Queue[int]"
) -> None:
    """Its runner is gone: 1; another one says that it has it: 0."""
    room: list[Heard] = []
    await begun(log.journal)
    reactor = watch(log.journal, room)
    async with asyncio.TaskGroup() as group:
        group.create_task(reactor.run())
        await until(counts, 1)
        await hold(room, Held(*KEY, 1))
        await until(counts, 0)
        await reactor.stop()


async def test_what_waits_is_not_stuck(
    memory_log: MemoryLog, counts: "asyncio.Queue[int]"
) -> None:
    """Work that no runner has fetched yet is nobody's, and nothing is wrong."""
    await start(memory_log.journal, Key("ada", "waits"), agent())
    reactor = watch(memory_log.journal, [])
    async with asyncio.TaskGroup() as group:
        group.create_task(reactor.run())
        assert [await counts.get() for _ in range(3)] == [0, 0, 0]
        await reactor.stop()


async def test_not_before_its_lease_can_have_run_out(
    memory_log: MemoryLog, counts: "asyncio.Queue[int]"
) -> None:
    """A moment without a holder is what every death looks like."""
    await begun(memory_log.journal)
    reactor = watch(memory_log.journal, [], patience=3600.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(reactor.run())
        assert [await counts.get() for _ in range(3)] == [0, 0, 0]
        await reactor.stop()

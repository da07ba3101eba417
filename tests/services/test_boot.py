from collections.abc import Callable
from functools import partial

import pytest
from clerks import WORKER, ask_a_person, begin, fail
from logs import JetStreamLog, Log
from nats_server import NatsServer

from events import commands
from events.catalog import Created
from events.execution import Execution
from events.journal import Journal
from events.names import Key
from services.boot import recover_all
from services.handler import Handler

Decision = Callable[[Execution], None]


class Past:
    """What happened in a log before its process died."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._handler = Handler(journal, "tester")

    async def made(self, name: str, *decisions: Decision) -> Key:
        """Start an execution and decide about it."""
        key = Key("ada", name)
        created = Created(agent=WORKER, input="x", lane=WORKER.lane)
        start = partial(Execution.create, created=created)
        for decision in (start, *decisions):
            await self._handler.handle(key, decision)
        return key

    async def handed_out(self, count: int) -> None:
        """Let a runner fetch work, and die before it began."""
        queue = await self.journal.work("agents")
        fetched = 0
        while fetched < count:
            fetched += len(await queue.fetch(count - fetched, 1.0))

    async def recovered(self) -> list[Key]:
        """Start again."""
        return await recover_all(Handler(self.journal, "boot"))

    async def status(self, key: Key) -> tuple[str, str]:
        """Where it is, and what happened last."""
        history = await self.journal.read(key)
        state = Execution.fold(key, history).state
        return state.status, type(history[-1].commit.events[-1]).__name__


@pytest.fixture
def past(log: Log) -> Past:
    """An empty log on each adapter."""
    return Past(log.journal)


async def test_what_was_held_is_put_back(past: Past) -> None:
    """Begun or only handed out, and whatever was asked of it meanwhile."""
    held = [
        await past.made("begun", begin),
        await past.made("paused-soon", begin, commands.Pause().decide),
        await past.made("fetched"),
    ]
    await past.handed_out(3)
    assert sorted(await past.recovered()) == sorted(held)
    for key in held:
        assert await past.status(key) == ("pending", "Recovered")


async def test_what_nobody_held_is_left_as_it_is(past: Past) -> None:
    """Parked, ended, or waiting for its first runner."""
    rest = [
        await past.made("paused", commands.Pause().decide),
        await past.made("asking", begin, ask_a_person),
        await past.made("failed", begin, fail),
        await past.made("cancelled", commands.Cancel().decide),
    ]
    await past.handed_out(4)
    rest.append(await past.made("waiting"))
    before = [await past.journal.read(key) for key in rest]
    assert await past.recovered() == []
    assert [await past.journal.read(key) for key in rest] == before


async def test_one_that_began_without_being_handed_out_is_put_back(past: Past) -> None:
    """As ``wake run`` does, which takes its work past everybody else."""
    key = await past.made("own", begin)
    assert await past.recovered() == [key]


async def test_asked_twice_it_is_found_until_somebody_has_it(past: Past) -> None:
    """A start that dies again before its runners begin loses nothing."""
    key = await past.made("begun", begin)
    await past.handed_out(1)
    assert await past.recovered() == [key]
    assert await past.recovered() == []
    await past.handed_out(1)
    assert await past.recovered() == [key]


async def test_an_empty_log_has_nothing_to_put_back(past: Past) -> None:
    """The first start of all."""
    assert await past.recovered() == []


async def test_a_damaged_history_stops_no_other(
    own_log: JetStreamLog, own_server: NatsServer
) -> None:
    """It is left as it is; what else was held is put back."""
    past = Past(own_log.journal)
    broken = await past.made("broken", begin)
    whole = await past.made("whole", begin)
    victim = (await past.journal.read(broken))[0]
    await own_log.close()
    own_server.stop()
    [block] = own_server.blocks()
    raw = bytearray(block.read_bytes())
    raw[raw.index(victim.body) + 9] ^= 1
    block.write_bytes(raw)
    own_server.start()
    past = Past(await own_log.again())
    assert await past.recovered() == [whole]

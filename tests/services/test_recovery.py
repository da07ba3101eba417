"""What becomes of executions whose runner is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from fake_tools import agent
from logs import Log
from running import happened, start, story

from events import catalog as e
from events.execution import Execution
from events.journal import Journal
from events.names import Key
from events.presence import (
    Connection,
    Heard,
    Held,
    MemoryDepartures,
    MemoryPresences,
    Presence,
)
from services.handler import Handler
from services.process import this_process
from services.reactor import Reactor
from services.recovery import Recovery

ONE, TWO = Key("ada", "run-1"), Key("ada", "run-2")


class Place:
    """A log with a reactor, and runners that are only spoken of.

    ``gone`` says of every process whether it can be seen to be gone.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.room: list[Heard] = []
        self.presences = MemoryPresences(self.room, client=99)
        self.departures = MemoryDepartures()
        self.gone = False

    def reactor(self, grace: float = 60.0) -> Reactor:
        """Make a reactor that watches the runners."""
        recovery = Recovery(
            Handler(self.journal, "reactor"),
            self.presences,
            self.departures,
            grace=grace,
            gone=lambda _: self.gone,
        )
        return Reactor(self.journal, [recovery])

    async def held(self, key: Key = ONE, runner: str = "r1") -> Held:
        """Let a runner fetch an execution and begin it."""
        await start(self.journal, key, agent())
        await self._fetch()
        await self.begin(key, runner)
        return Held(*key, 1)

    async def _fetch(self) -> None:
        queue = await self.journal.work("agents")
        assert await queue.fetch(1, 5.0)

    async def begin(self, key: Key, runner: str) -> None:
        """Begin what is work."""

        def begin(execution: Execution) -> None:
            execution.begin(runner, execution.state.work_version)

        await Handler(self.journal, f"runner:{runner}").handle(key, begin)

    async def say(self, client: int, *holds: Held, **more: Any) -> None:
        """Let a runner say what it holds; its instance is that of its client."""
        said = Presence(
            runner=more.pop("runner", "r1"),
            instance=more.pop("instance", f"i{client}"),
            connection=Connection("memory", client),
            process=this_process(),
            host="here",
            since=0.0,
            **{"whole": True, "took": holds, **more},
        )
        await self.presences.tell(said)

    def leave(self, client: int) -> None:
        """Let the server announce that a client is gone."""
        self.departures.leave(Connection("memory", client))


@pytest.fixture
def place(log: Log) -> Place:
    """An empty log on each adapter."""
    return Place(log.journal)


@asynccontextmanager
async def watching(*reactors: Reactor) -> AsyncIterator[None]:
    """Run reactors."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one.run()) for one in reactors]
        for one in reactors:
            await one.ready.wait()
        await asyncio.sleep(0)  # its parts begin to listen
        yield
        for one in reactors:
            await one.stop()
        await asyncio.wait(running)


async def so(condition: Callable[[], object]) -> None:
    """Wait for a condition that nobody announces."""
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.001)


async def listening(place: Place, count: int = 1) -> None:
    """Wait until so many reactors listen to runners and to the server."""
    await so(lambda: len(place.room) == len(place.departures._lost) == count)


async def test_what_a_dead_process_held_is_work_at_once(place: Place) -> None:
    """Its process is gone: there is nothing to wait for."""
    held = await place.held()
    async with watching(place.reactor()):
        await listening(place)
        await place.say(1, held)
        place.gone = True
        place.leave(1)
        put_back = await happened(place.journal, e.Recovered, ONE)
    assert put_back.route == "agents"
    assert put_back.commit.by == "reactor"
    [fact] = put_back.commit.events
    assert fact == e.Recovered(reason="runner r1 is gone")


async def test_who_does_not_come_back_within_the_grace_is_gone(place: Place) -> None:
    """Its process cannot be seen: it may be on another machine."""
    held = await place.held()
    async with watching(place.reactor(grace=0.05)):
        await listening(place)
        await place.say(1, held)
        place.leave(1)
        await happened(place.journal, e.Recovered, ONE)


async def test_who_comes_back_keeps_its_work(place: Place) -> None:
    """It is the same instance on another connection; what it lost was its network."""
    held = await place.held()
    other = await place.held(TWO, "r2")
    async with watching(place.reactor(grace=0.1)):
        await listening(place)
        await place.say(1, held)
        await place.say(2, other, runner="r2")
        place.leave(1)
        await place.say(3, held, instance="i1")
        place.leave(2)
        await happened(place.journal, e.Recovered, TWO)
    assert await story(place.journal, ONE) == [["Created"], ["Started"]]


async def test_time_without_a_connection_of_our_own_is_no_grace(place: Place) -> None:
    """Who cannot hear whether somebody came back does not say that it did not."""
    held = await place.held()
    async with watching(place.reactor(grace=0.02)):
        await listening(place)
        await place.say(1, held)
        place.presences.reached = False
        place.leave(1)
        await asyncio.sleep(0.1)
        await place.say(3, held, instance="i1")
        place.presences.reached = True
        other = await place.held(TWO, "r2")
        await place.say(2, other, runner="r2")
        place.leave(2)
        await happened(place.journal, e.Recovered, TWO)
    assert await story(place.journal, ONE) == [["Created"], ["Started"]]


async def test_two_reactors_put_back_once(place: Place) -> None:
    """What happened names the cause, so that the second finds it done."""
    held = await place.held()
    reactors = [place.reactor(), place.reactor()]
    async with watching(*reactors):
        await listening(place, 2)
        await place.say(1, held)
        place.gone = True
        place.leave(1)
        await happened(place.journal, e.Recovered, ONE)
        place.gone = False
        await place.begin(ONE, "r2")
    names = await story(place.journal, ONE)
    assert names == [["Created"], ["Started"], ["Recovered"], ["Started"]]


async def test_a_name_is_no_proof(place: Place) -> None:
    """Two runners with one name: what the live one holds stays with it."""
    held, other = await place.held(ONE, "same"), await place.held(TWO, "same")
    async with watching(place.reactor()):
        await listening(place)
        await place.say(1, held, runner="same")
        await place.say(2, other, runner="same")
        place.gone = True
        place.leave(1)
        await happened(place.journal, e.Recovered, ONE)
        place.leave(7)  # nobody that we know
    assert await story(place.journal, TWO) == [["Created"], ["Started"]]


async def test_what_another_took_over_is_left_to_it(place: Place) -> None:
    """Its lease had run out before: the new holder says that it has it."""
    held = await place.held(ONE, "r1")
    other = await place.held(TWO, "r1")
    async with watching(place.reactor()):
        await listening(place)
        await place.say(1, held, other)
        await place.say(2, held, runner="r2")
        place.gone = True
        place.leave(1)
        await happened(place.journal, e.Recovered, TWO)
    assert await story(place.journal, ONE) == [["Created"], ["Started"]]


async def test_changes_are_known_at_once(place: Place) -> None:
    """What was taken since everything was told is put back, what was dropped not."""
    first, second = await place.held(ONE), await place.held(TWO)
    async with watching(place.reactor()):
        await listening(place)
        await place.say(1, first)
        await place.say(1, whole=False, took=(second,), dropped=(first,))
        place.gone = True
        place.leave(1)
        await happened(place.journal, e.Recovered, TWO)
    assert await story(place.journal, ONE) == [["Created"], ["Started"]]


async def test_what_was_handed_out_and_never_begun_is_put_back(place: Place) -> None:
    """The runner died with the message on its way; what still waits is left."""
    await start(place.journal, ONE, agent())
    await place._fetch()
    await start(place.journal, TWO, agent())
    async with watching(place.reactor()):
        await listening(place)
        await place.say(1)
        place.gone = True
        place.leave(1)
        await happened(place.journal, e.Recovered, ONE)
    assert await story(place.journal, TWO) == [["Created"]]


async def test_what_ended_meanwhile_is_left(place: Place) -> None:
    """Who said that it holds something may have ended it since."""
    held, other = await place.held(ONE), await place.held(TWO)

    def fail(execution: Execution) -> None:
        execution.fail(1, "error", "it broke", retryable=False)

    await Handler(place.journal, "runner:r1").handle(ONE, fail)
    async with watching(place.reactor()):
        await listening(place)
        await place.say(1, held, other)
        place.gone = True
        place.leave(1)
        await happened(place.journal, e.Recovered, TWO)
    assert (await story(place.journal, ONE))[-1] == ["Failed"]


def test_this_process_lives_and_another_life_of_its_pid_does_not() -> None:
    """A pid alone proves nothing: it comes again."""
    from services.process import is_gone  # noqa: PLC0415 - beside what it is about

    here = this_process()
    assert not is_gone(here)
    assert is_gone(msgspec.structs.replace(here, began=here.began - 1))
    assert is_gone(msgspec.structs.replace(here, pid=2**22 + 1))
    assert not is_gone(msgspec.structs.replace(here, machine="elsewhere", pid=1))

"""Starts at a time and deadlines: each comes once, and loses every race lawfully."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from bells import Bell, now
from fake_tools import agent
from logs import Log
from running import happened, order, start, story, until

from events import catalog as e
from events.commands import Cancel, Input, Kill, Pause, Resume
from events.errors import Corrupt, Unavailable
from events.execution import Execution
from events.journal import Journal
from events.messages import Reply, ToolCall
from events.names import Key
from events.timers import MemoryTimers, Timer, Timers
from services.handler import Handler
from services.reactor import Reactor
from services.timers import Timekeeper

KEY = Key("ada", "run-1")
FAR = timedelta(days=300)


class Place:
    """A log and its timers."""

    def __init__(self, log: Log, bell: Bell) -> None:
        self.log, self.bell, self.journal = log, bell, log.journal

    async def reactor(self) -> Reactor:
        """Make a reactor, with connections of its own."""
        journal = await self.log.again()
        keeper = Timekeeper(Handler(journal, "reactor"), await self.bell.again())
        return Reactor(journal, [keeper])

    async def armed(self, count: int = 1) -> None:
        """Wait until so many timers wait for their time."""
        while len(await self.bell.timers.armed()) != count:  # noqa: ASYNC110 - nobody says
            await asyncio.sleep(0.005)

    async def left(self, count: int = 0) -> None:
        """Wait until so many are left, the others went off and were acted on."""
        while await self.bell.left() != count:  # noqa: ASYNC110 - nobody says
            await asyncio.sleep(0.005)


@pytest.fixture(params=["memory", "jetstream"])
def place(request: pytest.FixtureRequest) -> Place:
    """An empty log without timers, on each adapter."""
    name = request.param
    return Place(
        request.getfixturevalue(f"{name}_log"), request.getfixturevalue(f"{name}_bell")
    )


@asynccontextmanager
async def acting(*reactors: Reactor) -> AsyncIterator[None]:
    """Run reactors."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one.run()) for one in reactors]
        for one in reactors:
            await one.ready.wait()
        yield
        for one in reactors:
            await one.stop()
        await asyncio.wait(running)


def soon(seconds: float = 0.3) -> datetime:
    """A time in a moment."""
    return now() + timedelta(seconds=seconds)


def waiting(deadline: datetime | None, event_type: str = "order.paid") -> e.Awaited:
    """What an execution waits for from its start."""
    return e.Awaited(event_type=event_type, deadline=deadline)


async def asks(
    journal: Journal, deadline: datetime, key: Key = KEY, call_id: str = "c1"
) -> str:
    """Let an execution ask a person; returns the id of its request."""
    await start(journal, key, agent("ask_user"))
    within = max(0.001, (deadline - now()).total_seconds())
    arguments = json.dumps({"question": "Which?", "within": within})
    call = ToolCall(id=call_id, name="ask_user", arguments=arguments)

    def ask(execution: Execution) -> None:
        execution.begin("r1", execution.state.work_version)
        execution.respond(1, Reply(model="m", tool_calls=(call,)))

    execution = await Handler(journal, "runner:r1").handle(key, ask)
    assert execution.state.request is not None
    return execution.state.request.request


async def test_a_start_at_a_time_is_work_then_and_not_before(place: Place) -> None:
    """Nothing but the timer waits for it."""
    at = soon()
    async with acting(await place.reactor()):
        await start(place.journal, scheduled_for=at)
        due = await happened(place.journal, e.EventReceived)
    assert due.route == "agents"
    assert due.commit.at >= at
    assert due.commit.by == "reactor"
    assert due.commit.cause is not None
    assert due.commit.cause.startswith("due-")


async def test_a_wait_ends_at_its_deadline(place: Place) -> None:
    """And the execution goes on, and is told."""
    async with acting(await place.reactor()):
        await start(place.journal, awaited=waiting(soon()))
        due = await happened(place.journal, e.EventReceived)
    [fact] = due.commit.events
    assert isinstance(fact, e.EventReceived)
    assert fact.timed_out
    assert due.route == "agents"


async def test_a_wait_in_the_middle_of_a_run_ends_too(place: Place) -> None:
    """The model's call of await_event had a deadline."""
    arguments = '{"event_type": "order.paid", "within": 0.3}'
    call = ToolCall(id="c1", name="await_event", arguments=arguments)

    def wait(execution: Execution) -> None:
        execution.last_trigger = 0
        execution.begin("r1", execution.state.work_version)
        execution.respond(1, Reply(model="m", tool_calls=(call,)))

    await start(place.journal, KEY, agent("await_event"))
    async with acting(await place.reactor()):
        await Handler(place.journal, "runner:r1").handle(KEY, wait)
        state = await until(place.journal, lambda s: s.version == 3)
    assert state.runnable
    assert state.call("c1").outcome == "failed"  # type: ignore[union-attr]


async def test_a_request_that_nobody_answers_ends_at_its_deadline(
    place: Place,
) -> None:
    """Its answer says so."""
    async with acting(await place.reactor()):
        request = await asks(place.journal, soon())
        due = await happened(place.journal, e.InputReceived)
    assert due.commit.events == (e.InputReceived(request=request, timed_out=True),)


async def test_what_was_asked_while_no_reactor_was_there_is_armed(
    place: Place,
) -> None:
    """By the next one, at its start; what is over by then is not."""
    await start(place.journal, scheduled_for=soon())
    await start(place.journal, Key("ada", "over"), scheduled_for=now() + FAR)
    await order(place.journal, Cancel(), Key("ada", "over"))
    await start(place.journal, Key("ada", "far"), awaited=waiting(now() + FAR))
    async with acting(await place.reactor()):
        await happened(place.journal, e.EventReceived)
        await place.armed(1)
    async with acting(await place.reactor()):  # it knows what waits already
        await place.armed(1)


async def test_a_deadline_that_passed_while_all_was_down_comes_at_the_start(
    place: Place,
) -> None:
    """It was never armed."""
    await start(place.journal, awaited=waiting(now() - FAR))
    async with acting(await place.reactor()):
        due = await happened(place.journal, e.EventReceived)
    assert due.commit.version == 2


async def test_two_reactors_have_one_effect(place: Place) -> None:
    """Both arm, both may be handed it, one commit comes of it."""
    keys = [Key("ada", f"run-{number}") for number in range(20)]
    async with acting(await place.reactor(), await place.reactor()):
        for key in keys:
            await start(place.journal, key, scheduled_for=soon(0.2))
        for key in keys:
            await happened(place.journal, e.EventReceived, key)
        await place.left(0)
    for key in keys:
        assert await story(place.journal, key) == [["Created"], ["EventReceived"]]


async def test_a_timer_that_nobody_wants_any_more_is_ignored(place: Place) -> None:
    """Of what was cancelled, killed, received or answered meanwhile."""
    journal, keys = place.journal, [Key("ada", f"run-{n}") for n in range(4)]
    async with acting(await place.reactor()):
        at = soon(3.0)  # all four are armed and unwanted by then
        await start(journal, keys[0], scheduled_for=at)
        await start(journal, keys[1], scheduled_for=at)
        await start(journal, keys[2], awaited=waiting(at))
        request = await asks(journal, at, keys[3])
        await place.armed(4)
        await order(journal, Cancel(), keys[0])
        await order(journal, Kill(), keys[1])
        receive = partial(
            Execution.receive, event_type="order.paid", payload=1, trigger="7"
        )
        await Handler(journal, "t").handle(keys[2], receive)
        await order(journal, Input(request=request, answer="blue"), keys[3])
        before = [await journal.tip(key) for key in keys]
        await place.left(0)
    assert [await journal.tip(key) for key in keys] == before


async def test_the_timer_of_an_earlier_wait_does_not_end_a_later_one(
    place: Place,
) -> None:
    """They differ by their deadlines."""
    journal = place.journal
    await start(journal, awaited=waiting(first := soon(), "first"))
    receive = partial(Execution.receive, event_type="first", payload=1, trigger="7")
    await Handler(journal, "t").handle(KEY, receive)
    call = ToolCall(
        id="c1", name="await_event", arguments='{"event_type": "x", "within": 9000}'
    )

    def wait_again(execution: Execution) -> None:
        execution.begin("r1", execution.state.work_version)
        execution.respond(1, Reply(model="m", tool_calls=(call,)))
        if execution.state.awaited is None:  # this agent has no such tool
            awaited = waiting(now() + FAR, "second")
            execution.trigger_event(e.EventAwaited, awaited=awaited)

    await Handler(journal, "runner:r1").handle(KEY, wait_again)
    late = Timer(user=KEY.user, about=KEY.execution, kind="wait", due=first)
    await place.bell.timers.arm(late)
    async with acting(await place.reactor()):
        await place.armed(1)
        await place.left(1)
    execution = Execution.fold(KEY, await journal.read(KEY))
    assert execution.state.status == "awaiting_event"


@pytest.mark.parametrize("attempt", range(5))
async def test_an_event_and_its_deadline_at_once_have_one_effect(
    place: Place, attempt: int
) -> None:
    """Whoever appends first; the other finds nothing that waits."""
    deadline = now()
    await start(place.journal, awaited=waiting(deadline))
    sides = [
        partial(Execution.receive, event_type="order.paid", payload=1, trigger="7"),
        partial(Execution.expire_wait, deadline=deadline),
    ]
    await _race(place, sides[:: -1 if attempt % 2 else 1])
    assert await story(place.journal) == [["Created"], ["EventReceived"]]


@pytest.mark.parametrize("attempt", range(5))
async def test_an_answer_and_its_deadline_at_once_have_one_effect(
    place: Place, attempt: int
) -> None:
    """Who answers too late is told so."""
    request = await asks(place.journal, now())
    sides = [
        Input(request=request, answer="blue").decide,
        partial(Execution.expire_request, request=request),
    ]
    await _race(place, sides[:: -1 if attempt % 2 else 1])
    events = [name for names in await story(place.journal) for name in names]
    assert events.count("InputReceived") == 1


@pytest.mark.parametrize("command", [Cancel(), Kill(), Pause()])
async def test_a_start_that_comes_due_and_a_command_at_once_are_both_lawful(
    place: Place, command: Any
) -> None:
    """The end stands; a pause holds what came due until the resume."""
    await start(place.journal, scheduled_for=now())
    await _race(place, [command.decide, Execution.come_due])
    execution = Execution.fold(KEY, await place.journal.read(KEY))
    if isinstance(command, Pause):
        assert execution.state.status == "paused"
        await order(place.journal, Resume())
        execution = Execution.fold(KEY, await place.journal.read(KEY))
        assert execution.state.runnable
    else:
        assert execution.state.status == "cancelled"


async def _race(place: Place, sides: list[Any]) -> None:
    """Let two connections decide at the same moment."""
    journals = [await place.log.again() for _ in sides]
    await asyncio.gather(
        *(
            Handler(journal, "racer").handle(KEY, side, cause=f"cause-{number}")
            for number, (journal, side) in enumerate(zip(journals, sides, strict=True))
        ),
        return_exceptions=True,
    )


async def test_paused_before_its_time_it_waits_for_both(place: Place) -> None:
    """A resume before the time does not make it work; after it, it does."""
    journal = place.journal
    async with acting(await place.reactor()):
        await start(journal, scheduled_for=soon(3.0))  # paused again by then
        await order(journal, Pause())
        await order(journal, Resume())
        await order(journal, Pause())
        await happened(journal, e.EventReceived)
        await order(journal, Resume())
    history = await journal.read(KEY)
    assert [r.route for r in history] == ["parked"] * 5 + ["agents"]


class Reluctant(MemoryTimers):
    """Fails at first, at whatever is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = 2

    def _fail(self) -> None:
        if self.failing:
            self.failing -= 1
            raise Unavailable("not now, on purpose")

    async def arm(self, timer: Timer) -> None:
        """Arm it, later."""
        self._fail()
        await super().arm(timer)

    async def take(self, limit: int, wait: float) -> list[Any]:
        """Take, later."""
        self._fail()
        return [*await super().take(limit, wait)]

    async def armed(self) -> set[Any]:
        """Look, later."""
        self._fail()
        return await super().armed()


async def test_a_server_that_is_away_is_asked_again(
    memory_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is forgotten, and nobody gives up."""
    monkeypatch.setattr("services.timers.RETRY", 0.001)
    journal, timers = memory_log.journal, Reluctant()
    await start(journal, awaited=waiting(now()))
    reactor = Reactor(journal, [Timekeeper(Handler(journal, "reactor"), timers)])
    async with acting(reactor):
        await happened(journal, e.EventReceived)
        timers.failing = 2
        await start(journal, Key("ada", "two"), scheduled_for=now())
        await happened(journal, e.EventReceived, Key("ada", "two"))


class Faulty(Handler):
    """Cannot decide at first, and never about what is corrupt."""

    failing = 2

    async def handle(self, key: Key, *args: Any, **more: Any) -> Execution:
        """Decide, later."""
        if key.execution == "corrupt":
            raise Corrupt("a gap, on purpose")
        if self.failing:
            self.failing -= 1
            raise Unavailable("not now, on purpose")
        return await super().handle(key, *args, **more)


async def test_what_cannot_be_decided_now_is_put_off_and_never_is_let_go(
    memory_log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One execution that is damaged does not hold up the others."""
    monkeypatch.setattr("services.timers.RETRY", 0.001)
    journal, timers = memory_log.journal, MemoryTimers()
    corrupt = Timer(user="ada", about="corrupt", kind="start", due=now())
    await timers.arm(corrupt)
    await start(journal, awaited=waiting(now()))
    async with acting(Reactor(journal, [Timekeeper(Faulty(journal, "r"), timers)])):
        await happened(journal, e.EventReceived)
        while timers._rung:  # noqa: ASYNC110 - nobody says
            await asyncio.sleep(0.001)
    assert "start of ada/corrupt cannot be done: a gap, on purpose" in caplog.text


async def test_what_cannot_be_armed_holds_up_nobody(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A request whose id is endless has no deadline; the others have theirs."""
    long = Key("ada", "long")
    async with acting(await place.reactor()):
        for number in range(40):
            key = Key("ada", f"long-{number}")
            await asks(place.journal, now() + FAR, key, call_id="x" * 9000)
        await start(place.journal, scheduled_for=now())
        await happened(place.journal, e.EventReceived)
    assert f"request of {long}" in caplog.text
    assert "cannot be armed" in caplog.text


async def test_a_server_whose_clock_is_ahead_is_not_believed(memory_log: Log) -> None:
    """What it sends before its time by our clock is put off until then."""
    journal = memory_log.journal
    timers: Timers = MemoryTimers(clock=lambda: now() + timedelta(seconds=30))
    at = soon(0.3)
    async with acting(Reactor(journal, [Timekeeper(Handler(journal, "r"), timers)])):
        await start(journal, scheduled_for=at)
        due = await happened(journal, e.EventReceived)
    assert due.commit.at >= at

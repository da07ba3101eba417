"""Waking by triggers: whoever waits is woken once, whatever the order of arrival."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_model import FakeModel, says, wants
from fake_tools import World, agent
from logs import JetStreamLog, Log
from outside import JetStreamOutside, MemoryOutside, Outside
from running import finished, means, order, runner, story, until

from events import commands as c
from events.catalog import Awaited, Created, EventReceived
from events.errors import Corrupt, Unavailable
from events.execution import Execution
from events.faulty import FaultyJournal, Plan
from events.inbox import Inbox, MemoryInbox
from events.journal import Journal
from events.messages import Reply, ToolCall, ToolMessage, UserMessage
from events.names import EVERYBODY, Key
from events.pinned import JetStreamInbox
from events.state import State
from events.triggers import MAX_PAYLOAD
from services.handler import Decision, Handler
from services.reactor import Reactor
from services.triggers import AT_ONCE, Waker

LIMIT = 30.0
ONE, TWO = Key("ada", "run-1"), Key("ada", "run-2")
BEA = Key("bea", "run-1")


def waits(**where: Any) -> Reply:
    """A reply that asks to wait for ci.done."""
    arguments = msgspec.json.encode({"event_type": "ci.done", "where": where})
    return wants(ToolCall(id="w", name="await_event", arguments=arguments.decode()))


async def until_true(check: Callable[[], object]) -> None:
    """Let others go on until something is so."""
    async with asyncio.timeout(LIMIT):
        while not check():  # noqa: ASYNC110 - there is nothing to be told by
            await asyncio.sleep(0.001)


class Room:
    """A log, triggers from outside, and answers, each of one kind."""

    def __init__(self, log: Log, outside: Outside, inbox: Inbox) -> None:
        self.log, self.outside, self.inbox = log, outside, inbox
        self.journal, self.triggers = log.journal, outside.triggers

    async def park(
        self,
        key: Key = ONE,
        event_type: str = "ci.done",
        where: Mapping[str, Any] | None = None,
        **created: Any,
    ) -> None:
        """Let an execution wait to start."""
        awaited = Awaited(
            event_type=event_type,
            where=dict(where or {}),
            after_trigger=await self.triggers.last(),
        )
        new = Created(agent=agent(), input="Do it.", awaited=awaited, **created)
        create = partial(Execution.create, created=new)
        await Handler(self.journal, "tester").handle(key, create)

    async def happen(
        self,
        payload: Any = None,
        *,
        user: str = "ada",
        event_type: str = "ci.done",
        **headers: str,
    ) -> int:
        """Let something happen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = msgspec.json.encode(payload)
        return await self.triggers.publish(user, event_type, body, headers=named)

    async def ask(self, payload: Any = None, **about: str) -> dict[str, Any]:
        """Let something happen, and return the answer."""
        async with self.inbox.answers(about.get("user", "ada"), "t-1") as answers:
            await self.happen(payload, **about, Wake_Answer="t-1")
            async with asyncio.timeout(LIMIT):
                found: dict[str, Any] = msgspec.json.decode(await answers.get())
        return found

    def waker(self, journal: Journal | None = None) -> Waker:
        """Make the part that wakes."""
        handler = Handler(journal or self.journal, "reactor")
        return Waker(handler, self.triggers, self.inbox.answer)

    @asynccontextmanager
    async def reactor(
        self, journal: Journal | None = None, waker: Waker | None = None
    ) -> AsyncIterator[Waker]:
        """Run a reactor, from when it has seen everything there is."""
        waker = waker or self.waker(journal)
        reactor = Reactor(journal or self.journal, [waker])
        running = asyncio.create_task(reactor.run())
        try:
            async with asyncio.timeout(LIMIT):
                await reactor.ready.wait()
                await waker.ready.wait()
            yield waker
        finally:
            await reactor.stop()
            await running

    async def woken(self, key: Key = ONE) -> State:
        """Wait until an execution waits no more."""
        async with asyncio.timeout(LIMIT):
            return await until(
                self.journal, lambda s: s.version and s.awaited is None, key
            )

    async def receipts(self, key: Key = ONE) -> list[EventReceived]:
        """What an execution was woken by."""
        return [
            fact
            for recorded in await self.journal.read(key)
            for fact in recorded.commit.events
            if isinstance(fact, EventReceived)
        ]


@pytest.fixture
async def memory_room(memory_log: Log) -> Room:
    """Everything in memory."""
    return Room(memory_log, MemoryOutside(), MemoryInbox())


@pytest.fixture
async def jetstream_room(jetstream_log: JetStreamLog) -> AsyncIterator[Room]:
    """Everything on a real server."""
    async with JetStreamOutside.empty(jetstream_log._url) as outside:
        inbox = JetStreamInbox(await jetstream_log.wire())
        yield Room(jetstream_log, outside, inbox)


@pytest.fixture(params=["memory", "jetstream"])
def room(request: pytest.FixtureRequest) -> Room:
    """Each kind in turn."""
    chosen: Room = request.getfixturevalue(f"{request.param}_room")
    return chosen


# ── waiting and waking ───────────────────────────────────────────────────────


async def test_who_waits_in_the_middle_is_told_what_happened(
    room: Room, tmp_path: Path
) -> None:
    """It parks, costs no runner anything, and the model hears the payload."""
    asked = waits(n=7)
    model, world = FakeModel(asked, says("Good.")), World()
    work = means(model, world, tmp_path, last_trigger=room.triggers.last)
    await room.happen({"n": 7, "old": True})
    new = Created(agent=agent("await_event"), input="Do it.")
    await Handler(room.journal, "tester").handle(
        ONE, partial(Execution.create, created=new)
    )
    async with room.reactor(), runner(room.journal, work):
        state = await until(room.journal, lambda s: s.awaited)
        wait = state.awaited
        assert wait
        assert wait.after_trigger == 1
        assert (state.status, state.runner) == ("awaiting_event", None)
        await room.happen({"n": 8})
        await room.happen({"n": 7, "ok": True})
        await room.happen({"n": 7, "ok": False})
        state = await finished(room.journal)
    assert (state.status, state.output) == ("completed", "Good.")
    told = [m for m in model.requests[-1].messages if isinstance(m, ToolMessage)]
    assert told[0].output == 'Event ci.done: {"n":7,"ok":true}'
    assert await story(room.journal) == [
        ["Created"],
        ["Started"],
        ["ModelResponded", "EventAwaited"],
        ["EventReceived"],
        ["Started"],
        ["ModelResponded", "Completed"],
    ]


async def test_who_waits_to_start_starts_when_it_happens(
    room: Room, tmp_path: Path
) -> None:
    """No runner sees it before; then the model is told what happened."""
    model = FakeModel(says("Good."))
    async with room.reactor(), runner(room.journal, means(model, World(), tmp_path)):
        await room.park(lane="agents_long")
        await room.happen({"ok": True})
        assert (await finished(room.journal)).status == "completed"
    assert [m for m in model.requests[0].messages if isinstance(m, UserMessage)] == [
        UserMessage("Do it."),
        UserMessage('Event ci.done: {"ok":true}'),
    ]
    assert [r.route for r in await room.journal.read(ONE)][:2] == [
        "parked",
        "agents_long",
    ]


@pytest.mark.parametrize("user", ["ada", EVERYBODY])
async def test_nobody_of_another_user_is_woken(room: Room, user: str) -> None:
    """Nor whoever waits for another type, or for something else of that type."""
    there = {
        ONE: ("ci.done", {}),
        TWO: ("ci.done", {"branch": "main"}),
        Key("ada", "run-3"): ("ci.done", {"branch": "other"}),
        Key("ada", "run-4"): ("ci", {}),
        BEA: ("ci.done", {}),
    }
    for key, (event_type, where) in there.items():
        await room.park(key, event_type, where)
    async with room.reactor():
        answer = await room.ask({"branch": "main"}, user=user)
        expected = {ONE, TWO} | ({BEA} if user == EVERYBODY else set())
        assert answer["woken"] == len(expected)
        woken = {key for key in there if await room.receipts(key)}
        assert woken == expected


async def test_what_happened_before_does_not_wake(room: Room) -> None:
    """Whether a reactor was there then or not."""
    await room.happen(1)
    await room.park(ONE)
    async with room.reactor():
        await room.happen(2, event_type="other")
        await room.park(TWO)
        assert (await room.ask(3))["woken"] == 2
    assert [r.payload for k in (ONE, TWO) for r in await room.receipts(k)] == [3, 3]


async def test_an_event_while_paused_is_kept_for_the_resume(room: Room) -> None:
    """It is recorded at once, and nobody works on it before."""
    await room.park()
    await order(room.journal, c.Pause())
    async with room.reactor():
        await room.happen({"ok": True})
        assert (await room.woken()).status == "paused"
    await order(room.journal, c.Resume())
    assert (await Handler(room.journal, "t").load(ONE)).state.runnable


async def test_the_largest_payload_is_told_whole(room: Room) -> None:
    """What no commit has room for lies beside the log, and comes back."""
    await room.park()
    async with room.reactor():
        assert (await room.ask("x" * (MAX_PAYLOAD - 2)))["woken"] == 1
    [received] = await room.receipts()
    assert received.payload == "x" * (MAX_PAYLOAD - 2)


async def test_who_has_ended_is_not_woken(room: Room) -> None:
    """It is in no index any more."""
    await room.park()
    async with room.reactor() as waker:
        await order(room.journal, c.Cancel())
        assert (await room.ask())["woken"] == 0
        assert len(waker.waits) == 0
    assert await room.receipts() == []


async def test_a_start_for_a_time_and_an_event_waits_for_both(room: Room) -> None:
    """The event alone does not make it work."""
    handler = Handler(room.journal, "tester")
    await room.park(scheduled_for=handler.clock())
    async with room.reactor():
        await room.happen()
        assert not (await room.woken()).runnable
    await handler.handle(ONE, Execution.come_due)
    assert (await handler.load(ONE)).state.runnable


# ── whatever the order of arrival ────────────────────────────────────────────


class Racing:
    """Tells the last position, and lets something happen right behind it.

    So the trigger is there before the commit that begins the wait.
    """

    def __init__(self, room: Room) -> None:
        self._room = room

    async def __call__(self) -> int:
        """Tell it."""
        position = await self._room.triggers.last()
        await self._room.happen({"raced": True})
        return position


@pytest.mark.parametrize("reactors", ["none", "one", "two"])
async def test_what_happens_while_it_parks_wakes_it(
    room: Room, tmp_path: Path, reactors: str
) -> None:
    """The reactor sees the trigger first, or both at its start: once, in any case."""
    asked = waits()
    model = FakeModel(asked, says("Good."))
    work = means(model, World(), tmp_path, last_trigger=Racing(room))
    new = Created(agent=agent("await_event"), input="Do it.")
    create = partial(Execution.create, created=new)
    await Handler(room.journal, "tester").handle(ONE, create)
    async with AsyncExitStack() as stack:
        for _ in range(("none", "one", "two").index(reactors)):
            await stack.enter_async_context(room.reactor())
        await stack.enter_async_context(runner(room.journal, work))
        if reactors == "none":
            await until(room.journal, lambda s: s.awaited)
            await stack.enter_async_context(room.reactor())
        async with asyncio.timeout(LIMIT):
            assert (await finished(room.journal)).status == "completed"
    [received] = await room.receipts()
    assert received.payload == {"raced": True}


async def test_what_happens_while_no_reactor_is_there_wakes_when_one_is(
    room: Room,
) -> None:
    """The first that can; also if the last reactor saw the wait and went away."""
    await room.park(ONE)
    async with room.reactor():
        await room.park(TWO, where={"n": 2})
    for n in (1, 2, 3):
        await room.happen({"n": n})
    async with room.reactor():
        assert (await room.woken(ONE)).runnable
        assert (await room.woken(TWO)).runnable
    assert [r.payload for r in await room.receipts(ONE)] == [{"n": 1}]
    assert [r.payload for r in await room.receipts(TWO)] == [{"n": 2}]
    async with room.reactor():
        assert (await room.ask())["woken"] == 0


async def test_of_many_at_once_the_first_one_wakes(room: Room) -> None:
    """Also when two reactors see to it, and it goes on waiting for the next."""
    await room.park()
    async with room.reactor(), room.reactor():
        for n in range(30):
            await room.happen(n)
        state = await room.woken()
        assert state.runnable
        assert (await room.ask())["woken"] == 0
    assert [r.payload for r in await room.receipts()] == [0]


def waits_in(step: int, state: State) -> bool:
    """Whether it waits in this step."""
    return state.steps == step and state.awaited is not None


class Late(Waker):
    """Sees the log only when it is told to: what a slow reader is."""

    def __init__(self, waker: Waker) -> None:
        super().__init__(waker._handler, waker._triggers, waker._answer)
        self._held: list[Any] | None = None

    def hold(self) -> None:
        """See nothing from now on."""
        self._held = []

    def see(self, recorded: Any) -> None:
        """See it now or later."""
        if self._held is None:
            super().see(recorded)
        else:
            self._held.append(recorded)

    def offered(self, position: int) -> bool:
        """Whether a trigger of that position was offered to whom it knew."""
        subjects = ["triggers.ada.ci.done"]
        return bool(self._recent and self._recent.may_have(subjects, position - 1))

    def let_go(self) -> None:
        """See all that was held back."""
        held, self._held = self._held or [], None
        for recorded in held:
            super().see(recorded)


async def test_a_reactor_that_reads_the_log_late_misses_nothing(room: Room) -> None:
    """Neither a wait that began before a trigger came, nor its order."""
    late = Late(room.waker())
    async with room.reactor(waker=late):
        late.hold()
        await room.park(ONE, where={"n": 2})
        await room.park(TWO)
        for n in (1, 2, 3):
            await room.happen({"n": n})
        await until_true(lambda: late.offered(3))
        late.let_go()
        await room.woken(ONE)
        await room.woken(TWO)
    assert [r.payload for r in await room.receipts(ONE)] == [{"n": 2}]
    assert [r.payload for r in await room.receipts(TWO)] == [{"n": 1}]


async def test_an_answer_waits_for_those_who_were_parked_before(room: Room) -> None:
    """Also by a reactor that reads the log late."""
    late = Late(room.waker())
    async with room.reactor(waker=late):
        late.hold()
        await room.park()
        asking = asyncio.create_task(room.ask())
        await until_true(lambda: late._answering)
        late.let_go()
        assert (await asking)["woken"] == 1


# ── once ─────────────────────────────────────────────────────────────────────


async def test_two_reactors_wake_many_once_each_and_answer_the_same(
    room: Room,
) -> None:
    """Both see to all of them; the log takes one wake-up of each."""
    keys = [Key(f"user-{n % 5}", f"run-{n}") for n in range(60)]
    for key in keys:
        await room.park(key)
    async with (
        room.reactor(),
        room.reactor(),
        room.inbox.answers(EVERYBODY, "t-1") as answers,
    ):
        await room.happen({"ok": True}, user=EVERYBODY, Wake_Answer="t-1")
        async with asyncio.timeout(LIMIT):
            told = [msgspec.json.decode(await answers.get()) for _ in range(2)]
    assert [one["woken"] for one in told] == [60, 60]
    assert all([len(await room.receipts(key)) == 1 for key in keys])


async def test_the_same_event_sent_twice_wakes_once(room: Room, tmp_path: Path) -> None:
    """Also whoever waits again for its like; an event with another id wakes then."""
    asked = waits()
    work = means(
        FakeModel(asked, asked, says("Good.")),
        World(),
        tmp_path,
        last_trigger=room.triggers.last,
    )
    event = {
        "ce_specversion": "1.0",
        "ce_source": "/ci",
        "ce_type": "ci.done",
        "ce_id": "1",
    }
    new = Created(agent=agent("await_event"), input="Do it.")
    create = partial(Execution.create, created=new)
    await Handler(room.journal, "tester").handle(ONE, create)
    async with room.reactor(), room.reactor(), runner(room.journal, work):
        for number in range(2):
            await until(
                room.journal, lambda s, n=number: s.steps == n + 1 and s.awaited
            )
            for _ in range(3):
                await room.happen(number, **{**event, "ce_id": str(number)})
                await room.happen("again", **{**event, "ce_id": "0"})
        assert (await finished(room.journal)).status == "completed"
    received = await room.receipts()
    assert [r.payload for r in received] == [0, 1]
    assert len({r.trigger for r in received}) == 2


async def test_more_than_can_be_in_hand_are_woken_all(memory_room: Room) -> None:
    """They are begun as others are done."""
    keys = [Key("ada", f"run-{n}") for n in range(AT_ONCE * 2 + 7)]
    for key in keys:
        await memory_room.park(key)
    async with memory_room.reactor() as waker:
        most = 0
        asking = asyncio.create_task(memory_room.ask())
        while not asking.done():
            most = max(most, len(waker._busy))
            await asyncio.sleep(0)
        assert (await asking)["woken"] == len(keys)
        assert most <= AT_ONCE


@pytest.mark.parametrize("seed", range(5))
async def test_a_log_that_misbehaves_is_asked_until_it_is_done(
    memory_room: Room, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost acks, lost requests, silence: once each, and by the first trigger."""
    monkeypatch.setattr("services.triggers.RETRY", 0.001)
    keys = [Key("ada", f"run-{n}") for n in range(20)]
    for key in keys:
        await memory_room.park(key)

    plan = Plan(seed=seed, odds=0.3)
    faulty = FaultyJournal(memory_room.journal, plan, pause=0.001)
    faulty.patience = 0.05
    async with memory_room.reactor(faulty), memory_room.reactor(faulty):
        await memory_room.happen(1)
        await memory_room.happen(2)
        for key in keys:
            await memory_room.woken(key)
    for key in keys:
        assert [r.payload for r in await memory_room.receipts(key)] == [1]
    assert plan.struck


class Picky(Handler):
    """Cannot append what a trigger of 1 would lead to."""

    error: Exception = Corrupt("damaged")

    async def handle(self, key: Key, decide: Decision, **how: Any) -> Execution:
        """Decide, or fail."""
        if isinstance(decide, partial) and decide.keywords.get("payload") == 1:
            raise self.error
        return await super().handle(key, decide, **how)


async def test_what_cannot_be_received_is_left_for_the_next(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; the execution goes on waiting, and the others are woken."""
    await room.park()
    picky = Picky(room.journal, "reactor")
    waker = Waker(picky, room.triggers, room.inbox.answer)
    async with room.reactor(waker=waker):
        await room.happen(1)
        await room.happen(2)
        await room.woken()
    assert [r.payload for r in await room.receipts()] == [2]
    said = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [r.getMessage() for r in said] == ["ada/run-1 cannot be woken: damaged"]


async def test_what_cannot_be_received_is_not_offered_again_with_the_next(
    memory_room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the next one comes while it is looked whether there is one."""
    room, triggers = memory_room, memory_room.triggers
    await room.park()
    waker = Waker(Picky(room.journal, "reactor"), triggers, room.inbox.answer)
    beyond, asked = triggers.beyond, 0

    async def just_before(*about: Any) -> Any:
        nonlocal asked
        asked += 1
        found = await beyond(*about)
        if asked == 1:
            await room.happen(2)
            await until_true(lambda: waker._busy[ONE].again)
        return found

    monkeypatch.setattr(triggers, "beyond", just_before)
    async with room.reactor(waker=waker):
        await room.happen(1)
        await room.woken()
    assert [r.payload for r in await room.receipts()] == [2]
    assert caplog.text.count("ada/run-1 cannot be woken: damaged") == 1


async def test_the_triggers_out_of_reach_are_asked_again(
    memory_room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, and when it looks for what was missed."""
    monkeypatch.setattr("services.triggers.RETRY", 0.001)
    failures = {"last": 2, "latest": 1, "beyond": 3}

    def flaky(name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        async def asked(*arguments: Any) -> Any:
            failures[name] -= 1
            if failures[name] >= 0:
                raise Unavailable("not now")
            return await ask(*arguments)

        return asked

    triggers = memory_room.triggers
    await memory_room.park(ONE)
    await memory_room.happen(1)
    late = Late(memory_room.waker())
    for name in failures:
        monkeypatch.setattr(triggers, name, flaky(name, getattr(triggers, name)))
    async with memory_room.reactor(waker=late):
        await memory_room.woken(ONE)
        late.hold()
        failures["last"] = 0
        await memory_room.park(TWO)
        await memory_room.happen(2)
        await until_true(lambda: late.offered(2))
        late.let_go()
        await memory_room.woken(TWO)
    assert max(failures.values()) < 0


# ── answers and refusals ─────────────────────────────────────────────────────


async def test_with_nobody_waiting_the_answer_is_none(room: Room) -> None:
    """It says so, with where the trigger stands."""
    async with room.reactor():
        assert await room.ask() == {
            "position": 1,
            "accepted": True,
            "trigger": "seq-1",
            "woken": 0,
        }


BAD = [
    ("triggers.ada.ci.done", b"{", {}, "not JSON"),
    ("triggers.ada.ci.done", b'"\xff"', {}, "not JSON"),
    ("triggers.ada.ci.done", b"x" * 300_000, {}, "262,144 bytes, not 300,000"),
    ("triggers.ada.ci.done", b"1", {"ce-id": "1"}, "ce-specversion is missing"),
    ("triggers.ada.*", b"1", {}, "event type '*' is not allowed"),
    ("triggers.ada.>", b"1", {}, "event type '>' is not allowed"),
    ("triggers.a*a.ci.done", b"1", {}, "user 'a*a' is not allowed"),
    ("triggers.ada.ci.done", b"1", {"Wake-Answer": "*"}, "Wake-Answer '*'"),
]


async def test_what_is_no_trigger_is_logged_and_the_next_one_wakes(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """One line each, with the reason; nothing stops behind it."""
    await room.park()
    async with room.reactor():
        for subject, body, headers, _ in BAD:
            await room.outside.send(subject, body, headers)
        await room.happen({"ok": True})
        await room.woken()
    said = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert len(said) == len(BAD)
    for line, (_, _, _, why) in zip(said, BAD, strict=True):
        assert why in line
        assert len(line) < 400


@pytest.mark.parametrize(
    ("subject", "user", "why"),
    [
        ("triggers.ada.a", "ada", "not JSON"),
        ("triggers.all.a", "all", "not JSON"),
        ("triggers.ada.ci$done", "ada", "event type 'ci$done' is not allowed"),
        ("triggers.ada." + 129 * "a." + "b", "ada", "event type 'a.a.a."),
    ],
)
async def test_a_refusal_is_answered_too(
    room: Room, subject: str, user: str, why: str
) -> None:
    """With a code for programs and a message for people, also of what type it is."""
    async with room.reactor(), room.inbox.answers(user, "t-1") as answers:
        await room.outside.send(subject, b"{", {"Wake-Answer": "t-1"})
        async with asyncio.timeout(LIMIT):
            answer = msgspec.json.decode(await answers.get())
    assert (answer["accepted"], answer["code"]) == (False, "invalid_input")
    assert answer["message"].startswith(why)
    assert "woken" not in answer


async def test_only_who_asks_is_answered(room: Room) -> None:
    """So that a storm does not make another."""
    async with room.reactor(), room.inbox.answers("ada", "*") as answers:
        for n in range(50):
            await room.happen(n)
        async with asyncio.timeout(LIMIT):
            await room.happen(Wake_Answer="last")
            assert msgspec.json.decode(await answers.get())["position"] == 51
        assert answers.empty()


async def test_an_answer_that_cannot_be_sent_stops_nothing(
    memory_room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the next trigger wakes."""
    await memory_room.park()

    async def lost(*_: object) -> None:
        raise Unavailable("nobody hears")

    waker = Waker(Handler(memory_room.journal, "r"), memory_room.triggers, lost)
    async with memory_room.reactor(waker=waker):
        await memory_room.happen(event_type="other", Wake_Answer="t-1")
        await memory_room.happen()
        await memory_room.woken()
        await until_true(lambda: "nobody hears" in caplog.text)


async def test_a_storm_is_seen_to_the_end(jetstream_room: Room) -> None:
    """Ten thousand triggers: the one in the middle wakes, none is lost, memory is kept.

    Meanwhile whoever has something else to do in this process does it.
    """
    room, turns = jetstream_room, 0
    await room.park(where={"n": 5_000})
    numbers = iter(range(10_000))

    async def send() -> None:
        for n in numbers:
            await room.happen({"n": n}, event_type="x" if n % 2 else "ci.done")

    async def others() -> None:
        nonlocal turns
        while True:
            await room.journal.tip(ONE)
            turns += 1

    async with room.reactor() as waker:
        async with asyncio.TaskGroup() as group:
            other = group.create_task(others())
            async with asyncio.TaskGroup() as senders:
                for _ in range(128):
                    senders.create_task(send())
            other.cancel()
        assert (await room.ask({"n": 5_000}))["woken"] == 0
        assert turns > 100
        assert waker._recent
        assert len(waker._recent._last) == 2
        assert not waker._busy
    assert [r.payload for r in await room.receipts()] == [{"n": 5_000}]
    assert await room.triggers.last() == 10_001


async def test_an_unknown_outcome_is_looked_up(memory_room: Room) -> None:
    """A wake-up whose ack was lost is not appended again."""
    await memory_room.park()
    plan = Plan({"publish": ["lost_ack"]})
    faulty = FaultyJournal(memory_room.journal, plan)
    async with memory_room.reactor(faulty):
        await memory_room.happen(1)
        await memory_room.woken()
    assert len(await memory_room.receipts()) == 1
    assert plan.struck == ["lost_ack"]

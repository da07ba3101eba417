"""What a runner makes of an execution: replies, tools, limits, errors."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import stamina
from fake_model import FakeModel, Hang, says, use, wants
from fake_tools import World, agent
from logs import Log, MemoryLog
from running import (
    KEY,
    finished,
    happened,
    means,
    order,
    runner,
    start,
    story,
    until,
)

from events import catalog as e
from events.commands import Cancel, Input, Kill, Pause, Resume
from events.errors import (
    Misconfigured,
    ModelRefused,
    ModelUnavailable,
    Unavailable,
)
from events.messages import ToolCall, ToolMessage
from events.names import Key
from events.spec import Chunking, Limits
from services.agents.loop import Means
from services.agents.patience import MODEL_TRIES
from services.tools.base import ToolContext

WORKERS = 16


@pytest.fixture(autouse=True)
def _without_waiting() -> Iterator[None]:
    """Retries wait for nothing."""
    with stamina.set_testing(True, attempts=MODEL_TRIES):
        yield


@pytest.fixture
def world() -> World:
    """What the tools do."""
    return World()


@pytest.fixture
def with_model(world: World, tmp_path: Path) -> Callable[..., Means]:
    """Means with a model that answers by a script."""

    def make(*script: object) -> Means:
        return means(FakeModel(*script), world, tmp_path)

    return make


def model_of(means: Means) -> FakeModel:
    """The model that was opened."""
    model = means.open_model("fake")
    assert isinstance(model, FakeModel)
    return model


def answers(model: FakeModel) -> dict[str, ToolMessage]:
    """What the model was told of its calls, in its last request."""
    messages = model.requests[-1].messages
    return {m.call_id: m for m in messages if isinstance(m, ToolMessage)}


async def test_a_reply_is_recorded_though_its_wait_cannot_begin_yet(
    log: Log, world: World, tmp_path: Path
) -> None:
    """What was paid for comes first; the wait follows when the triggers answer."""
    arguments = '{"event_type": "ci.done"}'
    model = FakeModel(wants(ToolCall(id="w", name="await_event", arguments=arguments)))
    answers: Iterator[int | Exception] = iter([Unavailable("not now"), 17])

    async def last_trigger() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    work = means(model, world, tmp_path, last_trigger=last_trigger)
    await start(log.journal, spec=agent("await_event"))
    async with runner(log.journal, work):
        state = await until(log.journal, lambda s: s.status == "awaiting_event")
    wait = state.awaited
    assert wait
    assert (wait.after_trigger, model.asked[1]) == (17, 1)
    assert (await story(log.journal))[2:] == [["ModelResponded"], ["EventAwaited"]]


async def test_no_step_asks_for_the_last_trigger_but_one_that_waits(
    log: Log, world: World, tmp_path: Path
) -> None:
    """A step that parks for nothing costs no request more."""
    asked = 0

    async def last_trigger() -> int:
        nonlocal asked
        asked += 1
        return 17

    wait = ToolCall(id="w", name="await_event", arguments='{"event_type": "ci.done"}')
    model = FakeModel(wants(use("look", "a")), wants(use("note", "b")), wants(wait))
    work = means(model, world, tmp_path, last_trigger=last_trigger)
    await start(log.journal, spec=agent("await_event"))
    async with runner(log.journal, work):
        await until(log.journal, lambda s: s.status == "awaiting_event")
    assert asked == 1


async def test_a_wait_beside_other_calls_begins_when_they_are_done(
    log: Log, world: World, tmp_path: Path
) -> None:
    """Behind the last trigger of that moment, not of when it was asked for."""
    positions = iter([17, 18])

    async def last_trigger() -> int:
        return next(positions)

    wait = ToolCall(id="w", name="await_event", arguments='{"event_type": "ci.done"}')
    work = means(
        FakeModel(wants(wait, use("look", "a"))),
        world,
        tmp_path,
        last_trigger=last_trigger,
    )
    await start(log.journal, spec=agent("await_event"))
    async with runner(log.journal, work):
        state = await until(log.journal, lambda s: s.status == "awaiting_event")
    begun = state.awaited
    assert begun
    assert (begun.after_trigger, world.count("look")) == (18, 1)


# ── to the end ───────────────────────────────────────────────────────────────


async def test_an_execution_runs_to_its_end(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """Each step is a commit: what was asked for, what came of it, the answer."""
    work = with_model(wants(use("look", "a")), wants(use("launch", "b")), says("found"))
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert (state.status, state.output) == ("completed", "found")
    assert state.finish_reason == "final_answer"
    assert (state.steps, state.usage.total) == (3, 2)
    assert [name for name, _, _ in world.ran] == ["look", "launch"]
    assert await story(log.journal) == [
        ["Created"],
        ["Started"],
        ["ModelResponded"],
        ["ToolCompleted"],
        ["ModelResponded", "ToolStarted"],
        ["ToolCompleted"],
        ["ModelResponded", "Completed"],
    ]


async def test_tools_of_one_reply_run_side_by_side_and_are_recorded_as_they_come(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """The slow one ends only after the fast one's result is in the log."""
    both = asyncio.Barrier(2)

    async def fast(_: ToolContext) -> None:
        await both.wait()

    async def slow(_: ToolContext) -> None:
        await both.wait()
        await happened(log.journal, e.ToolCompleted)

    world.behave = {"fast": fast, "slow": slow}
    work = with_model(wants(use("look", "slow"), use("look", "fast")), says())
    await start(log.journal)
    async with runner(log.journal, work):
        await finished(log.journal)
    history = await log.journal.read(KEY)
    ended = [
        fact.call_id
        for recorded in history
        for fact in recorded.commit.events
        if isinstance(fact, e.ToolCompleted)
    ]
    assert ended == ["look-fast", "look-slow"]


async def test_state_tools_are_recorded_with_the_reply(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """One commit has the reply, the notes, and what is wrong with other calls."""
    reply = wants(use("note", "seen"), use("fly"), use("note", "crash"), use("look"))
    work = with_model(reply, says())
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    told = await story(log.journal)
    assert told[2] == [
        "ModelResponded",
        "MetadataWritten",
        *["ToolCompleted"] * 3,
    ]
    assert told[3] == ["ToolCompleted"]
    assert state.notes == {"seen": True}
    assert answers(model_of(work))["note-crash"].output.startswith("note crashed")
    assert world.count("look") == 1


async def test_what_goes_wrong_with_a_tool_is_told_to_the_model(
    log: Log,
    with_model: Callable[..., Means],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unknown, broken, crashing, timed out, cancelled by itself: none is fatal."""
    monkeypatch.setattr("services.tools.calls.LONGEST", 0.05)
    monkeypatch.setattr("services.tools.calls.SETTLING", 0.0)

    async def crash(_: ToolContext) -> None:
        raise ZeroDivisionError

    async def quit_(_: ToolContext) -> None:
        raise asyncio.CancelledError

    world.behave = {"crash": crash, "hang": Hang(), "quit": quit_}
    broken = ToolCall(id="broken", name="look", arguments="{")
    reply = wants(use("fly"), broken, *(use("look", w) for w in world.behave))
    work = with_model(reply, says("so what"))
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert state.output == "so what"
    told = answers(model_of(work))
    assert len(told) == 5
    assert {message.outcome for message in told.values()} == {"failed"}


async def test_an_output_of_control_characters_is_recorded(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """JSON makes six bytes of each: it is cut to what fits."""

    async def binary(_: ToolContext) -> str:
        return "\x01" * 48 * 1024

    world.behave = {"binary": binary}
    work = with_model(
        wants(*(use("look", "binary", id=str(n)) for n in range(6))), says()
    )
    await start(log.journal)
    async with runner(log.journal, work):
        assert (await finished(log.journal)).status == "completed"
    assert world.count("look") == 6


async def test_a_long_execution_shares_its_runner(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """It goes to the back of its lane after each chunk, and is picked up again."""
    work = with_model(*[wants(use("look"))] * 5, says())
    chunking = Chunking(steps_per_chunk=2, max_chunks=10)
    await start(log.journal, spec=agent(chunking=chunking))
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert (state.status, state.steps, state.chunk) == ("completed", 6, 2)
    assert [r.route for r in await log.journal.read(KEY)].count("agents") == 3


async def test_a_hundred_executions_complete_at_concurrency_16(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """All of them, no more than sixteen at once, none twice."""
    work = with_model(wants(use("look")), wants(use("launch")), says())
    keys = [Key("ada", f"many-{n}") for n in range(100)]
    await asyncio.gather(*(start(log.journal, key) for key in keys))
    async with runner(log.journal, work, concurrency=WORKERS):
        states = await asyncio.gather(*(finished(log.journal, key) for key in keys))
    assert {state.status for state in states} == {"completed"}
    assert {state.attempt for state in states} == {1}
    assert model_of(work).asked == {1: 100, 2: 100, 3: 100}
    assert 1 < model_of(work).most_at_once <= WORKERS
    assert world.count("launch") == 100


async def test_a_runner_of_one_execution_leaves_the_others(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """It takes what it was started for, and nothing else."""
    other = Key("bob", KEY.execution)
    work = with_model(says())
    await start(log.journal, other)
    await start(log.journal)
    async with runner(log.journal, work, only=KEY):
        await finished(log.journal)
    assert await story(log.journal, other) == [["Created"]]


# ── the model's errors, limits ───────────────────────────────────────────────


async def test_a_model_that_is_busy_is_asked_again(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """Until it answers; the execution hears nothing of it."""
    busy: list[object] = [ModelUnavailable("busy"), ModelUnavailable(retry_after=60.0)]
    work = with_model([*busy, says("at last")])
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert (state.output, state.steps) == ("at last", 1)
    assert model_of(work).asked[1] == 3


@pytest.mark.parametrize(
    ("error", "asked", "retryable"),
    [
        (ModelRefused("no such model"), 1, False),
        (ModelUnavailable("still busy"), MODEL_TRIES, True),
        (Misconfigured("set FAKE_KEY"), 1, False),
        (TimeoutError("socket"), 1, True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_model_that_will_not_answer_fails_the_execution(
    memory_log: MemoryLog,
    with_model: Callable[..., Means],
    error: Exception,
    asked: int,
    *,
    retryable: bool,
) -> None:
    """With the reason, and whether a retry could help."""
    work = with_model(error)
    await start(memory_log.journal)
    async with runner(memory_log.journal, work):
        state = await finished(memory_log.journal)
    assert state.status == "failed"
    assert state.failure is not None
    assert str(error) in state.failure.message
    assert state.failure.retryable is retryable
    assert model_of(work).asked[1] == asked


async def test_a_model_that_cannot_be_opened_fails_the_execution(
    memory_log: MemoryLog, with_model: Callable[..., Means]
) -> None:
    """The message is the one that says what to change; the runner lives on."""

    def refuse(name: str) -> FakeModel:
        raise Misconfigured(f"{name} needs FAKE_KEY")

    work = with_model(says())
    other = Key("ada", "other")
    async with runner(memory_log.journal, replace(work, open_model=refuse)):
        for key in (KEY, other):
            await start(memory_log.journal, key)
            state = await finished(memory_log.journal, key)
            assert state.failure is not None
            assert state.failure.error == "misconfigured"
            assert state.failure.message == "fake needs FAKE_KEY"


async def test_a_model_call_that_outlasts_the_execution_is_ended(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """The execution ends in order, because of its timeout."""
    hang = Hang()
    work = with_model(wants(use("look"), text="so far"), hang)
    await start(log.journal, spec=agent(limits=Limits(timeout=2.0)))
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert (state.status, state.finish_reason) == ("completed", "timeout")
    assert state.output == "so far"
    assert hang.ended.is_set()


async def test_waiting_for_a_busy_model_ends_with_the_execution(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """A provider that wants an hour is not waited for beyond the timeout."""
    work = with_model(ModelUnavailable(retry_after=3_600.0))
    await start(log.journal, spec=agent(limits=Limits(timeout=0.1)))
    stamina.set_testing(False)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert state.finish_reason == "timeout"


async def test_a_workspace_that_is_missing_fails_the_execution(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """Before any tool runs, with the path and what to do."""
    work = with_model(wants(use("look")), says())
    await start(log.journal, workspace="/nowhere/at/all")
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert state.failure is not None
    assert state.failure.error == "invalid_input"
    assert "/nowhere/at/all" in state.failure.message
    assert "create it first" in state.failure.message
    assert world.ran == []


async def test_workspaces_that_cannot_be_made_fail_the_execution(
    memory_log: MemoryLog, with_model: Callable[..., Means], tmp_path: Path
) -> None:
    """A file where a directory should be is told by its name."""
    (tmp_path / "ada").write_text("in the way")
    await start(memory_log.journal)
    async with runner(memory_log.journal, with_model(wants(use("look")), says())):
        state = await finished(memory_log.journal)
    assert state.failure is not None
    assert str(tmp_path / "ada") in state.failure.message


# ── people and signals ───────────────────────────────────────────────────────


async def test_a_question_parks_and_its_answer_goes_on(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """Meanwhile nobody holds it; the model is told what the person said."""
    question = ToolCall(id="q", name="ask_user", arguments='{"question": "Which?"}')
    work = with_model(wants(question), says("thanks"))
    await start(log.journal, spec=agent("ask_user"))
    async with runner(log.journal, work) as one:
        state = await until(log.journal, lambda s: s.status == "awaiting_input")
        await one._holdings.none.wait()
        assert state.request is not None
        await order(log.journal, Input(request=state.request.request, answer="this"))
        state = await finished(log.journal)
    assert state.output == "thanks"
    assert answers(model_of(work))["q"].output == "this"


async def test_a_call_that_needs_approval_waits_for_it(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """It runs after a person said so, and not before."""
    work = with_model(wants(use("launch", "it")), says())
    await start(log.journal, spec=agent(approvals=("launch",)))
    async with runner(log.journal, work):
        state = await until(log.journal, lambda s: s.status == "awaiting_input")
        assert world.ran == []
        assert state.request is not None
        approved = Input(request=state.request.request, answer={"decision": "approve"})
        await order(log.journal, approved)
        await finished(log.journal)
    assert world.count("launch") == 1


class Gate:
    """A reply that waits until it is let through."""

    def __init__(self, *calls: ToolCall) -> None:
        self.begun, self.open = asyncio.Event(), asyncio.Event()
        self.calls = calls

    async def __call__(self, *_: object):  # noqa: ANN204 - a Reply
        """Answer once the gate is open."""
        self.begun.set()
        await self.open.wait()
        return wants(*self.calls)


async def test_a_pause_takes_effect_at_the_next_commit_and_a_resume_goes_on(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """The reply in flight is recorded with the pause; nothing of it is done again."""
    gate = Gate(use("look"))
    work = with_model(gate, says())
    await start(log.journal)
    async with runner(log.journal, work):
        await gate.begun.wait()
        await order(log.journal, Pause())
        gate.open.set()
        await until(log.journal, lambda s: s.status == "paused")
        assert world.ran == []
        await order(log.journal, Resume())
        await finished(log.journal)
    assert model_of(work).asked == {1: 1, 2: 1}
    assert world.count("look") == 1
    assert ["ModelResponded", "Paused"] in await story(log.journal)


async def test_a_pause_withdrawn_in_time_does_not_stop_it(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """It never rests: no second start."""
    gate = Gate(use("look"))
    work = with_model(gate, says())
    await start(log.journal)
    async with runner(log.journal, work):
        await gate.begun.wait()
        await order(log.journal, Pause())
        await order(log.journal, Resume())
        gate.open.set()
        state = await finished(log.journal)
    assert (state.status, state.attempt) == ("completed", 1)


async def test_a_cancel_takes_effect_at_the_next_commit(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """The paid reply is recorded, its tools do not run."""
    gate = Gate(use("look"))
    work = with_model(gate, says())
    await start(log.journal)
    async with runner(log.journal, work):
        await gate.begun.wait()
        await order(log.journal, Cancel(reason="enough"))
        gate.open.set()
        state = await finished(log.journal)
    assert (state.status, state.cancel_reason) == ("cancelled", "enough")
    assert state.steps == 1
    assert world.ran == []


@pytest.mark.parametrize("where", ["model", "look", "launch"])
async def test_a_cancel_whose_grace_is_over_cuts_short_what_is_in_flight(
    log: Log, with_model: Callable[..., Means], world: World, where: str
) -> None:
    """What it had begun is ended; of an irreversible tool nobody knows the outcome."""
    hang = Hang()
    world.behave = {"hang": hang}
    script = [hang] if where == "model" else [wants(use(where, "hang")), says()]
    work = with_model(*script)
    await start(log.journal)
    async with runner(log.journal, work, cancel_grace=0.05):
        await hang.begun.wait()
        await order(log.journal, Cancel(reason="too slow"))
        state = await finished(log.journal)
        await hang.ended.wait()
    assert (state.status, state.cancel_reason) == ("cancelled", "too slow")
    assert (await story(log.journal))[-1] == (
        ["ToolInDoubt", "Cancelled"] if where == "launch" else ["Cancelled"]
    )


async def test_a_cancel_that_came_before_the_attempt_has_its_grace_too(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """A tool that was started is seen to its end, but not for ever."""
    hang = Hang()
    gate = Gate(use("launch", "hang"))
    world.behave = {"hang": hang}
    work = with_model(gate, says())
    await start(log.journal)
    async with runner(log.journal, work, cancel_grace=0.05):
        await gate.begun.wait()
        gate.open.set()
        await hang.begun.wait()
        await order(log.journal, Cancel(reason="enough"))
        state = await finished(log.journal)
    assert state.status == "cancelled"
    assert hang.ended.is_set()


async def test_an_irreversible_tool_is_seen_to_its_end_before_a_pause(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """What has begun is recorded; the read-only call beside it is, too."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: ToolContext) -> None:
        begun.set()
        await go_on.wait()

    world.behave = {"slow": slow}
    work = with_model(wants(use("launch", "slow")), says())
    await start(log.journal)
    async with runner(log.journal, work):
        await begun.wait()
        await order(log.journal, Pause())
        go_on.set()
        state = await until(log.journal, lambda s: s.status == "paused")
    assert state.turn is not None
    assert [call.outcome for call in state.turn.calls] == ["success"]


@pytest.mark.parametrize("where", ["model", "look", "launch"])
async def test_a_kill_stops_what_hangs_at_once(
    log: Log, with_model: Callable[..., Means], world: World, where: str
) -> None:
    """The call in flight is ended, the slot is free, and nothing is appended after."""
    hang = Hang()
    world.behave = {"hang": hang}
    script = [hang] if where == "model" else [wants(use(where, "hang"))]
    await start(log.journal)
    async with runner(log.journal, with_model(*script)) as one:
        await hang.begun.wait()
        await order(log.journal, Kill(reason="stop"))
        await hang.ended.wait()
        await one._holdings.none.wait()
    last = (await story(log.journal))[-1]
    assert last == (
        ["ToolInDoubt", "Cancelled"] if where == "launch" else ["Cancelled"]
    )
    async with runner(log.journal, with_model(says()), name="r2"):
        await start(log.journal, Key("ada", "next"))
        await finished(log.journal, Key("ada", "next"))
    assert (await story(log.journal))[-1] == last


# ── the runner itself ────────────────────────────────────────────────────────


async def test_an_execution_that_breaks_its_worker_does_not_stop_the_others(
    log: Log, with_model: Callable[..., Means], caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody foresaw is logged; the runner goes on with the rest."""
    bad, good = Key("ada", "bad"), Key("ada", "good")
    work = with_model([KeyError("a bug of the provider's library"), says()])
    async with runner(log.journal, work):
        await start(log.journal, bad)
        while "cannot be worked on" not in caplog.text:  # noqa: ASYNC110 - a log line
            await asyncio.sleep(0.01)
        await start(log.journal, good)
        assert (await finished(log.journal, good)).status == "completed"
    assert (await story(log.journal, bad))[-1] == ["Started"]


class ReadingAlong:
    """Notes what is said, and when a speech begins anew and ends."""

    def __init__(self, *whose: object) -> None:
        self.heard: list[object] = [whose]

    def say(self, text: str) -> None:
        """Note it."""
        self.heard.append(text)

    def again(self) -> None:
        """Note it."""
        self.heard.append("again")

    def end(self) -> None:
        """Note it."""
        self.heard.append("end")


async def test_tokens_are_heard_as_they_come(
    memory_log: MemoryLog, with_model: Callable[..., Means]
) -> None:
    """Of every try of every reply, with execution, step and attempt."""
    speeches: list[ReadingAlong] = []

    def speak(*whose: object) -> ReadingAlong:
        speeches.append(ReadingAlong(*whose))
        return speeches[-1]

    then: list[object] = [ModelUnavailable("busy"), says("yes")]
    work = replace(with_model(wants(use("look"), text="hm"), then), speak=speak)
    await start(memory_log.journal)
    async with runner(memory_log.journal, work):
        await finished(memory_log.journal)
    assert [speech.heard for speech in speeches] == [
        [(KEY, 1, 1), "hm", "end"],
        [(KEY, 2, 1), "again", "yes", "end"],
    ]


async def test_a_drained_runner_takes_nothing_new(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """What comes later is left to others, and is with them at once."""
    work = with_model(says())
    async with runner(log.journal, work, name="r1"):
        await start(log.journal)
        await finished(log.journal)
    other = Key("ada", "other")
    await start(log.journal, other)
    async with runner(await log.again(), work, name="r2"):
        state = await finished(log.journal, other)
    assert state.attempt == 1
    assert state.status == "completed"

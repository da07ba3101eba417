import asyncio
from pathlib import Path

import msgspec
import pytest
from fake_model import use
from fake_tools import World, agent

from events.errors import InvalidInput, ToolFailed
from events.messages import ToolCall, ToolResult
from events.names import MAX_COMMIT
from events.state import Call, State, Turn
from services.tools.base import MAX_OUTPUT, ToolContext
from services.tools.calls import Caller
from services.tools.workspace import Workspace


def state(*approvals: str) -> State:
    """An execution after two steps, of an agent with the fake tools."""
    turn = Turn(step=2, text="", calls=[])
    spec = agent("bash", approvals=approvals)
    return State(user="ada", id="run-1", agent=spec, steps=2, turns=[turn])


def opened(call: ToolCall) -> Call:
    """Make a call as the execution has it."""
    return Call(id=call.id, name=call.name, arguments=call.arguments)


@pytest.fixture
def world() -> World:
    """What the tools do."""
    return World()


@pytest.fixture
def caller(world: World, tmp_path: Path) -> Caller:
    """Makes calls in a workspace of its own."""
    return Caller(world.tools(), lambda: Workspace(tmp_path))


async def run(caller: Caller, call: ToolCall, limit: float = 60.0) -> ToolResult:
    """Make one call to its end."""
    try:
        return await caller.run(state(), opened(call), limit)
    finally:
        caller.close()


# ── running ──────────────────────────────────────────────────────────────────


async def test_a_call_runs_its_tool(caller: Caller, world: World) -> None:
    """Its output is what the model is told; the key is the call's own."""
    result = await run(caller, use("look", "around"))
    assert (result.output, result.outcome) == ("around", "success")
    assert result.call_id == "look-around"
    assert result.latency_ms > 0
    assert world.ran == [("look", "around", "run-1-2-look-around")]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (use("fly"), "no tool 'fly'; there are: look, write, launch, note, bash"),
        (use("bash"), "no tool 'bash'"),
        (ToolCall(id="1", name="look", arguments="{"), "invalid arguments for look"),
        (ToolCall(id="1", name="look", arguments="[]"), "Expected `object`"),
        (ToolCall(id="1", name="look", arguments='{"wat":1}'), "unknown field `wat`"),
        (ToolCall(id="1", name="look", arguments='{"what":1}'), "Expected `str`"),
        (ToolCall(id="1", name="look", arguments='{"what":"\ud800"}'), "invalid"),
        (ToolCall(id="1", name="x" * 9_999, arguments="{}"), "no tool 'xxx"),
        (use("note", "refused"), "that cannot be noted"),
        (use("note", "crash"), "note crashed: KeyError: 'crash'"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
async def test_what_is_wrong_with_a_call_is_told_to_the_model(
    caller: Caller, world: World, call: ToolCall, told: str
) -> None:
    """Nothing that a model writes is fatal, and nothing of it runs."""
    result = await run(caller, call)
    assert told in result.output
    assert result.outcome == "failed"
    assert len(result.output) < 300
    assert world.ran == []


async def test_a_tool_that_fails_or_crashes_is_told_to_the_model(
    caller: Caller, world: World
) -> None:
    """With its own words, or with the error that nobody expected."""

    async def fail(_: ToolContext) -> None:
        raise ToolFailed("no such thing: look elsewhere")

    async def crash(_: ToolContext) -> None:
        raise ZeroDivisionError("by zero")

    world.behave = {"fail": fail, "crash": crash}
    failed = await run(caller, use("look", "fail"))
    crashed = await run(caller, use("look", "crash"))
    assert failed.output == "no such thing: look elsewhere"
    assert crashed.output == "look crashed: ZeroDivisionError: by zero"
    assert failed.outcome == crashed.outcome == "failed"


async def test_a_tool_that_takes_too_long_is_cut_off(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled, and the model is told after how long."""
    monkeypatch.setattr("services.tools.calls.SETTLING", 0.0)
    ended = asyncio.Event()

    async def hang(_: ToolContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    world.behave = {"hang": hang}
    result = await run(caller, use("look", "hang"), limit=0.01)
    assert result.output == "look was cut off after 0 s"
    assert result.outcome == "failed"
    assert ended.is_set()


async def test_a_tools_own_timeout_is_its_failure(caller: Caller, world: World) -> None:
    """A TimeoutError that a tool lets out is told, too."""

    async def late(_: ToolContext) -> None:
        raise TimeoutError

    world.behave = {"late": late}
    assert (await run(caller, use("look", "late"))).outcome == "failed"


async def test_a_tool_that_cancels_itself_is_told_to_the_model(
    caller: Caller, world: World
) -> None:
    """That is a crash: it must not look as if somebody wanted the end."""

    async def give_up(_: ToolContext) -> None:
        raise asyncio.CancelledError

    world.behave = {"quit": give_up}
    result = await run(caller, use("look", "quit"))
    assert "cancelled itself" in result.output


async def test_a_cancellation_is_passed_on(caller: Caller, world: World) -> None:
    """Whoever stops a call stops its tool, and hears that it was stopped."""
    begun = asyncio.Event()

    async def hang(_: ToolContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    world.behave = {"hang": hang}
    task = asyncio.create_task(run(caller, use("look", "hang")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "text",
    ["x" * 10_000_000, "\x00" * MAX_OUTPUT, "🦉" * MAX_OUTPUT, '"\\' * MAX_OUTPUT],
    ids=["long", "control", "wide", "quoted"],
)
async def test_every_output_fits_a_commit(
    caller: Caller, world: World, text: str
) -> None:
    """However it is escaped in JSON; what is left out is said."""

    async def tell(_: ToolContext) -> str:
        return text

    async def crash(_: ToolContext) -> str:
        raise ValueError(text)

    world.behave = {"tell": tell, "crash": crash}
    for call in (use("look", "tell"), use("look", "crash")):
        result = await run(caller, call)
        assert len(msgspec.json.encode(result)) < MAX_COMMIT // 2
        if len(text.encode()) > MAX_OUTPUT:
            assert "left out" in result.output


async def test_a_workspace_that_is_not_there_is_an_error(world: World) -> None:
    """Found when it is opened; nothing runs."""
    caller = Caller(world.tools(), lambda: Workspace(Path("/nowhere/at/all")))
    with pytest.raises(InvalidInput, match=r"/nowhere/at/all"):
        caller.open()
    caller.close()
    caller.close()


# ── what needs no world ──────────────────────────────────────────────────────


def test_state_tools_and_wrong_calls_are_answered_at_once(
    caller: Caller, world: World
) -> None:
    """The others are left for a runner, and control tools for the core."""
    calls = [
        use("note", "this"),
        use("look"),
        use("fly"),
        use("launch"),
        use("ask_user"),
        use("note", "crash"),
        ToolCall(id="broken", name="write", arguments="{"),
    ]
    results = caller.at_once(state(), calls)
    answered = {result.call_id: result.outcome for result in results}
    assert answered == {
        "note-this": "success",
        "fly-": "failed",
        "note-crash": "failed",
        "broken": "failed",
    }
    assert results[0].notes == {"this": True}
    assert world.ran == []


def test_a_state_tool_that_needs_approval_waits(caller: Caller) -> None:
    """It is not done before somebody said so."""
    assert caller.at_once(state("note"), [use("note", "this")]) == []


def test_only_the_tools_that_there_are_are_offered(caller: Caller) -> None:
    """One that cannot be had here (no sandbox) is not promised to the model."""
    schemas = caller.schemas(state())
    assert [schema.name for schema in schemas] == ["look", "write", "launch", "note"]


def test_control_tools_are_offered_in_their_place(caller: Caller) -> None:
    """Though nobody here runs them: the core answers."""
    one = state()
    tools = ("look", "ask_user", "write", "spawn_agent")
    one.agent = msgspec.structs.replace(one.agent, tools=tools)
    names = [schema.name for schema in caller.schemas(one)]
    assert names == ["look", "ask_user", "write"]

"""What is larger than a commit: recorded whole, told again, never lost."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from fake_model import FakeModel, Hang, says, use, wants
from fake_tools import World, agent
from logs import JetStreamLog, Log, MemoryLog
from running import KEY, finished, means, order, runner, start, story, until

from events.commands import Input
from events.faulty import Fault, FaultyJournal, Plan
from events.journal import Journal
from events.messages import AssistantMessage, Reply, ToolCall, ToolMessage
from events.names import MAX_COMMIT, Key
from events.state import State, Turn
from services.agents.loop import Means
from services.handler import Handler
from services.tools.base import Tool, ToolContext, ToolOutput
from services.tools.bash import Bash
from services.tools.sandbox import Sandbox, find_sandbox

BIG = "0123456789" * 200_000
"""Two megabytes."""


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


async def sizes(journal: Journal) -> list[int]:
    """Bytes of each commit, as it is stored."""
    return [len(recorded.body) for recorded in await journal.read(KEY)]


def noting(**notes: object) -> Callable[[ToolContext], object]:
    """A tool that is told what to note."""

    async def note(_: ToolContext) -> ToolOutput:
        return ToolOutput(text="It is done.", notes=notes)

    return note


def told(means: Means) -> dict[str, ToolMessage]:
    """What the model was told of its calls, in its last request."""
    messages = model_of(means).requests[-1].messages
    return {m.call_id: m for m in messages if isinstance(m, ToolMessage)}


# ── replies ──────────────────────────────────────────────────────────────────


async def test_an_answer_of_two_megabytes_is_recorded(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """As the reply and as the output; no stored commit is larger than it may be."""
    await start(log.journal)
    async with runner(log.journal, with_model(says(BIG))):
        state = await finished(log.journal)
    assert (state.status, state.output) == ("completed", BIG)
    assert max(await sizes(log.journal)) <= MAX_COMMIT
    loaded = await Handler(await log.again(), "tester").load(KEY)
    assert loaded.state.output == BIG
    assert len(await log.journal.blobs_of(KEY)) == 1


@pytest.mark.parametrize(
    "reply",
    [
        wants(use("look"), text=BIG),
        wants(use("look", BIG, id="a")),
        msgspec.structs.replace(wants(use("look")), opaque={"signed": [BIG]}),
        wants(use("look", id="a"), use(BIG, id="b")),
    ],
    ids=["text", "arguments", "opaque", "a tool's name"],
)
async def test_a_reply_of_two_megabytes_is_told_again_on_another_runner(
    log: Log, with_model: Callable[..., Means], world: World, reply: Reply
) -> None:
    """Which has it from the log alone, word for word."""
    hang = Hang()
    work = with_model(reply, [hang, says("read")])
    await start(log.journal)
    async with runner(log.journal, work, "r1"):
        await hang.begun.wait()
    async with runner(await log.again(), work, "r2"):
        state = await finished(log.journal)
    assert (state.output, state.attempt) == ("read", 2)
    first, again = (request.messages for request in model_of(work).requests[1:])
    assert again == first
    [said] = [m for m in again if isinstance(m, AssistantMessage)]
    assert said == AssistantMessage(reply.text, reply.tool_calls, reply.opaque)
    assert world.count("look") == 1


async def test_a_reply_of_small_parts_fails_its_execution_alone(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """Not the connection: the runner goes on with the next one."""
    calls = [ToolCall(id=f"c{n}", name="look", arguments="{}") for n in range(9_000)]
    work = with_model([wants(*calls), says("fits")])
    other = Key("ada", "other")
    async with runner(log.journal, work):
        await start(log.journal)
        state = await finished(log.journal)
        await start(log.journal, other)
        assert (await finished(log.journal, other)).output == "fits"
    assert state.failure is not None
    assert state.failure.error == "too_large"
    assert "too many small parts" in state.failure.message
    assert await story(log.journal) == [["Created"], ["Started"], ["Failed"]]


# ── results ──────────────────────────────────────────────────────────────────


def in_step(world: World, count: int) -> None:
    """Let calls about 0, 1, … end in the same moment, each with 200 KB of notes."""
    together = asyncio.Barrier(count)

    async def end(context: ToolContext, name: str) -> ToolOutput:
        del context
        await together.wait()
        return ToolOutput(text=name * 40_000, notes={name: name * 200_000})

    world.behave = {str(n): partial(end, name=str(n)) for n in range(count)}


async def test_large_parallel_results_of_one_step_are_all_recorded(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """More than a megabyte that comes at once; the model is told all of it."""
    in_step(world, 6)
    work = with_model(wants(*(use("look", str(n)) for n in range(6))), says())
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert state.status == "completed"
    assert state.notes == {str(n): str(n) * 200_000 for n in range(6)}
    assert {m.output for m in told(work).values()} == {
        str(n) * 40_000 for n in range(6)
    }
    assert max(await sizes(log.journal)) <= MAX_COMMIT
    assert world.count("look") == 6
    loaded = await Handler(await log.again(), "tester").load(KEY)
    assert loaded.state == state


async def test_results_at_once_are_recorded_beside_a_big_reply(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """In the same commit."""
    work = with_model(wants(use("note", "seen"), use("fly"), text=BIG), says())
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert (state.status, state.notes) == ("completed", {"seen": True})
    kinds = ["ModelResponded", "MetadataWritten", "ToolCompleted", "ToolCompleted"]
    assert (await story(log.journal))[2] == kinds
    assert told(work)["fly-"].outcome == "failed"


@pytest.mark.parametrize("tool", ["look", "launch"])
async def test_notes_that_fit_no_commit_are_told_to_the_model(
    log: Log, with_model: Callable[..., Means], world: World, tool: str
) -> None:
    """With what the tool said: it ran, once, and nothing is in doubt."""
    world.behave = {"large": noting(large=[0] * MAX_COMMIT)}  # type: ignore[dict-item]
    work = with_model(wants(use(tool, "large")), says("I see"))
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert (state.status, state.output, state.notes) == ("completed", "I see", {})
    message = told(work)[f"{tool}-large"]
    assert message.outcome == "failed"
    assert "what it noted is not kept" in message.output
    assert "too many small parts" in message.output
    assert message.output.endswith("\nIt is done.")
    assert world.count(tool) == 1


async def test_what_fits_is_kept_beside_what_does_not(
    log: Log, with_model: Callable[..., Means], world: World
) -> None:
    """Three results in one moment, of which one is too large."""
    together = asyncio.Barrier(3)

    async def end(_: ToolContext, note: object) -> ToolOutput:
        await together.wait()
        return ToolOutput(text="ok", notes={"n": note})

    sizes = {"small": [1], "medium": [0] * 100_000, "large": [0] * MAX_COMMIT}
    world.behave = {name: partial(end, note=note) for name, note in sizes.items()}
    work = with_model(wants(*(use("look", name) for name in sizes)), says())
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    outcomes = {name: message.outcome for name, message in told(work).items()}
    assert outcomes == {
        "look-small": "success",
        "look-medium": "success",
        "look-large": "failed",
    }
    assert state.notes["n"] in (sizes["small"], sizes["medium"])


async def test_a_note_at_once_that_fits_no_commit_is_told_to_the_model(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """The reply that asked for it is recorded: it was paid."""
    reply = wants(use("note", "x" * MAX_COMMIT, id="a"), use("note", "seen", id="b"))
    work = with_model(reply, says())
    await start(log.journal)
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert (state.status, state.notes) == ("completed", {"seen": True})
    assert told(work)["a"].outcome == "failed"
    assert told(work)["b"].outcome == "success"
    assert model_of(work).asked == {1: 1, 2: 1}


# ── work, damage, bad days ───────────────────────────────────────────────────


async def test_work_that_is_larger_than_a_commit_is_taken_up(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """The runner that is handed it reads what is not in it."""
    await start(log.journal, metadata={"pad": BIG})
    async with runner(log.journal, with_model(says("yes"))):
        state = await finished(log.journal)
    assert (state.output, state.metadata) == ("yes", {"pad": BIG})


async def test_a_parked_execution_whose_work_is_large_is_taken_up(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """Also by the runner that has it in memory."""
    asks = wants(ToolCall(id="a", name="ask_user", arguments='{"question": "?"}'))
    work = with_model(asks, says("thanks"))
    await start(log.journal, spec=agent("ask_user"))
    async with runner(log.journal, work):
        asked = await until(log.journal, lambda s: s.status == "awaiting_input")
        assert asked.request is not None
        await order(log.journal, Input(request=asked.request.request, answer=BIG))
        state = await finished(log.journal)
    assert state.output == "thanks"
    assert told(work)["a"].output == BIG


async def test_a_blob_that_is_lost_stops_its_execution_only(
    log: Log, with_model: Callable[..., Means]
) -> None:
    """Work on it is logged and left; the runner goes on with the others."""
    await start(log.journal, metadata={"pad": BIG})
    [name] = await log.journal.blobs_of(KEY)
    await log.journal.delete_blob(name)
    other = Key("ada", "other")
    await start(log.journal, other)
    async with runner(log.journal, with_model()):
        assert (await finished(log.journal, other)).status == "completed"
    assert await log.journal.tip(KEY) == 1


def final(state: State) -> tuple[str, str | None, int]:
    """What came of it."""
    return state.status, state.output, len([t for t in state.turns if type(t) is Turn])


@pytest.mark.parametrize("seed", range(5))
async def test_under_faults_nothing_large_is_lost(
    memory_log: MemoryLog, with_model: Callable[..., Means], world: World, seed: int
) -> None:
    """Lost acks and requests of blobs and commits, silence, gaps."""
    blobs: list[Fault | None] = ["lost_ack", "lost_request"]
    log, plan = memory_log, Plan({"store": blobs}, seed=seed, odds=0.2)
    journal = FaultyJournal(log.journal, plan, pause=0.0)
    in_step(world, 1)
    work = with_model(wants(use("look", "0"), text=BIG), says(BIG))
    await start(log.journal, metadata={"pad": BIG})
    async with runner(journal, work, lease=log.brief):
        end = asyncio.create_task(finished(log.journal))
        while not end.done():
            await asyncio.sleep(0.01)
            await log.tick(log.brief / 20)
    assert final(await end) == ("completed", BIG, 2)
    assert set(plan.struck) >= set(blobs)
    assert max(await sizes(log.journal)) <= MAX_COMMIT


# ── fifty megabytes ──────────────────────────────────────────────────────────


async def test_fifty_megabytes_of_output_are_cut_with_a_note(
    jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Really printed by a command; the model is told how much it does not see."""
    sandbox = await find_sandbox()
    assert isinstance(sandbox, Sandbox), sandbox
    command = "head -c 52428800 /dev/zero | tr '\\0' x; echo; echo the end"
    arguments = msgspec.json.encode({"command": command}).decode()
    call = ToolCall(id="a", name="bash", arguments=arguments)
    model = FakeModel(wants(call), says("seen"))
    tools: dict[str, Tool[object]] = {"bash": Bash(sandbox)}
    work = Means(open_model=lambda _: model, tools=tools, workspaces=tmp_path)
    log = jetstream_log
    await start(log.journal, spec=agent("bash"))
    async with runner(log.journal, work):
        state = await finished(log.journal)
    assert state.output == "seen"
    output = told(work)["a"].output
    assert "of 52,428,809 bytes left out]" in output
    assert "x\nthe end\n[exit code 0]" in output
    assert sum(await sizes(log.journal)) < 100_000

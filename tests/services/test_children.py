"""Subagents: how they start, what their parent hears, and how they end with it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_model import FakeModel, Hang, says, wants
from fake_tools import World
from fake_tools import agent as fake_agent
from logs import Log
from running import finished, happened, order, runner, start, story, until

from events import catalog as e
from events import commands as c
from events import control
from events.commit import Recorded
from events.errors import ModelRefused, NotAllowedNow, NotFound
from events.execution import Execution
from events.journal import Journal
from events.messages import Reply, ToolCall, Usage
from events.names import Key
from events.spec import AgentSpec, Limits
from events.state import State, Turn
from services.agents.loop import Means
from services.children import SUMMARY, Children
from services.handler import Handler
from services.reactor import Reactor

ADA = Key("ada", "run-1")


def spawn(agent: str = "helper", prompt: str = "Help.", id: str = "c1") -> ToolCall:  # noqa: A002 - the field
    """Make a call that asks for a subagent."""
    arguments = json.dumps({"agent": agent, "prompt": prompt})
    return ToolCall(id=id, name="spawn_agent", arguments=arguments)


def named(call: str = "c1", step: int = 1, parent: Key = ADA) -> Key:
    """The key of the subagent that a call asked for."""
    return Key(parent.user, control.child_id(*parent, step, call))


def parent_agent(**more: Any) -> AgentSpec:
    """An agent that may have subagents."""
    spec = fake_agent("spawn_agent", "ask_user")
    given = {"name": "boss", "model": "boss", "subagents": ("helper", "boss"), **more}
    return msgspec.structs.replace(spec, **given)


class Household:
    """A log, what works on it, and the agent types that there are."""

    def __init__(self, journal: Journal, workspaces: Path) -> None:
        self.journal, self.workspaces = journal, workspaces
        self.world = World()
        self.models: dict[str, FakeModel] = {"helper": FakeModel(says("helped"))}
        self.types = {
            "helper": msgspec.structs.replace(
                fake_agent("ask_user"), name="helper", model="helper"
            ),
            "boss": parent_agent(),
        }
        self.parts: list[Children] = []

    def resolve(self, name: str, _model: str | None) -> AgentSpec:
        """Give the type of that name."""
        if name not in self.types:
            raise NotFound(f"no agent type {name!r}")
        return self.types[name]

    def reactor(self, journal: Journal | None = None) -> Reactor:
        """Make a reactor that looks after subagents."""
        handler = Handler(journal or self.journal, "reactor")
        self.parts.append(Children(handler, self.resolve))
        return Reactor(handler.journal, [self.parts[-1]])

    def means(self) -> Means:
        """What its runner works with."""
        return Means(
            open_model=lambda name: self.models[name],
            tools=self.world.tools(),
            workspaces=self.workspaces,
        )

    @asynccontextmanager
    async def reacting(self, count: int = 1) -> AsyncIterator[None]:
        """Run reactors."""
        reactors = [self.reactor() for _ in range(count)]
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one.run()) for one in reactors]
            for one in reactors:
                await one.ready.wait()
            yield
            for one in reactors:
                await one.stop()
            await asyncio.wait(running)

    @asynccontextmanager
    async def at_work(self, reactors: int = 1) -> AsyncIterator[None]:
        """Run reactors and a runner."""
        async with self.reacting(reactors), runner(self.journal, self.means()):
            yield

    async def spawned(self, *replies: Reply, **more: Any) -> State:
        """Let a parent ask for subagents, while no reactor is there."""
        self.models["boss"] = FakeModel(*replies)
        await start(self.journal, ADA, parent_agent(**more))
        async with runner(self.journal, self.means()):
            return await until(self.journal, lambda s: s.children, ADA)

    async def by_hand(self, key: Key, **end: Any) -> None:
        """Begin what is work, and let the model say its last word."""
        said = Reply(model="m", text="helped", **end)

        def work(execution: Execution) -> None:
            execution.begin("hand", execution.state.work_version)
            execution.respond(execution.state.attempt, said)

        await Handler(self.journal, "runner:hand").handle(key, work)


@pytest.fixture
def home(log: Log, tmp_path: Path) -> Household:
    """An empty log on each adapter."""
    return Household(log.journal, tmp_path)


def outputs(state: State) -> list[tuple[str, str]]:
    """How the calls of the first reply ended."""
    turn = state.turns[0]
    assert isinstance(turn, Turn)
    return [(c.outcome, c.output) for c in turn.calls]


async def facts(home: Household, key: Key) -> list[str]:
    """The names of all events of an execution."""
    return list(chain.from_iterable(await story(home.journal, key)))


# ── the usual way ────────────────────────────────────────────────────────────


async def test_several_work_side_by_side_and_their_parent_goes_on(
    home: Household,
) -> None:
    """It is parked meanwhile, then hears of each; they are linked both ways."""
    home.models["boss"] = FakeModel(
        wants(spawn(id="c1"), spawn(id="c2", prompt="Help too.")), says("all done")
    )
    async with home.at_work():
        await start(home.journal, ADA, parent_agent(), lane="agents")
        state = await finished(home.journal, ADA)
    assert (state.output, state.finish_reason) == ("all done", "final_answer")
    assert outputs(state) == [("success", "helped")] * 2
    assert set(state.children) == {named("c1").execution, named("c2").execution}
    one = await until(home.journal, lambda s: s.final, named("c2"))
    assert one.parent == e.Parent(
        execution="run-1", call_id="c2", depth=1, root="run-1"
    )
    assert (one.user, one.input, one.agent.name) == ("ada", "Help too.", "helper")


async def test_what_they_used_counts_on_their_parent(home: Household) -> None:
    """Tokens and money, and how many replies have no known price."""
    home.models["boss"] = FakeModel(wants(spawn()), says())
    usage = Usage(input=30, output=12)
    home.models["helper"] = FakeModel(
        Reply(model="m", text="helped", usage=usage, cost=0.25)
    )
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    assert state.usage.total == 42 + 2  # its own last words are two tokens
    assert (state.cost, state.unpriced) == (0.25, 2)


async def test_a_parent_ends_at_its_limit_by_what_its_child_used(
    home: Household,
) -> None:
    """A subagent is no way around a limit."""
    home.models["boss"] = FakeModel(wants(spawn()), says("never said"))
    home.models["helper"] = FakeModel(
        Reply(model="m", text="helped", usage=Usage(output=100))
    )
    async with home.at_work():
        await start(home.journal, ADA, parent_agent(limits=Limits(max_tokens=100)))
        state = await finished(home.journal, ADA)
    assert state.finish_reason == "max_tokens"
    assert outputs(state) == [("success", "helped")]


async def test_a_childs_limits_are_a_share_of_what_is_left(home: Household) -> None:
    """Tokens and money are shared; steps and time are at most the parent's rest."""
    reply = wants(spawn(id="a"), spawn(id="b"), spawn(agent="boss", id="c"))
    first = msgspec.structs.replace(reply, usage=Usage(input=10), cost=0.1)
    rest = Limits(max_steps=4, max_tokens=100, max_cost=1.0, timeout=50)
    home.types["helper"] = msgspec.structs.replace(
        home.types["helper"], limits=Limits(max_tokens=7, max_cost=0.01, timeout=9)
    )
    await home.spawned(first, limits=rest)
    async with home.reacting():
        for call, most in (("a", 7), ("c", 30)):
            made = await until(home.journal, lambda s: s.version, named(call))
            limits = made.agent.limits
            assert (limits.max_steps, limits.max_tokens) == (3, most)
            if call == "a":
                assert (limits.max_cost, limits.timeout) == (0.01, 9)
            else:
                assert limits.max_cost == pytest.approx(0.3)
                assert 0 < limits.timeout < 50


async def test_a_child_is_no_freer_than_its_parent(home: Household) -> None:
    """What needs approval above needs it below; depth, lane and place are inherited."""
    await home.spawned(wants(spawn()), approvals=("launch",), max_depth=1, model="boss")
    async with home.reacting():
        made = await until(home.journal, lambda s: s.version, named())
    assert made.agent.approvals == ("launch",)
    assert made.agent.max_depth == 1
    assert made.workspace is None


@pytest.mark.parametrize("own", [None, "theirs"])
async def test_a_type_that_names_no_model_works_with_its_parents(
    own: str | None, home: Household
) -> None:
    """Another model at the start is meant for all of it."""
    helper = home.types["helper"]
    model = own or AgentSpec(name="").model
    home.types["helper"] = msgspec.structs.replace(helper, model=model)
    await home.spawned(wants(spawn()))
    async with home.reacting():
        made = await until(home.journal, lambda s: s.version, named())
    assert made.agent.model == (own or "boss")


async def test_all_of_a_family_work_in_one_directory(home: Household) -> None:
    """A subagent sees the files of who asked for it, and its own subagents too."""
    seen: list[tuple[str, Path]] = []

    async def look(context: Any) -> None:
        seen.append((context.key, context.workspace.root))

    home.world.behave["there"] = look
    there = ToolCall(id="l", name="look", arguments='{"what": "there"}')
    boss = [wants(there, spawn(agent="boss", prompt="deeper")), says("done")]
    home.models["boss"] = FakeModel(*boss)
    async with home.at_work():
        await start(home.journal, ADA, parent_agent(max_depth=2))
        await finished(home.journal, ADA)
    assert len(seen) == 3
    assert {root for _, root in seen} == {home.workspaces / "ada" / "run-1"}


async def test_children_of_children_are_so_deep_and_no_deeper(
    home: Household,
) -> None:
    """The last one's model is told to do it itself."""
    home.models["boss"] = FakeModel(wants(spawn(agent="boss")), says("done"))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent(max_depth=2))
        await finished(home.journal, ADA)
        below = named(parent=named())
        deepest = await until(home.journal, lambda s: s.final, below)
    assert deepest.parent
    assert (deepest.parent.depth, deepest.parent.root) == (2, "run-1")
    assert outputs(deepest) == [("failed", "subagents may be 2 deep; do it yourself")]
    assert deepest.children == {}


# ── ends ─────────────────────────────────────────────────────────────────────


async def test_the_model_is_told_that_a_child_failed(home: Household) -> None:
    """And why; it is its to decide what follows."""
    home.models["boss"] = FakeModel(wants(spawn()), says("I know"))
    home.models["helper"] = FakeModel(ModelRefused("not that"))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    told = "The subagent failed: model_refused: not that"
    assert (state.output, outputs(state)) == ("I know", [("failed", told)])
    assert state.children[named().execution].status == "failed"
    with pytest.raises(NotAllowedNow, match="retry or restart run-1"):
        await order(home.journal, c.Retry(), named())


async def test_the_model_is_told_that_somebody_cancelled_a_child(
    home: Household,
) -> None:
    """A person may end a subagent alone."""
    await home.spawned(wants(spawn()))
    async with home.reacting():
        await until(home.journal, lambda s: s.version, named())
        await order(home.journal, c.Cancel(reason="too slow"), named())
        state = await until(
            home.journal, lambda s: s.children and not s.child_running, ADA
        )
    assert state.children[named().execution].status == "cancelled"


async def test_an_end_at_a_limit_is_said_to_be_one(home: Household) -> None:
    """What it says may be half of it."""
    home.models["boss"] = FakeModel(wants(spawn()), says())
    helper = home.types["helper"]
    few = msgspec.structs.replace(helper, limits=Limits(max_steps=1))
    home.types["helper"] = few
    look = ToolCall(id="l", name="look")
    home.models["helper"] = FakeModel(wants(look, text="so far"))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    [(outcome, said)] = outputs(state)
    assert outcome == "success"
    assert said.startswith("The subagent ended at its limit (max_steps)")
    assert said.endswith("so far")


async def test_a_summary_is_cut(home: Household) -> None:
    """The parent's model reads it again at each of its steps."""
    home.models["boss"] = FakeModel(wants(spawn()), says())
    home.models["helper"] = FakeModel(says("ä" * SUMMARY))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    [(_, said)] = outputs(state)
    assert len(said.encode()) < SUMMARY + 100
    assert "bytes left out" in said


async def test_a_child_that_ends_while_its_parent_is_paused_is_kept_for_it(
    home: Household,
) -> None:
    """It hears of it at once, and goes on when it is resumed."""
    await home.spawned(wants(spawn()), says("done"))
    await order(home.journal, c.Pause(), ADA)
    async with home.at_work():
        await happened(home.journal, e.ChildFinished, ADA)
        history = await home.journal.read(ADA)
        assert Execution.fold(ADA, history).state.status == "paused"
        await order(home.journal, c.Resume(), ADA)
        assert (await finished(home.journal, ADA)).output == "done"


async def test_a_child_may_wait_for_a_person(home: Household) -> None:
    """Its parent waits with it, and costs nothing."""
    ask = ToolCall(id="q", name="ask_user", arguments='{"question": "Which?"}')
    home.models["boss"] = FakeModel(wants(spawn()), says("done"))
    home.models["helper"] = FakeModel(wants(ask), says("thanks"))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        asked = (await until(home.journal, lambda s: s.request, named())).request
        assert asked
        await order(home.journal, c.Input(request=asked.request, answer="b"), named())
        assert (await finished(home.journal, ADA)).output == "done"


@pytest.mark.parametrize("command", [c.Cancel(reason="x"), c.Kill()])
async def test_children_end_with_their_parent(
    command: c.AnyCommand, home: Household
) -> None:
    """A cancel cancels them, a kill kills them, whatever they are doing."""
    hang = Hang()
    home.models["boss"] = FakeModel(wants(spawn(id="a"), spawn(id="b")))
    home.models["helper"] = FakeModel(hang)
    async with (
        home.reacting(),
        runner(home.journal, home.means(), grace=0.0),
    ):
        await start(home.journal, ADA, parent_agent())
        for call in ("a", "b"):
            await until(home.journal, lambda s: s.status == "running", named(call))
        await hang.begun.wait()
        await order(home.journal, command, ADA)
        forced = isinstance(command, c.Kill)
        kind = e.Cancelled if forced else e.CancelRequested
        for call in ("a", "b"):
            told = await happened(home.journal, kind, named(call))
            assert told.commit.by == "reactor"
            assert told.commit.events[-1].reason == "its parent run-1 was cancelled"  # type: ignore[union-attr]
            if forced:
                assert told.commit.events[-1].forced  # type: ignore[union-attr]
    assert "ChildFinished" not in await facts(home, ADA)


async def test_an_end_reaches_the_children_of_children(home: Household) -> None:
    """One generation after the other."""
    home.models["boss"] = FakeModel(wants(spawn(agent="boss")))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent(max_depth=3))
        deepest = named(parent=named(parent=named()))
        await until(home.journal, lambda s: s.version, deepest)
        await order(home.journal, c.Kill(), ADA)
        for key in (named(), named(parent=named()), deepest):
            assert (await finished(home.journal, key)).status in (
                "cancelled",
                "completed",
            )


# ── crashes and races ────────────────────────────────────────────────────────


async def test_a_reactor_that_comes_late_starts_what_was_asked_for(
    home: Household,
) -> None:
    """The one before it died between the spawning and the child's creation."""
    await home.spawned(wants(spawn()), says("done"))
    async with home.at_work():
        assert (await finished(home.journal, ADA)).output == "done"


async def test_a_reactor_that_comes_late_tells_of_an_end(home: Household) -> None:
    """The one before it died between the child's end and the parent's hearing it."""
    await home.spawned(wants(spawn()), says("done"))
    async with home.reacting():
        await until(home.journal, lambda s: s.version, named())
    await home.by_hand(named())
    assert "ChildFinished" not in await facts(home, ADA)
    async with home.at_work():
        assert (await finished(home.journal, ADA)).output == "done"


async def test_a_reactor_that_comes_late_ends_children_of_a_parent_that_ended(
    home: Household,
) -> None:
    """The one before it died between the parent's end and theirs."""
    await home.spawned(wants(spawn()))
    async with home.reacting():
        await until(home.journal, lambda s: s.version, named())
    await order(home.journal, c.Kill(), ADA)
    async with home.reacting():
        assert (await finished(home.journal, named())).status == "cancelled"


async def test_a_child_whose_parent_ended_first_is_never_begun(
    home: Household,
) -> None:
    """Its history is closed, so that a reactor that is behind cannot begin it."""
    await home.spawned(wants(spawn()))
    await order(home.journal, c.Cancel(), ADA)
    async with home.reacting():
        await finished(home.journal, named())
    assert await story(home.journal, named()) == [["StartAbandoned"]]
    late = partial(Execution.beget, created=e.Created(agent=parent_agent(), input=""))
    assert (await Handler(home.journal, "late").handle(named(), late)).state.final


async def test_two_reactors_do_everything_once(home: Household) -> None:
    """And a third that replays it all afterwards does nothing."""
    calls = [spawn(id=f"c{n}") for n in range(control.MOST_AT_ONCE)]
    home.models["boss"] = FakeModel(wants(*calls), says("done"))
    async with home.at_work(reactors=2):
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    assert outputs(state) == [("success", "helped")] * len(calls)
    told = await facts(home, ADA)
    assert told.count("ChildFinished") == len(calls)
    for call in calls:
        names = await facts(home, named(call.id))
        assert names.count("Created") == 1
    before = await home.journal.read(ADA)
    async with home.reacting():
        pass
    assert await home.journal.read(ADA) == before


async def test_what_is_over_is_forgotten(home: Household) -> None:
    """The index holds subagents that run, and nothing of the past."""
    home.models["boss"] = FakeModel(wants(spawn(), spawn(id="c2")), says("done"))
    async with home.at_work():
        for key in (Key("ada", "old-1"), Key("ada", "old-2")):
            await start(home.journal, key, parent_agent())
            await finished(home.journal, key)
        await forgotten(home.parts[0])
    await home.spawned(wants(spawn()))
    async with home.reacting():
        await until(home.journal, lambda s: s.version, named())
        assert home.parts[1]._families.keys() == {ADA}
        await order(home.journal, c.Kill(), ADA)
        await forgotten(home.parts[1])


async def forgotten(part: Children) -> None:
    """Wait until an index is empty."""
    while part._families or part._family_of:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.001)


# ── hostile and odd ──────────────────────────────────────────────────────────


async def test_a_hundred_children_in_one_reply_are_too_many(home: Household) -> None:
    """As many as may be start; of the others the model is told."""
    calls = [spawn(id=f"c{n}") for n in range(100)]
    home.models["boss"] = FakeModel(wants(*calls), says("done"))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    assert len(state.children) == control.MOST_AT_ONCE
    refused = [said for outcome, said in outputs(state) if outcome == "failed"]
    assert len(refused) == 100 - control.MOST_AT_ONCE
    assert set(map(len, refused)) == {len(refused[0])}
    assert refused[0].startswith("at most 10 subagents start in one reply")


async def test_an_id_that_is_taken_is_told_and_left_alone(home: Household) -> None:
    """Somebody started an execution under the id that a subagent would have."""
    await home.spawned(wants(spawn()), says("done"))
    await start(home.journal, named(), fake_agent(), digest="theirs")
    async with home.reacting():
        told = await happened(home.journal, e.ChildFinished, ADA)
        await forgotten(home.parts[0])
    [fact] = told.commit.events
    assert isinstance(fact, e.ChildFinished)
    assert (fact.status, fact.cost) == ("failed", None)
    assert "belongs to another execution" in fact.summary
    assert await story(home.journal, named()) == [["Created"]]


async def test_a_foreign_execution_does_not_end_with_the_parent(
    home: Household,
) -> None:
    """Only subagents do, whatever an id looks like."""
    await home.spawned(wants(spawn()))
    await start(home.journal, named(), fake_agent(), digest="theirs")
    await order(home.journal, c.Kill(), ADA)
    async with home.reacting():
        await forgotten(home.parts[0])
    await home.by_hand(named())
    assert (await facts(home, named()))[-1] == "Completed"


async def test_an_agent_type_that_is_gone_is_told(home: Household) -> None:
    """It was there when the parent started; the child's own history says so too."""
    del home.types["helper"]
    home.models["boss"] = FakeModel(wants(spawn()), says("done"))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    told = "The subagent failed: not_found: no agent type 'helper'"
    assert outputs(state) == [("failed", told)]
    assert await story(home.journal, named()) == [["Created", "Failed"]]


async def test_a_copy_of_a_history_has_no_subagents(home: Household) -> None:
    """Those in it are its source's; when it goes on, it asks for its own."""
    await home.spawned(wants(spawn()), says("done"))
    fork, source = Key("ada", "fork"), await home.journal.read(ADA)
    await copy(home.journal, source, fork)
    async with home.reacting():
        await until(home.journal, lambda s: s.version, named())
        last = source[-1].commit
        forked = e.Forked(
            source=ADA.execution, source_version=last.version, source_chain=last.chain
        )
        await Handler(home.journal, "t").handle(fork, lambda x: x.fork(forked))
        await home.by_hand(named())
        await happened(home.journal, e.ChildFinished, ADA)
    async with home.at_work():
        state = await finished(home.journal, fork)
    assert set(state.children) == {named(parent=fork).execution}


async def copy(journal: Journal, source: list[Recorded], key: Key) -> None:
    """Copy a history, as a fork does before it parts."""
    for recorded in source:

        def again(execution: Execution, recorded: Recorded = recorded) -> None:
            for fact in recorded.commit.events:
                execution.trigger_event(lambda fact=fact: fact)  # type: ignore[misc]

        await Handler(journal, "copyist").handle(key, again)


@pytest.mark.parametrize(
    "prompt", ["", "x" * 20_000, "\x00", "\ud800"], ids=["empty", "long", "nul", "half"]
)
async def test_a_prompt_that_cannot_be_is_told(prompt: str, home: Household) -> None:
    """A control character may be in one; what is no text may not."""
    home.models["boss"] = FakeModel(wants(spawn(prompt=prompt)), says("done"))
    async with home.at_work():
        await start(home.journal, ADA, parent_agent())
        state = await finished(home.journal, ADA)
    [(outcome, said)] = outputs(state)
    good = prompt == "\x00"
    assert outcome == ("success" if good else "failed")
    assert good or said.startswith("invalid arguments for spawn_agent")

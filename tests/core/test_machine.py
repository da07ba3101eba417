"""Any sequence of commands, results and crashes leaves a lawful history."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
from histories import SPEC, Decision, Story, encoded, spec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from lawful import (
    Watcher,
    check_history,
    check_progress,
    check_route,
    check_state,
    idle_attempts,
)

from events import catalog as e
from events import commands as c
from events.errors import Refused, Stale
from events.execution import Execution
from events.messages import Reply, Task, ToolCall, ToolResult, Usage
from events.names import Key
from events.next_action import Action, CallModel, RunTools, next_action
from events.spec import AgentSpec, Chunking, Limits
from events.state import State

CONTROL_TOOLS = ["ask_user", "await_event", "spawn_agent"]
CALL_IDS = ["a", "b", "c", "a#2"]
ENOUGH = 200
"""Rounds in which a helpful world brings any execution of these sizes to its end."""

limits = st.builds(
    Limits,
    max_steps=st.sampled_from([2, 5, 20, 20]),
    max_tokens=st.sampled_from([6, 20_000, 20_000]),
    max_cost=st.sampled_from([None, None, 0.02]),
    timeout=st.sampled_from([20.0, 10_000.0, 10_000.0]),
    max_attempts=st.integers(1, 3),
)
agents = st.builds(
    spec,
    approvals=st.lists(
        st.sampled_from(["look", "launch", *CONTROL_TOOLS]), max_size=2, unique=True
    ).map(tuple),
    on_doubt=st.sampled_from(["tell", "ask"]),
    limits=limits,
    chunking=st.none()
    | st.builds(
        Chunking, steps_per_chunk=st.integers(1, 3), max_chunks=st.integers(1, 3)
    ),
    subagents=st.sampled_from([(), ("helper",)]),
)
arguments = {
    "ask_user": '{"question": "Which one?"}',
    "await_event": '{"event_type": "ci.done", "within": 30}',
    "spawn_agent": '{"agent": "helper", "prompt": "Help"}',
}
BROKEN = ["", "{", '{"agent": "nobody", "prompt": "x"}', '{"within": -1}', "[[[["]


def _call(name: str, call_id: str, broken: str | None) -> ToolCall:
    text = arguments.get(name, "{}") if broken is None else broken
    return ToolCall(id=call_id, name=name, arguments=text)


tool_calls = st.builds(
    _call,
    st.sampled_from(["look", "write", "launch", "launch", "nonsense", *CONTROL_TOOLS]),
    st.sampled_from([*CALL_IDS, ""]),
    st.none() | st.none() | st.sampled_from(BROKEN),
)
replies = st.builds(
    Reply,
    model=st.just("m"),
    text=st.sampled_from(["", "Well."]),
    tool_calls=st.lists(tool_calls, min_size=1, max_size=3).map(tuple),
    usage=st.just(Usage(input=1, output=1)),
    cost=st.sampled_from([None, 0.01]),
)
last_words = st.builds(Reply, model=st.just("m"), text=st.sampled_from(["", "Done."]))
outcomes = st.builds(
    ToolResult,
    call_id=st.just("?"),
    output=st.just("out"),
    outcome=st.sampled_from(["success", "failed"]),
    tasks=st.none() | st.just((Task(title="t"),)),
    notes=st.none() | st.sampled_from([{"k": 1}, {"k": None}]),
)
answers: st.SearchStrategy[Any] = st.sampled_from(
    [
        "yes",
        None,
        {"decision": "approve", "arguments": "not these"},
        {"decision": "deny", "reason": None},
        {"decision": "edit", "arguments": {"edited": True}},
        {"decision": "edit"},
        {"decision": "run_again"},
        {"decision": "tell", "reason": "I looked"},
    ]
)


@dataclass
class Holder:
    """A runner that believes it holds the execution, and its copy of it."""

    attempt: int
    copy: Execution | None


class ExecutionMachine(RuleBasedStateMachine):
    """One execution among runners, people and a reactor, all of them unreliable."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: list[Holder] = []
        self.done: list[tuple[str, Decision]] = []
        self.requests: list[str] = []
        self._turn_to(Story())
        self.count = self.forks = 0

    @property
    def state(self) -> State:
        """The newest state, as the log tells it."""
        return self.watcher.execution.state

    def _decide(
        self,
        decision: Decision,
        cause: str | None = None,
        known: Execution | None = None,
    ) -> bool:
        """Decide; a refusal must leave no trace. True unless refused."""
        before = len(self.story.log)
        try:
            self.live = self.story.decide(decision, cause=cause, known=known)
        except Refused:
            assert len(self.story.log) == before
            return False
        if cause and len(self.story.log) > before:
            self.done.append((cause, decision))
        self._watch()
        return True

    def _watch(self) -> None:
        self.watcher.follow(self.story.log)
        asked = self.state.request
        if asked and asked.request != self.requests[-1]:
            assert asked.request not in self.requests, "a request's id names one only"
            self.requests.append(asked.request)

    def _cause(self) -> str:
        self.count += 1
        return f"cause-{self.count}"

    # ── how it begins ────────────────────────────────────────────────────────

    @initialize(agent=agents, scheduled=st.booleans(), awaited=st.booleans())
    def start(self, agent: AgentSpec, *, scheduled: bool, awaited: bool) -> None:
        """Create it, at once, for later, or for when an event arrives."""
        self._create(agent, scheduled=scheduled, awaited=awaited, child=False)

    @precondition(lambda self: self.state.final)
    @rule(agent=agents, child=st.booleans())
    def another(self, agent: AgentSpec, *, child: bool) -> None:
        """This one has ended; look at another."""
        self.forks += 1
        assert encoded(self.story.load().state) == encoded(self.state)
        self._turn_to(Story(Key("ada", f"run-{self.forks}"), self.story.now))
        self._create(agent, scheduled=False, awaited=False, child=child)

    def _turn_to(self, story: Story) -> None:
        self.story, self.live = story, story.load()
        self.watcher = Watcher(story.load())
        self.holders, self.done = [], []
        self.requests = ["1-question-nobody"]

    def _create(
        self, agent: AgentSpec, *, scheduled: bool, awaited: bool, child: bool
    ) -> None:
        later = self.story.now + timedelta(seconds=60)
        wanted = e.Created(
            agent=agent,
            input="Go",
            scheduled_for=later if scheduled else None,
            awaited=e.Awaited(event_type="ci.done", deadline=later)
            if awaited
            else None,
            parent=e.Parent(execution="p", call_id="a", depth=1) if child else None,
        )
        self._decide(lambda x: x.create(wanted), self._cause())

    @rule()
    def what_is_over_comes_again(self) -> None:
        """Late timers, strange events and second starts change nothing."""
        before, now = len(self.story.log), self.story.now
        wanted = e.Created(agent=SPEC, input="Another")
        asked = self.state.request
        old = [r for r in self.requests if asked is None or r != asked.request]
        self._decide(lambda x: x.create(wanted))
        self._decide(Execution.abandon)
        self._decide(lambda x: x.receive("other", None, "t"))
        self._decide(lambda x: x.expire_wait(now - timedelta(days=1)))
        self._decide(
            lambda x: x.finish_child("nobody", "failed", "", usage=Usage(), cost=None)
        )
        for request in old:
            self._decide(partial(Execution.expire_request, request=request))
            assert not self._decide(c.Input(request=request, answer="yes").decide)
        assert len(self.story.log) == before

    @rule(seconds=st.sampled_from([0.5, 5.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """Let time pass."""
        self.story.wait(seconds)

    @precondition(lambda self: not self.state.final)
    @rule()
    def go_on(self) -> None:
        """Somebody does what this status waits for."""
        self._help()

    # ── what people ask ──────────────────────────────────────────────────────

    @rule(
        command=st.sampled_from(
            [c.Pause(), c.Pause(), c.Resume(), c.Resume(), c.Retry(), c.Retry()]
        )
    )
    def command(self, command: c.AnyCommand) -> None:
        """Ask for something."""
        self._decide(command.decide, self._cause())

    @precondition(lambda self: len(self.story.log) > 5)
    @rule(command=st.sampled_from([c.Cancel(reason="enough"), c.Kill()]))
    def end(self, command: c.AnyCommand) -> None:
        """Ask for its end."""
        self._decide(command.decide, self._cause())

    @precondition(lambda self: self.state.request)
    @rule(answer=answers)
    def answer(self, answer: Any) -> None:
        """Answer what it asks, in a lawful way or not."""
        asked = self.state.request
        assert asked
        self._decide(
            c.Input(request=asked.request, answer=answer).decide, self._cause()
        )

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """Whatever was applied and comes again changes nothing."""
        cause, decision = data.draw(st.sampled_from(self.done))
        before = len(self.story.log)
        assert self._decide(decision, cause)
        assert len(self.story.log) == before

    # ── what runners do ──────────────────────────────────────────────────────

    @precondition(lambda self: not self.state.final)
    @rule(turns=st.lists(replies, min_size=1, max_size=3), one_by_one=st.booleans())
    def work(self, turns: list[Reply], *, one_by_one: bool) -> None:
        """A good runner takes it and does what there is to do, for some turns."""
        if self.state.runnable:
            self._begin(self.state.work_version, again=False)
        attempt = self.state.attempt
        for reply in turns:
            self._run_tools(attempt, one_by_one=one_by_one)
            if self._action() == CallModel():
                assert self._decide(
                    partial(Execution.respond, attempt=attempt, reply=reply)
                )

    def _action(self) -> Action:
        return next_action(self.state, self.story.now)

    def _run_tools(self, attempt: int, *, one_by_one: bool) -> None:
        action = self._action()
        calls = action.calls if isinstance(action, RunTools) else ()
        done = [ToolResult(call_id=call.id, output="out") for call in calls]
        for some in [[result] for result in done] if one_by_one else [done]:
            if self.state.status == "running" and self.state.attempt == attempt:
                assert self._decide(
                    partial(Execution.finish_calls, attempt=attempt, results=some)
                )

    @rule(data=st.data(), again=st.booleans())
    def begin(self, data: st.DataObject, *, again: bool) -> None:
        """Take work; usually the newest, now and then one that is over."""
        old = data.draw(st.integers(0, 9)) == 0
        version = data.draw(st.integers(0, 50)) if old else self.state.work_version
        there = version == self.state.work_version and (
            self.state.runnable or (again and self.state.status == "running")
        )
        assert self._begin(version, again=again) == there

    def _begin(self, version: int, *, again: bool) -> bool:
        took = self._decide(
            lambda x: x.begin("r", version, delivery=self.state.delivery + again)
        )
        if took:
            self.holders.append(Holder(self.state.attempt, self.story.load()))
        return took

    def _offer(
        self, data: st.DataObject, decide: Callable[[Execution, int], None]
    ) -> bool:
        """Offer a result to whatever the state is now; an old attempt's is dropped."""
        holder = data.draw(st.sampled_from(self.holders[-3:]))
        holds = (self.state.status, self.state.attempt) == ("running", holder.attempt)
        before = len(self.story.log)
        known, holder.copy = holder.copy, None
        try:
            holder.copy = self.story.decide(
                lambda x: decide(x, holder.attempt), known=known
            )
        except Stale:
            assert not holds
            assert len(self.story.log) == before
            return False
        self.live = holder.copy
        self._watch()
        if len(self.story.log) > before:
            assert holds
        return holds

    @precondition(lambda self: self.holders and not self.state.final)
    @rule(data=st.data(), reply=st.one_of(replies, replies, last_words))
    def respond(self, data: st.DataObject, reply: Reply) -> None:
        """The model answered: that is paid, so it is recorded, whatever was asked."""
        if not isinstance(next_action(self.state, self.story.now), CallModel):
            reply = Reply(model="m", text="late")
            if any(call.phase != "done" for call in self._calls()):
                return  # no runner asks the model before its calls are done
        if self._offer(data, lambda x, attempt: x.respond(attempt, reply)):
            facts = self.story.log[-1].commit.events
            assert isinstance(facts[0], e.ModelResponded)

    def _calls(self) -> list[Any]:
        return list(self.state.turn.calls) if self.state.turn else []

    @precondition(lambda self: self.holders and self._calls())
    @rule(data=st.data(), done=st.lists(outcomes, min_size=1, max_size=4))
    def finish_calls(self, data: st.DataObject, done: list[ToolResult]) -> None:
        """Calls ended, in any order, twice, or ones that nobody made."""
        ids = st.sampled_from([*(call.id for call in self._calls()), "nobody's"])
        some = [msgspec.structs.replace(one, call_id=data.draw(ids)) for one in done]
        self._offer(data, lambda x, attempt: x.finish_calls(attempt, some))

    @precondition(lambda self: self.holders and not self.state.final)
    @rule(data=st.data())
    def obey(self, data: st.DataObject) -> None:
        """A runner heard a signal, or thinks so."""
        self._offer(data, lambda x, attempt: x.obey(attempt))

    @precondition(lambda self: self.holders and not self.state.final)
    @rule(data=st.data(), retryable=st.booleans())
    def fail(self, data: st.DataObject, *, retryable: bool) -> None:
        """A runner met an error."""
        self._offer(
            data, lambda x, attempt: x.fail(attempt, "e", "m", retryable=retryable)
        )

    # ── what the reactor does ────────────────────────────────────────────────

    @rule(behind=st.integers(0, 1))
    def recover(self, behind: int) -> None:
        """A runner is gone; perhaps not the one that holds it now."""
        attempt = self.state.attempt - behind
        self._decide(lambda x: x.recover(attempt, "gone"), self._cause())

    @precondition(lambda self: self.state.awaited)
    @rule(in_time=st.booleans())
    def receive(self, *, in_time: bool) -> None:
        """What it waits for arrived, or its deadline did."""
        awaited = self.state.awaited
        assert awaited
        deadline = awaited.deadline
        if in_time or deadline is None:
            self._decide(lambda x: x.receive("ci.done", {"ok": 1}, "t"), self._cause())
        else:
            self._decide(lambda x: x.expire_wait(deadline), self._cause())
        assert self.state.awaited is None

    @precondition(lambda self: self.state.request)
    @rule()
    def expire_request(self) -> None:
        """Nobody answered in time."""
        request = self.requests[-1]
        self._decide(lambda x: x.expire_request(request), self._cause())
        assert self.state.request is None

    @precondition(lambda self: self.state.scheduled_for)
    @rule()
    def come_due(self) -> None:
        """The time of a scheduled start has come."""
        self._decide(Execution.come_due, self._cause())
        assert self.state.scheduled_for is None

    @precondition(lambda self: self.state.children)
    @rule(status=st.sampled_from(["completed", "failed"]), data=st.data())
    def finish_child(self, status: str, data: st.DataObject) -> None:
        """A subagent ended; it is told twice."""
        child = data.draw(st.sampled_from(sorted(self.state.children)))
        usage, before = Usage(input=1), len(self.story.log)
        for _ in range(2):
            self._decide(
                lambda x: x.finish_child(child, status, "sum", usage=usage, cost=0.01)
            )
        assert len(self.story.log) <= before + 1

    @rule()
    def purge(self) -> None:
        """Retention deletes it; only what has ended."""
        assert self._decide(lambda x: x.purge("old")) == self.state.final

    @precondition(lambda self: self.state.final or len(self.story.log) > 8)
    @rule(data=st.data(), said=st.sampled_from([None, "Rather so"]))
    def fork(self, data: st.DataObject, said: str | None) -> None:
        """Go on with a copy of a prefix instead, under another key."""
        self.forks += 1
        version = data.draw(st.integers(1, len(self.story.log)))
        source, key = self.story, Key("ada", f"run-{self.forks}")
        forked = e.Forked(
            source=source.key.execution,
            source_version=version,
            source_chain=source.log[version - 1].commit.chain,
            input=said,
        )
        self._turn_to(source.copy_to(key, version))
        for _ in range(2):
            self._decide(lambda x: x.fork(forked))
        assert len(self.story.log) == version + 1

    # ── what always holds ────────────────────────────────────────────────────

    @invariant()
    def it_is_the_fold_of_its_history(self) -> None:
        """Whoever decided knows what whoever reads will know."""
        assert encoded(self.live.state) == encoded(self.state) or (
            self.live.state.version < self.state.version
        )

    @invariant()
    def it_is_lawful(self) -> None:
        """Status, route and history are what the tables allow."""
        if self.story.log:
            check_state(self.state)
            check_route(self.state, self.story.log[-1])
            facts = self.story.all_facts
            check_history(facts)
            assert idle_attempts(facts) == self.state.idle_attempts

    @invariant()
    def it_goes_on(self) -> None:
        """There is always somebody to act, and asking who changes nothing."""
        if self.story.log:
            before = encoded(self.state)
            self.watcher.execution.now = self.story.now
            check_progress(self.state, self.watcher.execution)
            first = next_action(self.state, self.story.now)
            assert first == next_action(self.state, self.story.now)
            assert encoded(self.state) == before

    def teardown(self) -> None:
        """Folding twice is equal; and a helpful world brings it to its end."""
        first, second = self.story.load(), self.story.load()
        assert encoded(first.state) == encoded(second.state) == encoded(self.state)
        if self.story.log:
            for _ in range(ENOUGH):
                if self.state.final:
                    return
                self._help()
            raise AssertionError(f"it never ends: {self.state}")

    def _help(self) -> None:
        """Do what this status waits for."""
        state, before = self.state, len(self.story.log)
        ways: dict[str, Callable[[], Decision]] = {
            "paused": lambda: c.Resume().decide,
            "awaiting_input": self._answer,
            "awaiting_event": self._wake,
            "pending": self._take,
            "running": self._serve,
        }
        assert self._decide(ways[state.status]())
        assert len(self.story.log) == before + 1, "help that does not help"

    def _take(self) -> Decision:
        version = self.state.work_version
        due = self.state.scheduled_for
        return Execution.come_due if due else lambda x: x.begin("r", version)

    def _serve(self) -> Decision:
        attempt, action = self.state.attempt, self._action()
        if action == CallModel():
            reply = Reply(model="m", text="Done.")
            return partial(Execution.respond, attempt=attempt, reply=reply)
        if isinstance(action, RunTools):
            done = [ToolResult(call_id=call.id, output="") for call in action.calls]
            return partial(Execution.finish_calls, attempt=attempt, results=done)
        return partial(Execution.obey, attempt=attempt)

    def _answer(self) -> Decision:
        asked = self.state.request
        assert asked
        choice = {"approval": "approve", "doubt": "tell"}.get(asked.kind, "")
        return c.Input(request=asked.request, answer={"decision": choice}).decide

    def _wake(self) -> Decision:
        if self.state.awaited:
            return lambda x: x.receive("ci.done", None, "t")
        children = self.state.children
        child = next(i for i, known in children.items() if known.status == "running")
        return lambda x: x.finish_child(child, "completed", "", usage=Usage(), cost=0)


TestExecution = ExecutionMachine.TestCase
TestExecution.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None
)

"""Waiting for a person, an event or a subagent, and the tools that ask for it."""

from functools import partial
from typing import Any

import pytest
from histories import Story, call, reply, spec
from hypothesis import given
from hypothesis import strategies as st

from events import catalog as e
from events import commands as c
from events import control
from events.errors import InvalidInput, ToolFailed
from events.execution import Execution, Wait
from events.messages import ToolCall, Usage
from events.names import LANES
from events.next_action import Await, CallModel, RunTools, next_action
from events.spec import Lane
from events.state import Call, State


def first_call(state: State) -> Call:
    """The first call of the last reply."""
    assert state.turn
    return state.turn.calls[0]


def asked(story: Story, *calls: ToolCall, **agent: Any) -> str:
    """Run until it asks; returns the request."""
    story.running(spec(**agent))
    state = story.respond(*calls)
    assert state.status == "awaiting_input"
    assert state.request
    return state.request.request


@pytest.mark.parametrize(
    ("answer", "phase", "output", "arguments"),
    [
        ({"decision": "approve"}, "started", "", {"n": 1}),
        ({"decision": "approve", "arguments": {"n": 9}}, "started", "", {"n": 1}),
        ({"decision": "edit", "arguments": {"n": 2}}, "started", "", {"n": 2}),
        ({"decision": "deny", "reason": "No!"}, "done", "Denied. No!", {"n": 1}),
        ({"decision": "deny", "reason": None}, "done", "Denied.", {"n": 1}),
    ],
)
def test_an_approval_lets_the_call_run_changes_it_or_denies_it(
    answer: Any, phase: str, output: str, arguments: dict[str, int]
) -> None:
    """Only an edit changes the arguments."""
    story = Story()
    request = asked(story, call("a", "launch", {"n": 1}), approvals=("launch",))
    assert story.log[-1].route == "parked"
    story.command(c.Input(request=request, answer=answer))
    ended = first_call(story.begin())
    assert (ended.phase, ended.output) == (phase, output)
    assert ended.arguments == call("a", "launch", arguments).arguments


def test_an_approval_is_bound_to_the_tool_and_its_arguments() -> None:
    """The request carries their digest."""
    story = Story()
    asked(story, call("a", "launch", {"n": 1}), approvals=("launch",))
    request = story.facts[-1]
    assert isinstance(request, e.InputRequested)
    assert request.digest == control.digest("launch", '{"n":1}')
    assert request.digest != control.digest("launch", '{"n":2}')


@pytest.mark.parametrize(
    "answer",
    [
        "yes",
        None,
        {},
        [],
        {"a": 1},
        {"decision": "run_again"},
        {"decision": ["approve"]},
        {"decision": "edit"},
        {"decision": "edit", "arguments": "x"},
    ],
)
def test_a_wrong_answer_is_refused_and_leaves_no_trace(answer: Any) -> None:
    """It says which answers there are."""
    story = Story()
    request = asked(story, call("a", "launch"), approvals=("launch",))
    before = len(story.log)
    with pytest.raises(InvalidInput, match=r"approve|arguments"):
        story.command(c.Input(request=request, answer=answer))
    assert len(story.log) == before


def test_what_needs_no_approval_runs_before_somebody_is_asked() -> None:
    """A person's time is asked for last."""
    story = Story()
    story.running(spec(approvals=("launch",)))
    state = story.respond(call("a", "launch"), call("b"))
    action = next_action(state, story.now)
    assert isinstance(action, RunTools)
    assert [one.id for one in action.calls] == ["b"]
    assert story.finish("b").status == "awaiting_input"


@pytest.mark.parametrize(
    ("tool", "good"),
    [
        ("ask_user", {"question": "?"}),
        ("await_event", {"event_type": "x"}),
        ("spawn_agent", {"agent": "helper", "prompt": "p"}),
    ],
)
def test_an_edit_that_breaks_a_control_tool_is_refused(
    tool: str, good: dict[str, str]
) -> None:
    """The person is told what is wrong, and the execution goes on waiting."""
    story = Story()
    request = asked(story, call("a", tool, good), approvals=(tool,))
    edit = {"decision": "edit", "arguments": {"broken": True}}
    with pytest.raises(InvalidInput, match=f"invalid arguments for {tool}"):
        story.command(c.Input(request=request, answer=edit))
    assert story.load().state.status == "awaiting_input"


def test_an_edit_that_no_agent_can_follow_is_told_to_the_model() -> None:
    """Or its work would be handed out and dropped for ever."""
    story = Story()
    spawn = call("a", "spawn_agent", {"agent": "helper", "prompt": "p"})
    request = asked(story, spawn, approvals=("spawn_agent",))
    edit = {"decision": "edit", "arguments": {"agent": "nobody", "prompt": "p"}}
    story.command(c.Input(request=request, answer=edit))
    state = story.begin()
    assert (state.status, first_call(state).outcome) == ("running", "failed")
    assert next_action(state, story.now) == CallModel()


@pytest.mark.parametrize(("answer", "told"), [("red", "red"), ({"a": 1}, '{"a":1}')])
def test_a_question_is_answered_by_any_json(answer: Any, told: str) -> None:
    """Text as it is, the rest as JSON."""
    story = Story()
    request = asked(story, call("a", "ask_user", {"question": "Which?"}))
    state = story.command(c.Input(request=request, answer=answer))
    assert (state.status, first_call(state).output) == ("pending", told)


def test_the_deadline_of_a_request_answers_it_once() -> None:
    """Unless a person did; and an older one's answers nothing."""
    story = Story()
    request = asked(story, call("a", "ask_user", {"question": "Which?"}))
    story.do(lambda x: x.expire_request("another"))
    assert story.load().state.status == "awaiting_input"
    for _ in range(2):
        state = story.do(lambda x: x.expire_request(request))
    assert (state.status, first_call(state).outcome) == ("pending", "failed")
    assert len(story.log) == 4


def test_an_awaited_event_wakes_it_once() -> None:
    """Another type does not, and a second one finds nothing that waits."""
    story = Story()
    story.running()
    story.respond(call("a", "await_event", {"event_type": "ci.done"}))
    assert story.do(lambda x: x.receive("ci.begun", 0, "t0")).status != "pending"
    for _ in range(2):
        state = story.do(lambda x: x.receive("ci.done", {"ok": True}, "t1"))
    assert first_call(state).output == 'Event ci.done: {"ok":true}'
    assert len(story.log) == 4
    assert story.log[-1].route == "agents"


def test_a_wait_ends_at_its_deadline() -> None:
    """The model is told that nothing came."""
    story = Story()
    story.running()
    wait = call("a", "await_event", {"event_type": "ci.done", "within": 5})
    awaited = story.respond(wait).awaited
    assert awaited
    deadline = awaited.deadline
    assert deadline
    state = story.do(lambda x: x.expire_wait(deadline))
    assert (state.status, first_call(state).outcome) == ("pending", "failed")


def test_a_wait_begins_behind_the_last_trigger() -> None:
    """What is older does not end it, nor what its filter does not want."""
    story = Story()
    story.running()
    story.last_trigger = 7
    wait = {"event_type": "ci.done", "where": {"branch": "main"}}
    begun = story.respond(call("a", "await_event", wait)).awaited
    assert begun
    assert (begun.after_trigger, story.log[-1].route) == (7, "parked")
    wanted = {"branch": "main", "ok": True}
    for payload, position in ((wanted, 7), ({"branch": "x"}, 8), (None, 9), ([], 9)):
        receive = partial(
            Execution.receive, event_type="ci.done", payload=payload, trigger="t"
        )
        state = story.do(partial(receive, position=position))
        assert state.status == "awaiting_event"
    for payload in (wanted, {"branch": "main"}):
        state = story.do(lambda x, p=payload: x.receive("ci.done", p, "t", 8))
    assert first_call(state).output == 'Event ci.done: {"branch":"main","ok":true}'
    assert len(story.log) == 4


def test_while_nobody_knows_the_last_trigger_no_wait_begins() -> None:
    """It is what has to be done next; the decision that knows begins it."""
    story = Story()
    story.running()
    story.last_trigger = None
    wait = call("a", "await_event", {"event_type": "ci.done"})
    state = story.respond(wait)
    assert (state.status, state.awaited) == ("running", None)
    assert story.kinds == ["ModelResponded"]
    assert story._last.todo == next_action(state, story.now)
    assert isinstance(story._last.todo, Await)
    story.do(lambda x: x.obey(1))
    assert len(story.log) == 3
    story.last_trigger = 12
    begun = story.do(lambda x: x.obey(1)).awaited
    assert begun
    assert (story.log[-1].route, begun.after_trigger) == ("parked", 12)


@pytest.mark.parametrize(
    "arguments",
    [
        {"event_type": "ci.*"},
        {"event_type": "ci.>"},
        {"event_type": "ci done"},
        {"event_type": "x" * 257},
        {"event_type": "a", "where": {str(n): n for n in range(17)}},
        {"event_type": "a", "where": {"x": [1]}},
        {"event_type": "a", "where": {"x": {"y": 1}}},
        {"event_type": "a", "where": {"x": "y" * 257}},
        {"event_type": "a", "where": {"x" * 129: 1}},
        {"event_type": "a", "where": ["x"]},
        {"event_type": "a", "within": 0},
        {"event_type": "a", "within": -1},
        {"event_type": "a", "within": 1e9},
    ],
)
def test_a_wait_that_cannot_be_is_told_to_the_model(arguments: Any) -> None:
    """A wildcard is no type, a filter is a few plain values, a deadline is to come."""
    story = Story()
    story.running()
    state = story.respond(call("a", "await_event", arguments))
    assert (state.status, first_call(state).outcome) == ("running", "failed")
    assert "invalid arguments for await_event" in first_call(state).output


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("begun", [False, True])
def test_a_wait_alone_is_enough_to_wake(lane: Lane, begun: bool) -> None:  # noqa: FBT001 - a case's
    """The commit is, byte for byte, the one that the whole history leads to."""
    story = Story()
    if begun:
        story.running(lane=lane)
        state = story.respond(call("a", "await_event", {"event_type": "ci.done"}))
    else:
        state = story.start(lane=lane, awaited=e.Awaited(event_type="ci.done"))
    last, awaited = story.log[-1], state.awaited
    assert awaited
    wait = Wait(awaited, last.position, state.version, state.chain, lane)
    short = Execution.parked(story.key, wait)
    story.decide(lambda x: x.receive("ci.done", 7, "t", 1), known=short)
    woken = story.log.pop()
    story.decide(lambda x: x.receive("ci.done", 7, "t", 1))
    assert story.log[-1] == woken
    assert woken.route == lane


# ── subagents ────────────────────────────────────────────────────────────────


def test_a_parent_goes_on_when_its_last_child_ended() -> None:
    """Their summaries answer the calls, their usage counts on it."""
    story = Story()
    story.running()
    spawn = {"agent": "helper", "prompt": "Do"}
    state = story.respond(
        call("a", "spawn_agent", spawn), call("b", "spawn_agent", spawn)
    )
    assert (state.status, story.log[-1].route) == ("awaiting_event", "parked")
    first, second = state.children
    for child, status in ((first, "completed"), (first, "failed"), (second, "failed")):
        ended = partial(Execution.finish_child, child=child, status=status, summary="")
        state = story.do(partial(ended, usage=Usage(input=5), cost=None))
    assert (state.status, story.log[-1].route) == ("pending", "agents")
    assert state.turn
    assert [one.outcome for one in state.turn.calls] == ["success", "failed"]
    assert (state.usage.input, state.unpriced) == (11, 3)
    assert next_action(story.begin(), story.now) == CallModel()


def test_a_child_has_one_name_however_often_it_is_spawned() -> None:
    """And another call, step, execution or user gives another."""
    name = control.child_id("u", "e", 1, "a")
    assert name == control.child_id("u", "e", 1, "a")
    others = [("v", "e", 1, "a"), ("u", "f", 1, "a"), ("u", "e", 2, "a")]
    names = {control.child_id(*other) for other in others}
    assert len(names | {name, control.child_id("u", "e", 1, "b")}) == 5


@pytest.mark.parametrize(
    ("depth", "subagents", "wrong"),
    [(3, ("helper",), "3 deep"), (0, (), "none"), (0, ("other",), "other")],
)
def test_a_child_that_may_not_be_is_told_to_the_model(
    depth: int, subagents: tuple[str, ...], wrong: str
) -> None:
    """Too deep, or no such agent; it says what there is."""
    story = Story()
    parent = e.Parent(execution="p", call_id="x", depth=depth)
    story.running(spec(subagents=subagents), parent=parent)
    state = story.respond(call("a", "spawn_agent", {"agent": "helper", "prompt": "Do"}))
    assert state.status == "running"
    assert wrong in first_call(state).output


# ── what models write ────────────────────────────────────────────────────────


@pytest.mark.parametrize("tool", sorted(control.CONTROL))
@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "{",
        "[]",
        "null",
        "\x00",
        '{"x": 1}',
        '{"question": ""}',
        '{"question": "\ud800"}',
        '{"schema":' + '{"a":' * 5000,
        '{"event_type": "a..b"}',
        '{"event_type": "a\\n"}',
        '{"event_type": "*"}',
        '{"event_type": "a.>"}',
    ],
)
def test_broken_arguments_of_a_control_tool_are_told_to_the_model(
    tool: str, arguments: str
) -> None:
    """Nothing that a model writes is fatal."""
    with pytest.raises(ToolFailed, match=f"invalid arguments for {tool}"):
        control.parse(tool, arguments)


@given(
    st.lists(st.sampled_from(["", "a", "a#2", "a#3", "#1", "#2", "a#2#3"]), max_size=6)
)
def test_every_call_of_a_reply_gets_an_id_of_its_own(ids: list[str]) -> None:
    """The first of equal ones keeps it; asking again changes nothing."""
    calls = control.unique(tuple(ToolCall(id=i, name="x") for i in ids))
    given_ids = [one.id for one in calls]
    assert len(set(given_ids)) == len(ids)
    assert all(given_ids)
    assert control.unique(calls) == calls


def test_calls_with_equal_ids_are_run_each() -> None:
    """A model that repeats an id gets an answer to every call."""
    story = Story()
    story.running()
    state = story.do(lambda x: x.respond(1, reply(call("a"), call("a"), call(""))))
    assert state.turn
    assert [one.id for one in state.turn.calls] == ["a", "a#2", "#3"]

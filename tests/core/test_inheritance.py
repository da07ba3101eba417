"""What a subagent gets of its parent's limits, and when it gets none."""

from datetime import timedelta
from typing import Any

import pytest
from histories import BEGINNING, Story, call, reply, spec
from hypothesis import given
from hypothesis import strategies as st

from events import catalog as e
from events import control, inheritance
from events.messages import Usage
from events.spec import AgentSpec, Limits
from events.state import Child, State

SPAWN = {"agent": "helper", "prompt": "Do"}


def parent(limits: Limits, running: int = 1, **spent: Any) -> State:
    """Make a parent that spent something and has so many subagents."""
    children = {str(n): Child(agent="helper", call_id=str(n)) for n in range(running)}
    agent = AgentSpec(name="boss", limits=limits)
    return State(user="u", id="p", agent=agent, children=children, **spent)


def told(story: Story) -> str:
    """What the model is told of its first call."""
    turn = story.load().state.turn
    assert turn
    return turn.calls[0].output


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(max_steps=1), "max_steps"),
        (Limits(max_tokens=2), "max_tokens"),
        (Limits(max_cost=0.5), "max_cost"),
    ],
)
def test_who_has_nothing_left_has_no_subagents(limits: Limits, name: str) -> None:
    """The reply that asks for one may have used up the last of it."""
    story = Story()
    story.running(spec(limits=limits))
    state = story.respond(call("a", "spawn_agent", SPAWN), cost=0.5)
    assert state.children == {}
    assert told(story) == f"nothing is left of your {name} for a subagent"
    assert state.finish_reason == name


def test_an_execution_has_so_many_subagents_and_no_more() -> None:
    """Whatever their parent does with them."""
    story = Story()
    story.running(spec(limits=Limits(max_steps=1000, max_tokens=10**6)))
    at_once = control.MOST_AT_ONCE
    for _ in range(control.MOST_IN_ALL // at_once):
        calls = [call(str(n), "spawn_agent", SPAWN) for n in range(at_once)]
        for child in story.respond(*calls).children:
            story.do(
                lambda x, child=child: x.finish_child(  # type: ignore[misc]
                    child, "completed", "", usage=Usage(), cost=0.0
                )
            )
        story.begin()
    state = story.respond(call("a", "spawn_agent", SPAWN))
    assert len(state.children) == control.MOST_IN_ALL
    assert "50 subagents are the most for one execution" in told(story)


def test_no_reply_gets_past_the_last_subagents() -> None:
    """Those that begin in the same reply count too."""
    story = Story()
    story.running()
    state = story.load().state
    assert state.turn is None
    calls = tuple(call(str(n), "spawn_agent", SPAWN) for n in range(3))

    def ask(x: Any) -> None:
        for n in range(control.MOST_IN_ALL - 1):
            x.state.children[str(n)] = Child(agent="a", call_id="", status="completed")
        x.respond(1, reply(*calls))

    state = story.decide(ask).state
    assert len(state.children) == control.MOST_IN_ALL
    assert state.turn
    assert [c.phase for c in state.turn.calls] == ["waiting", "done", "done"]


amounts = st.integers(1, 10**9)


@given(
    own=st.builds(
        Limits,
        max_steps=amounts,
        max_tokens=amounts,
        max_cost=st.none() | st.floats(0.001, 1e6),
        timeout=st.floats(0.1, 1e6),
    ),
    above=st.builds(
        Limits,
        max_steps=amounts,
        max_tokens=amounts,
        max_cost=st.none() | st.floats(0.001, 1e6),
        timeout=st.floats(0.1, 1e6),
    ),
    used=st.tuples(amounts, amounts, st.floats(0, 1e6), st.floats(0, 1e6)),
    count=st.integers(1, control.MOST_AT_ONCE),
)
def test_no_share_is_more_than_its_own_or_than_what_is_left(
    own: Limits, above: Limits, used: tuple[int, int, float, float], count: int
) -> None:
    """And all shares together are no more tokens and money than there are."""
    steps, tokens, cost, seconds = used
    state = parent(
        above,
        count,
        steps=steps,
        usage=Usage(input=tokens),
        cost=cost,
        active_seconds=seconds,
    )
    if inheritance.spent(state, BEGINNING):
        return
    got = inheritance.share(own, state, BEGINNING)
    assert 0 < got.max_steps <= min(own.max_steps, above.max_steps - steps)
    assert 0 < got.max_tokens <= own.max_tokens
    rest = above.max_tokens - tokens
    assert got.max_tokens * count <= max(rest, count)  # one is the least there is
    assert 0 < got.timeout <= min(own.timeout, above.timeout - seconds)
    assert got.max_attempts == own.max_attempts
    if above.max_cost is None:
        assert got.max_cost == own.max_cost
    else:
        assert got.max_cost is not None
        assert 0 < got.max_cost * count <= (above.max_cost - cost) * 1.000001
        assert own.max_cost is None or got.max_cost <= own.max_cost


def test_time_that_it_was_parked_does_not_count() -> None:
    """A parent that waited for days has its time left."""
    state = parent(Limits(timeout=100), active_seconds=40)
    rest = inheritance.left(state, BEGINNING + timedelta(days=3))
    assert rest.timeout == 60


@pytest.mark.parametrize(
    ("above", "own", "lane"),
    [
        ("agents_priority", "agents_long", "agents_priority"),
        ("agents_long", "agents", "agents"),
    ],
)
def test_a_hurry_is_inherited_and_a_long_way_is_not(
    above: Any, own: Any, lane: str
) -> None:
    """Priority is the user's, the rest is a matter of the agent type."""
    state = parent(Limits(), lane=above, workspace="/srv/work")
    child = Child(agent="helper", call_id="c", prompt="Do")
    made = inheritance.created(state, child, AgentSpec(name="helper", lane=own))
    assert (made.lane, made.workspace, made.input) == (lane, "/srv/work", "Do")


def test_histories_of_before_have_no_root() -> None:
    """Then the one above is it."""
    above = e.Parent(execution="top", call_id="c", depth=1)
    state = parent(Limits(), parent=above)
    child = Child(agent="helper", call_id="c")
    made = inheritance.created(state, child, AgentSpec(name="helper"))
    assert made.parent == e.Parent(execution="p", call_id="c", depth=2, root="p")

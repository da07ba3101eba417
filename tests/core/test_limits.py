"""Where an execution ends by itself, each with its reason and last words."""

from typing import Any

import pytest
from histories import Story, call, spec

from events import commands as c
from events.messages import Usage
from events.next_action import Finish, next_action
from events.spec import Chunking, Limits


@pytest.mark.parametrize(
    ("limits", "said", "reason"),
    [
        (Limits(max_steps=2), {}, "max_steps"),
        (Limits(max_tokens=30), {"usage": Usage(input=10, output=5)}, "max_tokens"),
        (Limits(max_cost=0.5), {"cost": 0.25}, "max_cost"),
    ],
)
def test_a_limit_ends_it_with_the_last_words(
    limits: Limits, said: dict[str, Any], reason: str
) -> None:
    """After the tools of the last reply, whose results are recorded."""
    story = Story()
    story.running(spec(limits=limits))
    for text in ("First.", ""):
        assert story.respond(call("a"), text=text, **said).status == "running"
        state = story.finish("a")
    assert (state.status, state.finish_reason) == ("completed", reason)
    assert state.output == "First."
    assert story.log[-1].route == "finished"


def test_a_reply_without_calls_is_the_final_answer() -> None:
    """Even where a limit is reached with it."""
    story = Story()
    story.running(spec(limits=Limits(max_steps=1)))
    state = story.respond(text="Here.")
    assert (state.finish_reason, state.output) == ("final_answer", "Here.")


def test_an_unknown_price_is_not_free() -> None:
    """It is counted as unknown, and known ones still reach the limit."""
    story = Story()
    story.running(spec(limits=Limits(max_cost=0.01)))
    state = story.respond(call("a"), cost=None)
    assert (state.cost, state.unpriced) == (0.0, 1)
    story.finish("a")
    story.respond(call("a"), cost=0.01)
    assert story.finish("a").finish_reason == "max_cost"


def test_time_ends_it_while_tools_run() -> None:
    """The runner asks, and obeys."""
    story = Story()
    story.running(spec(limits=Limits(timeout=10)))
    story.respond(call("a"), text="Working.")
    story.wait(10)
    assert next_action(story.load().state, story.now) == Finish("timeout")
    state = story.do(lambda x: x.obey(1))
    assert (state.finish_reason, state.output) == ("timeout", "Working.")
    assert state.active_seconds == 10


def test_only_running_time_counts() -> None:
    """Parked time does not, nor what a lost runner did after its last commit."""
    story = Story()
    story.start(spec(limits=Limits(timeout=10)))
    story.wait(100)
    story.begin()
    story.wait(4)
    story.respond(call("a"))
    story.wait(1000)  # the runner is long dead
    story.begin(again=True)
    assert story.load().state.active_seconds == 4
    story.wait(3)
    story.command(c.Pause())
    story.do(lambda x: x.obey(2))
    story.wait(1000)
    story.command(c.Resume())
    assert story.begin().active_seconds == 7


def test_a_chunk_yields_and_the_last_one_ends_it() -> None:
    """Every so many steps it goes to the back of its lane, so many times."""
    story = Story()
    agent = spec(chunking=Chunking(steps_per_chunk=2, max_chunks=2))
    story.running(agent)
    story.respond(call("a"))
    story.finish("a")
    assert story.respond(call("a")).status == "running"
    state = story.finish("a")
    assert (state.status, state.chunk, state.chunk_steps) == ("pending", 1, 0)
    assert story.log[-1].route == "agents"
    story.begin()
    story.respond(call("a"))
    story.finish("a")
    story.respond(call("a"), text="So far.")
    state = story.finish("a")
    assert (state.finish_reason, state.output) == ("max_chunks", "So far.")


def test_a_lane_is_chosen_at_creation() -> None:
    """Whatever the agent's spec says, and it stays."""
    story = Story()
    story.running(spec(chunking=Chunking(steps_per_chunk=1)), lane="agents_priority")
    story.respond(call("a"))
    assert story.finish("a").status == "pending"
    assert story.log[-1].route == "agents_priority"

"""Beginnings and ends: scheduled, awaited, abandoned, retried, forked, purged."""

from datetime import timedelta

import pytest
from histories import BEGINNING, SPEC, Story, call, encoded, spec

from events import catalog as e
from events import commands as c
from events.errors import NotAllowedNow, NotFound
from events.messages import AssistantMessage, ToolMessage, UserMessage
from events.names import Key
from events.next_action import CallModel, next_action

LATER = BEGINNING + timedelta(hours=1)


def forked(story: Story, version: int, **how: str) -> Story:
    """Copy a prefix and part from it."""
    copy = story.copy_to(Key("ada", "fork-1"), version)
    chain = story.log[version - 1].commit.chain
    fact = e.Forked(
        source=story.key.execution, source_version=version, source_chain=chain, **how
    )
    copy.do(lambda x: x.fork(fact))
    return copy


def test_creating_it_twice_changes_nothing() -> None:
    """The first one stands."""
    story = Story()
    first = encoded(story.start())
    assert encoded(story.start(spec(name="other"))) == first


def test_a_scheduled_start_is_work_only_when_it_comes_due() -> None:
    """Until then nobody may begin it."""
    story = Story()
    state = story.start(scheduled_for=LATER)
    assert (state.status, state.runnable) == ("pending", False)
    assert story.log[-1].route == "parked"
    for _ in range(2):
        story.do(lambda x: x.come_due())
    assert [r.route for r in story.log] == ["parked", "agents"]
    assert list(story.begin().conversation()) == [UserMessage("Go")]


def test_a_paused_schedule_that_came_due_starts_on_resume() -> None:
    """And one that is resumed before goes on waiting for its time."""
    story = Story()
    story.start(scheduled_for=LATER)
    story.command(c.Pause())
    assert not story.command(c.Resume()).runnable
    story.command(c.Pause())
    assert story.do(lambda x: x.come_due()).status == "paused"
    assert story.command(c.Resume()).runnable


@pytest.mark.parametrize("first", ["time", "event"])
def test_a_start_for_a_time_and_an_event_waits_for_both(first: str) -> None:
    """Neither takes the place of the other."""
    story = Story()
    awaited = e.Awaited(event_type="schedule")
    story.start(scheduled_for=LATER, awaited=awaited)
    for what in ("time", "event") if first == "time" else ("event", "time"):
        assert not story.load().state.runnable
        if what == "time":
            story.do(lambda x: x.come_due())
        else:
            story.do(lambda x: x.receive("schedule", 1, "t"))
    assert [r.route for r in story.log] == ["parked", "parked", "agents"]
    told = [UserMessage("Go"), UserMessage("Event schedule: 1")]
    assert list(story.begin().conversation()) == told


def test_a_start_abandoned_at_position_0_never_begins() -> None:
    """A late create finds it closed."""
    story = Story()
    copy = story.load()
    story.do(lambda x: x.abandon())
    late = e.Created(agent=SPEC, input="late")
    execution = story.decide(lambda x: x.create(late), known=copy)
    assert execution.state.status == "cancelled"
    assert [r.route for r in story.log] == ["finished"]


def test_a_retry_goes_on_from_the_last_recorded_step() -> None:
    """No reply and no result is asked for again."""
    story = Story()
    story.running()
    story.respond(call("a"))
    story.finish("a")
    story.do(lambda x: x.fail(1, "model_refused", "no", retryable=False))
    state = story.command(c.Retry())
    assert (state.status, state.failure, state.completed_at) == ("pending", None, None)
    assert story.log[-1].route == "agents"
    state = story.begin()
    assert (state.steps, state.attempt) == (1, 2)
    assert next_action(state, story.now) == CallModel()


def test_a_failure_notes_the_doubts() -> None:
    """The tool was under way when its runner met the error."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"))
    story.do(lambda x: x.fail(1, "e", "m", retryable=True))
    assert story.kinds == ["ToolInDoubt", "Failed"]


def test_a_subagent_is_not_retried() -> None:
    """Its parent was told that it failed, and went on."""
    story = Story()
    story.running(parent=e.Parent(execution="p", call_id="a", depth=1))
    story.do(lambda x: x.fail(1, "e", "m", retryable=True))
    with pytest.raises(NotAllowedNow, match="restart p"):
        story.command(c.Retry())


def test_a_purge_is_said_once_and_is_the_last_word() -> None:
    """Only of what has ended; a failure can then not be retried."""
    story = Story()
    story.running()
    with pytest.raises(NotAllowedNow, match="end it first"):
        story.do(lambda x: x.purge("old"))
    story.do(lambda x: x.fail(1, "e", "m", retryable=True))
    for _ in range(2):
        story.do(lambda x: x.purge("old"))
    assert story.kinds == ["Purged"]
    assert len(story.log) == 4
    assert story.log[-1].route == "finished"
    with pytest.raises(NotAllowedNow):
        story.command(c.Retry())


def test_what_does_not_exist_is_neither_purged_nor_forked() -> None:
    """There is nothing to part from."""
    fact = e.Forked(source="x", source_version=1, source_chain="")
    for decision in (lambda x: x.purge("old"), lambda x: x.fork(fact)):
        with pytest.raises(NotFound):
            Story().do(decision)


def test_a_fork_goes_on_live_from_a_recorded_prefix() -> None:
    """Under its own key, with another model, and the source stays as it is."""
    story = Story()
    story.running()
    story.respond(call("a"))
    story.finish("a")
    story.respond(text="The end.")
    fork = forked(story, 4, model="other")
    state = fork.begin()
    assert (state.agent.model, state.steps, state.attempt) == ("other", 1, 2)
    assert state.origin == ("run-1", 4)
    assert next_action(state, fork.now) == CallModel()
    assert story.load().state.status == "completed"


def test_forking_twice_parts_once() -> None:
    """Whoever copies again after a crash finds it done; a fork may be forked."""
    story = Story()
    story.running()
    fork = forked(story, 2)
    fact = fork.facts[0]
    assert isinstance(fact, e.Forked)
    fork.do(lambda x: x.fork(fact))
    assert len(fork.log) == 3
    assert len(forked(fork, 3).log) == 4


def test_a_fork_of_what_has_ended_lives() -> None:
    """Failure, end and parent stay with the source."""
    story = Story()
    story.running(parent=e.Parent(execution="p", call_id="a", depth=1))
    story.do(lambda x: x.fail(1, "e", "m", retryable=True))
    story.do(lambda x: x.purge("old"))
    state = forked(story, 4).load().state
    assert (state.status, state.failure, state.parent) == ("pending", None, None)
    assert (state.purged, state.completed_at) == (False, None)


def test_a_fork_with_an_input_tells_what_was_left_out() -> None:
    """The model hears that its calls were not run, or that nobody knows."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"), call("b"))
    state = forked(story, 3, input="Rather do this").load().state
    _, asked, launched, looked, said = state.conversation()
    assert isinstance(asked, AssistantMessage)
    assert isinstance(launched, ToolMessage)
    assert isinstance(looked, ToolMessage)
    assert (launched.outcome, looked.outcome) == ("in_doubt", "failed")
    assert said == UserMessage("Rather do this")


@pytest.mark.parametrize("name", ["ask_user", "await_event", "spawn_agent"])
def test_a_fork_of_what_waits_asks_anew(name: str) -> None:
    """The answer that its source waits for is not for it."""
    arguments = {
        "ask_user": {"question": "?"},
        "await_event": {"event_type": "x"},
        "spawn_agent": {"agent": "helper", "prompt": "p"},
    }
    story = Story()
    story.running()
    waiting = story.respond(call("a", name, arguments[name]))
    fork = forked(story, 3)
    state = fork.begin()
    assert state.status == waiting.status
    assert not set(state.children) & set(waiting.children)

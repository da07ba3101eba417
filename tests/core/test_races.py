"""The rules that races ask for: one test for each."""

from datetime import timedelta

import pytest
from histories import Story, call, kinds, reply, spec

from events import catalog as e
from events import commands as c
from events.errors import NotFound, Obsolete, Stale
from events.execution import IN_DOUBT
from events.messages import ToolResult
from events.next_action import CallModel, RunTools, next_action
from events.spec import Limits


def test_a_redelivered_pause_does_not_pause_again_after_a_resume() -> None:
    """The state remembers the ids of the commands it applied."""
    story = Story()
    story.start()
    story.command(c.Pause(), "c1")
    story.command(c.Resume(), "c2")
    assert story.command(c.Pause(), "c1").status == "pending"
    assert len(story.log) == 3


def test_a_resume_before_the_pause_took_effect_withdraws_it() -> None:
    """It is a signal for the runner, and no work for another."""
    story = Story()
    story.running()
    story.command(c.Pause())
    state = story.command(c.Resume())
    assert (state.status, state.pause_requested) == ("running", False)
    assert [r.route for r in story.log] == ["agents", "log", "signal", "signal"]
    assert story.respond(call("a")).status == "running"


def test_a_pause_takes_effect_at_the_next_commit() -> None:
    """The reply that was paid for is in the same commit."""
    story = Story()
    story.running()
    assert story.command(c.Pause()).status == "running"
    assert story.respond(call("a")).status == "paused"
    assert story.kinds == ["ModelResponded", "Paused"]
    assert story.log[-1].route == "parked"


def test_an_event_that_arrives_while_paused_is_applied_on_resume() -> None:
    """Nothing is lost, and nothing happens before the resume."""
    story = Story()
    story.running()
    story.respond(call("a", "await_event", {"event_type": "ci.done"}))
    story.command(c.Pause())
    assert story.do(lambda x: x.receive("ci.done", 7, "t")).status == "paused"
    assert story.log[-1].route == "parked"
    assert story.command(c.Resume()).status == "pending"
    assert story.load().state.turns[0].calls[0].output == "Event ci.done: 7"  # type: ignore[union-attr]


def test_an_input_that_arrives_while_paused_is_applied_on_resume() -> None:
    """The answer counts although nothing moves yet."""
    story = Story()
    story.running()
    asked = story.respond(call("a", "ask_user", {"question": "?"})).request
    assert asked
    story.command(c.Pause())
    answered = story.command(c.Input(request=asked.request, answer="red"))
    assert (answered.status, answered.request) == ("paused", None)
    assert story.command(c.Resume()).status == "pending"


def test_what_still_waits_waits_on_after_a_resume() -> None:
    """A resume leads back to where it was, not to a runner."""
    story = Story()
    story.running()
    story.respond(call("a", "await_event", {"event_type": "ci.done"}))
    story.command(c.Pause())
    assert story.command(c.Resume()).status == "awaiting_event"
    assert story.log[-1].route == "parked"


@pytest.mark.parametrize("command", [c.Kill(), c.Cancel()])
def test_an_end_carries_the_doubts_of_a_dead_runner(
    command: c.Kill | c.Cancel,
) -> None:
    """Its irreversible call was under way; nobody will know what it did."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"))
    story.do(lambda x: x.recover(1, "gone"))
    assert story.command(command).status == "cancelled"
    assert story.kinds == ["ToolInDoubt", "Cancelled"]


def test_a_kill_during_tools_notes_each_irreversible_one() -> None:
    """Only those: the others may be run again or never."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"), call("b", "launch"), call("c"))
    story.finish("a")
    state = story.command(c.Kill(reason="stop"))
    assert story.facts == [
        e.ToolInDoubt(call_id="b"),
        e.Cancelled(reason="stop", forced=True),
    ]
    assert (state.status, story.log[-1].route) == ("cancelled", "finished")


def test_a_cancel_waits_for_an_irreversible_tool() -> None:
    """It takes effect with the tool's result, which is recorded."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"))
    story.command(c.Cancel(reason="no more"))
    assert next_action(story.load().state, story.now) == RunTools(
        tuple(story.load().state.turn.calls)  # type: ignore[union-attr]
    )
    assert story.finish("a").status == "cancelled"
    assert kinds(story.facts) == ["ToolCompleted", "Cancelled"]


def test_a_paid_result_is_offered_to_the_new_state() -> None:
    """A signal came first: the decision is made again, on what is there now."""
    story = Story()
    story.running()
    copy = story.load()
    story.command(c.Pause())
    paid = reply(text="Paid.")
    execution = story.decide(lambda x: x.respond(1, paid), known=copy)
    assert execution.state.status == "paused"
    assert execution.state.last_text == "Paid."
    assert execution.state.version == 4


def test_the_result_of_an_older_attempt_is_dropped() -> None:
    """Another attempt has started: Stale, and nothing in the log."""
    story = Story()
    story.running()
    copy = story.load()
    story.begin(again=True)
    for known in (copy, None):
        with pytest.raises(Stale):
            story.decide(lambda x: x.respond(1, reply(text="late")), known=known)
    assert len(story.log) == 3


@pytest.mark.parametrize("own", [True, False])
def test_another_queue_takes_nothing_over(*, own: bool) -> None:
    """However often it handed the work out: ``wake run`` has a queue of its own."""
    story = Story()
    story.start()
    version = story.work.commit.version
    story.do(lambda x: x.begin("r1", version, own=own))
    for delivery in (1, 2, 9):
        with pytest.raises(Obsolete):
            story.do(
                lambda x, n=delivery: x.begin("r2", version, delivery=n, own=not own)
            )
    state = story.do(lambda x: x.begin("r3", version, delivery=2, own=own))
    assert (state.attempt, state.runner) == (2, "r3")


@pytest.mark.parametrize("seen", [True, False])
def test_a_lost_lease_is_taken_over_once(*, seen: bool) -> None:
    """Only a redelivery may take over, and only work that is the newest.

    Of work that another has begun nothing is known; work of the past is obsolete.
    """
    story = Story()
    story.running()
    version = story.work.commit.version + (0 if seen else 1)
    with pytest.raises(Stale) as refused:
        story.do(lambda x: x.begin("r2", version, delivery=1 + (not seen)))
    assert isinstance(refused.value, Obsolete) != seen
    state = story.begin(again=True, runner="r2")
    assert (state.attempt, state.runner) == (2, "r2")


@pytest.mark.parametrize("delivery", [1, 2, 3])
def test_a_handing_out_that_lay_on_the_way_takes_nothing_over(delivery: int) -> None:
    """It was for a process that hung, or got lost for a while: the work went on."""
    story = Story()
    story.running()
    story.do(lambda x: x.begin("r2", 1, delivery=3))
    with pytest.raises(Stale) as refused:
        story.do(lambda x: x.begin("r1", 1, delivery=delivery))
    assert not isinstance(refused.value, Obsolete)
    assert story.do(lambda x: x.begin("r1", 1, delivery=4)).attempt == 3


def test_work_that_is_done_is_there_for_nobody() -> None:
    """However often it was handed out: it may be acknowledged."""
    story = Story()
    story.running()
    story.respond(text="Done.")
    with pytest.raises(Obsolete):
        story.do(lambda x: x.begin("r2", 1, delivery=2))


def test_attempts_without_progress_end_it() -> None:
    """So many runners in a row were lost: it is the execution that kills them."""
    story = Story()
    story.running(spec(limits=Limits(max_attempts=2)))
    story.begin(again=True)
    state = story.begin(again=True)
    assert state.failure
    assert (state.failure.error, state.failure.retryable) == ("too_many_attempts", True)
    assert story.log[-1].route == "finished"


def test_giving_up_notes_the_doubts() -> None:
    """The irreversible call that takes its runners down is not forgotten."""
    story = Story()
    story.running(spec(limits=Limits(max_attempts=1)))
    story.command(c.Pause())
    story.respond(call("a", "launch"))
    story.command(c.Resume())
    assert story.begin().idle_attempts == 1
    assert story.kinds == ["Started", "ToolStarted"]
    story.do(lambda x: x.recover(2, "gone"))
    assert story.begin().status == "failed"
    assert story.kinds == ["ToolInDoubt", "Failed"]


@pytest.mark.parametrize("progress", ["reply", "tool", "pause", "chunk"])
def test_progress_and_orderly_parks_start_the_count_again(progress: str) -> None:
    """Or every deploy would wear out long runs."""
    story = Story()
    story.running(spec(limits=Limits(max_attempts=3)))
    story.respond(call("a"), call("b"))
    for _ in range(2):
        story.begin(again=True)
    assert story.load().state.idle_attempts == 2
    if progress == "pause":
        story.command(c.Pause())
        story.do(lambda x: x.obey(x.state.attempt))
    elif progress == "tool":
        story.finish("a")
    elif progress == "reply":
        story.finish("a", "b")
        story.respond(call("a"))
    else:
        story.do(lambda x: x.trigger_event(e.ChunkCompleted, chunk=1))
    assert story.load().state.idle_attempts == 0


def test_an_input_names_the_request_it_answers() -> None:
    """An answer to an older question does not answer the new one."""
    story = Story()
    story.running()
    first = story.respond(call("a", "ask_user", {"question": "1?"})).request
    assert first
    story.command(c.Input(request=first.request, answer="one"))
    second = story.begin()
    assert second.request is None
    second = story.respond(call("a", "ask_user", {"question": "2?"}))
    assert second.request
    assert second.request.request != first.request
    with pytest.raises(NotFound, match="it waits for"):
        story.command(c.Input(request=first.request, answer="one, I said"))


def test_an_answer_to_an_older_doubt_runs_nothing_again() -> None:
    """A second doubt on the same call is a new request."""
    story = Story()
    story.running(spec(on_doubt="ask"))
    story.respond(call("a", "launch"))
    again = {"decision": "run_again"}
    first = story.begin(again=True).request
    assert first
    story.command(c.Input(request=first.request, answer=again))
    story.begin()
    assert story.begin(again=True).status == "awaiting_input"
    with pytest.raises(NotFound):
        story.command(c.Input(request=first.request, answer=again))


def test_the_timer_of_an_earlier_wait_does_not_end_the_next_one() -> None:
    """It is for the same event, and its deadline is another."""
    story = Story()
    story.running()
    wait = call("a", "await_event", {"event_type": "ci.done", "within": 60})
    first = story.respond(wait).awaited
    story.wait(50)
    story.do(lambda x: x.receive("ci.done", None, "t1"))
    story.begin()
    second = story.respond(wait).awaited
    assert first
    assert second
    assert first.deadline
    assert second.deadline == first.deadline + timedelta(seconds=50)
    deadline = first.deadline
    assert story.do(lambda x: x.expire_wait(deadline)).awaited == second


def test_a_tool_in_doubt_is_told_to_the_model() -> None:
    """It is never run again in silence."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"), call("b"))
    state = story.begin(again=True)
    assert story.kinds == ["Started", "ToolInDoubt"]
    assert state.turn
    assert (state.turn.calls[0].output, state.turn.calls[0].outcome) == (
        IN_DOUBT,
        "in_doubt",
    )
    action = next_action(state, story.now)
    assert action == RunTools((state.turn.calls[1],)), "a read is simply run again"


@pytest.mark.parametrize(
    ("answer", "phase", "outcome"),
    [
        ({"decision": "run_again"}, "started", "success"),
        ({"decision": "tell", "reason": "It did."}, "done", "in_doubt"),
    ],
)
def test_a_person_decides_what_a_doubt_means(
    answer: dict[str, str], phase: str, outcome: str
) -> None:
    """If the agent's ``on_doubt`` says so."""
    story = Story()
    story.running(spec(on_doubt="ask"))
    story.respond(call("a", "launch"))
    asked = story.begin(again=True).request
    assert asked
    assert asked.kind == "doubt"
    story.command(c.Input(request=asked.request, answer=answer))
    turn = story.begin().turn
    assert turn
    assert (turn.calls[0].phase, turn.calls[0].outcome) == (phase, outcome)


def test_a_result_that_comes_twice_counts_once() -> None:
    """Also within one report, in any order, and for calls that nobody made."""
    story = Story()
    story.running()
    story.respond(call("a"), call("b"))
    results = [ToolResult(call_id=i, output=i) for i in ("b", "b", "nope")]
    story.do(lambda x: x.finish_calls(1, results))
    before = len(story.log)
    story.do(lambda x: x.finish_calls(1, results))
    assert len(story.log) == before
    story.finish("a")
    assert next_action(story.load().state, story.now) == CallModel()


def test_a_call_that_has_not_started_is_written_down_first() -> None:
    """Before an irreversible tool runs, the log says so; before others it need not."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"), call("b", "write"), call("c", "unheard-of"))
    assert story.kinds == ["ModelResponded", "ToolStarted", "ToolStarted"]
    assert story.facts[1:] == [
        e.ToolStarted(call_id="a", attempt=1),
        e.ToolStarted(call_id="c", attempt=1),
    ]


def test_recovering_the_wrong_attempt_changes_nothing() -> None:
    """The runner that is gone is not the one that holds it."""
    story = Story()
    story.running()
    story.begin(again=True)
    assert story.do(lambda x: x.recover(1, "gone")).status == "running"
    assert story.do(lambda x: x.recover(2, "gone")).status == "pending"
    assert story.log[-1].route == "agents"


def test_a_recovered_execution_keeps_what_was_asked() -> None:
    """The pause that its dead runner never saw takes effect in the next one."""
    story = Story()
    story.running()
    story.command(c.Pause())
    story.do(lambda x: x.recover(1, "gone"))
    assert story.begin().status == "paused"

"""Answers to what an execution asks: questions, approvals, doubts."""

from datetime import timedelta
from typing import Any

import pytest
from histories import Story, call, reply, spec

from events import catalog as e
from events import commands as c
from events import control
from events.errors import InvalidInput, NotAllowedNow, NotFound
from events.execution import Execution
from events.messages import ToolCall
from events.next_action import RunTools, next_action
from events.state import Call, State

COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}}
PARAMETERS = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}},
    "required": ["n"],
    "additionalProperties": False,
}


def request(story: Story) -> e.InputRequested:
    """What it asks now."""
    asked = story.load().state.request
    assert asked
    return asked


def ask(story: Story, **arguments: Any) -> e.InputRequested:
    """Let the model ask the user."""
    story.running()
    story.respond(call("q", "ask_user", {"question": "Which?", **arguments}))
    return request(story)


def launch(
    story: Story, *calls: ToolCall, known: bool = True, **agent: Any
) -> e.InputRequested:
    """Let the model launch, which needs approval; ``known``: the tool's parameters."""
    story.running(spec(**{"approvals": ("launch",), **agent}))

    def respond(execution: Execution) -> None:
        execution.parameters = {"launch": PARAMETERS} if known else {}
        execution.respond(1, reply(*(calls or (call("a", "launch", {"n": 1}),))))

    story.do(respond)
    return request(story)


def answer(story: Story, value: Any, cause: str | None = None) -> State:
    """Answer what it asks."""
    return story.command(c.Input(request=request(story).request, answer=value), cause)


def refused(story: Story, value: Any, match: str) -> None:
    """Show that an answer is refused, and it goes on waiting for the same."""
    before, asked = len(story.log), request(story)
    with pytest.raises(InvalidInput, match=match):
        answer(story, value)
    assert len(story.log) == before
    assert story.load().state.status == "awaiting_input"
    assert request(story) == asked


def first(state: State) -> Call:
    """The first call of the last reply."""
    assert state.turn
    return state.turn.calls[0]


# ── questions ────────────────────────────────────────────────────────────────


def test_an_answer_that_breaks_the_schema_is_refused() -> None:
    """Where, and what is expected; the one that fits is told to the model."""
    story = Story()
    assert ask(story, schema=COLOUR).schema == COLOUR
    refused(story, {"colour": "green"}, r"at \$\.colour: 'green' is not one of")
    refused(story, "red", r"at \$: 'red' is not of type 'object'")
    refused(story, None, r"at \$: None is not of type 'object'")
    state = answer(story, {"colour": "red"})
    assert (state.status, first(state).output) == ("pending", '{"colour":"red"}')


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "strng"}, "the schema: $.type: 'strng'"),
        ({"$ref": "#"}, "$ref is not taken"),
        ({"pattern": "(a+)+$"}, "pattern is not taken"),
        ({"title": "x" * 10_000}, "8,192 bytes"),
        ("string", "Expected `object | null`, got `str` - at `$.schema`"),
        (True, "Expected `object | null`, got `bool` - at `$.schema`"),
    ],
)
def test_a_schema_that_is_not_taken_is_told_to_the_model(
    schema: Any, told: str
) -> None:
    """As a call that failed: it can ask again, and nobody waits for anything."""
    story = Story()
    story.running()
    bad = call("q", "ask_user", {"question": "Which?", "schema": schema})
    state = story.respond(bad)
    assert (state.status, first(state).outcome) == ("running", "failed")
    assert first(state).output.startswith("invalid arguments for ask_user: ")
    assert told in first(state).output
    assert state.request is None


def test_a_question_may_have_a_deadline() -> None:
    """So many seconds from when it is asked; without one it waits for ever."""
    story = Story()
    assert ask(story).deadline is None
    other = Story()
    other.wait(7)
    assert ask(other, within=60).deadline == other.now + timedelta(seconds=60)


@pytest.mark.parametrize("within", [0, -1, "soon", 1e9])
def test_a_deadline_that_is_none_is_told_to_the_model(within: Any) -> None:
    """A call that failed, with what is wrong."""
    story = Story()
    story.running()
    bad = call("q", "ask_user", {"question": "Which?", "within": within})
    assert "at `$.within`" in first(story.respond(bad)).output


# ── approvals ────────────────────────────────────────────────────────────────


def test_an_approval_says_what_is_to_run_and_what_may_be_answered() -> None:
    """The tool, its arguments, their digest, and a schema to draw a form by."""
    asked = launch(Story())
    assert asked.question == 'May this run? launch {"n":1}'
    assert asked.digest == control.digest("launch", '{"n":1}')
    assert asked.schema == {
        "type": "object",
        "required": ["decision"],
        "properties": {
            "decision": {"enum": ["approve", "deny", "edit"]},
            "reason": {"type": ["string", "null"]},
            "digest": {"const": asked.digest},
            "arguments": PARAMETERS,
        },
    }


def test_a_question_about_long_arguments_is_short_and_says_so() -> None:
    """Nothing can be hidden behind what is shown: it tells how much there is."""
    story = Story()
    asked = launch(story, call("a", "launch", {"n": 1, "pad": " " * 9_000, "x": "rm"}))
    assert len(asked.question) < 500
    assert asked.question.endswith("… (9,032 characters)")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"decision": "edit", "arguments": {"n": 0}}, r"\$\.arguments\.n: 0 is less"),
        ({"decision": "edit", "arguments": {}}, r"\$\.arguments: 'n' is a required"),
        ({"decision": "edit", "arguments": {"n": 1, "m": 2}}, "'m' was unexpected"),
        ({"decision": "approve", "reason": 7}, r"\$\.reason: 7 is not of type"),
        ({"decision": "deny", "reason": ["x"]}, r"\$\.reason: "),
    ],
)
def test_an_edit_that_the_tool_could_not_take_is_refused(
    value: Any, match: str
) -> None:
    """The person who edits is told, not the model."""
    story = Story()
    launch(story)
    refused(story, value, match)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"launch": {"$ref": "#/$defs/x", "$defs": {"x": {}}}},
        {"launch": {"properties": {"n": {"pattern": "(a+)+$"}}}},
        {"launch": {"properties": {str(n): {} for n in range(199)}}},
        {"launch": {"title": "x" * 8_150}},
    ],
    ids=["unknown", "references", "pattern", "many", "large"],
)
def test_arguments_that_cannot_be_judged_are_any_object(parameters: Any) -> None:
    """The tool itself tells the model what is wrong with them, as ever."""
    story = Story()
    story.running(spec(approvals=("launch",)))

    def respond(execution: Execution) -> None:
        execution.parameters = parameters
        execution.respond(1, reply(call("a", "launch", {"n": 1})))

    story.do(respond)
    schema = request(story).schema
    assert schema
    assert schema["properties"]["arguments"] == {"type": "object"}
    refused(story, {"decision": "approve", "reason": 7}, "reason")
    answer(story, {"decision": "edit", "arguments": {"any": "thing"}})


def test_an_approval_that_names_other_arguments_is_refused() -> None:
    """A digest may be given; then it has to be that of what is asked."""
    story = Story()
    asked = launch(story)
    for digest in (control.digest("launch", '{"n":2}'), "", None, 7, ["x"]):
        wrong = {"decision": "approve", "digest": digest}
        refused(story, wrong, "that is for other arguments")
    state = answer(story, {"decision": "approve", "digest": asked.digest})
    assert state.status == "pending"


def test_what_was_edited_is_what_runs() -> None:
    """And the model is shown the arguments that ran."""
    story = Story()
    launch(story)
    answer(story, {"decision": "edit", "arguments": {"n": 2}})
    state = story.begin()
    action = next_action(state, story.now)
    assert isinstance(action, RunTools)
    assert [one.arguments for one in action.calls] == ['{"n":2}']


def test_an_approval_is_for_one_call() -> None:
    """Another call with the same arguments is asked for anew, now and later."""
    story = Story()
    launch(story, call("a", "launch", {"n": 1}), call("b", "launch", {"n": 1}))
    one = request(story)
    answer(story, {"decision": "approve"})
    story.begin()
    story.finish("a")
    two = request(story)
    assert (one.call_id, two.call_id) == ("a", "b")
    assert one.digest == two.digest
    with pytest.raises(NotFound, match="it waits for '2-approval-b'"):
        story.command(c.Input(request=one.request, answer={"decision": "approve"}))
    answer(story, {"decision": "approve"})
    story.begin()
    story.finish("b")
    state = story.respond(call("a", "launch", {"n": 1}))
    assert state.status == "awaiting_input"
    assert request(story).request not in (one.request, two.request)


def test_an_approval_does_not_go_with_a_fork() -> None:
    """The copy asks anew before it runs what its source was allowed to."""
    story = Story()
    launch(story)
    answer(story, {"decision": "approve"})
    source = story.key.execution
    fork = story.copy_to(story.key._replace(execution="run-2"), len(story.log))
    fact = e.Forked(source=source, source_version=len(story.log), source_chain="")
    fork.do(lambda x: x.fork(fact))
    assert fork.begin().status == "awaiting_input"


def test_a_denial_is_told_to_the_model_with_its_reason() -> None:
    """And the tool does not run."""
    story = Story()
    launch(story)
    answer(story, {"decision": "deny", "reason": "Not on a Friday."})
    state = story.begin()
    assert (first(state).outcome, first(state).output) == (
        "denied",
        "Denied. Not on a Friday.",
    )


# ── doubts ───────────────────────────────────────────────────────────────────


def doubt(story: Story) -> e.InputRequested:
    """Let a runner be lost while it launches."""
    story.running(spec(on_doubt="ask"))
    story.respond(call("a", "launch", {"n": 1}))
    story.begin(again=True)
    return request(story)


def test_a_doubt_says_what_is_in_doubt_and_what_may_be_answered() -> None:
    """In the same way as an approval."""
    asked = doubt(Story())
    assert asked.question.startswith("Did this happen? ")
    assert asked.question.endswith('launch {"n":1}')
    assert asked.digest == control.digest("launch", '{"n":1}')
    assert asked.schema
    assert asked.schema["properties"]["decision"] == {"enum": ["run_again", "tell"]}
    assert "arguments" not in asked.schema["properties"]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"decision": "edit", "arguments": {}}, "run_again, tell"),
        ({"decision": "run_again", "digest": "x"}, "other arguments"),
        ({"decision": "tell", "reason": {}}, "reason"),
        ("run_again", "run_again, tell"),
    ],
)
def test_a_wrong_answer_to_a_doubt_is_refused(value: Any, match: str) -> None:
    """And it goes on waiting."""
    story = Story()
    doubt(story)
    refused(story, value, match)


@pytest.mark.parametrize("decision", ["run_again", "tell"])
def test_a_doubt_is_decided(decision: str) -> None:
    """The call runs again, or the model is told that nobody knows, and why."""
    story = Story()
    doubt(story)
    answer(story, {"decision": decision, "reason": "I looked."})
    call_ = first(story.begin())
    if decision == "run_again":
        assert call_.phase == "started"
    else:
        assert (call_.outcome, call_.phase) == ("in_doubt", "done")
        assert call_.output.endswith("I looked.")


# ── whose and when ───────────────────────────────────────────────────────────


def test_an_answer_counts_once() -> None:
    """The same command again is a repetition, another one comes too late."""
    story = Story()
    asked = ask(story)
    for _ in range(2):
        answer_ = c.Input(request=asked.request, answer="red")
        state = story.command(answer_, cause="cmd-1")
    assert [type(fact) for fact in story.all_facts].count(e.InputReceived) == 1
    with pytest.raises(NotFound, match="no open request"):
        story.command(c.Input(request=asked.request, answer="blue"), cause="cmd-2")
    assert first(state).output == "red"


@pytest.mark.parametrize("name", ["", "nix", "1-question-", "x" * 9_000, "\u202e"])
def test_an_answer_to_an_unknown_request_is_refused(name: str) -> None:
    """It says which one is open, in a short line."""
    story = Story()
    ask(story)
    with pytest.raises(NotFound, match="it waits for '1-question-q'") as caught:
        story.command(c.Input(request=name, answer="red"))
    assert len(str(caught.value)) < 300


def test_nobody_answers_for_another_execution_or_after_the_end() -> None:
    """Not one that is not there, nor one that has ended."""
    story = Story()
    ask(story)
    one = c.Input(request=request(story).request, answer="red")
    with pytest.raises(NotFound, match="there is no execution"):
        Story(story.key._replace(user="bob")).command(one)
    story.command(c.Kill())
    with pytest.raises(NotAllowedNow):
        story.command(one)

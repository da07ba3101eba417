from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from events.catalog import Awaited, InputRequested
from events.messages import Usage
from events.names import Key
from events.spec import AgentSpec, Chunking, Limits
from events.state import Child, Failure, State
from gateway.composition import Place
from gateway.exits import Exit
from gateway.progress import waits_for
from gateway.summary import as_object, ended, exit_of, hints

ASKED = InputRequested(
    request="1-question-c1", kind="question", call_id="c1", question="Which\x1b one?"
)


def state(**fields: Any) -> State:
    """An execution of which only this is known."""
    return State(user="ada", id="e1", **fields)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"status": "completed", "finish_reason": "final_answer"}, Exit.COMPLETED),
        ({"status": "completed", "finish_reason": "max_steps"}, Exit.LIMIT),
        ({"status": "completed", "finish_reason": "timeout"}, Exit.LIMIT),
        ({"status": "failed"}, Exit.FAILED),
        ({"status": "cancelled"}, Exit.CANCELLED),
        ({"status": "paused"}, Exit.WAITING),
        ({"status": "awaiting_input"}, Exit.WAITING),
        ({"status": "awaiting_event"}, Exit.WAITING),
        ({"status": "running"}, Exit.WAITING),
        ({"status": "pending"}, Exit.WAITING),
    ],
)
def test_the_exit_code_tells_how_it_stands(fields: Any, code: Exit) -> None:
    """Every status has its exit code; a limit is not success."""
    assert exit_of(state(**fields)) is code


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": "paused"}, "it is paused"),
        (
            {"status": "awaiting_input", "request": ASKED},
            "it waits for an answer to 1-question-c1: Which\x1b one?",
        ),
        (
            {"status": "awaiting_event", "awaited": Awaited(event_type="build.done")},
            "it waits for the event 'build.done'",
        ),
        (
            {
                "status": "awaiting_event",
                "children": {"c": Child(agent="helper", call_id="c1")},
            },
            "it waits for its subagents: helper",
        ),
        (
            {"scheduled_for": datetime(2026, 1, 2, tzinfo=UTC)},
            "it starts at 2026-01-02 00:00:00 UTC",
        ),
        ({"status": "running"}, None),
        ({"status": "completed"}, None),
    ],
)
def test_it_says_what_is_waited_for(fields: Any, words: str | None) -> None:
    """Whatever parks an execution is said in words."""
    assert waits_for(state(**fields)) == words


@pytest.mark.parametrize(
    "reason", ["max_steps", "max_tokens", "max_cost", "timeout", "max_chunks"]
)
def test_a_limit_is_visibly_no_normal_end(reason: Any) -> None:
    """The summary of a run that a limit ended names the limit."""
    agent = AgentSpec(name="a", limits=Limits(max_cost=1.0), chunking=Chunking())
    lines = ended(state(status="completed", finish_reason=reason, agent=agent))
    assert lines[0].startswith(f"completed ({reason}): ")
    assert lines[1].startswith("NOT A NORMAL END: it reached its ")


def test_what_others_wrote_is_made_harmless() -> None:
    """A question and an error message reach the summary as printable lines."""
    for fields in (
        {"status": "awaiting_input", "request": ASKED},
        {
            "status": "failed",
            "failure": Failure(error="e", message="a\x1b[2J\nb", retryable=False),
        },
        {"status": "cancelled", "cancel_reason": "a\x1b]0;x\x07"},
    ):
        assert all(line.isprintable() for line in ended(state(**fields)))


def test_the_object_of_a_run() -> None:
    """Programs get id, status, output, steps, tokens, reason, cost, asks and error."""
    failure = Failure(error="model_refused", message="no", retryable=False)
    told = as_object(
        state(status="failed", failure=failure, steps=2, usage=Usage(input=3, output=4))
    )
    assert told == {
        "id": "e1",
        "status": "failed",
        "output": None,
        "steps": 2,
        "tokens": 7,
        "finish_reason": None,
        "cost": 0.0,
        "asks": None,
        "error": {"error": "model_refused", "message": "no", "retryable": False},
    }
    assert as_object(state(unpriced=1, cost=0.5))["cost"] is None


@pytest.mark.parametrize(
    ("place", "options"),
    [
        (Place(Path(".wake")), ""),
        (Place(Path("my data")), " --data 'my data'"),
        (Place(Path(".wake"), "nats://h:1"), " --nats nats://h:1"),
        (Place(Path(".wake"), "nats://u:secret@h:1"), " --nats URL"),
    ],
)
def test_hints_lead_to_the_same_log(place: Place, options: str) -> None:
    """What to type next names the folder or server, and never a password."""
    told = hints(Key("ada", "e1"), state(status="paused"), place)
    assert told == [
        f"go on with: wake run --resume e1{options}",
        f"its history: wake events e1{options}",
    ]
    done = hints(Key("ada", "e1"), state(status="completed"), place)
    assert done == [f"its history: wake events e1{options}"]

from typing import Any, get_args

import msgspec
import pytest

from events import catalog as e
from events.messages import Task, ToolCall
from events.spec import AgentSpec
from gateway.facts import about, tag, told

EVIL = "x\x1b]0;t\x07\n" * 50
FIELDS: dict[type, dict[str, Any]] = {
    e.Created: {"agent": AgentSpec(name="a", model="m"), "input": EVIL},
    e.Started: {"runner": "r", "attempt": 2},
    e.ModelResponded: {"step": 1, "model": "m", "text": EVIL},
    e.ToolStarted: {"call_id": "c", "attempt": 1},
    e.ToolCompleted: {"call_id": "c", "output": EVIL},
    e.ToolInDoubt: {"call_id": "c"},
    e.TasksPlanned: {"tasks": (Task(title="t", status="done"), Task(title="u"))},
    e.MetadataWritten: {"notes": {"k": 1}},
    e.InputRequested: {
        "request": "r",
        "kind": "question",
        "call_id": "c",
        "question": EVIL,
    },
    e.InputReceived: {"request": "r", "timed_out": True},
    e.EventAwaited: {"awaited": e.Awaited(event_type="t")},
    e.EventReceived: {"event_type": "t", "timed_out": True},
    e.CancelRequested: {"reason": EVIL},
    e.Cancelled: {"reason": EVIL, "forced": True},
    e.ChunkCompleted: {"chunk": 1},
    e.ChildSpawned: {"call_id": "c", "child": "x", "agent": "a", "prompt": EVIL},
    e.ChildFinished: {"child": "x", "status": "completed", "summary": EVIL},
    e.Recovered: {"reason": EVIL},
    e.Retried: {"reason": EVIL},
    e.Forked: {"source": "s", "source_version": 3, "source_chain": "0"},
    e.Completed: {"output": EVIL, "finish_reason": "final_answer"},
    e.Failed: {"error": "e", "message": EVIL, "retryable": True},
    e.Purged: {"reason": EVIL},
}


@pytest.mark.parametrize("kind", get_args(e.AnyEvent))
def test_every_event_is_told_in_one_line(kind: type[e.Event]) -> None:
    """Each event has its name and what it says; whoever wrote it, it is harmless."""
    fact = kind(**FIELDS.get(kind, {}))
    line = told(fact)
    assert line.isprintable()
    assert line.split()[0] == tag(fact)
    says_something = bool(msgspec.structs.fields(kind))
    assert bool(about(fact).strip()) == says_something


def test_calls_are_named() -> None:
    """A reply that asks for tools is told by their names."""
    call = ToolCall(id="c", name="bash\x1b")
    fact = e.ModelResponded(step=3, model="m", tool_calls=(call, call))
    expected = "model_responded step 3, 0 + 0 tokens: calls bash\ufffd, bash\ufffd"
    assert told(fact) == expected


def test_an_answer_is_told_shortly() -> None:
    """What a person decided, as text that is harmless."""
    answer = {"decision": "deny", "reason": EVIL}
    line = told(e.InputReceived(request="r", answer=answer))
    assert line.startswith('input_received r: {"decision":"deny","reason":"x')
    assert line.isprintable()
    assert len(line) < 100

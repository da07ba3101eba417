"""Every event in one line, for ``wake events`` and for the notes of a run."""

from functools import singledispatch
from typing import Any

import msgspec

from events import catalog as e
from gateway.wording import one_line, seconds, short, tokens

WIDTH = 70
"""Characters of a text that stand for all of it."""


def tag(fact: e.Event) -> str:
    """The event's wire name without its version."""
    return str(fact.__struct_config__.tag).partition(".")[0]


def told(fact: e.Event) -> str:
    """The event in one printable line: its name and what is in it."""
    return one_line(f"{tag(fact)} {about(fact)}")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@singledispatch
def about(_fact: e.Event) -> str:
    """What an event says, apart from its name."""
    return ""


@about.register
def _(fact: e.Created) -> str:
    agent = fact.agent
    return f"{agent.name} on {agent.model}: {short(fact.input, WIDTH)}"


@about.register
def _(fact: e.Started) -> str:
    return f"attempt {fact.attempt} by {fact.runner}"


@about.register
def _(fact: e.ModelResponded) -> str:
    names = ", ".join(call.name for call in fact.tool_calls)
    what = f"calls {names}" if names else short(fact.text, WIDTH)
    return f"step {fact.step}, {tokens(fact.usage)}: {what}"


@about.register
def _(fact: e.ToolStarted) -> str:
    return fact.call_id


@about.register
def _(fact: e.ToolCompleted) -> str:
    what = "ok" if fact.outcome == "success" else fact.outcome
    took = seconds(fact.latency_ms / 1000)
    return f"{fact.call_id} {what} after {took}: {short(fact.output, WIDTH)}"


@about.register
def _(fact: e.ToolInDoubt) -> str:
    return f"{fact.call_id}: nobody knows whether it happened"


@about.register
def _(fact: e.TasksPlanned) -> str:
    done = sum(task.status == "done" for task in fact.tasks)
    return f"{done} of {len(fact.tasks)} done"


@about.register
def _(fact: e.MetadataWritten) -> str:
    return short(", ".join(fact.notes), WIDTH)


@about.register
def _(fact: e.InputRequested) -> str:
    return f"{fact.kind} {fact.request}: {short(fact.question, WIDTH)}"


@about.register
def _(fact: e.InputReceived) -> str:
    if fact.timed_out:
        return f"{fact.request} (nobody answered in time)"
    return f"{fact.request}: {short(_json(fact.answer), WIDTH)}"


@about.register
def _(fact: e.EventAwaited) -> str:
    return fact.awaited.event_type


@about.register
def _(fact: e.EventReceived) -> str:
    return fact.event_type + (" (it did not come in time)" if fact.timed_out else "")


@about.register(e.CancelRequested)
@about.register(e.Recovered)
@about.register(e.Retried)
@about.register(e.Purged)
def _(fact: e.CancelRequested | e.Recovered | e.Retried | e.Purged) -> str:
    return fact.reason


@about.register
def _(fact: e.Cancelled) -> str:
    return f"by force: {fact.reason}" if fact.forced else fact.reason


@about.register
def _(fact: e.ChunkCompleted) -> str:
    return f"chunk {fact.chunk}"


@about.register
def _(fact: e.ChildSpawned) -> str:
    return f"{fact.agent} {fact.child}: {short(fact.prompt, WIDTH)}"


@about.register
def _(fact: e.ChildFinished) -> str:
    return f"{fact.child} {fact.status}: {short(fact.summary, WIDTH)}"


@about.register
def _(fact: e.Forked) -> str:
    return f"from {fact.source} at version {fact.source_version}"


@about.register
def _(fact: e.Completed) -> str:
    return f"{fact.finish_reason}: {short(fact.output, WIDTH)}"


@about.register
def _(fact: e.Failed) -> str:
    return f"{fact.error}: {fact.message}"

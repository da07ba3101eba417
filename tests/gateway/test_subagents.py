"""How ``wake show`` tells of an execution's subagents."""

from functools import partial

from running import order, start

from events import catalog as e
from events import commands as c
from events.execution import Execution
from events.memory import MemoryJournal
from events.messages import Reply, ToolCall
from events.names import Key
from events.spec import AgentSpec
from gateway.subagents import Below, listed, subagents
from services.handler import Handler

PARENT = Key("ada", "run-1")


async def test_each_is_shown_as_it_stands_now() -> None:
    """One that asks a person, one that is paused, one that nobody began yet."""
    journal = MemoryJournal()
    await start(journal, PARENT, AgentSpec(name="boss"))

    def spawn(execution: Execution) -> None:
        for child in ("asks", "rests", "new"):
            execution.trigger_event(
                e.ChildSpawned, call_id=child, child=child, agent="bo\x1bss", prompt=""
            )

    await Handler(journal, "t").handle(PARENT, spawn)
    ask = ToolCall(id="q", name="ask_user", arguments='{"question": "Which\\n?"}')

    def asks(execution: Execution) -> None:
        execution.begin("r", 1)
        execution.respond(1, Reply(model="m", tool_calls=(ask,)))

    agent = AgentSpec(name="helper", tools=("ask_user",))
    await start(journal, Key("ada", "asks"), agent)
    await Handler(journal, "t").handle(Key("ada", "asks"), asks)
    await start(journal, Key("ada", "rests"), agent)
    await order(journal, c.Pause(), Key("ada", "rests"))
    below = await subagents(journal, PARENT, await journal.read(PARENT))
    waits = "it waits for an answer to 1-question-q: Which\n?"
    named = partial(Below, agent="bo\x1bss")
    assert below == [
        named(id="asks", status="awaiting_input", waits_for=waits),
        named(id="rests", status="paused", waits_for="it is paused"),
        named(id="new", status="not there"),
    ]
    lines = list(listed(below))
    assert lines[0] == "\nsubagents"
    assert all(line.isprintable() for line in lines[1:])
    assert "awaiting_input: it waits for an answer" in lines[1]


def test_without_any_nothing_is_said() -> None:
    """Not even a heading."""
    assert list(listed([])) == []

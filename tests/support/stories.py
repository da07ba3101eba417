"""Stories that together have every event: what the recorded histories tell."""

from collections.abc import Callable
from datetime import timedelta

from histories import BEGINNING, Story, call, reply, spec

from events import catalog as e
from events import commands as c
from events.messages import Task, ToolResult, Usage
from events.names import Key
from events.spec import Chunking, Limits


def tools() -> Story:
    """An agent plans, works in chunks, loses a runner twice, and answers."""
    story = Story(Key("ada", "golden-tools"))
    story.running(spec(chunking=Chunking(steps_per_chunk=1, max_chunks=5)))
    story.wait(1.5)
    plan = ToolResult(
        call_id="p", output="ok", tasks=(Task(title="Look", status="done"),)
    )
    note = ToolResult(call_id="n", output="ok", notes={"seen": ["a", 1, None]})
    planned = reply(call("p", "write"), call("n", "write"), text="A plan: “ü”.")
    story.do(lambda x: x.respond(1, planned, [plan, note]))
    story.begin(runner="r2")
    story.respond(call("a"), call("a", "launch"), call("b", "write"), cost=0.001)
    story.wait(2)
    story.finish("a")
    story.begin(again=True, runner="r3")
    story.finish("b")
    story.begin()
    story.do(lambda x: x.recover(4, "its runner is gone"))
    story.begin()
    story.respond(text="It is done.", cost=0.002, opaque={"signature": "x"})
    return story


def people() -> Story:
    """People approve, answer, decide a doubt, pause, resume, and cancel."""
    story = Story(Key("ada", "golden-people"))
    agent = spec(on_doubt="ask", approvals=("launch",))
    story.running(agent, metadata={"ticket": 7})
    story.respond(call("a", "launch", {"n": 1}))
    edit = {"decision": "edit", "arguments": {"n": 2}}
    story.command(c.Input(request="1-approval-a", answer=edit), "cmd-1")
    story.begin()
    story.begin(again=True)
    tell = {"decision": "tell", "reason": "It did."}
    story.command(c.Input(request="3-doubt-a", answer=tell), "cmd-2")
    story.begin()
    story.command(c.Pause(), "cmd-3")
    story.command(c.Resume(), "cmd-4")
    story.respond(call("q", "ask_user", {"question": "Which?", "schema": {}}))
    story.command(c.Pause(), "cmd-5")
    story.do(lambda x: x.expire_request("4-question-q"), cause="timer-1")
    story.command(c.Resume(), "cmd-6")
    story.begin()
    story.command(c.Cancel(reason="enough"), "cmd-7")
    story.do(lambda x: x.obey(5))
    return story


def waits() -> Story:
    """A start for later, an event, a deadline, two subagents, and a limit."""
    story = Story(Key("ada", "golden-waits"))
    agent = spec(limits=Limits(max_steps=3, max_cost=0.5))
    awaited = e.Awaited(event_type="go", where={"branch": "main"}, after_trigger=5)
    later = BEGINNING + timedelta(hours=1)
    story.start(agent, scheduled_for=later, awaited=awaited, lane="agents_long")
    story.do(lambda x: x.receive("go", {"branch": "main"}, "trigger-9"))
    story.wait(3600)
    story.do(lambda x: x.come_due())
    story.begin()
    wait = call("w", "await_event", {"event_type": "ci.done", "within": 60})
    story.respond(wait, text="I wait.")
    story.wait(60)
    story.do(lambda x: x.expire_wait(story.now))
    story.begin()
    spawn = {"agent": "helper", "prompt": "Help"}
    state = story.respond(
        call("c", "spawn_agent", spawn), call("d", "spawn_agent", spawn)
    )
    for child, status in zip(state.children, ("completed", "failed"), strict=True):
        spent = Usage(input=10, output=5, cache_read=3)
        _end(story, child, status, spent)
    story.begin()
    return story


def _end(story: Story, child: str, status: str, usage: Usage) -> None:
    story.do(lambda x: x.finish_child(child, status, "Sum.", usage=usage, cost=0.25))


def ends() -> Story:
    """It fails, is retried, killed within a tool, and purged."""
    story = Story(Key("ada", "golden-ends"))
    story.running(workspace="/srv/work")
    story.do(lambda x: x.fail(1, "model_unavailable", "503", retryable=True))
    story.command(c.Retry(reason="again"), "cmd-1")
    story.begin()
    story.respond(call("a", "launch"))
    story.command(c.Kill(reason="stop"), "cmd-2")
    story.do(lambda x: x.purge("30 days"))
    return story


def fork() -> Story:
    """It parts from the story of the tools, with another model."""
    source = tools()
    story = source.copy_to(Key("ada", "golden-fork"), 4)
    fact = e.Forked(
        source=source.key.execution,
        source_version=4,
        source_chain=source.log[3].commit.chain,
        model="other",
        input="Rather so",
    )
    story.do(lambda x: x.fork(fact), cause="cmd-1")
    story.begin()
    story.respond(text="So be it.")
    return story


def abandoned() -> Story:
    """It was admitted, and never created."""
    story = Story(Key("ada", "golden-abandoned"))
    story.do(lambda x: x.abandon())
    return story


STORIES: tuple[Callable[[], Story], ...] = (
    tools,
    people,
    waits,
    ends,
    fork,
    abandoned,
)

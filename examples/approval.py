"""A command that a person must approve, and the person is any NATS client.

The agent wants to delete a directory; whoever reviews it sees the exact command,
edits it, and what was edited is what runs. The reviewer below knows nothing of
ours but the subjects and JSON of docs/subjects.md.
"""

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

from events.jetstream import JetStreamJournal
from events.pinned import JetStreamInbox
from events.spec import AgentSpec
from events.wire import Wire
from services.agents.loop import Means
from services.agents.open import open_model
from services.allowed import Allowed
from services.embedded import EmbeddedServer
from services.folder import DataFolder
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.runner import Runner
from services.tools.sandbox import Unavailable, find_sandbox
from services.tools.toolbox import TOOLS, all_tools

AGENT = AgentSpec(
    name="careful",
    tools=("bash",),
    effects={"bash": TOOLS["bash"]},
    approvals=("bash",),
)
PROMPT = """script:
bash {"command": "mkdir -p build/tmp build/keep && rm -r build && ls build"}
bash {"command": "shutdown now"}
say I am done.
"""
DECISIONS = [
    {"decision": "edit", "arguments": {"command": "mkdir -p keep && ls"}},
    {"decision": "deny", "reason": "Leave the machine alone."},
]


async def command(client: Client, verb: str, number: int, **body: Any) -> None:
    """Send a command to the execution; raises RuntimeError if it is refused."""
    answers = await client.subscribe(f"answers.demo.c-{number}")
    payload = json.dumps({"command_id": f"c-{number}", **body}).encode()
    await client.publish(f"commands.demo.clean-up.{verb}", payload)
    answer = json.loads((await answers.next_msg(timeout=10)).data)
    if not answer["accepted"]:
        raise RuntimeError(f"{verb}: {answer['code']}: {answer['message']}")


async def review(url: str, user: str, password: str) -> None:
    """Start the execution, and decide about each command that it asks for."""
    decisions = iter(DECISIONS)
    async with await nats.connect(url, user=user, password=password) as client:
        feed = await client.subscribe("feed.demo.clean-up.>")
        await command(client, "start", 0, agent_type="careful", input=PROMPT)
        for number in range(1, 100):
            message = await feed.next_msg(timeout=30)
            for event in json.loads(message.data)["events"]:
                if event["type"] == "input_requested.v1":
                    print(event["question"])
                    answer = {**next(decisions), "digest": event["digest"]}
                    print(f"  {answer['decision']}")
                    asked = event["request"]
                    await command(client, "input", number, request=asked, answer=answer)
                elif event["type"] == "tool_completed.v1":
                    print(f"  {event.get('outcome', 'success')}: {event['output']!r}")
                elif event["type"] == "completed.v1":
                    print(f"completed: {event['output']}")
                    return


async def main() -> None:
    """Serve on an embedded nats-server in a folder that goes away."""
    sandbox = await find_sandbox()
    if isinstance(sandbox, Unavailable):
        raise SystemExit(sandbox.reason)
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = stack.enter_context(DataFolder.open(place / "data"))
        server = await stack.enter_async_context(EmbeddedServer.start(folder))
        login = {"user": server.user, "password": server.password}
        wire = await Wire.connect(server.url, **login)
        stack.push_async_callback(wire.close)
        journal, inbox = (
            await JetStreamJournal.open(wire),
            await JetStreamInbox.open(wire),
        )
        means = Means(
            open_model=open_model,
            tools=all_tools(sandbox),
            workspaces=place / "work",
            adopt=sandbox.adopt,
        )
        runner = Runner(journal, means, name="demo")
        lifecycle = Lifecycle(
            Handler(journal, "lifecycle"),
            inbox,
            lambda _name, _model: AGENT,
            Allowed([]),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            group.create_task(lifecycle.run())
            await review(server.url, **login)
            await lifecycle.stop()
            await runner.drain(grace=5.0)


if __name__ == "__main__":
    asyncio.run(main())

"""What durable means: two runners, one log, and a crash in between.

The first runner is thrown away in the middle of the second step; another one
goes on. The tool's calls are counted: nothing that was recorded runs again.
"""

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import ClassVar

from events.catalog import Created
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.names import Key
from events.spec import AgentSpec, Effect
from events.wire import Wire
from services.agents.loop import Means
from services.agents.open import open_model
from services.embedded import EmbeddedServer
from services.folder import DataFolder
from services.handler import Handler
from services.runner import Runner
from services.tools.base import Arguments, Tool, ToolContext, ToolOutput

PROMPT = """script:
work {"part": 1}
work {"part": 2}
work {"part": 3}
say All three parts are done.
"""


class WorkArguments(Arguments, frozen=True, kw_only=True):
    """Which part."""

    part: int


class Work(Tool[WorkArguments]):
    """Counts how often each part was done; hangs where it is told to."""

    name: ClassVar[str] = "work"
    description: ClassVar[str] = "Do a part of the work."
    effect: ClassVar[Effect] = "idempotent"
    arguments = WorkArguments

    def __init__(self, hang_at: int | None) -> None:
        self.done: list[int] = []
        self.hangs = asyncio.Event()
        self._hang_at = hang_at

    async def run(
        self,
        arguments: WorkArguments,
        context: ToolContext,  # noqa: ARG002 - what it may use: a workspace, a key
    ) -> ToolOutput:
        """Do it, unless this runner is to be lost here."""
        if arguments.part == self._hang_at:
            self.hangs.set()
            await asyncio.Event().wait()
        self.done.append(arguments.part)
        return ToolOutput(text=f"part {arguments.part} done")


def runner(journal: JetStreamJournal, name: str, work: Work) -> Runner:
    """Build a runner that has one tool."""
    means = Means(
        open_model=open_model,
        tools={"work": work},
        workspaces=Path(tempfile.mkdtemp()),
    )
    return Runner(journal, means, name=name, lease=2.0)


async def demo(journal: JetStreamJournal) -> None:
    """Start, crash, go on."""
    key = Key("demo", "three-parts")
    agent = AgentSpec(name="worker", tools=("work",), effects={"work": "idempotent"})
    handler = Handler(journal, "user:demo")
    created = Created(agent=agent, input=PROMPT)
    await handler.handle(key, partial(Execution.create, created=created))

    first = Work(hang_at=2)
    crashing = asyncio.create_task(runner(journal, "first", first).run())
    await first.hangs.wait()
    crashing.cancel()  # no goodbye: nothing is given back
    await asyncio.gather(crashing, return_exceptions=True)
    print(f"first runner lost; it did parts {first.done}")

    second = Work(hang_at=None)
    going_on = runner(journal, "second", second)
    async with asyncio.TaskGroup() as group:
        group.create_task(going_on.run())
        async for run in journal.follow(key=key):
            if run[-1].route == "finished":
                break
        await going_on.drain(grace=5.0)
    state = (await handler.load(key)).state
    print(f"second runner did parts {second.done}")
    print(f"{state.status} in attempt {state.attempt}: {state.output}")


async def main() -> None:
    """Run the demo on an embedded nats-server in a folder that goes away."""
    with (
        tempfile.TemporaryDirectory() as place,
        DataFolder.open(Path(place) / "data") as folder,
    ):
        async with EmbeddedServer.start(folder) as server:
            wire = await Wire.connect(
                server.url, user=server.user, password=server.password
            )
            await demo(await JetStreamJournal.open(wire))
            await wire.close()


if __name__ == "__main__":
    asyncio.run(main())

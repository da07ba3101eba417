"""An agent with a tool of your own, on a log in memory: no server, no key.

The scripted model takes its steps from the prompt; swap ``model="scripted"``
for ``"openai:gpt-5"`` and it decides for itself.
"""

import asyncio
import tempfile
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import ClassVar

from events.catalog import Created
from events.execution import Execution
from events.memory import MemoryJournal
from events.names import Key
from events.spec import AgentSpec, Effect
from services.agents.loop import Means
from services.agents.open import open_model
from services.handler import Handler
from services.runner import Runner
from services.tools.base import Arguments, Tool, ToolContext, ToolOutput

STOCK = {"apples": 3, "pears": 0}


class CountArguments(Arguments, frozen=True, kw_only=True):
    """What to count."""

    item: str


class Count(Tool[CountArguments]):
    """Looks into the store."""

    name: ClassVar[str] = "count"
    description: ClassVar[str] = "How many of an item are in stock."
    effect: ClassVar[Effect] = "read"
    arguments = CountArguments

    async def run(
        self,
        arguments: CountArguments,
        context: ToolContext,  # noqa: ARG002 - what it may use: a workspace, a key
    ) -> ToolOutput:
        """Answer from the table above; ``context.key`` names the call."""
        return ToolOutput(text=f"{STOCK.get(arguments.item, 0)} {arguments.item}")


PROMPT = """script:
count {"item": "apples"} && count {"item": "pears"}
say Apples are there, pears must be ordered.
"""


async def main() -> None:
    """Run one execution and print its history."""
    journal, key = MemoryJournal(), Key("demo", "stock-check")
    agent = AgentSpec(name="clerk", tools=("count",), effects={"count": "read"})
    means = Means(
        open_model=open_model,
        tools={"count": Count()},
        workspaces=Path(tempfile.mkdtemp()),
    )
    runner = Runner(journal, means, name="demo")
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run())
        created = Created(agent=agent, input=PROMPT)
        handler = Handler(journal, "user:demo")
        await handler.handle(key, partial(Execution.create, created=created))
        async with aclosing(journal.follow(key=key)) as runs:
            async for run in runs:
                for recorded in run:
                    names = [type(fact).__name__ for fact in recorded.commit.events]
                    print(f"{recorded.commit.version:>2}  {', '.join(names)}")
                if run[-1].route == "finished":
                    break
        await runner.drain()
    execution = await handler.load(key)
    print(f"{execution.state.status}: {execution.state.output}")


if __name__ == "__main__":
    asyncio.run(main())

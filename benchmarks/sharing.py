"""How long a short execution waits while a thousand long ones run.

One runner with 64 slots; a thousand long executions of one user are in its lanes:
chunks of ten steps, each 50 ms of the model's time. Another user starts short
ones, one after the other; measured from the appended ``created`` to the appended
``started``, each synced to disk. ``same lane``: the short ones queue behind the
long ones; ``default lane``: the long ones are in the long lane, as usual; ``in
order``: the same lane, and nobody steps back: what the policy is for.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import uvloop

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, options, show
from events.catalog import Created, Started
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.messages import Reply, Request, ToolCall, Usage
from events.names import Key
from events.spec import AgentSpec, Chunking, Lane, Limits
from services.agents.loop import Means
from services.agents.model import ignore
from services.handler import Handler
from services.process import tune_collector
from services.runner import Runner
from services.sharing import Crowd
from services.tools.tasks import TodoWrite

LONG, SLOTS, STEP = 1_000, 64, 0.05
CALL = ToolCall(id="a", name="todo_write", arguments='{"tasks": [{"title": "go"}]}')
Case = Literal["default lane", "same lane", "in order"]


def spec(lane: Lane, *, long: bool) -> AgentSpec:
    """Describe an agent that runs long, or for a step."""
    return AgentSpec(
        name="bench",
        model="long" if long else "short",
        tools=("todo_write",),
        effects={"todo_write": "idempotent"},
        limits=Limits(max_steps=100_000, max_tokens=10**9, timeout=3_600),
        lane=lane,
        chunking=Chunking(steps_per_chunk=10, max_chunks=10_000) if long else None,
    )


class Slow:
    """Takes its time for each reply; ``long`` never comes to an end."""

    name = "bench"

    def __init__(self, name: str) -> None:
        self._calls = (CALL,) if name == "long" else ()

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """Answer, or go on."""
        del request
        on_text("")
        await asyncio.sleep(STEP)
        return Reply(
            model="bench", text="x", tool_calls=self._calls, usage=Usage(input=1)
        )

    async def aclose(self) -> None:
        """Nothing to let go."""


async def start(journal: JetStreamJournal, key: Key, agent: AgentSpec) -> None:
    """Create an execution."""
    created = Created(agent=agent, input="go", lane=agent.lane)
    create = partial(Execution.create, created=created)
    await Handler(journal, "bench").handle(key, create)


async def wait(journal: JetStreamJournal, number: int) -> float:
    """Start a short execution; returns the seconds until a runner began it."""
    key = Key("short", f"s{number}")
    await start(journal, key, spec("agents", long=False))
    began = time.perf_counter()
    async with aclosing(journal.follow(key=key)) as runs:
        async for run in runs:
            for recorded in run:
                if any(isinstance(fact, Started) for fact in recorded.commit.events):
                    return time.perf_counter() - began
    raise AssertionError


async def measure(case: Case, samples: int) -> list[float]:
    """Fill a runner with long executions, then start short ones."""
    async with fresh_server("always") as server, connected(server) as wire:
        journal = await JetStreamJournal.open(wire)
        lane: Lane = "agents_long" if case == "default lane" else "agents"
        async with asyncio.TaskGroup() as group:
            for number in range(LONG):
                key = Key("long", f"l{number}")
                group.create_task(start(journal, key, spec(lane, long=True)))
        means = Means(
            open_model=Slow, tools={"todo_write": TodoWrite()}, workspaces=Path("/none")
        )
        runner = Runner(journal, means, name="bench", concurrency=SLOTS)
        async with asyncio.TaskGroup() as group, connected(server) as other:
            group.create_task(runner.run())
            theirs = await JetStreamJournal.open(other)
            await asyncio.sleep(1.0)  # until all slots are taken
            waits = [await wait(theirs, number) for number in range(samples)]
            await runner.drain()
    return sorted(waits)


async def main() -> None:
    """Measure each case."""
    asked = options(__doc__ or "")
    samples = 20 if asked.quick else 100
    figures = []
    cases: dict[Case, int] = {"default lane": samples, "same lane": samples}
    for case, count in cases.items():
        waits = await measure(case, count)
        figures += [
            Figure(f"wait, {case}, p50 (ms)", waits[count // 2] * 1_000, "ms"),
            Figure(f"wait, {case}, worst (ms)", waits[-1] * 1_000, "ms"),
        ]
    with patch.object(Crowd, "steps_back", lambda *_: False):
        [longest] = await measure("in order", 1)
    figures.append(Figure("wait, in order (ms)", longest * 1_000, "ms"))
    title = f"a short execution beside {LONG:,} long ones, {SLOTS} slots"
    show(title, figures, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

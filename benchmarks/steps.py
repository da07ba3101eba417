"""How many durable steps a second one runner does, with a model that takes no time.

A step is one model reply of 1 KiB with one tool call, and what it came to.
``steps``: the tool is on the state (``todo_write``), so that reply and result
are one commit. ``tool steps``: the tool reads a file, so that they are two.
The floor makes the same appends, of the same sizes, with the same expected
positions and the same concurrency, by bare nats-py.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import nats
import uvloop

from benchmarks.server import fresh_server
from benchmarks.table import Figure, middle, options, show
from events.catalog import Created
from events.commit import Recorded
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.messages import Reply, Request, ToolCall, Usage
from events.names import Key
from events.spec import AgentSpec, Limits
from events.wire import Wire
from services.agents.loop import Means
from services.agents.model import ignore
from services.embedded import EmbeddedServer
from services.handler import Handler
from services.process import tune_collector
from services.runner import Runner
from services.tools.files import ReadFile
from services.tools.tasks import TodoWrite

if TYPE_CHECKING:
    from services.tools.calls import Tools

STEPS = 10
SIZE = 1024
SPEC = AgentSpec(
    name="bench",
    model="bench",
    tools=("todo_write", "read_file"),
    effects={"todo_write": "idempotent", "read_file": "read"},
    limits=Limits(max_steps=1_000, max_tokens=1_000_000, timeout=3_600),
)
Kind = Literal["steps", "tool steps"]


class Case(NamedTuple):
    """One row of the table."""

    kind: Kind
    concurrency: int
    sync: str
    executions: int

    @property
    def figure(self) -> str:
        """Name the row."""
        load = "alone" if self.concurrency == 1 else f"at {self.concurrency}"
        sync = "always" if self.sync == "always" else "default"
        return f"{self.kind}/s {load}, {sync}"


class Instant:
    """Answers at once: nine times with a tool call, then with the end."""

    name = "bench"

    def __init__(self, kind: Kind) -> None:
        arguments = '{"tasks": [{"title": "go on"}]}'
        self._calls = (ToolCall(id="a", name="todo_write", arguments=arguments),)
        if kind == "tool steps":
            file = '{"path": "file.txt"}'
            self._calls = (ToolCall(id="a", name="read_file", arguments=file),)

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """Count the own replies in the conversation."""
        on_text("")
        said = len(request.messages) // 2
        calls = self._calls if said < STEPS - 1 else ()
        usage = Usage(input=1, output=1)
        return Reply(model="bench", text="x" * SIZE, tool_calls=calls, usage=usage)

    async def aclose(self) -> None:
        """Nothing to let go."""


class Counting(JetStreamJournal):
    """Notes when the last execution ended, and what was appended."""

    def watch(self, executions: int) -> None:
        """Expect so many ends."""
        self.left, self.sizes = executions, list[int]()
        self.ended = asyncio.Event()

    async def append(self, new: Recorded, *, after: int) -> Recorded:
        """Append and count."""
        stored = await super().append(new, after=after)
        if new.route == "log":
            self.sizes.append(len(new.body))
        elif new.route == "finished":
            self.left -= 1
            if self.left == 0:
                self.ended.set()
        return stored


async def runner_rate(server: EmbeddedServer, case: Case) -> tuple[float, int]:
    """Run the executions; returns steps per second and a step's commit size."""
    wire = await Wire.connect(server.url, user=server.user, password=server.password)
    journal = await Counting.open(wire)
    journal.watch(case.executions)
    with tempfile.TemporaryDirectory() as workspace:
        await _create(journal, case, workspace)
        means = _means(Path(workspace), case)
        runner = Runner(
            journal,
            means,
            name="bench",
            lanes=("agents",),
            concurrency=case.concurrency,
        )
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            await journal.ended.wait()
            spent = time.perf_counter() - began
            await runner.drain(grace=5)
    await wire.close()
    sizes = sorted(journal.sizes)
    return case.executions * STEPS / spent, sizes[len(sizes) // 2]


def _means(workspaces: Path, case: Case) -> Means:
    (workspaces / "file.txt").write_text("y" * SIZE)
    tools: Tools = {"todo_write": TodoWrite(), "read_file": ReadFile()}
    return Means(
        open_model=lambda _: Instant(case.kind), tools=tools, workspaces=workspaces
    )


async def _create(journal: JetStreamJournal, case: Case, workspace: str) -> None:
    handler = Handler(journal, "bench")
    created = Created(agent=SPEC, input="go", workspace=workspace)
    for number in range(case.executions):
        key = Key("bench", f"e{number}")
        await handler.handle(key, partial(Execution.create, created=created))


async def floor_rate(server: EmbeddedServer, case: Case, size: int) -> float:
    """Make the same appends by bare nats-py; returns steps per second."""
    client = await nats.connect(server.url, user=server.user, password=server.password)
    stream = client.jetstream()
    left = iter(range(case.executions))
    appends = STEPS if case.kind == "steps" else STEPS * 2 - 1
    body = b"x" * size

    async def writer() -> None:
        for number in left:
            subject, position = f"events.floor.e{number}", 0
            for _ in range(appends):
                ack = await stream.publish(
                    f"{subject}.log",
                    body,
                    headers={
                        "Nats-Expected-Last-Subject-Sequence": str(position),
                        "Nats-Expected-Last-Subject-Sequence-Subject": f"{subject}.*",
                    },
                )
                position = ack.seq

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(case.concurrency):
            group.create_task(writer())
    spent = time.perf_counter() - began
    await client.close()
    return case.executions * STEPS / spent


async def measure(case: Case) -> Figure:
    """Run one case and its floor on a server of their own."""
    async with fresh_server(case.sync) as server:
        rate, size = await runner_rate(server, case)
        floor = await floor_rate(server, case, size)
    return Figure(case.figure, rate, "steps/s", floor)


def cases(*, quick: bool) -> list[Case]:
    """Return the rows: the one-commit steps first, then those with a tool."""
    alone, many = (100, 800) if quick else (300, 4_000)
    return [
        Case(kind, concurrency, sync, alone if concurrency == 1 else many)
        for kind in ("steps", "tool steps")
        for sync in ("always", "2m")
        for concurrency in (1, 64)
    ]


def rounds(case: Case, *, quick: bool) -> int:
    """How often a case is run; the one in the middle is shown."""
    if not quick:
        return 5
    return 3 if case.kind == "steps" else 1


async def main() -> None:
    """Measure every row."""
    asked = options(__doc__ or "")
    figures = [
        middle([await measure(case) for _ in range(rounds(case, quick=asked.quick))])
        for case in cases(quick=asked.quick)
    ]
    show("durable steps of one runner", figures, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

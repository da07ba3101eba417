"""What a dead runner costs: kill -9 in the middle of 50 executions.

Each has 20 steps of 50 ms (the model's time; every step one commit, synced to
disk). One runner works on all of them, another waits. When 40 % of the steps are
recorded, the first is killed. ``first step after kill``: until the second has a
step recorded; ``all done beyond ideal``: what the whole took longer than the
steps left in the slowest execution. Each model call is written to a file before
it is made: those made twice were in flight (no reply recorded) or recorded.

``--no-proof`` lets the reactor not look whether the process is gone, as if the
runner were on another machine: then it is waited for, for the grace.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, show
from events.catalog import Created, ModelResponded
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.messages import Reply, Request, ToolCall, Usage
from events.muster import NatsDepartures, NatsPresences
from events.names import Key
from events.spec import AgentSpec, Limits
from events.wire import Wire
from services.agents.loop import Means
from services.agents.model import ignore
from services.embedded import EmbeddedServer
from services.handler import Handler
from services.process import is_gone, tune_collector
from services.reactor import Reactor
from services.recovery import Recovery
from services.runner import Runner
from services.tools.tasks import TodoWrite

EXECUTIONS, STEPS, STEP = 50, 20, 0.05
KILL_AT = 0.4
SPEC = AgentSpec(
    name="bench",
    model="bench",
    tools=("todo_write",),
    effects={"todo_write": "idempotent"},
    limits=Limits(max_steps=STEPS + 1, max_tokens=1_000_000, timeout=3_600),
)
CALL = ToolCall(id="a", name="todo_write", arguments='{"tasks": [{"title": "go"}]}')


class Slow:
    """Takes its time for a reply; ``calls`` is the file that tells of each call."""

    name = "bench"

    def __init__(self, calls: Path) -> None:
        self._file = os.open(calls, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """Say which step of which execution is asked for, then take the time."""
        on_text("")
        step, execution = 1 + len(request.messages) // 2, request.messages[0].text  # type: ignore[union-attr]
        os.write(self._file, f"{execution} {step}\n".encode())
        await asyncio.sleep(STEP)
        calls = (CALL,) if step < STEPS else ()
        return Reply(model="bench", text="x", tool_calls=calls, usage=Usage(input=1))

    async def aclose(self) -> None:
        """Close the file."""
        os.close(self._file)


# ── the processes ────────────────────────────────────────────────────────────


@asynccontextmanager
async def wired(role: str) -> AsyncIterator[Wire]:
    """Connect as the environment says; ``role`` is wake or system."""
    password = os.environ[f"BENCH_{role.upper()}"]
    wire = await Wire.connect(os.environ["BENCH_URL"], user=role, password=password)
    try:
        yield wire
    finally:
        await wire.close()


async def run_runner(name: str, calls: Path) -> None:
    """Be a runner until killed."""
    tune_collector()
    async with wired("wake") as wire:
        means = Means(
            open_model=lambda _: Slow(calls),
            tools={"todo_write": TodoWrite()},
            workspaces=calls.parent / "workspaces",
        )
        runner = Runner(
            await JetStreamJournal.open(wire),
            means,
            name=name,
            presences=NatsPresences(wire),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            print("ready", flush=True)


async def run_reactor(*, proof: bool) -> None:
    """Be the reactor until killed."""
    tune_collector()
    async with wired("wake") as wire, wired("system") as system:
        recovery = Recovery(
            Handler(await JetStreamJournal.open(wire), "reactor"),
            NatsPresences(wire),
            NatsDepartures(system),
            gone=is_gone if proof else lambda _: False,
        )
        reactor = Reactor(await JetStreamJournal.open(wire), [recovery])
        async with asyncio.TaskGroup() as group:
            group.create_task(reactor.run())
            await reactor.ready.wait()
            print("ready", flush=True)


@asynccontextmanager
async def process(
    server: EmbeddedServer, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start one of them; gives it once it is ready, and kills it in the end."""
    environment = {
        **os.environ,
        "BENCH_URL": server.url,
        "BENCH_WAKE": server.password,
        "BENCH_SYSTEM": server.system_password,
    }
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.recovery", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        assert started.stdout is not None  # noqa: S101 - it is a pipe
        assert await started.stdout.readline()  # noqa: S101 - or it did not start
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


# ── the measurement ──────────────────────────────────────────────────────────


class Outcome(NamedTuple):
    """What one kill cost: seconds, and calls made twice."""

    first: float
    beyond: float
    recorded: int
    in_flight: int


async def measure(server: EmbeddedServer, calls: Path, *, proof: bool) -> Outcome:
    """Kill a runner in the middle, and see what it takes until all is done."""
    async with connected(server) as wire:
        journal = await JetStreamJournal.open(wire)
        reactor = ["reactor"] if proof else ["reactor", "--no-proof"]
        async with (
            process(server, *reactor),
            process(server, "runner", "first", str(calls)) as first,
        ):
            await create(journal)
            done = asyncio.create_task(watch(journal, first))
            async with process(server, "runner", "second", str(calls)):
                killed, seen = await done
    return outcome(killed, seen, calls)


async def create(journal: JetStreamJournal) -> None:
    """Start all executions."""
    handler = Handler(journal, "bench")
    async with asyncio.TaskGroup() as group:
        for number in range(EXECUTIONS):
            created = Created(agent=SPEC, input=f"e{number}")
            create = partial(Execution.create, created=created)
            key = Key("bench", f"e{number}")
            group.create_task(handler.handle(key, create))


class Seen(NamedTuple):
    """A recorded step or end; ``when`` is when it was heard of."""

    when: float
    execution: str
    step: int
    by: str


async def watch(
    journal: JetStreamJournal, first: asyncio.subprocess.Process
) -> tuple[float, list[Seen]]:
    """Follow the log to the end of all; kill the runner on the way."""
    killed, seen, left = 0.0, list[Seen](), EXECUTIONS
    async with aclosing(journal.follow()) as runs:
        async for run in runs:
            now = time.perf_counter()
            for recorded in run:
                left -= recorded.route == "finished"
                seen += [
                    Seen(now, recorded.key.execution, fact.step, recorded.commit.by)
                    for fact in recorded.commit.events
                    if isinstance(fact, ModelResponded)
                ]
            if not killed and len(seen) >= KILL_AT * EXECUTIONS * STEPS:
                first.send_signal(signal.SIGKILL)
                killed = time.perf_counter()
            if not left:
                return killed, seen
    raise AssertionError


def outcome(killed: float, seen: list[Seen], calls: Path) -> Outcome:
    """Say what the kill cost."""
    before = Counter(s.execution for s in seen if s.by == "runner:first")
    slowest = min(before[f"e{number}"] for number in range(EXECUTIONS))
    ideal = (STEPS - slowest) * STEP
    after = [s.when for s in seen if s.by == "runner:second"]
    made = Counter(calls.read_text().split("\n")[:-1])
    recorded = Counter(f"{s.execution} {s.step}" for s in seen)
    again = {call for call, times in made.items() if times > 1}
    by_first = {f"{s.execution} {s.step}" for s in seen if s.by == "runner:first"}
    assert set(recorded.values()) == {1}  # noqa: S101 - else it is no durability
    assert sum(recorded.values()) == EXECUTIONS * STEPS  # noqa: S101 - see above
    return Outcome(
        first=min(after) - killed,
        beyond=max(after) - killed - ideal,
        recorded=len(again & by_first),
        in_flight=len(again - by_first),
    )


async def main(*, quick: bool, proof: bool, as_json: bool) -> None:
    """Measure a few times, and print the middle."""
    outcomes = []
    for _ in range(3 if quick else 9):
        with tempfile.TemporaryDirectory(prefix="wake-bench-") as name:
            async with fresh_server("always") as server:
                one = await measure(server, Path(name) / "calls", proof=proof)
        outcomes.append(one)
    first, beyond = ([one[n] for one in outcomes] for n in (0, 1))
    figures = [
        Figure("first step after kill (s)", sorted(first)[len(first) // 2], "s"),
        Figure("first step after kill, worst (s)", max(first), "s"),
        Figure("all done beyond ideal (s)", sorted(beyond)[len(beyond) // 2], "s"),
        Figure("all done beyond ideal, worst (s)", max(beyond), "s"),
        Figure("recorded steps re-run", max(o.recorded for o in outcomes), "calls"),
        Figure("in-flight calls re-run", max(o.in_flight for o in outcomes), "calls"),
    ]
    how = "its process seen gone" if proof else "after the grace"
    title = f"kill -9 of a runner, {EXECUTIONS} executions of {STEPS} steps, {how}"
    show(title, figures, as_json=as_json)


def arguments() -> argparse.Namespace:
    """Read the command line; the first word says which of the processes it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="end within 60 s")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--no-proof", action="store_true", help="wait for the grace")
    return parser.parse_args()


if __name__ == "__main__":
    asked = arguments()
    match asked.role:
        case ["runner", name, file]:
            uvloop.run(run_runner(name, Path(file)))
        case ["reactor"]:
            uvloop.run(run_reactor(proof=not asked.no_proof))
        case _:
            uvloop.run(
                main(quick=asked.quick, proof=not asked.no_proof, as_json=asked.json)
            )

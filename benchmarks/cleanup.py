"""What writers feel while 10,000 executions that ended long ago are deleted.

Writers append at a steady pace all the time; measured is each append, from its turn
to its ack. They are deleted in slices, with pauses as long as the slice before, so
that whatever else this machine does falls on both. The janitor runs in a process of
its own, as beside a service, or with ``--inside`` on the writers' event loop, as in
wake up.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import nats
import uvloop

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, p50, show
from events import catalog as e
from events.commit import GENESIS, Commit, Recorded, seal
from events.jetstream import JetStreamJournal
from events.messages import ToolCall, Usage
from events.names import Key, Route, commit_subject
from events.spec import AgentSpec
from events.wire import Wire
from services.embedded import EmbeddedServer
from services.handler import Handler
from services.janitor import Janitor
from services.process import tune_collector

WRITERS = 32
PACE = 10.0
"""Appends per second of each writer: some 300 runners' steps in all."""

STEPS = 3
TEXT = "x" * 1_024
ENDED = datetime(2026, 1, 1, tzinfo=UTC)
SLICES = 10
"""Times that the janitor comes: each finds those that ended a day later."""

SETTLE = 0.5
"""Seconds after a change that count for neither."""


def history() -> Iterator[tuple[Route, tuple[e.AnyEvent, ...]]]:
    """Make up an execution that ended."""
    agent = AgentSpec(name="bench", tools=("read_file",), effects={"read_file": "read"})
    yield "agents", (e.Created(agent=agent, input="go"),)
    yield "log", (e.Started(runner="bench", attempt=1),)
    call = ToolCall(id="a", name="read_file", arguments='{"path": "file.txt"}')
    for step in range(1, STEPS + 1):
        usage = Usage(input=1_000, output=100)
        reply = e.ModelResponded(
            step=step, model="bench", text=TEXT, tool_calls=(call,), usage=usage
        )
        yield "log", (reply,)
        yield "log", (e.ToolCompleted(call_id="a", output=TEXT),)
    yield "finished", (e.Completed(output="done", finish_reason="final_answer"),)


async def fill(server: EmbeddedServer, count: int) -> None:
    """Write executions that ended."""
    client = await nats.connect(server.url, user=server.user, password=server.password)
    stream = client.jetstream(publish_async_max_pending=2_000)
    for number in range(count):
        ended = ENDED + timedelta(days=number * SLICES // count)
        key, chain = Key("bench", f"old-{number}"), GENESIS
        for version, (route, events) in enumerate(history(), 1):
            bare = Commit(
                version=version, id=f"{version}", at=ended, by="b", events=events
            )
            commit, body = seal(bare, key, chain)
            chain = commit.chain
            await stream.publish_async(commit_subject(key, route), body)
    await stream.publish_async_completed()
    await client.close()


class Writers:
    """Executions that go on; ``times`` are the milliseconds of every append."""

    def __init__(self, journal: JetStreamJournal) -> None:
        self.times: list[float] = []
        self._journal = journal

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write as long as the block runs."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._write(n)) for n in range(WRITERS)]
            yield
            for task in tasks:
                task.cancel()

    async def _write(self, number: int) -> None:
        key, last = Key("bench", f"live-{number}-{time.time_ns()}"), None
        turn = time.perf_counter() + number / WRITERS / PACE
        while True:
            await asyncio.sleep(max(0.0, turn - time.perf_counter()))
            last = await self._append(key, last)
            self.times.append((time.perf_counter() - turn) * 1_000)
            turn += 1 / PACE

    async def _append(self, key: Key, last: Recorded | None) -> Recorded:
        version = last.commit.version + 1 if last else 1
        now = datetime.now(UTC)
        facts = (e.ToolCompleted(call_id="a", output=TEXT),)
        bare = Commit(version=version, id=f"w{version}", at=now, by="b", events=facts)
        commit, body = seal(bare, key, last.commit.chain if last else GENESIS)
        new = Recorded(0, key, "log", commit, body)
        return await self._journal.append(new, after=last.position if last else 0)

    def taken(self) -> list[float]:
        """Give what was measured since this was last called."""
        times, self.times = self.times, []
        return times


async def sweep(wire: Wire, day: int) -> int:
    """Clean up what ended until a day; returns how many executions went."""
    handler = Handler(await JetStreamJournal.open(wire), "janitor")
    before = ENDED + timedelta(days=day)
    async with aclosing(Janitor(handler).clean(before)) as swept:
        return sum([one.deleted async for one in swept])


class Apart:
    """A janitor in a process of its own: it is told a day, and tells a number."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(cls, server: EmbeddedServer) -> AsyncIterator["Apart"]:
        """Start it, and end it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.cleanup"),
            *("--janitor", server.url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        apart = cls(process)
        await apart.say(server.user)
        await apart.say(server.password)
        yield apart
        await process.communicate(b"")  # nothing more comes: it ends

    async def say(self, line: str) -> None:
        """Tell it something."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def sweep(self, day: int) -> int:
        """Let it clean up."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        await self.say(str(day))
        return int(await self._process.stdout.readline())


async def measure(server: EmbeddedServer, count: int, *, inside: bool) -> list[Figure]:
    """Write, clean up now and then, and compare."""
    async with (
        connected(server) as wire,
        connected(server) as other,
        Apart.started(server) as apart,
    ):
        writers = Writers(await JetStreamJournal.open(wire))
        await fill(server, count)
        alone: list[list[float]] = []
        during: list[list[float]] = []
        gone, busy = 0, 0.0
        async with writers.writing():
            await asyncio.sleep(2.0)
            for day in range(SLICES):
                writers.taken()
                began = time.perf_counter()
                gone += await (sweep(other, day) if inside else apart.sweep(day))
                took = time.perf_counter() - began
                busy += took
                during.append(writers.taken())
                await asyncio.sleep(SETTLE)
                writers.taken()
                await asyncio.sleep(took)
                alone.append(writers.taken())
    assert gone == count, gone  # noqa: S101 - or nothing is measured
    return [
        *figures("", alone),
        *figures(" during cleanup", during),
        Figure("executions cleaned/s", count / busy, "/s"),
    ]


def figures(when: str, slices: list[list[float]]) -> Iterator[Figure]:
    """Of all appends; and the middle of the slices' p99, which no one stall moves."""
    times = [one for part in slices for one in part]
    for percent in (50, 99):
        value = percentile(times, percent)
        yield Figure(f"writer p{percent}{when} (ms)", value, "ms")
    middle = p50([percentile(part, 99) for part in slices])
    yield Figure(f"writer p99{when}, middle slice (ms)", middle, "ms")


def percentile(times: list[float], percent: int) -> float:
    """The time within which so many of a hundred were done."""
    return sorted(times)[len(times) * percent // 100]


async def janitor(url: str) -> None:
    """Be the other process: the login comes on stdin, then day after day."""
    user, password = (sys.stdin.readline().strip() for _ in range(2))
    wire = await Wire.connect(url, user=user, password=password)
    try:
        while day := await asyncio.to_thread(sys.stdin.readline):
            print(await sweep(wire, int(day)), flush=True)
    finally:
        await wire.close()


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 60 s")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--inside", action="store_true", help="on the same event loop")
    parser.add_argument("--janitor", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.janitor:
        await janitor(asked.janitor)
        return
    count = 300 if asked.quick else 10_000
    async with fresh_server("always") as server:
        measured = await measure(server, count, inside=asked.inside)
    title = f"{count:,} executions cleaned up beside {WRITERS} writers"
    show(title, measured, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

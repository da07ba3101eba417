"""How fast whoever waits is woken by a trigger, and what waiting costs.

``wake``: from before a trigger is published to the stored ``started`` of the one
execution that waits for it; five hundred wait, each for its own, and wait again
at once. ``burst``: five hundred triggers at once, until the last has started.
Then many more wait: what the reactor keeps for each, how long it takes to read
the log, and the same wake among so many. One process with a runner and a
reactor, ``sync_interval: always``.

The floor of a wake is what is stored on the way, one after the other and by bare
nats-py: trigger, ``event_received`` and ``started``, with a consumer between them.
"""

import asyncio
import gc
import random
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import nats
import uvloop

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, options, p50, show
from events.catalog import Awaited, Created, Started
from events.commit import Recorded
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.messages import Reply, Request, ToolCall
from events.muster import NatsPresences
from events.names import Key
from events.pinned import JetStreamInbox
from events.spec import AgentSpec, Limits
from events.triggers import Triggers
from events.triggerstream import JetStreamTriggers
from services.agents.loop import Means
from services.agents.model import ignore
from services.embedded import EmbeddedServer
from services.handler import Handler
from services.process import tune_collector
from services.reactor import Reactor
from services.recovery import Recovery
from services.runner import Runner
from services.triggers import Waker

FEW = 500
WRITERS = 128
PACE = 0.02
GO = "bench.go"
SPEC = AgentSpec(
    name="bench",
    model="bench",
    tools=("await_event",),
    limits=Limits(max_steps=10**6, max_tokens=10**9, timeout=10**6),
)


def key_of(number: int) -> Key:
    """Name the execution that waits for this number; ids as long as real ones."""
    return Key("bench", f"0193d5a0-7a5c-7000-8000-{number:012d}")


class Waits:
    """Waits for the next event of its own, whatever it was told."""

    name = "bench"

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """Ask to wait for the number that is the input."""
        on_text("")
        number = int(request.messages[0].text)  # type: ignore[union-attr]
        wait = {"event_type": GO, "where": {"n": number}}
        arguments = msgspec.json.encode(wait).decode()
        call = ToolCall(id="w", name="await_event", arguments=arguments)
        return Reply(model="bench", text="", tool_calls=(call,))

    async def aclose(self) -> None:
        """Nothing to let go."""


class Watching(JetStreamJournal):
    """Notes when executions started, and how many are parked."""

    def watch(self) -> None:
        """Begin to note."""
        self.started: dict[Key, float] = {}
        self.parked: set[Key] = set()
        self.stirred = asyncio.Event()

    async def append(self, new: Recorded, *, after: int) -> Recorded:
        """Append and note."""
        stored = await super().append(new, after=after)
        if any(isinstance(fact, Started) for fact in new.commit.events):
            self.started[new.key] = time.perf_counter()
            self.parked.discard(new.key)
        elif new.route == "parked":
            self.parked.add(new.key)
        self.stirred.set()
        return stored

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait until something was noted."""
        while not there():
            self.stirred.clear()
            await self.stirred.wait()


class Bench:
    """Triggers, and the journal of the runner that they lead to."""

    def __init__(self, triggers: Triggers, journal: Watching) -> None:
        self._triggers, self._journal = triggers, journal

    async def parked(self, count: int) -> None:
        """Wait until the runner has let go of so many."""
        await self._journal.until(lambda: len(self._journal.parked) >= count)

    async def wake(self, number: int) -> float:
        """Wake one; returns the milliseconds until it had started."""
        key, journal = key_of(number), self._journal
        journal.started.pop(key, None)
        began = time.perf_counter()
        await self._happen(number)
        await journal.until(lambda: key in journal.started)
        took = (journal.started[key] - began) * 1_000
        await journal.until(lambda: key in journal.parked)
        return took

    async def paced(self, numbers: Sequence[int]) -> list[float]:
        """Wake one after the other; returns milliseconds."""
        times = []
        for number in numbers:
            times.append(await self.wake(number))
            await asyncio.sleep(PACE)
        return times

    async def burst(self, count: int) -> float:
        """Wake all at once; returns the seconds until the last had started."""
        self._journal.started.clear()
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._happen(number))
        await self._journal.until(lambda: len(self._journal.started) == count)
        took = max(self._journal.started.values()) - began
        await self.parked(count)
        return took

    async def _happen(self, number: int) -> None:
        await self._triggers.publish("bench", GO, b'{"n":%d}' % number)


@asynccontextmanager
async def bench(server: EmbeddedServer) -> AsyncIterator[Bench]:
    """Run a runner and a publisher, each with its own connection."""
    async with connected(server) as mine, connected(server) as theirs:
        triggers = await JetStreamTriggers.open(theirs)
        journal = await Watching.open(mine)
        journal.watch()
        with tempfile.TemporaryDirectory() as workspace:
            means = Means(
                open_model=lambda _: Waits(),
                tools={},
                workspaces=Path(workspace),
                last_trigger=JetStreamTriggers(mine).last,
            )
            presences = NatsPresences(mine)
            runner = Runner(journal, means, name="bench", presences=presences)
            running = asyncio.create_task(runner.run())
            yield Bench(triggers, journal)
            await runner.drain(grace=5)
            await running


@asynccontextmanager
async def reactor(server: EmbeddedServer) -> AsyncIterator[float]:
    """Run a reactor with all its parts; gives the seconds until it was ready."""
    async with connected(server) as wire:
        began = time.perf_counter()
        handler = Handler(await JetStreamJournal.open(wire), "reactor")
        triggers = await JetStreamTriggers.open(wire)
        waker = Waker(handler, triggers, JetStreamInbox(wire).answer)
        recovery = Recovery(handler, NatsPresences(wire), None)
        one = Reactor(handler.journal, [recovery, waker])
        running = asyncio.create_task(one.run())
        await one.ready.wait()
        await waker.ready.wait()
        yield time.perf_counter() - began
        await one.stop()
        await running


async def create(server: EmbeddedServer, count: int, awaited: Any) -> None:
    """Create executions; ``awaited`` says what each of them waits for."""
    numbers = iter(range(count))

    async def writer(handler: Handler) -> None:
        for number in numbers:
            created = Created(agent=SPEC, input=str(number), awaited=awaited(number))
            key = key_of(number)
            decide = partial(Execution.create, created=created)
            await handler.handle(key, decide, known=Execution(key))

    async with connected(server) as wire, asyncio.TaskGroup() as group:
        handler = Handler(await JetStreamJournal.open(wire), "bench")
        for _ in range(WRITERS):
            group.create_task(writer(handler))


def waits_for(number: int) -> Awaited:
    """What an execution waits for before it starts."""
    return Awaited(event_type=GO, where={"n": number})


async def few(*, quick: bool) -> tuple[list[float], float]:
    """Measure among five hundred: wakes in ms, and the middle burst in s."""
    chance = random.Random(1)  # noqa: S311 - to be repeated
    async with fresh_server("always") as server:
        await create(server, FEW, lambda _: None)
        async with bench(server) as one, reactor(server):
            await one.parked(FEW)
            await one.paced(range(20))
            count = 200 if quick else 1_000
            wakes = await one.paced(chance.choices(range(FEW), k=count))
            bursts = [await one.burst(FEW) for _ in range(3 if quick else 5)]
    return wakes, p50(bursts)


async def many(count: int, *, quick: bool) -> tuple[list[float], float, float]:
    """Measure among many: wakes in ms, bytes kept for each, seconds to be ready."""
    chance = random.Random(2)  # noqa: S311 - to be repeated
    async with fresh_server("always") as server:
        await create(server, count, waits_for)
        async with reactor(server) as ready, bench(server) as one:
            await one.paced(range(20))
            wakes = await one.paced(
                chance.sample(range(20, count), k=100 if quick else 500)
            )
        gc.collect()
        tracemalloc.start()
        async with reactor(server):
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return wakes, kept / count, ready


async def floor(count: int) -> list[float]:
    """Store what a wake stores by bare nats-py; returns milliseconds."""
    async with fresh_server("always") as server:
        login = {"user": server.user, "password": server.password}
        client = await nats.connect(server.url, **login)
        stream = client.jetstream()
        await stream.add_stream(name="FLOOR", subjects=["floor.>"])
        heard = {
            name: await stream.subscribe(f"floor.{name}", ordered_consumer=True)
            for name in ("trigger", "received")
        }
        times, body = [], b"x" * 300
        for _ in range(count):
            began = time.perf_counter()
            await stream.publish("floor.trigger", body)
            await heard["trigger"].next_msg()
            await stream.publish("floor.received", body)
            await heard["received"].next_msg()
            await stream.publish("floor.started", body)
            times.append((time.perf_counter() - began) * 1_000)
            await asyncio.sleep(PACE)
        await client.close()
    return times


def p99(samples: Sequence[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    return sorted(samples)[int(len(samples) * 0.99)]


async def main() -> None:
    """Measure and print."""
    asked = options(__doc__ or "")
    count = 10_000 if asked.quick else 100_000
    bare = await floor(100 if asked.quick else 500)
    wakes, burst = await few(quick=asked.quick)
    among_many, kept, ready = await many(count, quick=asked.quick)
    figures = [
        Figure("wake p50 (ms)", p50(wakes), "ms", p50(bare)),
        Figure("wake p99 (ms)", p99(wakes), "ms", p99(bare)),
        Figure("burst of 500 (s)", burst, "s"),
        Figure("bytes per parked", kept, "bytes"),
        Figure(f"wake p50 among {count:,} (ms)", p50(among_many), "ms", p50(bare)),
        Figure(f"wake p99 among {count:,} (ms)", p99(among_many), "ms", p99(bare)),
        Figure(f"reactor ready with {count:,} (s)", ready, "s"),
    ]
    title = f"waking: {FEW} parked executions, then {count:,}"
    show(title, figures, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

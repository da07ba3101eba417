"""How long it takes to rebuild an execution from the log, fold included.

The floor fetches the same commits by the same batched direct gets with bare
nats-py and throws them away: no decoding, no check of the chain, no fold.
"""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, options, p50, show
from events import catalog as e
from events.commit import GENESIS, Commit, seal
from events.jetstream import JetStreamJournal
from events.messages import ToolCall, Usage
from events.names import ROUTES, Key, Route, commit_subject
from events.spec import AgentSpec
from services.embedded import EmbeddedServer
from services.handler import Handler
from services.process import tune_collector

LONG = Key("bench", "long")
BACKGROUND = 200_000
SHORT = 20
TEXT = "x" * 1_024
START = datetime(2026, 1, 1, tzinfo=UTC)


def history(steps: int) -> Iterator[tuple[Route, tuple[e.AnyEvent, ...]]]:
    """Make up a history: two commits a step, as with a tool that reads."""
    agent = AgentSpec(name="bench", tools=("read_file",), effects={"read_file": "read"})
    yield "agents", (e.Created(agent=agent, input="go"),)
    yield "log", (e.Started(runner="bench", attempt=1),)
    call = ToolCall(id="a", name="read_file", arguments='{"path": "file.txt"}')
    for step in range(1, steps + 1):
        usage = Usage(input=1_000, output=100)
        reply = e.ModelResponded(
            step=step, model="bench", text=TEXT, tool_calls=(call,), usage=usage
        )
        yield "log", (reply,)
        yield "log", (e.ToolCompleted(call_id="a", output=TEXT),)


def commits(key: Key, steps: int) -> Iterator[tuple[Route, bytes]]:
    """Seal a history, version by version."""
    chain = GENESIS
    for version, (route, events) in enumerate(history(steps), 1):
        at = START + timedelta(seconds=version)
        bare = Commit(version=version, id=str(version), at=at, by="b", events=events)
        commit, body = seal(bare, key, chain)
        chain = commit.chain
        yield route, body


async def fill(client: Client) -> None:
    """Write the background histories and the long one."""
    stream = client.jetstream(publish_async_max_pending=2_000)
    keys = [Key("bench", f"e{n}") for n in range(BACKGROUND // SHORT)]
    for key in keys:
        for route, body in commits(key, SHORT // 2 - 1):
            await stream.publish_async(commit_subject(key, route), body)
    for route, body in commits(LONG, 1_000):
        await stream.publish_async(commit_subject(LONG, route), body)
    await stream.publish_async_completed()


async def load_times(handler: Handler, keys: list[Key]) -> list[float]:
    """Load each and return the milliseconds."""
    times = []
    for key in keys:
        began = time.perf_counter()
        execution = await handler.load(key)
        times.append((time.perf_counter() - began) * 1_000)
        assert execution.state.steps > 0  # noqa: S101 - it must have been folded
    return times


async def fetch_times(client: Client, keys: list[Key]) -> list[float]:
    """Fetch each bare and return the milliseconds."""
    times = []
    for key in keys:
        began = time.perf_counter()
        await asyncio.gather(*(_fetch(client, key, route) for route in ROUTES))
        times.append((time.perf_counter() - began) * 1_000)
    return times


async def _fetch(client: Client, key: Key, route: Route) -> None:
    """Ask for a route until the server says that this was all of it."""
    inbox, done = client.new_inbox(), asyncio.Event()
    left = 0

    async def take(message: Msg) -> None:
        nonlocal left
        status = (message.headers or {}).get("Status")
        if status == "204":
            left = int((message.headers or {}).get("Nats-Num-Pending", 0))
        if status is not None:
            done.set()

    subscription = await client.subscribe(inbox, cb=take)
    query = {"seq": 1, "next_by_subj": commit_subject(key, route), "batch": 10_000}
    await client.publish(
        "$JS.API.DIRECT.GET.EVENTS", msgspec.json.encode(query), reply=inbox
    )
    await done.wait()
    assert left == 0  # noqa: S101 - one batch must have been enough
    await subscription.unsubscribe()


async def measure(server: EmbeddedServer, *, quick: bool) -> list[Figure]:
    """Fill a log and load from it, cold, every time another history."""
    client = await nats.connect(server.url, user=server.user, password=server.password)
    async with connected(server) as wire:
        handler = Handler(await JetStreamJournal.open(wire), "bench")
        await fill(client)
        rounds = 10 if quick else 40
        step = BACKGROUND // SHORT // (rounds * 20)
        short = [Key("bench", f"e{n * step}") for n in range(rounds * 20)]
        figures = []
        for name, keys in (
            ("load 1,000 steps p50 (ms)", [LONG] * rounds),
            ("load 20 commits p50 (ms)", short),
        ):
            value = p50(await load_times(handler, keys))
            floor = p50(await fetch_times(client, keys))
            figures.append(Figure(name, value, "ms", floor))
    await client.close()
    return figures


async def main() -> None:
    """Measure and print."""
    asked = options(__doc__ or "")
    async with fresh_server("2m") as server:
        figures = await measure(server, quick=asked.quick)
    show("cold loads from a log of 200,000 commits", figures, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

"""How fast a start command becomes a stored execution.

A client publishes ``commands.<user>.<id>.start``, lifecycle takes it, decides,
appends ``created`` and answers; measured from before the publish to the
answer. The floor is a bare nats-py request to somebody who appends one message
of that size with an expected position, and answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, options, p50, show
from events.jetstream import JetStreamJournal
from events.names import Key
from events.pinned import JetStreamInbox
from events.spec import AgentSpec
from services.allowed import Allowed
from services.embedded import EmbeddedServer
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.process import tune_collector

CLIENTS = 64
SIZE = 500
Ask = Callable[[int], Awaitable[None]]


async def latencies(ask: Ask, count: int) -> list[float]:
    """Ask one after the other; returns milliseconds."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        await ask(number)
        times.append((time.perf_counter() - began) * 1_000)
    return times


async def rate(ask: Ask, first: int, count: int) -> float:
    """Ask from many clients at once; returns answers per second."""
    numbers = iter(range(first, first + count))

    async def client() -> None:
        for number in numbers:
            await ask(number)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return count / (time.perf_counter() - began)


class Starter:
    """A client that starts executions and waits for each answer."""

    def __init__(self, inbox: JetStreamInbox) -> None:
        self._inbox = inbox
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def listen(self) -> None:
        """Hear the answers to all of the user's commands."""
        async with self._inbox.answers("bench", "*") as answers:
            while True:
                answer = msgspec.json.decode(await answers.get())
                assert answer["accepted"], answer  # noqa: S101 - or nothing is measured
                self._waiting.pop(answer["command_id"]).set_result(None)

    async def ask(self, number: int) -> None:
        """Start one."""
        command = f"c{number}"
        future = asyncio.get_running_loop().create_future()
        self._waiting[command] = future
        body = {"command_id": command, "agent_type": "bench", "input": "go"}
        payload = msgspec.json.encode(body)
        await self._inbox.publish(Key("bench", f"e{number}"), "start", payload)
        await future


async def ours(server: EmbeddedServer, count: int) -> tuple[float, float]:
    """Measure the service: p50 in ms, and starts per second."""
    async with connected(server) as mine, connected(server) as theirs:
        lifecycle = Lifecycle(
            Handler(await JetStreamJournal.open(mine), "lifecycle"),
            await JetStreamInbox.open(mine),
            lambda name, _: AgentSpec(name=name),
            Allowed([]),
        )
        starter = Starter(JetStreamInbox(theirs))
        async with asyncio.TaskGroup() as group:
            group.create_task(lifecycle.run())
            listening = group.create_task(starter.listen())
            await asyncio.sleep(0)  # let it subscribe before anything is answered
            await theirs.client.flush()
            await starter.ask(-1)
            middle = p50(await latencies(starter.ask, count // 4))
            starts = await rate(starter.ask, count, count)
            await lifecycle.stop()
            listening.cancel()
    return middle, starts


async def floor(server: EmbeddedServer, count: int) -> tuple[float, float]:
    """Measure a bare request that appends once."""
    login = {"user": server.user, "password": server.password}
    mine, theirs = [await nats.connect(server.url, **login) for _ in range(2)]
    stream, body = mine.jetstream(), b"x" * SIZE

    async def append(message: Msg) -> None:
        subject = f"events.floor.{message.data.decode()}"
        headers = {
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": f"{subject}.*",
        }
        await stream.publish(f"{subject}.agents", body, headers=headers)
        await message.respond(b"")

    tasks: set[asyncio.Task[None]] = set()

    async def heard(message: Msg) -> None:
        task = asyncio.create_task(append(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await mine.subscribe("floor", cb=heard)
    await mine.flush()
    ask = _asking(theirs)
    middle = p50(await latencies(ask, count // 4))
    result = middle, await rate(ask, count, count)
    for client in (mine, theirs):
        await client.close()
    return result


def _asking(client: Client) -> Ask:
    async def ask(number: int) -> None:
        await client.request("floor", f"n{number}".encode(), timeout=10)

    return ask


async def main() -> None:
    """Measure and print."""
    asked = options(__doc__ or "")
    count = 2_000 if asked.quick else 10_000
    async with fresh_server("always") as server:
        middle, starts = await ours(server, count)
        bare_middle, bare_starts = await floor(server, count)
    figures = [
        Figure("start p50 (ms)", middle, "ms", bare_middle),
        Figure("starts/s", starts, "starts/s", bare_starts),
    ]
    show(f"start commands, {CLIENTS} clients for the rate", figures, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

"""What a start over HTTP costs, from the request to the answer 201.

A gateway and a lifecycle, each a process of its own, admission on, a server that
syncs each message. Alone: one request after the other, over one connection. Then
500 a second for some seconds, whatever the answers take, and at last as fast as 64
connections can. The floor is the same command published by bare NATS, answered by
the same lifecycle.
"""

import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, options, p50, show
from events.jetstream import JetStreamJournal
from events.names import Key
from events.pinned import JetStreamInbox
from events.triggerstream import JetStreamTriggers
from gateway.web.desk import Desk
from gateway.web.identity import Identity
from gateway.web.tokens import Tokens
from services.embedded import EmbeddedServer
from services.handler import utc_now
from services.ids import new_id
from services.process import tune_collector

SECRET = "s" * 64
USERS = 100
CLIENTS = 64
RATE = 500
TIER = "enterprise"
BODY = {"agent_type": "explorer", "input": "script:\nsay Done.\n"}
Ask = Callable[[int], Awaitable[None]]


# ── the service ──────────────────────────────────────────────────────────────


@asynccontextmanager
async def service(
    server: EmbeddedServer, folder: Path, *arguments: str
) -> AsyncIterator[dict[str, Any]]:
    """Run ``wake service``; gives what it prints once it serves."""
    environment = {
        **os.environ,
        "WAKE_NATS": server.url,
        "WAKE_NATS_USER": server.user,
        "WAKE_NATS_PASSWORD": server.password,
        "WAKE_DATA": str(folder),
        "WAKE_GATEWAY_SECRET": SECRET,
        "WAKE_LIMITS_ENTERPRISE_CONCURRENT": "1000",
        "WAKE_LIMITS_ENTERPRISE_HOURLY": "100000",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "service", *arguments, "--json"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        told = msgspec.json.decode(await process.stdout.readline())
        yield {**told, "pid": process.pid}
    finally:
        process.terminate()
        await process.wait()


class Client:
    """One connection that is kept; a request at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, request: bytes) -> None:
        """Send a request and read its answer, which has to be 201."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 201 "):
            raise RuntimeError(f"{head!r} {body!r}")


class Callers:
    """Connections to a gateway, and what they send; the users take turns."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._where = parts.hostname, parts.port
        tokens = Tokens(SECRET, audience="wakestream")
        self._requests = [_request(tokens, number) for number in range(USERS)]
        self._free: asyncio.Queue[Client] = asyncio.Queue()

    async def open(self, stack: AsyncExitStack) -> None:
        """Connect."""
        for _ in range(CLIENTS):
            reader, writer = await asyncio.open_connection(*self._where)
            stack.callback(writer.close)
            self._free.put_nowait(Client(reader, writer))

    async def ask(self, number: int) -> None:
        """Start one, over a connection that is free."""
        client = await self._free.get()
        await client.send(self._requests[number % USERS])
        self._free.put_nowait(client)


def _request(tokens: Tokens, number: int) -> bytes:
    minted = tokens.mint(f"user{number}", lifetime=timedelta(hours=1), tier=TIER)
    body = msgspec.json.encode(BODY)
    head = (
        "POST /api/agents HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {minted.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def used(pid: int) -> float:
    """Seconds of CPU time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── measuring ────────────────────────────────────────────────────────────────


async def timed(ask: Ask, number: int) -> float:
    """Ask once; returns milliseconds."""
    began = time.perf_counter()
    await ask(number)
    return (time.perf_counter() - began) * 1_000


async def alone(ask: Ask, count: int) -> list[float]:
    """Ask one after the other."""
    return [await timed(ask, number) for number in range(count)]


async def paced(ask: Ask, seconds: float) -> list[float]:
    """Ask ``RATE`` times a second, whatever the answers take."""
    loop = asyncio.get_running_loop()
    begun, tasks = loop.time(), []
    async with asyncio.TaskGroup() as group:
        for number in range(int(RATE * seconds)):
            await asyncio.sleep(begun + number / RATE - loop.time())
            tasks.append(group.create_task(timed(ask, number)))
    return [task.result() for task in tasks]


async def rate(ask: Ask, count: int) -> float:
    """Ask from many sides at once; returns answers per second."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await ask(number)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return count / (time.perf_counter() - began)


def p99(samples: list[float]) -> float:
    """Return the worst of a hundred."""
    return quantiles(samples, n=100)[98]


def bare(desk: Desk) -> Ask:
    """Ask as the gateway does, without HTTP."""
    numbers = itertools.count()
    end = utc_now() + timedelta(hours=1)
    users = [
        Identity(user=f"bare{number}", expires=end, tier=TIER)
        for number in range(USERS)
    ]

    async def ask(_number: int) -> None:
        who = users[next(numbers) % USERS]
        key = Key(who.user, new_id(utc_now()))
        await desk.ask(who, key, "start", dict(BODY))

    return ask


async def measure(server: EmbeddedServer, *, quick: bool) -> list[Figure]:
    """Measure all of it."""
    count, seconds = (400, 5.0) if quick else (2_000, 15.0)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        enter = stack.enter_async_context
        await enter(service(server, folder, "lifecycle"))
        told = await enter(service(server, folder, "gateway", "--port", "0"))
        callers = Callers(told["http"])
        await callers.open(stack)
        wire = await enter(connected(server))
        journal, inbox = JetStreamJournal(wire), JetStreamInbox(wire)
        desk = await enter(Desk.open(wire, inbox, journal, JetStreamTriggers(wire)))
        await alone(callers.ask, 50)
        floor = await alone(bare(desk), count)
        single = await alone(callers.ask, count)
        steady = await paced(callers.ask, seconds)
        before = used(told["pid"])
        most = await rate(callers.ask, count * 4)
        work = (used(told["pid"]) - before) / (count * 4) * 1_000
        least = await rate(bare(desk), count * 4)
    return [
        Figure("start p50 (ms)", p50(single), "ms", p50(floor)),
        Figure("start p99 (ms)", p99(single), "ms", p99(floor)),
        Figure(f"start p50 at {RATE}/s (ms)", p50(steady), "ms"),
        Figure(f"start p99 at {RATE}/s (ms)", p99(steady), "ms"),
        Figure("starts/s", most, "starts/s", least),
        Figure("gateway CPU per start (ms)", work, "ms"),
    ]


async def main() -> None:
    """Measure and print."""
    asked = options(__doc__ or "")
    async with fresh_server("always") as server:
        figures = await measure(server, quick=asked.quick)
    title = f"starts over HTTP, {USERS} users, {CLIENTS} connections"
    show(title, figures, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

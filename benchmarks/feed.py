"""What the live feed costs: from the append to a thousand websockets.

``own``: a thousand clients, each on an execution of its own, a thousand events a
second in all. ``hot``: a thousand on one, fifty events a second. ``late`` is from
before a commit is appended until a client has its message: the append (its own p99
is the floor), the gateway's reader, the gateway, two sockets. nats-server
(``sync_interval: always``), gateway, clients and what appends are four processes.
The gateway is the real one; its CPU time is that of its process, in percent of a
core.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import uvloop

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, options, show
from benchmarks.watchers import DIGITS, Job, Target, Told
from events import catalog as e
from events.commit import GENESIS, Commit, Recorded, seal
from events.jetstream import JetStreamJournal
from events.names import Key, Route
from events.spec import AgentSpec
from gateway.configuration import load
from gateway.up import Services, Started
from gateway.web.secret import tokens_of
from services.embedded import EmbeddedServer
from services.process import tune_collector

if TYPE_CHECKING:
    from gateway.parts import Name

CLIENTS = 1_000
OWN_RATE, HOT_RATE = 1_000, 50
PAD = "x" * 300
SECRET = "the secret of a benchmark, long enough"  # noqa: S105 - of nothing
LIMIT = 30.0
"""Seconds until what was appended must have arrived."""

CLOCK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class History:
    """An execution that goes on, one tool call a commit."""

    def __init__(self, journal: JetStreamJournal, key: Key) -> None:
        self.key = key
        self._journal, self._turn = journal, asyncio.Lock()
        self._version, self._position, self._chain = 0, 0, GENESIS

    async def begin(self) -> None:
        """Create it."""
        created = e.Created(agent=AgentSpec(name="bench"), input="go")
        await self._append("agents", created)

    async def go_on(self) -> float:
        """Append what says when; returns the milliseconds until it is stored."""
        async with self._turn:
            began = time.monotonic_ns()
            output = f"{began:0{DIGITS}} {PAD}"
            await self._append("log", e.ToolCompleted(call_id="a", output=output))
            return (time.monotonic_ns() - began) / 1e6

    async def _append(self, route: Route, fact: e.AnyEvent) -> None:
        self._version += 1
        bare = Commit(
            version=self._version,
            id=f"{self.key.user}-{self._version}",
            at=datetime.now(UTC),
            by="bench",
            events=(fact,),
        )
        commit, body = seal(bare, self.key, self._chain)
        new = Recorded(0, self.key, route, commit, body)
        stored = await self._journal.append(new, after=self._position)
        self._position, self._chain = stored.position, commit.chain


class Process(NamedTuple):
    """What a process has used, by /proc."""

    pid: int

    @property
    def seconds(self) -> float:
        """Its CPU time."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / CLOCK

    @property
    def memory(self) -> int:
        """Its resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE


class Measured(NamedTuple):
    """A run: what the clients saw, appends in ms, CPU of the gateway in percent."""

    told: Told
    appends: list[float]
    cpu: float


class Bench:
    """A gateway, clients, and who appends."""

    def __init__(
        self,
        journal: JetStreamJournal,
        gateway: asyncio.subprocess.Process,
        url: str,
        clients: asyncio.subprocess.Process,
    ) -> None:
        self.journal, self.gateway = journal, Process(gateway.pid)
        self._host, _, port = url.removeprefix("http://").rpartition(":")
        self._port, self._clients = int(port), clients
        self._tokens = tokens_of(settings_of({}), make=False)

    def token(self, user: str, *roles: str) -> str:
        """A token of a user."""
        return self._tokens.mint(user, lifetime=timedelta(hours=1), roles=roles).token

    async def tell(self, line: bytes) -> Any:
        """Tell the clients something, and wait until it is done."""
        assert self._clients.stdin  # noqa: S101 - both are pipes
        assert self._clients.stdout  # noqa: S101 - both are pipes
        self._clients.stdin.write(line + b"\n")
        answer = await self._clients.stdout.readline()
        if not answer:
            raise SystemExit("the clients came to an end")
        return msgspec.json.decode(answer)

    async def watch(self, targets: Sequence[Target]) -> None:
        """Let so many more watch."""
        job = Job(self._host, self._port, list(targets))
        await self.tell(msgspec.json.encode(job))

    async def run(
        self, histories: Sequence[History], rate: int, seconds: float
    ) -> Measured:
        """Append to one after the other at a pace."""
        await self.tell(b"go")
        used, began = self.gateway.seconds, time.monotonic()
        appends: list[asyncio.Task[float]] = []
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                due = began + number / rate
                if (left := due - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                history = histories[number % len(histories)]
                appends.append(group.create_task(history.go_on()))
        await self._arrived(len(appends) * CLIENTS // len(histories))
        took = time.monotonic() - began
        cpu = (self.gateway.seconds - used) / took * 100
        told = msgspec.convert(await self.tell(b"stop"), Told)
        if told.closed:
            raise SystemExit(f"{told.closed} of the clients were closed")
        return Measured(told, [task.result() for task in appends], cpu)

    async def _arrived(self, count: int) -> None:
        """Wait until the clients have so many messages, none of them twice."""
        async with asyncio.timeout(LIMIT):
            while (there := await self.tell(b"count")) != count:
                if there > count:
                    raise SystemExit(f"{there} messages came, {count} were sent")
                await asyncio.sleep(0.02)


async def begun(journal: JetStreamJournal, keys: Sequence[Key]) -> list[History]:
    """Create executions."""
    histories, room = [History(journal, key) for key in keys], asyncio.Semaphore(64)

    async def one(history: History) -> None:
        async with room:
            await history.begin()

    await asyncio.gather(*map(one, histories))
    return histories


@asynccontextmanager
async def bench(server: EmbeddedServer) -> AsyncIterator[Bench]:
    """Start a gateway and clients."""
    environ = {
        **os.environ,
        "WAKE_NATS_URL": server.url,
        "WAKE_NATS_USER": server.user,
        "WAKE_NATS_PASSWORD": server.password,
    }
    pipe = asyncio.subprocess.PIPE
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        gateway = await asyncio.create_subprocess_exec(
            *(python, "-m", "benchmarks.feed", "--gateway", folder),
            stdout=pipe,
            env=environ,
        )
        clients = await asyncio.create_subprocess_exec(
            *(python, "-m", "benchmarks.watchers"),
            stdin=pipe,
            stdout=pipe,
            limit=64 * 1024 * 1024,
        )
        try:
            assert gateway.stdout  # noqa: S101 - it is a pipe
            url = (await gateway.stdout.readline()).decode().strip()
            async with connected(server) as wire:
                journal = await JetStreamJournal.open(wire)
                yield Bench(journal, gateway, url, clients)
        finally:
            for process in (clients, gateway):
                if process.returncode is None:
                    process.terminate()
                await process.wait()


async def own(*, seconds: float) -> tuple[Measured, float]:
    """A thousand on executions of their own; and the KB that one of them costs."""
    async with fresh_server("always") as server, bench(server) as one:
        keys = [Key(f"u{n}", "own") for n in range(CLIENTS)]
        histories = await begun(one.journal, keys)
        targets = [Target(one.token(key.user), *key) for key in keys]
        warm = 50  # what the first ones need is needed once
        await one.watch(targets[:warm])
        before = one.gateway.memory
        await one.watch(targets[warm:])
        kept = (one.gateway.memory - before) / (CLIENTS - warm) / 1024
        await one.run(histories, OWN_RATE, 2)
        return await one.run(histories, OWN_RATE, seconds), kept


async def hot(*, seconds: float) -> Measured:
    """A thousand on one execution; they are admins, since a user has so many."""
    async with fresh_server("always") as server, bench(server) as one:
        [history] = await begun(one.journal, [Key("hot", "hot")])
        targets = [
            Target(one.token(f"w{n}", "admin"), *history.key) for n in range(CLIENTS)
        ]
        await one.watch(targets)
        await one.run([history], HOT_RATE, 2)
        return await one.run([history], HOT_RATE, seconds)


def p99(samples: Sequence[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    return sorted(samples)[int(len(samples) * 0.99)]


def middle(samples: Sequence[float]) -> float:
    """Return the value that half exceed."""
    return sorted(samples)[len(samples) // 2]


def settings_of(environ: dict[str, str], folder: Path = Path()) -> Any:
    """Configure the gateway."""
    variables = {
        **{k: v for k, v in environ.items() if k.startswith("WAKE_NATS_")},
        "WAKE_GATEWAY_LISTEN": "0",
        "WAKE_GATEWAY_SECRET": SECRET,
        "WAKE_DATA": str(folder),
    }
    return load({}, variables, folder).settings


def serve(folder: Path) -> None:
    """Be the gateway, and print where."""

    def started(what: Started) -> None:
        print(what.url, flush=True)

    tune_collector()
    names: list[Name] = ["gateway"]
    services = Services(settings_of(dict(os.environ), folder), names, started)
    uvloop.run(services.run(None))


async def main() -> None:
    """Measure and print."""
    asked = options(__doc__ or "")
    seconds = 5.0 if asked.quick else 20.0
    each, kept = await own(seconds=seconds)
    one = await hot(seconds=seconds)
    rate = one.told.count / one.told.seconds
    figures = [
        Figure(
            "own executions p50 (ms)",
            middle(each.told.late_ms),
            "ms",
            middle(each.appends),
        ),
        Figure(
            "own executions p99 (ms)",
            p99(each.told.late_ms),
            "ms",
            p99(each.appends),
        ),
        Figure("own executions gateway (% of a core)", each.cpu, "%"),
        Figure("hot execution deliveries/s", rate, "1/s", float(HOT_RATE * CLIENTS)),
        Figure(
            "hot execution p50 (ms)",
            middle(one.told.late_ms),
            "ms",
            middle(one.appends),
        ),
        Figure("hot execution p99 (ms)", p99(one.told.late_ms), "ms", p99(one.appends)),
        Figure("hot execution gateway (% of a core)", one.cpu, "%"),
        Figure("idle client (KB)", kept, "KB"),
    ]
    load1, _, _ = os.getloadavg()
    title = f"live feed: {CLIENTS:,} websockets (load of the machine: {load1:.1f})"
    show(title, figures, as_json=asked.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--gateway"]:
        serve(Path(sys.argv[2]))
    else:
        tune_collector()
        uvloop.run(main())

"""The read model: how fast it follows, what a commit costs, how fast it is rebuilt.

Executions have 15 steps: a commit for each reply, one for each tool's result, and
three more; a commit is one event of some 700 bytes. ``follow``: another process
appends so many events a second; ``lag`` is from its clock before the append until
the transaction that has the event is committed. ``commit of 200``: 200 executions
change by one event each, on top of so many that have ended; folding is in it.
``rebuild``: the whole log into a new file, in a process of its own, whose peak
memory is given. Where the time goes is CPU time per event, measured apart: the
server's is that of the nats-server process.
"""

import argparse
import asyncio
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nats
import uvloop

from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, show
from events import catalog as e
from events.bulk import Login
from events.commit import GENESIS, Commit, seal, unseal
from events.jetstream import JetStreamJournal
from events.logstream import JetStreamLogbook
from events.messages import ToolCall, Usage
from events.names import EVENTS, Key, Route, commit_subject
from events.rawlog import Raw, RawLog
from events.rawstream import JetStreamRawLog, all_streams
from events.spec import AgentSpec
from events.tablestream import JetStreamTimetable
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from projections import queries as q
from projections.desk import Desk
from projections.fold import BEGINNING, Fold
from projections.projector import Projector
from projections.readers import Question
from projections.rebuild import BATCH, Sources, rebuild, swap
from projections.store import Store
from projections.views import OWN_STEPS
from services.embedded import EmbeddedServer
from services.process import tune_collector

STREAMS = dict.fromkeys(BEGINNING, "made")
STEPS = 15
COMMITS = 3 + 2 * STEPS
START = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = AgentSpec(name="coder", tools=("read_file",), effects={"read_file": "read"})
SAID = "The function looks right, but its test does not. " * 4
READ = "def add(one: int, other: int) -> int:\n    return one + other\n" * 6
USERS, AT = 50, b'"at":"'


# ── what is appended ─────────────────────────────────────────────────────────


def events() -> Iterator[tuple[Route, e.AnyEvent]]:
    """One execution."""
    yield "agents", e.Created(agent=AGENT, input=SAID, metadata={"ticket": 4711})
    yield "log", e.Started(runner="bench-1", attempt=1)
    for step in range(1, STEPS + 1):
        call = ToolCall(id=f"c{step}", name="read_file", arguments='{"path": "a.py"}')
        yield (
            "log",
            e.ModelResponded(
                step=step,
                model="bench-large",
                text=SAID,
                tool_calls=(call,),
                usage=Usage(input=1_000 + step, output=100),
                cost=0.01,
                latency_ms=900.0 + step,
                finish_reason="tool_call",
            ),
        )
        yield "log", e.ToolCompleted(call_id=call.id, output=READ, latency_ms=20.0)
    yield "finished", e.Completed(output=SAID, finish_reason="final_answer")


def history(number: int) -> Iterator[tuple[str, bytes]]:
    """Subjects and bodies of one execution, chained as they should be."""
    key, chain = Key(f"user{number % USERS}", f"run-{number:08}"), GENESIS
    for version, (route, fact) in enumerate(events(), 1):
        at = START + timedelta(seconds=number + version, microseconds=1)
        bare = Commit(version=version, id=f"c{version}", at=at, by="b", events=(fact,))
        commit, body = seal(bare, key, chain)
        chain = commit.chain
        yield commit_subject(key, route), body


def interleaved(executions: int, at_once: int = 200) -> Iterator[tuple[str, bytes]]:
    """Histories as they come when so many run at once."""
    for first in range(0, executions, at_once):
        some = [history(n) for n in range(first, min(first + at_once, executions))]
        for together in zip(*some, strict=True):
            yield from together


async def fill(server: EmbeddedServer, executions: int) -> None:
    """Append histories as fast as the server takes them."""
    client = await nats.connect(server.url, user=server.user, password=server.password)
    stream = client.jetstream(publish_async_max_pending=2_000)
    for subject, body in interleaved(executions):
        await stream.publish_async(subject, body)
    await stream.publish_async_completed()
    await client.close()


async def publish(rate: int, seconds: int) -> None:
    """Append so many events a second, with the time of sending in them."""
    url, user, password = login_here()
    client = await nats.connect(url, user=user, password=password)
    made = interleaved(rate * seconds // COMMITS + 1_000, at_once=1_000)
    ready = [next(made) for _ in range(rate * seconds)]
    print("ready", flush=True)
    began = time.perf_counter()
    for number, (subject, body) in enumerate(ready):
        if number % 20 == 0:
            ahead = began + number / rate - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
        place = body.index(AT) + len(AT)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        at = now.replace("+00:00", "Z").encode()
        await client.publish(subject, body[:place] + at + body[place + len(at) :])
    await client.flush()
    await client.close()


async def process(
    server: EmbeddedServer, *arguments: str
) -> asyncio.subprocess.Process:
    """Start one of our processes; the environment tells it where the server is."""
    login = {"BENCH_USER": server.user, "BENCH_PASSWORD": server.password}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.projector", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **login, "BENCH_URL": server.url},
    )


def login_here() -> Login:
    """Read where the server is."""
    names = ("BENCH_URL", "BENCH_USER", "BENCH_PASSWORD")
    return Login(*(os.environ[name] for name in names))


# ── following ────────────────────────────────────────────────────────────────


class _Sent(msgspec.Struct):
    at: datetime


_sent = msgspec.json.Decoder(_Sent)


class Timed(Projector):
    """Notes when each transaction was committed, and how far it went."""

    def __init__(self, path: Path, sources: Sources) -> None:
        super().__init__(path, sources)
        self.told: list[tuple[float, int]] = []

    async def _tell(self, positions: Mapping[str, int]) -> None:
        await super()._tell(positions)
        self.told.append((time.time(), positions[EVENTS]))


def lags_of(told: Sequence[tuple[float, int]], log: RawLog) -> list[float]:
    """How late each event could be asked for, in seconds; sorted."""
    lags, turns = list[float](), iter(told)
    when, upto = next(turns)
    for run in log.bulk(0, told[-1][1]):
        for raw in run:
            while raw.position > upto:
                when, upto = next(turns)
            lags.append(when - _sent.decode(raw.body).at.timestamp())
    return sorted(lags)


class Followed(NamedTuple):
    """What following came to: milliseconds, events a second, share of a core."""

    rate: float
    lag50: float
    lag99: float
    asked50: float
    asked99: float
    core: float
    loop99: float
    commits: int


@asynccontextmanager
async def sources_of(server: EmbeddedServer) -> AsyncIterator[tuple[Wire, Sources]]:
    """Open both streams."""
    login = Login(server.url, server.user, server.password)
    async with connected(server) as wire:
        await JetStreamJournal.open(wire)
        await JetStreamLogbook.open(wire)
        await JetStreamTriggers.open(wire)
        await JetStreamTimetable.open(wire)
        yield (
            wire,
            Sources(*all_streams(wire, login)),
        )


_MINE = """SELECT execution, status, created_at FROM executions_{}
    WHERE "user" = 'user7' AND status = 'running' ORDER BY created_at DESC LIMIT 51"""

QUERIES = (
    f"""SELECT * FROM (({_MINE.format("hot")}) UNION ALL ({_MINE.format("done")}))
    ORDER BY created_at DESC LIMIT 51""",  # noqa: S608 - constants
    """SELECT "user", count(*) FROM executions_hot
    WHERE status IN ('pending', 'running') GROUP BY ALL""",
    """SELECT execution FROM waits_hot JOIN executions_hot USING (eid)
    WHERE kind = 'event' AND ended_at IS NULL AND event_type = 'ci.done'""",
    "SELECT * FROM stuck",
    f"""SELECT CAST(responded_at AS DATE) AS day, agent, sum(input_tokens)
    FROM ({OWN_STEPS}) GROUP BY ALL""",  # noqa: S608 - constants
)
"""Common questions in SQL, of a few columns, of the tables that ``selects.py`` asks."""

REQUESTS = (
    q.ListRequest(user="user7", status=("running",)),
    q.ActiveRequest(),
    q.AwaitingRequest(event_type="ci.done"),
    q.StuckRequest(),
    q.UsageRequest(by=("day", "agent")),
)
"""The same as named queries: a whole page each, with all of its columns, as JSON."""


async def follow(
    server: EmbeddedServer, rate: int, seconds: int, asks: int, *, named: bool = False
) -> Followed:
    """Follow another process, and be asked meanwhile."""
    with tempfile.TemporaryDirectory(prefix="wake-bench-") as name:
        async with sources_of(server) as (_, sources), asyncio.TaskGroup() as group:
            projector = Timed(Path(name) / "model.duckdb", sources)
            running = group.create_task(projector.run())
            while projector._store is None:  # noqa: ASYNC110, SLF001 - once, at the start
                await asyncio.sleep(0.01)
            sender = await process(server, "publish", str(rate), str(seconds))
            assert sender.stdout is not None  # noqa: S101 - it is a pipe
            await sender.stdout.readline()
            projector.told.clear()
            began, cpu = time.perf_counter(), time.process_time()
            asking = group.create_task(_ask(_questions(projector, named=named), asks))
            ticking = group.create_task(_tick())
            await sender.wait()
            while projector.positions[EVENTS] < rate * seconds:
                if time.perf_counter() - began > 4 * seconds:
                    break
                await asyncio.sleep(0.01)
            took, used = time.perf_counter() - began, time.process_time() - cpu
            asking.cancel()
            ticking.cancel()
            await asyncio.wait([asking, ticking])
            await projector.stop()
            await running
            seen = projector.positions[EVENTS]
            lags = await asyncio.to_thread(lags_of, projector.told, sources.events)
    asked = sorted(_asked)
    return Followed(
        seen / took,
        _at(lags, 0.5) * 1e3,
        _at(lags, 0.99) * 1e3,
        _at(asked, 0.5) * 1e3,
        _at(asked, 0.99) * 1e3,
        used / took,
        _at(sorted(_ticks), 0.99) * 1e3,
        len(projector.told),
    )


_asked: list[float] = []
_ticks: list[float] = []


def _questions(projector: Projector, *, named: bool) -> list[Callable[[], Any]]:
    """Ways to ask, one after the other."""
    if named:
        desk = Desk(projector)
        return [partial(desk.page, request) for request in REQUESTS]
    return [partial(projector.ask, Question(sql=sql)) for sql in QUERIES]


async def _ask(questions: Sequence[Callable[[], Any]], asks: int) -> None:
    """Ask so many times a second, one after the other."""
    _asked.clear()
    for number in count():
        if not asks:
            return
        began = time.perf_counter()
        await questions[number % len(questions)]()
        took = time.perf_counter() - began
        _asked.append(took)
        await asyncio.sleep(max(0.0, 1 / asks - took))


async def _tick() -> None:
    """Note how late the event loop is."""
    _ticks.clear()
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        _ticks.append(time.perf_counter() - began - 0.005)


def _at(values: list[float], share: float) -> float:
    return values[int(share * (len(values) - 1))] if values else 0.0


# ── a commit on top of a long history ────────────────────────────────────────


def long_history(store: Store, executions: int, steps: int) -> None:
    """Make up rows of executions that ended long ago."""
    writer = store._writer  # noqa: SLF001 - rows that never were in a log
    writer.execute(
        f"""INSERT INTO executions_done BY NAME
        SELECT -i AS eid, 'old-' || i AS execution, 'user' || (i % 50) AS "user",
          'completed' AS status, 'coder' AS agent, 'bench-large' AS model,
          'agents' AS lane, repeat('x', 100) AS input, 0 AS depth, 33 AS version,
          15 AS steps, 1000 AS input_tokens, 100 AS output_tokens, 0.1 AS cost,
          TIMESTAMP '2025-01-01' + INTERVAL (i) SECOND AS created_at,
          TIMESTAMP '2025-01-01' + INTERVAL (i + 60) SECOND AS completed_at,
          'final_answer' AS finish_reason
        FROM range(1, {executions + 1}) t(i)"""  # noqa: S608 - numbers
    )
    writer.execute(
        f"""INSERT INTO steps BY NAME
        SELECT -1 - (i % {executions}) AS eid, i // {executions} AS step,
          i // {executions} AS version, 'user' || (i % 50) AS "user",
          'coder' AS agent, 'bench-large' AS model, repeat('y', 100) AS text,
          100 AS text_size, 1 AS calls, 1000 AS input_tokens, 100 AS output_tokens,
          0.01 AS cost, 900.0 AS latency_ms, 'tool_call' AS finish_reason,
          TIMESTAMP '2025-01-01' + INTERVAL (i // 5) SECOND AS responded_at
        FROM range({steps}) t(i)"""  # noqa: S608 - numbers
    )
    store.pack()


def commit_times(store: Store, rounds: int) -> list[float]:
    """Let 200 executions change by one event, again and again; milliseconds."""
    fold, position, times = Fold({}), 0, []
    stories = [history(number) for number in range(200)]
    for _ in range(rounds):
        some = []
        for number, one in enumerate(stories):
            found = next(one, None)
            if found is None:
                stories[number] = history(10_000 + position)
                found = next(stories[number])
            position += 1
            some.append(Raw(position, *found))
        began = time.perf_counter()
        for raw in some:
            fold.apply(raw)
        store.commit(fold.drain())
        times.append((time.perf_counter() - began) * 1e3)
    return times


def commits_on(executions: int, steps: int, rounds: int) -> list[float]:
    """Measure what a commit costs on such a history; sorted."""
    with tempfile.TemporaryDirectory(prefix="wake-bench-") as name:
        store = Store.create(Path(name) / "model.duckdb", STREAMS)
        if executions:
            long_history(store, executions, steps)
        times = commit_times(store, rounds)
        store.close()
    return sorted(times)


# ── rebuilding ───────────────────────────────────────────────────────────────


async def rebuild_here(folder: str) -> None:
    """Rebuild once; prints what it took, and the peak memory of this process."""
    login, cpu = login_here(), time.process_time()
    wire = await Wire.connect(login.url, user=login.user, password=login.password)
    sources = Sources(*all_streams(wire, login))
    path = Path(folder) / "rebuilt.duckdb"
    done = await rebuild(path, sources)
    swap(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = time.process_time() - cpu
    print(msgspec.json.encode([done.messages, done.seconds, cpu, peak]).decode())
    await wire.close()


class Parts(NamedTuple):
    """Microseconds of CPU time for an event, part by part."""

    client: float
    decode: float
    fold: float
    duckdb: float


def parts(login: Login, most: int) -> Parts:
    """Do the parts of a rebuild one after the other, in pieces of its size."""
    log = JetStreamRawLog(None, EVENTS, ("events.>",), login)  # type: ignore[arg-type]  # bulk needs no wire
    times = [time.process_time()]
    raws = [raw for run in log.bulk(0, most) for raw in run]
    times.append(time.process_time())
    for raw in raws:
        unseal(raw.body, Key("a", "b"))
    times.append(time.process_time())
    with tempfile.TemporaryDirectory(prefix="wake-bench-") as name:
        store = Store.create(Path(name) / "model.duckdb", STREAMS, bulk=True)
        fold, spent = Fold({}), 0.0
        for number, raw in enumerate(raws, 1):
            fold.apply(raw)
            if number % BATCH == 0 or number == len(raws):
                delta, began = fold.drain(hot=False), time.process_time()
                store.commit(delta)
                spent += time.process_time() - began
        times.append(time.process_time() - spent)
        began = time.process_time()
        store.pack()
        spent += time.process_time() - began
        store.close()
    each = 1e6 / len(raws)
    client, decode, both = (b - a for a, b in pairwise(times))
    return Parts(client * each, decode * each, (both - decode) * each, spent * each)


def server_cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── all of it ────────────────────────────────────────────────────────────────


class Size(NamedTuple):
    """How much is measured."""

    seconds: int
    executions: int
    steps: int
    rounds: int
    events: int
    times: int


FULL = Size(15, 1_000_000, 5_000_000, 200, 1_000_000, 3)
QUICK = Size(3, 200_000, 1_000_000, 60, 150_000, 1)


RUNS = ((20_000, 0, False), (5_000, 80, False), (5_000, 80, True))
"""Events and questions a second, and whether those are named queries."""


async def measure(size: Size, *, quick: bool) -> list[Figure]:
    """Measure everything."""
    figures = []
    for rate, asks, named in RUNS:
        async with fresh_server("2m") as server:
            one = await follow(server, rate, size.seconds, asks, named=named)
        how = f"{size.seconds} s"
        if asks:
            how += f", {asks} {'named ' * named}queries/s"
        figures += _followed(one, rate, asks, how)
    empty = await asyncio.to_thread(commits_on, 0, 0, size.rounds)
    times = await asyncio.to_thread(
        commits_on, size.executions, size.steps, size.rounds
    )
    of = "" if not quick else f", quick: on {size.executions:,}"
    figures.append(
        Figure(f"commit of 200 on 1M (ms){of}", _at(times, 0.5), "ms", _at(empty, 0.5))
    )
    figures.append(Figure("… p99 (ms)", _at(times, 0.99), "ms", _at(empty, 0.99)))
    return figures + await _rebuilt(size, quick=quick)


def _followed(one: Followed, rate: int, asks: int, how: str) -> list[Figure]:
    first = [
        Figure("follow (events/s)", one.rate, "events/s"),
        Figure("lag p99 (ms)", one.lag99, "ms"),
    ]
    second = [
        Figure(f"follow {rate:,}/s, {how}", one.rate, "events/s"),
        Figure("… lag p99 (ms)", one.lag99, "ms"),
        Figure("… query p50 (ms)", one.asked50, "ms"),
        Figure("… query p99 (ms)", one.asked99, "ms"),
    ]
    rest = [
        Figure("… lag p50 (ms)", one.lag50, "ms"),
        Figure("… cores used", one.core, "cores"),
        Figure("… event loop late, p99 (ms)", one.loop99, "ms"),
        Figure("… transactions", one.commits, ""),
    ]
    return (second if asks else first) + rest


async def _rebuilt(size: Size, *, quick: bool) -> list[Figure]:
    runs = []
    async with fresh_server("2m") as server:
        async with sources_of(server):
            await fill(server, size.events // COMMITS)
        before = server_cpu(server.pid)
        for _ in range(size.times):
            with tempfile.TemporaryDirectory(prefix="wake-bench-") as name:
                done = await process(server, "rebuild", name)
                out, _ = await done.communicate()
                runs.append(
                    msgspec.json.decode(out, type=tuple[int, float, float, float])
                )
        used = (server_cpu(server.pid) - before) / size.times
        login = Login(server.url, server.user, server.password)
        told = await asyncio.to_thread(parts, login, min(size.events, 200_000))
    runs.sort(key=lambda run: run[1])
    events, seconds, cpu, peak = runs[len(runs) // 2]
    of = f", quick: {events:,} events" if quick else ""
    return [
        Figure(f"rebuild (events/s){of}", events / seconds, "events/s"),
        Figure("rebuild peak memory (MB)", peak, "MB"),
        Figure("rebuild: client process (us CPU/event)", cpu * 1e6 / events, "us"),
        Figure("… nats-server", used * 1e6 / events, "us"),
        Figure("… reading", told.client, "us"),
        Figure("… decoding", told.decode, "us"),
        Figure("… folding", told.fold, "us"),
        Figure("… DuckDB, rows included", told.duckdb, "us"),
    ]


async def main(*, quick: bool, as_json: bool) -> None:
    """Measure and print."""
    figures = await measure(QUICK if quick else FULL, quick=quick)
    title = "read model; of a commit, floor is the same on an empty one"
    show(title, figures, as_json=as_json)


def arguments() -> argparse.Namespace:
    """Read the command line; the first word says which of the processes it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="end within 60 s")
    parser.add_argument("--json", action="store_true", help="one object a line")
    return parser.parse_args()


if __name__ == "__main__":
    tune_collector()
    asked = arguments()
    match asked.role:
        case ["publish", rate, seconds]:
            uvloop.run(publish(int(rate), int(seconds)))
        case ["rebuild", folder]:
            uvloop.run(rebuild_here(folder))
        case _:
            uvloop.run(main(quick=asked.quick, as_json=asked.json))

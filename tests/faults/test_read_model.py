"""The projector killed at any moment: every row is what the log says it must be."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count, islice
from pathlib import Path
from random import Random

import pytest
from form import by_form
from lifelike import interleaved
from logs import JetStreamLog
from nats_server import NatsServer
from readmodels import PATIENCE, projecting, verified

from events.bulk import Login
from events.errors import Unavailable
from events.logbook import Line, encode_line
from events.logstream import JetStreamLogbook
from events.names import Key, log_subject, split_subject
from events.rawstream import all_streams
from events.tablestream import JetStreamTimetable
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from projections.queries import Verified
from projections.rebuild import Sources

PROCESS = Path(__file__).parents[1] / "support" / "projector_process.py"
KILLS, SEEDS = by_form(8, 20), by_form(1, 8)
Commit = tuple[str, bytes]
PIECE = 40
"""Commits that are appended while one process lives, about."""

STARTING = 1.0
"""Seconds in which a process has begun to serve, when nothing else runs."""


@pytest.fixture
async def wire(own_log: JetStreamLog) -> Wire:
    """A server with both streams, and nothing in them."""
    wire = await own_log.wire()
    await JetStreamLogbook.open(wire)
    await JetStreamTriggers.open(wire)
    await JetStreamTimetable.open(wire)
    return wire


class Life:
    """A projector as a process; ``at`` is how far it said that it was."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._at = -1

    @classmethod
    async def begin(cls, server: NatsServer, file: Path) -> "Life":
        """Start one."""
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, str(PROCESS), server.url, str(file)),
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        )

    async def reached(self, position: int) -> None:
        """Wait until all up to a position is committed."""
        assert self._process.stdout
        while self._at < position:
            said = (await self._process.stdout.readline()).split()
            assert said, "it ended by itself"
            self._at = int(said[1]) if said[0] == b"at" else -1

    async def end(self) -> None:
        """Kill it."""
        self._process.kill()
        await self._process.wait()


class Writer:
    """Appends commits and log lines, one after the other, until it is told to stop."""

    def __init__(self, wire: Wire, chance: Random, commits: Iterator[Commit]) -> None:
        self._wire, self._chance, self._commits = wire, chance, commits
        self._stopped = False
        self._appended = asyncio.Semaphore(0)
        self._position = 0

    async def run(self) -> None:
        """Append; what was asked for is waited for."""
        stream = self._wire.client.jetstream()
        while not self._stopped:
            subject, body = next(self._commits)
            self._position = (await stream.publish(subject, body)).seq
            if self._chance.random() < 0.2:
                key, _ = split_subject(subject)
                await stream.publish(log_subject(key, "info"), line_of(key))
            self._appended.release()

    async def so_many(self, count: int) -> int:
        """Wait for commits; returns the position of the last."""
        for _ in range(count):
            await self._appended.acquire()
        return self._position

    def stop(self) -> None:
        """Let what is being appended be the last."""
        self._stopped = True


def line_of(key: Key) -> bytes:
    """A log line."""
    line = Line(
        at=datetime(2026, 1, 1, tzinfo=UTC),
        user=key.user,
        execution=key.execution,
        level="info",
        event_type="tool.completed",
        message="It did so.",
    )
    return encode_line(line)


async def one_life(life: Life, writer: Writer, chance: Random, *, seen: bool) -> None:
    """Let it live for a while, and kill it at any moment while the writer appends.

    ``seen``: only after it was seen to come on; else it is killed while it starts,
    opens the file or builds it.
    """
    if seen:
        await life.reached(0)
    else:
        await asyncio.sleep(chance.uniform(0.0, STARTING))
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run())
        position = await writer.so_many(chance.randrange(1, 2 * PIECE))
        if seen:
            await life.reached(position)
        await asyncio.sleep(chance.choice([0.0, 0.001, 0.003, 0.01, 0.03]))
        await life.end()
        writer.stop()


def copied(file: Path, to: Path) -> Path:
    """Copy a model with its log of changes, so that the killed one's stays as it is."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for name in (file.name, f"{file.name}.wal"):
        if (file.parent / name).exists():
            shutil.copy(file.parent / name, to / name)
    return to / file.name


@pytest.mark.timeout(by_form(600, 3600))
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_killed_at_any_moment(
    own_server: NatsServer, wire: Wire, tmp_path: Path, seed: int
) -> None:
    """After each kill all rows are those of the positions that the model names."""
    chance, lines = Random(seed), Random(seed)  # noqa: S311 - a schedule, no secret
    file, login = tmp_path / "model.duckdb", Login(own_server.url)
    sources = Sources(*all_streams(wire, login))
    commits = endless()
    found = Found()
    for number in range(KILLS):
        seen = number % 3 < 2
        life = await Life.begin(own_server, file)
        await one_life(life, Writer(wire, lines, commits), chance, seen=seen)
        found.kills, found.seen = found.kills + 1, found.seen + seen
        if file.exists():
            found.take(await verified(copied(file, tmp_path / "copy"), sources))
        if chance.random() < 0.1:
            file.unlink(missing_ok=True)  # then the next one builds it
    print(found)  # noqa: T201 - shown by -s
    assert found.differences == []
    assert found.compared >= found.seen
    assert len(found.positions) >= found.seen, "it came on between the kills"


async def test_the_server_is_killed_under_it(
    own_server: NatsServer, wire: Wire, tmp_path: Path
) -> None:
    """What was acknowledged is there when it comes back, and so are its rows.

    Nothing is folded twice, and the model is not taken for another log's.
    """
    file, login = tmp_path / "model.duckdb", Login(own_server.url)
    sources = Sources(*all_streams(wire, login))
    commits, position = endless(), 0
    async with projecting(file, sources) as projector:
        before = file.stat().st_ino
        for _ in range(3):
            for subject, body in islice(commits, PIECE):
                ack = await wire.client.jetstream().publish(subject, body)
                position = ack.seq
            own_server.kill()
            own_server.start()
            await until_there(sources)
            assert (await sources.events.extent()).last == position
        await projector.reached(position, seconds=PATIENCE)
    async with projecting(file, sources):
        assert file.stat().st_ino == before, "it was gone on with"
    report = await verified(file, sources)
    assert (report.differences, report.position) == ([], position)


async def until_there(sources: Sources) -> None:
    """Wait until the server answers."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(Unavailable):
                await sources.extents()
                return


def endless() -> Iterator[Commit]:
    """Histories without an end, a few at a time."""
    return chain.from_iterable(interleaved(seed, 20) for seed in count(1))


@dataclass
class Found:
    """What was found after the kills."""

    kills: int = 0
    seen: int = 0
    compared: int = 0
    executions: int = 0
    rows: int = 0
    lines: int = 0
    positions: set[int] = field(default_factory=set)
    differences: list[str] = field(default_factory=list)

    def take(self, report: Verified) -> None:
        """Count what was compared."""
        self.compared += 1
        self.executions, self.rows = report.executions, self.rows + report.rows
        self.lines += report.lines
        self.positions.add(report.position)
        self.differences += report.differences

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.compared} models compared at "
            f"{len(self.positions)} positions (the last had {self.executions} "
            f"executions): {self.rows} rows, {self.lines} log lines, "
            f"{len(self.differences)} differ"
        )

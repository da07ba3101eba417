"""The projector killed at any moment: every row is what the log says it must be."""

import asyncio
import os
import shutil
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from form import by_form
from lifelike import interleaved
from logs import JetStreamLog
from nats_server import NatsServer
from readmodels import drift

from events.bulk import Login
from events.logstream import JetStreamLogbook
from events.names import EVENTS
from events.rawlog import Raw
from events.rawstream import JetStreamRawLog, all_streams
from events.tablestream import JetStreamTimetable
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from projections.store import Store

PROCESS = Path(__file__).parents[1] / "support" / "projector_process.py"
KILLS = by_form(8, 160)
Commit = tuple[str, bytes]
PIECE = 40
"""Commits that are appended while one process lives."""


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


async def one_life(
    life: Life, wire: Wire, chance: Random, piece: "list[Commit]", *, early: bool
) -> None:
    """Let it live for a while, and kill it at any moment.

    ``early``: maybe before it serves. Else it is seen to come on now and then.
    """
    if not early:
        await life.reached(0)
    while piece:
        subject, body = piece.pop(0)
        ack = await wire.client.jetstream().publish(subject, body)
        if not early and chance.random() < 0.1:
            await life.reached(ack.seq)
        if chance.random() < 0.03:
            break
    await asyncio.sleep(chance.choice([0.0, 0.001, 0.003, 0.01, 0.03]))
    await life.end()


def position_of(file: Path) -> int:
    """How far a model goes."""
    store = Store.open(file)
    try:
        return store.checkpoints()[EVENTS].position
    finally:
        store.close()


def copied(file: Path, to: Path) -> Path:
    """Copy a model with its log of changes, so that the killed one's stays as it is."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for name in (file.name, f"{file.name}.wal"):
        if (file.parent / name).exists():
            shutil.copy(file.parent / name, to / name)
    return to / file.name


@pytest.mark.timeout(by_form(600, 3600))
async def test_killed_at_any_moment(
    own_server: NatsServer, wire: Wire, tmp_path: Path
) -> None:
    """After each kill the rows are those of the position that the model names."""
    chance = Random(6)  # noqa: S311 - a schedule, no secret
    file, login = tmp_path / "model.duckdb", Login(own_server.url)
    log, *_ = all_streams(wire, login)
    commits = iter(interleaved(1, KILLS * PIECE // 12))
    compared, positions, piece = 0, set[int](), list[Commit]()
    for _ in range(KILLS):
        piece += islice(commits, PIECE - len(piece))
        early = compared > 0 and chance.random() < 0.2
        life = await Life.begin(own_server, file)
        await one_life(life, wire, chance, piece, early=early)
        if file.exists():
            copy = copied(file, tmp_path / "copy")
            position = position_of(copy)
            whole = await asyncio.to_thread(_all, log, position)
            assert drift(copy, whole) == []
            positions.add(position)
            compared += 1
        if chance.random() < 0.05:
            file.unlink(missing_ok=True)  # then the next one builds it
    assert compared >= KILLS * 0.7
    assert len(positions) >= compared // 4, "it came on between the kills"


def _all(log: JetStreamRawLog, upto: int) -> list[Raw]:
    return [raw for run in log.bulk(0, upto) for raw in run] if upto else []

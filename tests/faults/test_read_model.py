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


async def one_life(
    server: NatsServer, wire: Wire, file: Path, chance: Random, piece: "list[Commit]"
) -> str:
    """Let a projector follow for a moment, and kill it; returns what it had said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROCESS), server.url, str(file)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout
    said = await process.stdout.readline()
    early = chance.random() < 0.2
    if not early:
        said += await process.stdout.readline()
    while piece:
        subject, body = piece.pop(0)
        await wire.client.jetstream().publish(subject, body)
        if chance.random() < 0.1:
            await asyncio.sleep(chance.choice([0.0, 0.005, 0.02]))
        if early and chance.random() < 0.05:
            break
    process.kill()
    await process.wait()
    return said.decode()


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


@pytest.mark.timeout(by_form(120, 1800))
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
        await one_life(own_server, wire, file, chance, piece)
        if file.exists():
            copy = copied(file, tmp_path / "copy")
            position = position_of(copy)
            whole = await asyncio.to_thread(_all, log, position)
            assert drift(copy, whole) == []
            positions.add(position)
            compared += 1
        if chance.random() < 0.05:
            file.unlink(missing_ok=True)  # then the next one builds it
    assert compared >= KILLS * 0.9
    assert len(positions) >= compared // 3, "it came on between the kills"


def _all(log: JetStreamRawLog, upto: int) -> list[Raw]:
    return [raw for run in log.bulk(0, upto) for raw in run] if upto else []

"""``wake runners`` and ``wake recover``: who holds what, and what nobody does."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec

from events.muster import NatsPresences
from events.presence import BEAT
from gateway.composition import Log, Place, with_log
from gateway.output import put, put_json
from gateway.wording import moment, one_line, seconds
from services.handler import Handler
from services.recovery import Roll, Seen
from services.stuck import Stuck, find_stuck, put_back

LISTEN = 2 * BEAT
"""Seconds in which every runner, be it late, says at least once what it holds."""

REASON = "nobody held it (wake recover)"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A runner; ``holds`` are executions as ``<user>/<execution>``."""

    runner: str
    host: str
    pid: int
    lanes: tuple[str, ...]
    concurrency: int
    draining: bool
    uptime: float
    holds: tuple[str, ...]


def show(place: Place, *, as_json: bool) -> None:
    """Print every runner that is there; raises WakeError."""
    place.check()

    async def look(log: Log) -> list[Row]:
        async with _listening(log) as roll:
            return [_row(seen) for seen in roll.live()]

    rows = with_log(place, look)
    if as_json:
        for row in rows:
            put_json(row)
        return
    for line in _table(rows):
        put(line)


@asynccontextmanager
async def _listening(log: Log) -> AsyncIterator[Roll]:
    """Have heard every runner once, and go on hearing them.

    On a folder that nobody serves there are none.
    """
    roll = Roll()
    if log.server is not None:
        yield roll
        return
    async with NatsPresences(log.wire).hear(roll.hear):
        await asyncio.sleep(LISTEN)
        yield roll


def _row(seen: Seen) -> Row:
    said = seen.presence
    return Row(
        runner=said.runner,
        host=said.host,
        pid=said.process.pid,
        lanes=said.lanes,
        concurrency=said.concurrency,
        draining=said.draining,
        uptime=round(max(0.0, time.time() - said.since), 1),
        holds=tuple(sorted(map(str, seen.holds))),
    )


def _table(rows: list[Row]) -> Iterator[str]:
    if not rows:
        yield "no runner is here: start one with wake up, or wake service runner"
        return
    yield f"{'RUNNER':28}  {'PID':>7}  {'UP':>8}  {'HOLDS':>9}  LANES"
    for row in sorted(rows, key=lambda row: row.runner):
        full = f"{len(row.holds)}/{row.concurrency}"
        lanes = ", ".join(map(one_line, row.lanes))
        draining = " (draining)" * row.draining
        up = seconds(row.uptime)
        name = one_line(row.runner)
        yield f"{name:28}  {row.pid:>7}  {up:>8}  {full:>9}  {lanes}{draining}"
        yield from (f"    {one_line(held)}" for held in row.holds)


# ── recover ──────────────────────────────────────────────────────────────────


def recover(place: Place, older_than: float, *, dry_run: bool, as_json: bool) -> None:
    """Find what is stuck, and put it back unless ``dry_run``; raises WakeError."""
    place.check()

    async def see_to(log: Log) -> list[tuple[Stuck, bool]]:
        handler = Handler(log.journal, "operator")
        found = await _find(log, handler, older_than)
        if dry_run:
            return [(stuck, False) for stuck in found]
        return [(s, await put_back(handler, s, REASON)) for s in found]

    found = with_log(place, see_to)
    for stuck, done in found:
        if as_json:
            put_json({**msgspec.to_builtins(stuck), "put_back": done})
        else:
            put(_told(stuck, done=done, dry_run=dry_run))
    if not found and not as_json:
        put("nothing is stuck: whatever says running is in a runner's hands")


async def _find(log: Log, handler: Handler, older_than: float) -> list[Stuck]:
    """Find what is stuck, and still is after every runner has spoken once more.

    So what was changing hands or ending at the moment is not among it. Where
    nobody serves, nobody holds anything, and no lease is waited for.
    """
    served = log.server is None

    async def look() -> list[Stuck]:
        found = find_stuck(handler, roll.held(), older_than, leases=served)
        return [stuck async for stuck in found]

    async with _listening(log) as roll:
        first = await look()
        if not first or not served:
            return first
        await asyncio.sleep(LISTEN)
        again = await look()
    return [stuck for stuck in again if stuck in first]


def _told(stuck: Stuck, *, done: bool, dry_run: bool) -> str:
    what = "put back" if done else "is stuck" if dry_run else "went on meanwhile"
    who = f", runner {one_line(stuck.runner)}" if stuck.runner else ""
    return f"{stuck.key} {what}: {stuck.status} since {moment(stuck.since)}{who}"

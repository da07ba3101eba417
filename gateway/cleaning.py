"""``wake cleanup``: what is old is deleted, and said line by line."""

import logging
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from events.journal import Journal
from events.logbook import Logbook
from events.logstream import JetStreamLogbook
from gateway.composition import Log, with_log
from gateway.exits import Exit
from gateway.flags import place_in
from gateway.output import put, put_json
from gateway.settings import Settings
from gateway.wording import moment, one_line, size
from services.archive import Archive
from services.handler import Handler
from services.janitor import Janitor, Swept

logger = logging.getLogger(__name__)

DAYS = 30
"""Days after the end, where nothing is configured to be deleted by itself."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for; None: as it is configured."""

    days: int | None = None
    logs_days: int | None = None
    archive: Path | None = None
    dry_run: bool = False


@dataclass
class Tally:
    """What came of it."""

    days: int
    dry_run: bool
    executions: int = 0
    left: int = 0
    bytes: int = 0
    log_lines: int = 0
    files: int = 0

    def take(self, swept: Swept) -> None:
        """Count one."""
        if swept.problem is not None:
            self.left += 1
            return
        self.executions += 1
        self.bytes += swept.bytes + swept.workspace_bytes
        self.log_lines += swept.log_lines
        self.files += swept.archive is not None


def clean(
    settings: Settings, nats: str | None, wanted: Wanted, *, as_json: bool
) -> Exit:
    """Delete what is old, or say what it is; returns the exit code.

    Raises WakeError: nothing is deleted if what was asked for cannot be.
    """
    place = place_in(settings, nats, settings.nats.janitor_login)
    place.check()
    archive = _archive(settings, wanted)
    days = _first(wanted.days, settings.retention.days, DAYS)
    tally = Tally(days=days, dry_run=wanted.dry_run)

    async def sweep(log: Log) -> None:
        await _clean(log, settings, wanted, archive, tally, as_json=as_json)

    with_log(place, sweep)
    if as_json:
        put_json(tally)
    else:
        put(_summary(tally, wanted))
    return Exit.FAILED if tally.left else Exit.COMPLETED


def _archive(settings: Settings, wanted: Wanted) -> Archive | None:
    folder = wanted.archive or settings.retention.archive
    if folder is None or wanted.dry_run:
        return None
    return Archive.open(folder, closed=settings.workspaces.root)


async def _clean(
    log: Log,
    settings: Settings,
    wanted: Wanted,
    archive: Archive | None,
    tally: Tally,
    *,
    as_json: bool,
) -> None:
    logs = await JetStreamLogbook.open(
        log.wire, days=settings.logs.days, replicas=settings.nats.replicas
    )
    janitor = janitor_of(log.journal, logs, settings, tally.days, archive)
    now = datetime.now(UTC)
    before = now - timedelta(days=tally.days)
    async with aclosing(janitor.clean(before, dry_run=wanted.dry_run)) as swept:
        async for one in swept:
            tally.take(one)
            if as_json:
                put_json(one)
            else:
                put(_told(one))
    if wanted.logs_days is not None and not wanted.dry_run:
        tally.log_lines += await logs.forget_before(
            now - timedelta(days=wanted.logs_days)
        )


def janitor_of(
    journal: Journal,
    logs: Logbook,
    settings: Settings,
    days: int,
    archive: Archive | None,
) -> Janitor:
    """Who deletes what ended ``days`` ago; log lines go by their age unless younger."""
    return Janitor(
        Handler(journal, "janitor"),
        workspaces=settings.workspaces.root,
        archive=archive,
        logbook=logs if days < settings.logs.days else None,
    )


async def clean_daily(
    journal: Journal, logs: Logbook, settings: Settings, days: int
) -> None:
    """Delete what is old, as it is configured; what came of it is logged."""
    archive, tally = _archive(settings, Wanted()), Tally(days=days, dry_run=False)
    janitor = janitor_of(journal, logs, settings, days, archive)
    before = datetime.now(UTC) - timedelta(days=days)
    async with aclosing(janitor.clean(before)) as swept:
        async for one in swept:
            tally.take(one)
    logger.info("clean-up: %s", _summary(tally, Wanted()))


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _told(swept: Swept) -> str:
    key = f"{swept.user}/{swept.execution}"
    if swept.problem is not None:
        return f"{key} is left: {one_line(swept.problem)}"
    done = "deleted" if swept.deleted else "would be deleted"
    if swept.status is None:
        return f"{key} {done}: the rest of it, {size(swept.bytes)}"
    history = f"{swept.commits} commits, {size(swept.bytes)}"
    ended = f"{swept.status} {moment(swept.ended)}"
    room = f" with {size(swept.workspace_bytes)}" if swept.deleted else ""
    workspace = f", its workspace{room}" if swept.workspace else ""
    kept = f", kept in {one_line(swept.archive)}" if swept.archive else ""
    return f"{key} {done}: {ended}, {history}{workspace}{kept}"


def _summary(tally: Tally, wanted: Wanted) -> str:
    """The last line for people."""
    age = f"ended more than {tally.days} days ago"
    count = tally.executions
    what = f"{count:,} executions" if count != 1 else "1 execution"
    done = "would be deleted" if tally.dry_run else "deleted"
    said = f"{what} {done}, {size(tally.bytes)}" if count else f"nothing {age}"
    if tally.log_lines:
        lines = "log line" if tally.log_lines == 1 else "log lines"
        said += f"; {tally.log_lines:,} {lines} deleted"
    if tally.dry_run and wanted.logs_days is not None:
        said += f"; log lines older than {wanted.logs_days} days would go too"
    return said + (f"; {tally.left:,} could not be deleted" if tally.left else "")

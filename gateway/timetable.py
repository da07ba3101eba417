"""``wake schedule ls``: when schedules are due, and what became of the last time."""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from events.errors import Corrupt, Deleted, UnknownEvent
from events.names import Key, check_id
from events.tablestream import JetStreamTimetable
from events.timetable import Definition, Entry, Missed, Overlap
from gateway.composition import Log, Place, with_log
from gateway.output import put, put_json
from gateway.wording import moment, one_line
from services.handler import Handler
from services.schedules import foreseen, status

NOT_RUN = ("queued", "skipped", "missed")
"""What may become of a time for which no run was started."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule; ``last`` is the last time that came, ``outcome`` what became of it.

    ``execution`` is the last run that was started, ``run_status`` how it stands.
    """

    name: str
    user: str
    when: str
    status: str
    overlap: Overlap
    missed: Missed
    next: datetime | None
    last: datetime | None
    outcome: str
    execution: str
    run_status: str
    started: int
    skipped: int
    times_missed: int
    by: str
    changed: datetime


def show(place: Place, user: str | None, *, as_json: bool) -> None:
    """Print the schedules of a user, or all; raises WakeError."""
    if user is not None:
        check_id(user, "user")
    place.check()

    async def look(log: Log) -> list[Row]:
        timetable = JetStreamTimetable(log.wire)
        return [await _row(log, entry) for entry in await timetable.all(user)]

    rows = with_log(place, look)
    if as_json:
        for row in rows:
            put_json(row)
        return
    for line in _table(rows):
        put(line)


async def _row(log: Log, entry: Entry) -> Row:
    definition, ran = entry
    return Row(
        name=definition.name,
        user=definition.user,
        when=when(definition),
        status=status(definition),
        overlap=definition.overlap,
        missed=definition.missed,
        next=foreseen(entry),
        last=ran.due,
        outcome=ran.outcome or "",
        execution=ran.execution,
        run_status=await _run_status(log, entry),
        started=ran.started,
        skipped=ran.skipped,
        times_missed=ran.missed,
        by=definition.by,
        changed=definition.at,
    )


async def _run_status(log: Log, entry: Entry) -> str:
    definition, ran = entry
    if ran.problem:
        return f"refused: {ran.problem}"
    if not ran.execution:
        return ""
    key = Key(definition.user, ran.execution)
    try:
        state = (await Handler(log.journal, "cli").load(key)).state
    except Deleted:
        return "gone"
    except (Corrupt, UnknownEvent):
        return "cannot be read"
    return state.status if state.version else "gone" if ran.begun else "asked for"


def when(definition: Definition) -> str:
    """When it recurs, in words."""
    if definition.every:
        return f"every {definition.every} s"
    return f"{definition.cron} {definition.zone}"


def _table(rows: list[Row]) -> Iterator[str]:
    if not rows:
        yield 'no schedule is here: add one with wake schedule add NAME "PROMPT"'
        return
    yield f"{'NAME':20}  {'NEXT':19}  {'LAST':19}  {'LAST RUN':14}  WHEN"
    for row in rows:
        following = moment(row.next) if row.status == "active" else row.status
        run = row.outcome if row.outcome in NOT_RUN else row.run_status or "-"
        name = row.name if row.user == "local" else f"{row.user}/{row.name}"
        yield (
            f"{name:20}  {following:19}  {moment(row.last):19}  "
            f"{one_line(run):14}  {one_line(row.when)}"
        )

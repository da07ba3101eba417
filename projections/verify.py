"""``wake verify --read-model``: the log is folded anew, and every row compared.

The rows are those of one moment; the log is folded as far as they go. Executions
are taken in turns, by where they begin, so that memory is bounded however long the
log is. What is deleted meanwhile is left out.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event
from typing import TypeVar

import msgspec

from events.errors import InvalidInput
from events.logbook import Stored, decode_line
from events.names import EVENTS, LOGS, RECURRING, TRIGGERS, Key
from events.rawlog import Extent, Raw, RawLog
from events.timetable import Definition, Name, Ran
from projections.cursor import Cursor
from projections.drift import Difference, differences
from projections.outside import line_row, trigger_row
from projections.plans import note, part_of, schedule_row, undefined_row
from projections.purge import is_purge
from projections.queries import Verified
from projections.rebuild import Sources, Stopped
from projections.row import Row
from projections.rows import OWNED, LogRow, ScheduleRow, TriggerRow
from projections.threads import stoppable
from projections.truth import Truth
from projections.turn import Turn

M = TypeVar("M", LogRow, TriggerRow)

TURN = 100_000
"""Positions in which the executions of one turn begin."""

TOLD = 20
"""Differences that are told; the others are counted."""


_defined = msgspec.json.Decoder(Definition)
_ran = msgspec.json.Decoder(Ran)

Opened = Callable[[], Cursor]
"""Opens a cursor; each has a snapshot of its own."""


async def verify(sources: Sources, opened: Opened) -> Verified:
    """Compare all; raises WakeError. Threads do the work; it can be stopped."""
    cursor = opened()
    try:
        positions, aside = await asyncio.to_thread(_begin, cursor)
        extents = await sources.extents()  # after it: they must not be behind
        work = _Verification(sources, extents, cursor, positions)
        problems = await stoppable(lambda: list(work.problems()), work.stop)
    finally:
        cursor.close()
    if problems:
        problems = await asyncio.to_thread(_still_there, problems, opened)
    return Verified(
        executions=work.executions,
        rows=work.rows,
        lines=work.lines,
        aside=aside,
        position=positions[EVENTS],
        wrong=len(problems),
        differences=[str(problem) for problem in problems[:TOLD]],
    )


def _begin(cursor: Cursor) -> tuple[dict[str, int], int]:
    """Begin the snapshot; returns how far its rows go, and how much is put aside."""
    positions = dict(cursor.run("SELECT stream, position FROM checkpoints").rows)
    (aside,) = cursor.run("SELECT count(*) FROM dead_letters").rows[0]
    return positions, aside


def _still_there(problems: list[Difference], opened: Opened) -> list[Difference]:
    """Leave out executions that were deleted while all this was read."""
    cursor = opened()
    try:
        sql = 'SELECT "user", execution FROM executions'
        there = {Key(*row) for row in cursor.run(sql, (), 2**31).rows}
    finally:
        cursor.close()
    gone = "must not be there"
    return [p for p in problems if p.what != gone or p.key in there or not p.key.user]


class _Verification:
    """One pass: ``problems`` gives what differs, the rest counts."""

    def __init__(
        self,
        sources: Sources,
        extents: dict[str, Extent],
        cursor: Cursor,
        positions: dict[str, int],
    ) -> None:
        self._sources, self._extents, self._cursor = sources, extents, cursor
        self.positions = positions
        self.executions = self.rows = self.lines = 0
        self._purged: set[Key] = set()
        self._stopped = Event()

    def stop(self) -> None:
        """Let it end soon, by Stopped or Unavailable; for any thread."""
        self._stopped.set()
        self._cursor.interrupt()

    def problems(self) -> Iterator[Difference]:
        """Say all that is not as it must be."""
        for after in range(0, max(1, self.positions[EVENTS]), TURN):
            turn = Turn(after, after + TURN, self.positions[EVENTS])
            for raw in self._messages(self._sources.events, EVENTS, after):
                self._take(turn, raw)
            yield from self._compare(turn)
        yield from self._compare_outside()
        yield from self._compare_schedules()

    def _messages(self, source: RawLog, stream: str, after: int) -> Iterator[Raw]:
        extent = self._extents[stream]
        first = max(after, extent.first - 1, 0)
        if first < extent.last:
            for run in self._runs(source, first, extent.last):
                yield from run

    def _runs(self, source: RawLog, after: int, upto: int) -> Iterator[list[Raw]]:
        for run in source.bulk(after, upto):
            if self._stopped.is_set():
                raise Stopped
            yield run

    def _take(self, turn: Turn, raw: Raw) -> None:
        parts = raw.subject.split(".")
        if len(parts) == 4:  # noqa: PLR2004 - events.<user>.<execution>.<route>
            key = Key(parts[1], parts[2])
            if turn.after == 0 and is_purge(raw, key):
                self._purged.add(key)
            turn.take(raw, key)

    def _compare(self, turn: Turn) -> Iterator[Difference]:
        found = self._found(turn)
        truths = turn.truths()
        for key in [*truths, *(key for key in found if key not in truths)]:
            if key in turn.left_out:
                continue
            self.executions += 1
            rows = found.get(key, {})
            self.rows += sum(map(len, rows.values()))
            yield from differences(key, truths.get(key, Truth()), rows)

    def _found(self, turn: Turn) -> dict[Key, dict[type[Row], list[Row]]]:
        """The rows of this turn; those that belong to nobody are nobody's."""
        keys: dict[int, Key] = {}
        found: dict[Key, dict[type[Row], list[Row]]] = {}
        for kind in OWNED:
            for row in self._cursor.rows_of(kind, turn.after, turn.upto):
                eid: int = row.eid  # type: ignore[attr-defined]  # all OWNED have it
                if kind is OWNED[0]:
                    keys[eid] = Key(row.user, row.execution)  # type: ignore[attr-defined]
                key = keys.get(eid, Key("", f"eid {eid}"))
                found.setdefault(key, {}).setdefault(kind, []).append(row)
        return found

    def _compare_outside(self) -> Iterator[Difference]:
        """Log lines and triggers: each message that there is, and its row."""
        sources = self._sources
        yield from self._compare_messages(LOGS, sources.logs, LogRow, _line)
        yield from self._compare_messages(
            TRIGGERS, sources.triggers, TriggerRow, _trigger
        )

    def _compare_messages(
        self,
        stream: str,
        source: RawLog,
        kind: type[M],
        made: Callable[[Raw], M | None],
    ) -> Iterator[Difference]:
        first, last = self._extents[stream].first, self.positions[stream]
        for after in range(max(0, first - 1), last, TURN):
            upto = min(after + TURN, last)
            there: dict[int, list[M]] = {}
            for row in self._cursor.rows_of(kind, after, upto):
                there.setdefault(row.number, []).append(row)
            must: dict[int, list[M]] = {}
            for run in self._runs(source, after, upto):
                for row in filter(None, map(made, run)):
                    must[row.number] = [row]
            self._count(kind, sum(map(len, there.values())))
            for number in sorted(there.keys() | must.keys()):
                one = [must.get(number, []), there.get(number, [])]
                yield from self._message(kind, *one)

    def _count(self, kind: type[Row], there: int) -> None:
        if kind is LogRow:
            self.lines += there
        else:
            self.rows += there

    def _message(
        self, kind: type[M], must: list[M], there: list[M]
    ) -> Iterator[Difference]:
        one = (must or there)[0]
        key = Key(one.user, getattr(one, "execution", one.table))
        if key not in self._purged:
            yield from differences(key, Truth({kind: [*must]}), {kind: there})

    def _compare_schedules(self) -> Iterator[Difference]:
        """Schedules: the last definition, and the last of what came of it."""
        last: dict[tuple[Name, str], Raw] = {}
        for raw in self._messages(self._sources.recurring, RECURRING, 0):
            if raw.position <= self.positions[RECURRING]:
                with suppress(InvalidInput):
                    last[part_of(raw.subject)] = raw
        there: dict[Name, list[ScheduleRow]] = {}
        for row in self._cursor.all_of(ScheduleRow):
            there.setdefault((row.user, row.name), []).append(row)
        must = dict(_schedules(last))
        for name in sorted(there.keys() | must.keys()):
            rows: list[Row] = [must[name]] if name in must else []
            truth = Truth({ScheduleRow: rows})
            yield from differences(
                Key(*name), truth, {ScheduleRow: there.get(name, [])}
            )


def _schedules(
    last: dict[tuple[Name, str], Raw],
) -> Iterator[tuple[Name, ScheduleRow]]:
    for name in {name for name, _ in last}:
        removed = last.get((name, "removed"))
        since = removed.position if removed else 0
        defined, ran = last.get((name, "defined")), last.get((name, "ran"))
        row = undefined_row(name)
        if defined and defined.position > since:
            row = schedule_row(name, _defined.decode(defined.body))
        if ran and ran.position > since:
            note(row, _ran.decode(ran.body))
        if max(x.position for x in (defined, ran, removed) if x) > since:
            yield name, row


def _line(raw: Raw) -> LogRow | None:
    try:
        return line_row(decode_line(Stored(raw.position, raw.subject, raw.body)))
    except (InvalidInput, ValueError):
        return None


def _trigger(raw: Raw) -> TriggerRow | None:
    try:
        return trigger_row(raw)
    except InvalidInput:
        return None

"""Recurring starts as rows: of each schedule the last of what was said counts."""

from collections.abc import Iterable

import msgspec

from events.errors import InvalidInput
from events.rawlog import Raw
from events.timetable import Definition, Name, Ran
from projections.rows import ScheduleRow
from projections.texts import cut, utc, utc_or_none

PARTS = 4
"""Words of a subject: recurring.<user>.<schedule>.<part>."""

_defined = msgspec.json.Decoder(Definition)
_ran = msgspec.json.Decoder(Ran)


class Plans:
    """All schedules, as they are now; ``drain`` gives those that changed."""

    def __init__(self, rows: Iterable[ScheduleRow]) -> None:
        self._rows = {(row.user, row.name): row for row in rows}
        self._changed: dict[Name, None] = {}

    def take(self, raw: Raw) -> None:
        """Take in a message of RECURRING; raises InvalidInput, MsgspecError."""
        name, part = part_of(raw.subject)
        if part == "defined":
            self._define(name, _defined.decode(raw.body))
        elif part == "ran":
            self._note(name, _ran.decode(raw.body))
        elif part == "removed":
            self._rows.pop(name, None)
        self._changed[name] = None

    def _define(self, name: Name, definition: Definition) -> None:
        row, known = schedule_row(name, definition), self._rows.get(name)
        if known is not None:
            for field in _COME_OF:
                setattr(row, field, getattr(known, field))
        self._rows[name] = row

    def _note(self, name: Name, ran: Ran) -> None:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = undefined_row(name)
        note(row, ran)

    def drain(self) -> dict[Name, ScheduleRow | None]:
        """Return what changed since the last time; None: it is gone."""
        changed, self._changed = self._changed, {}
        return {name: self._rows.get(name) for name in changed}


_COME_OF = tuple(
    ScheduleRow.__struct_fields__[ScheduleRow.__struct_fields__.index("next_at") :]
)
"""The columns that say what came of a schedule."""


def part_of(subject: str) -> tuple[Name, str]:
    """Whose schedule a message is of, and which part; raises InvalidInput."""
    words = subject.split(".")
    if len(words) != PARTS:
        raise InvalidInput("this is no subject of a schedule")
    return (words[1], words[2]), words[3]


def schedule_row(name: Name, definition: Definition) -> ScheduleRow:
    """A schedule of which nothing has come yet."""
    start = definition.start
    return ScheduleRow(
        name[0],
        name[1],
        cut(str(start.get("agent_type", ""))),
        cut(str(start.get("input", ""))),
        cut(definition.cron),
        definition.every,
        definition.zone,
        definition.paused,
        utc(definition.at),
        definition.by,
    )


def undefined_row(name: Name) -> ScheduleRow:
    """What is left of a schedule of which only is known what came of it."""
    return ScheduleRow(name[0], name[1], "", "", "", 0, "", False, None, "")  # noqa: FBT003 - a column


def note(row: ScheduleRow, ran: Ran) -> None:
    """Write down what came of it."""
    row.next_at, row.run_for = utc_or_none(ran.next), utc_or_none(ran.run_for)
    row.execution, row.outcome = ran.execution or None, ran.outcome
    row.problem = cut(ran.problem) or None
    row.started, row.skipped, row.missed = ran.started, ran.skipped, ran.missed

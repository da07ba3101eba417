"""What is to be written: rows as they gather, and one transaction's worth of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from events.names import Key
from events.rawlog import Raw
from events.timetable import Name
from projections.live import Live
from projections.opened import Rows, no_rows
from projections.row import Row
from projections.rows import OWNED, DeadLetterRow, ScheduleRow
from projections.texts import cut


@dataclass
class Delta:
    """What a number of messages changed, to be written in one transaction.

    First all rows of ``erased`` go, and with True the log lines too; then the
    changing rows of ``settled`` and ``hot``; then ``cold`` and those of ``hot``
    are added. ``schedules`` are replaced, or go. ``positions`` are how far each
    stream was folded.
    """

    positions: dict[str, int]
    erased: dict[Key, bool] = field(default_factory=dict)
    settled: list[Live] = field(default_factory=list)
    hot: list[Live] = field(default_factory=list)
    cold: Mapping[type[Row], list[Row]] = field(default_factory=no_rows)
    schedules: dict[Name, ScheduleRow | None] = field(default_factory=dict)
    messages: int = 0


class Gathered:
    """Rows that are done, and executions whose rows go; in ``rows`` all put theirs."""

    def __init__(self) -> None:
        self.rows: Rows = no_rows()
        self._erased: dict[Key, bool] = {}
        self._gone: set[int] = set()
        self._forgotten: set[tuple[str | None, str | None]] = set()

    def letter(self, stream: str, raw: Raw, key: Key | None, reason: str) -> None:
        """Keep a message that cannot be folded, and why."""
        self.rows[DeadLetterRow].append(
            DeadLetterRow(
                stream,
                raw.position,
                raw.subject,
                key.user if key else None,
                key.execution if key else None,
                cut(reason),
                cut(raw.body.decode(errors="replace")),
            )
        )

    def erase(self, key: Key, live: Live | None, *, lines: bool) -> None:
        """Let all rows of an execution go; those not written yet, too."""
        self._erased[key] = lines or self._erased.get(key, False)
        self._forgotten.add(key)
        if live is not None:
            self._gone.add(live.row.eid)

    def sweep(self) -> None:
        """Drop rows of what was erased since they were made."""
        if not self._gone and not self._forgotten:
            return
        for kind in OWNED:
            self.rows[kind] = [
                row
                for row in self.rows[kind]
                if row.eid not in self._gone  # type: ignore[attr-defined]  # all OWNED have it
            ]
        self.rows[DeadLetterRow] = [
            row
            for row in self.rows[DeadLetterRow]
            if _about(row) not in self._forgotten
        ]
        self._gone, self._forgotten = set(), set()

    def hand_over(self, delta: Delta) -> None:
        """Let it be written; what comes now is for the next time."""
        delta.erased, self._erased = self._erased, {}
        delta.cold = dict(self.rows)
        self.rows.clear()


def _about(letter: Row) -> tuple[str | None, str | None]:
    assert isinstance(letter, DeadLetterRow)  # noqa: S101 - for the type checker
    return letter.user, letter.execution

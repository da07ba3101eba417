"""A read model without a database: rows in memory, written as the store does."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from events.names import Key
from events.rawlog import Raw
from projections.delta import Delta
from projections.drift import Difference, differences
from projections.fold import BEGINNING, Fold
from projections.live import Live
from projections.row import Row
from projections.rows import HOT, OWNED, DeadLetterRow, ExecutionRow, LogRow
from projections.truth import truth_of


class RowBook:
    """Rows that changes are written to; what is loaded are copies."""

    def __init__(self) -> None:
        self.done: dict[type[Row], list[Row]] = defaultdict(list)
        self.hot: dict[type[Row], list[Row]] = defaultdict(list)
        self.positions = dict(BEGINNING)

    def commit(self, delta: Delta) -> None:
        """Write what changed."""
        for key, lines_too in delta.erased.items():
            self._erase(key, lines_too=lines_too)
        for live in (*delta.hot, *delta.settled):
            for kind in live.stored:
                self._drop(self.hot, kind, {live.row.eid})
        for kind, rows in delta.cold.items():
            self.done[kind] += _copies(rows)
        for live in delta.hot:
            live.stored = {type(row) for row in live.open_rows()}
            for row in live.open_rows():
                self.hot[type(row)] += _copies([row])
        self.positions = dict(delta.positions)

    def _erase(self, key: Key, *, lines_too: bool) -> None:
        eids = {r.eid for r in self.rows(ExecutionRow) if (r.user, r.execution) == key}
        for kind in OWNED:
            self._drop(self.done, kind, eids)
            self._drop(self.hot, kind, eids)
        for kind in (DeadLetterRow, LogRow) if lines_too else (DeadLetterRow,):
            self.done[kind] = [
                r for r in self.done[kind] if (r.user, r.execution) != key
            ]

    @staticmethod
    def _drop(book: dict[type[Row], list[Row]], kind: type[Row], eids: set) -> None:
        book[kind] = [row for row in book[kind] if row.eid not in eids]

    def rows(self, kind: type[Row]) -> list:
        """All rows of a kind."""
        return [*self.hot[kind], *self.done[kind]]

    def fold(self, ended: int = 1) -> Fold:
        """Begin where this ends, as after a restart; hold few that have ended."""
        lives = {}
        for row in _copies(self.hot[ExecutionRow]):
            lives[row.eid] = Live(row, defaultdict(list))
        for kind in HOT[1:]:
            for row in _copies(self.hot[kind]):
                _put(lives[row.eid], row)
        for live in lives.values():
            live.stored = {type(row) for row in live.open_rows()}
        by_key = {Key(x.row.user, x.row.execution): x for x in lives.values()}
        return Fold(self.positions, by_key, ended=ended)

    def of(self, key: Key) -> dict[type[Row], list[Row]]:
        """The rows of one execution."""
        eids = {r.eid for r in self.rows(ExecutionRow) if (r.user, r.execution) == key}
        return {k: [r for r in self.rows(k) if r.eid in eids] for k in OWNED}


def _put(live: Live, row: Row) -> None:
    match type(row).table:
        case "tool_calls":
            live.calls.append(row)
        case "waits":
            live.waits[row.kind] = row
        case "children":
            live.children[row.child] = row


def _copies(rows: Iterable[Row]) -> list:
    return [msgspec.structs.replace(row) for row in rows]


def settle(fold: Fold, log: Sequence[Raw]) -> Delta:
    """Find what was lost, and drain."""
    for key in sorted(fold.lost):
        subject = f"events.{key.user}.{key.execution}."
        fold.refold(key, [raw for raw in log if raw.subject.startswith(subject)])
    return fold.drain()


def drift(book: RowBook, log: Sequence[Raw], keys: Iterable[Key]) -> list[Difference]:
    """All differences of some executions."""
    found: list[Difference] = []
    for key in keys:
        subject = f"events.{key.user}.{key.execution}."
        history = [raw for raw in log if raw.subject.startswith(subject)]
        found += differences(key, truth_of(key, history), book.of(key))
    return found

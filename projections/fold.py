"""The fold: from messages of the log to rows. Pure, no I/O; it never stops.

What changes is held as ``Live``; what is done leaves with the next ``Delta``. A
message that cannot be folded is put aside, with the reason; its execution stays
as it was. Executions that ended are not held: who comes back (a retry), or whose
history has a gap, is ``lost`` until ``refold`` is given the whole history.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from events.catalog import Purged
from events.commit import Commit, unseal
from events.errors import InvalidInput, WakeError
from events.logbook import Stored, decode_line
from events.names import EVENTS, LOGS, RECURRING, TRIGGERS, Key
from events.rawlog import Raw
from events.timetable import Name
from projections.live import Live
from projections.opened import Rows, no_rows
from projections.outside import line_row, trigger_row
from projections.plans import Plans
from projections.purge import is_purge
from projections.rows import (
    OWNED,
    DeadLetterRow,
    ExecutionRow,
    LogRow,
    Row,
    ScheduleRow,
    TriggerRow,
)
from projections.texts import cut

ENDED = 500
"""Executions that have ended and are still held."""

BEGINNING: Final = dict.fromkeys((EVENTS, LOGS, TRIGGERS, RECURRING), 0)
"""The streams that are folded, and where they begin."""

PURGED = 10_000
"""Executions of which it is remembered that they were deleted: lines come late."""

_EVENTS, _PARTS = "events", 4


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


class Fold:
    """Follows the streams from ``positions``, with what was live there."""

    def __init__(
        self,
        positions: Mapping[str, int],
        live: Mapping[Key, Live] | None = None,
        schedules: Iterable[ScheduleRow] = (),
        *,
        ended: int = ENDED,
    ) -> None:
        self._most_ended = ended
        self.positions = {**BEGINNING, **positions}
        self.lost: set[Key] = set()
        self._out: Rows = no_rows()
        self._live: dict[str, Live] = {}
        self._touched: dict[str, Live] = {}
        self._erased: dict[Key, bool] = {}
        self._gone: set[int] = set()
        self._forgotten: set[tuple[str | None, str | None]] = set()
        self._unreadable: Final[dict[Key, str]] = {}
        self._count = 0
        self._schedules = Plans(schedules)
        self._others: dict[str, Callable[[Raw], None]] = {
            LOGS: self._take_line,
            TRIGGERS: self._take_trigger,
            RECURRING: self._schedules.take,
        }
        self._ended: dict[str, Live] = {}
        self._purged: dict[Key, None] = {}
        for key, one in (live or {}).items():
            one.out = self._out
            self._live[_name(key)] = one
            if one.final:
                self._ended[_name(key)] = one

    def __len__(self) -> int:
        return len(self._live)

    # ── EVENTS ───────────────────────────────────────────────────────────────

    def apply(self, raw: Raw) -> None:
        """Take in a message of EVENTS; one that was taken in changes nothing."""
        position, subject, body = raw
        if position <= self.positions[EVENTS]:
            return
        self.positions[EVENTS] = position
        self._count += 1
        name, _, route = subject.rpartition(".")
        live = self._live.get(name)
        try:
            key = live.key if live is not None else _key(name)
            commit = unseal(body, key)
        except WakeError as error:
            self._put_aside(raw, live, str(error))
            return
        if live is None:
            live = self._begin(raw, commit, key, name)
            if live is None:
                return
        if commit.events and type(commit.events[-1]) is Purged:
            self._erase(key, name, live, purged=True)
        elif commit.version == live.row.version + 1 and live.row.problem is None:
            live.follow(commit, route, position)
            self._touched[name] = live
            if live.again:
                self._erase(key, name, live, purged=False)
                self.lost.add(key)
        else:
            self._miss_in(raw, key, name, live)

    def _begin(self, raw: Raw, commit: Commit, key: Key, name: str) -> Live | None:
        """Hold one that begins here; others are looked for, or let go of."""
        if key in self.lost:
            return None
        if commit.events and type(commit.events[-1]) is Purged:
            self._erase(key, name, None, purged=True)
            self._unreadable.pop(key, None)
        elif commit.version == 1:
            row = ExecutionRow(raw.position, key.execution, key.user)
            live = self._live[name] = Live(row, self._out)
            return live
        else:
            self._miss(raw, key)
        return None

    def _miss_in(self, raw: Raw, key: Key, name: str, live: Live) -> None:
        """What does not follow what is held: look into the whole history, once."""
        if live.row.problem:
            self._put_aside(raw, live, live.row.problem)
        else:
            self._erase(key, name, live, purged=False)
            self.lost.add(key)

    def _miss(self, raw: Raw, key: Key) -> None:
        """It is not held: it ended and comes back, or its beginning is not there."""
        known = self._unreadable.get(key)
        if known:
            self._letter(raw, key, known)
        else:
            self._erase(key, _name(key), None, purged=False)
            self.lost.add(key)

    def _put_aside(self, raw: Raw, live: Live | None, reason: str) -> None:
        """Keep what cannot be folded, and say so with its execution."""
        key = _key_or_none(raw.subject)
        if live is None and key is not None:
            if key not in self.lost:
                self._miss(raw, key)
            return
        if live is not None and live.row.problem is None:
            live.row.problem = f"position {raw.position}: {reason}"
            self._touched[raw.subject.rpartition(".")[0]] = live
        self._letter(raw, key, reason)

    def _letter(
        self, raw: Raw, key: Key | None, reason: str, stream: str = EVENTS
    ) -> None:
        self._out[DeadLetterRow].append(
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

    def _erase(self, key: Key, name: str, live: Live | None, *, purged: bool) -> None:
        """Let all rows of an execution go; those not written yet, too."""
        self._erased[key] = purged or self._erased.get(key, False)
        if purged:
            self._purged[key] = None
            if len(self._purged) > PURGED:
                del self._purged[next(iter(self._purged))]
        self._forgotten.add(key)
        self._live.pop(name, None)
        self._touched.pop(name, None)
        self._ended.pop(name, None)
        if live is not None:
            self._gone.add(live.row.eid)

    # ── what was lost ────────────────────────────────────────────────────────

    def refold(self, key: Key, history: Sequence[Raw]) -> None:
        """Take in all that there is of a lost execution, oldest first.

        What is beyond the position of the fold comes again by itself.
        """
        self._sweep()
        self.lost.discard(key)
        past = [raw for raw in history if raw.position <= self.positions[EVENTS]]
        if past and is_purge(past[-1], key):
            self._erased[key] = True
            return
        live: Live | None = None
        for number, raw in enumerate(past, 1):
            live = self._again(raw, key, live, number)
        if live is not None:
            self._purged.pop(key, None)  # a copy that goes on behind its source's end
            self._touched[_name(key)] = self._live[_name(key)] = live

    def _again(self, raw: Raw, key: Key, live: Live | None, number: int) -> Live | None:
        """Take in one commit of a history that is folded anew."""
        known = live.row.problem if live else self._unreadable.get(key)
        reason = known
        try:
            commit = unseal(raw.body, key)
        except WakeError as error:
            reason = reason or str(error)
        else:
            if reason is None and commit.version == number:
                if live is None:
                    row = ExecutionRow(raw.position, key.execution, key.user)
                    live = Live(row, self._out)
                live.follow(commit, raw.subject.rpartition(".")[2], raw.position)
                live.again = False
                return live
            reason = reason or f"version {commit.version} follows {number - 1}"
        self._letter(raw, key, reason)
        if known is None and live is not None:
            live.row.problem = f"position {raw.position}: {reason}"
        elif known is None:
            self._unreadable[key] = reason
        return live

    # ── the other streams ────────────────────────────────────────────────────

    def take(self, stream: str, raw: Raw) -> None:
        """Take in a message of any stream; one that was taken in changes nothing."""
        if stream == EVENTS:
            self.apply(raw)
        elif raw.position > self.positions[stream]:
            self.positions[stream] = raw.position
            self._count += 1
            try:
                self._others[stream](raw)
            except (InvalidInput, ValueError, msgspec.MsgspecError) as error:
                self._letter(raw, None, str(error), stream)

    def _take_line(self, raw: Raw) -> None:
        line = decode_line(Stored(raw.position, raw.subject, raw.body))
        if line.key not in self._purged:
            self._out[LogRow].append(line_row(line))

    def _take_trigger(self, raw: Raw) -> None:
        self._out[TriggerRow].append(trigger_row(raw))

    # ── what comes out ───────────────────────────────────────────────────────

    def drain(self, *, hot: bool = True) -> Delta:
        """Return what changed since the last time.

        What has ended is let go of when it is many: so few rows are not worth a
        table as wide as theirs, and a retry finds them. Without ``hot``, all that
        has ended goes, and what may still change is left for a later time.
        """
        self._sweep()
        delta = Delta(dict(self.positions), self._erased, messages=self._count)
        touched, self._touched = self._touched, {}
        for name, live in touched.items():
            if live.final:
                self._ended[name] = live
            elif not hot:
                self._touched[name] = live
            else:
                self._ended.pop(name, None)
        if not hot or len(self._ended) >= self._most_ended:
            delta.settled = self._settle()
        if hot:
            delta.hot = [x for name, x in touched.items() if name in self._live]
        delta.schedules = self._schedules.drain()
        delta.cold = dict(self._out)
        self._out.clear()
        self._erased, self._count = {}, 0
        return delta

    def _settle(self) -> list[Live]:
        """Let go of what has ended, unless it came back."""
        ended = {name: live for name, live in self._ended.items() if live.final}
        for name, live in ended.items():
            for row in live.open_rows():
                self._out[type(row)].append(row)
            del self._live[name]
        self._ended = {}
        return list(ended.values())

    def _sweep(self) -> None:
        """Drop rows of what was erased since they were made."""
        if not self._gone and not self._forgotten:
            return
        for kind in OWNED:
            self._out[kind] = [
                row
                for row in self._out[kind]
                if row.eid not in self._gone  # type: ignore[attr-defined]
            ]
        self._out[DeadLetterRow] = [
            row
            for row in self._out[DeadLetterRow]
            if _about(row) not in self._forgotten
        ]
        self._gone, self._forgotten = set(), set()


def _name(key: Key) -> str:
    return f"{_EVENTS}.{key.user}.{key.execution}"


def _key(name: str) -> Key:
    parts = name.split(".")
    if len(parts) != _PARTS - 1:
        raise InvalidInput("this is no subject of a commit")
    return Key(parts[1], parts[2])


def _key_or_none(subject: str) -> Key | None:
    try:
        return _key(subject.rpartition(".")[0])
    except InvalidInput:
        return None


def _about(letter: Row) -> tuple[str | None, str | None]:
    assert isinstance(letter, DeadLetterRow)  # noqa: S101 - for the type checker
    return letter.user, letter.execution

"""The fold: from messages of the log to rows. Pure, no I/O; it never stops.

What changes is held as ``Live``; what is done leaves with the next ``Delta``. A
message that cannot be folded is put aside, with the reason; its execution stays
as it was. Executions that ended are not held: who comes back (a retry), or whose
history has a gap, is ``lost`` until ``refold`` is given the whole history, up to
the commit that was seen last of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from events.catalog import Purged
from events.commit import Commit, unseal
from events.errors import InvalidInput, WakeError
from events.logbook import Stored, decode_line
from events.names import EVENTS, LOGS, RECURRING, TRIGGERS, Key
from events.rawlog import Raw
from projections.delta import Delta, Gathered
from projections.live import Live
from projections.outside import line_row, trigger_row
from projections.plans import Plans
from projections.purge import is_purge
from projections.rows import (
    ExecutionRow,
    LogRow,
    ScheduleRow,
    TriggerRow,
)

ENDED = 500
"""Executions that have ended and are still held."""

BEGINNING: Final = dict.fromkeys((EVENTS, LOGS, TRIGGERS, RECURRING), 0)
"""The streams that are folded, and where they begin."""

PURGED = 10_000
"""Executions of which it is remembered that they were deleted: lines come late."""

_EVENTS, _PARTS = "events", 4


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
        self.lost: dict[Key, int] = {}
        self._gathered = Gathered()
        self._live: dict[str, Live] = {}
        self._touched: dict[str, Live] = {}
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
            one.out = self._gathered.rows
            self._live[_name(key)] = one
            if one.final:
                self._ended[_name(key)] = one

    def __len__(self) -> int:
        return len(self._live)

    # ── EVENTS ───────────────────────────────────────────────────────────────

    def apply(self, raw: Raw) -> None:
        """Take in a message of EVENTS; one that was taken in changes nothing."""
        self._apply_all((raw,))

    def _apply_all(self, run: Iterable[Raw]) -> None:
        """Take in messages of EVENTS, oldest first.

        In one loop, for nearly all are the next commit of an execution that is held.
        """
        positions, lives, touched = self.positions, self._live, self._touched
        for raw in run:
            position = raw.position
            if position <= positions[EVENTS]:
                continue
            positions[EVENTS] = position
            self._count += 1
            name, _, route = raw.subject.rpartition(".")
            live = lives.get(name)
            try:
                key = live.key if live is not None else _key(name)
                commit = unseal(raw.body, key)
            except WakeError as error:
                self._put_aside(raw, live, str(error))
                continue
            if live is None:
                live = self._begin(raw, commit, key, name)
                if live is None:
                    continue
            row, events = live.row, commit.events
            if events and type(events[-1]) is Purged:
                self._erase(key, name, live, purged=True)
            elif commit.version == row.version + 1 and row.problem is None:
                live.follow(commit, route, position)
                touched[name] = live
                if live.again:
                    self._erase(key, name, live, purged=False)
                    self.lost[key] = position
            else:
                self._miss_in(raw, key, name, live)

    def _begin(self, raw: Raw, commit: Commit, key: Key, name: str) -> Live | None:
        """Hold one that begins here; others are looked for, or let go of."""
        if key in self.lost:
            self.lost[key] = raw.position
            return None
        if commit.events and type(commit.events[-1]) is Purged:
            self._erase(key, name, None, purged=True)
            self._unreadable.pop(key, None)
        elif commit.version == 1:
            row = ExecutionRow(raw.position, key.execution, key.user)
            live = self._live[name] = Live(row, self._gathered.rows)
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
            self.lost[key] = raw.position

    def _miss(self, raw: Raw, key: Key) -> None:
        """It is not held: it ended and comes back, or its beginning is not there."""
        known = self._unreadable.get(key)
        if known:
            self._letter(raw, key, known)
        else:
            self._erase(key, _name(key), None, purged=False)
            self.lost[key] = raw.position

    def _put_aside(self, raw: Raw, live: Live | None, reason: str) -> None:
        """Keep what cannot be folded, and say so with its execution."""
        key = _key_or_none(raw.subject)
        if live is None and key is not None:
            if key in self.lost:
                self.lost[key] = raw.position
            else:
                self._miss(raw, key)
            return
        if live is not None and live.row.problem is None:
            live.row.problem = f"position {raw.position}: {reason}"
            self._touched[raw.subject.rpartition(".")[0]] = live
        self._letter(raw, key, reason)

    def _letter(self, raw: Raw, key: Key | None, reason: str) -> None:
        self._gathered.letter(EVENTS, raw, key, reason)

    def _erase(self, key: Key, name: str, live: Live | None, *, purged: bool) -> None:
        """Let all rows of an execution go, and hold it no more."""
        self._gathered.erase(key, live, lines=purged)
        if purged:
            self._purged[key] = None
            if len(self._purged) > PURGED:
                del self._purged[next(iter(self._purged))]
        self._live.pop(name, None)
        self._touched.pop(name, None)
        self._ended.pop(name, None)

    # ── what was lost ────────────────────────────────────────────────────────

    def refold(self, key: Key, history: Sequence[Raw]) -> None:
        """Take in all that there is of a lost execution, oldest first.

        What is beyond the position of the fold comes again by itself.
        """
        self._gathered.sweep()
        self.lost.pop(key, None)
        past = [raw for raw in history if raw.position <= self.positions[EVENTS]]
        if past and is_purge(past[-1], key):
            self._gathered.erase(key, None, lines=True)
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
                    live = Live(row, self._gathered.rows)
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

    def take(self, stream: str, run: Iterable[Raw]) -> None:
        """Take in messages of a stream, oldest first.

        One that was taken in changes nothing.
        """
        if stream == EVENTS:
            self._apply_all(run)
            return
        for raw in run:
            if raw.position > self.positions[stream]:
                self.positions[stream] = raw.position
                self._count += 1
                self._take_other(stream, raw)

    def _take_other(self, stream: str, raw: Raw) -> None:
        try:
            self._others[stream](raw)
        except (InvalidInput, ValueError, msgspec.MsgspecError) as error:
            self._gathered.letter(stream, raw, None, str(error))

    def _take_line(self, raw: Raw) -> None:
        line = decode_line(Stored(raw.position, raw.subject, raw.body))
        if line.key not in self._purged:
            self._gathered.rows[LogRow].append(line_row(line))

    def _take_trigger(self, raw: Raw) -> None:
        self._gathered.rows[TriggerRow].append(trigger_row(raw))

    # ── what comes out ───────────────────────────────────────────────────────

    def drain(self, *, hot: bool = True) -> Delta:
        """Return what changed since the last time.

        What has ended is let go of when it is many: so few rows are not worth a
        table as wide as theirs, and a retry finds them. Without ``hot``, all that
        has ended goes, and what may still change is left for a later time.
        """
        self._gathered.sweep()
        delta = Delta(dict(self.positions), messages=self._count)
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
        self._gathered.hand_over(delta)
        self._count = 0
        return delta

    def _settle(self) -> list[Live]:
        """Let go of what has ended, unless it came back."""
        ended = {name: live for name, live in self._ended.items() if live.final}
        for name, live in ended.items():
            for row in live.open_rows():
                self._gathered.rows[type(row)].append(row)
            del self._live[name]
        self._ended = {}
        return list(ended.values())


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

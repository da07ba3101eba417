"""What of an execution may still change, as rows, and how it comes to its end."""

from collections import defaultdict
from datetime import datetime
from typing import Any

import msgspec

from events import catalog as e
from events.execution import IN_DOUBT
from events.names import Key
from events.state import FINAL
from projections.row import Row
from projections.rows import CallRow, ChildRow, ExecutionRow, SignalRow, WaitRow
from projections.texts import NONE, Sizes, as_json, cut, size, utc_or_none

Rows = defaultdict[type[Row], list[Row]]
"""Rows to be written, by kind."""

_encode = msgspec.json.Encoder().encode


def no_rows() -> Rows:
    """Nothing to be written yet."""
    return defaultdict(list)


class Opened:
    """One execution: its row, and what of it is open. ``out`` takes what is done.

    ``version``, ``by``, ``cause``, ``at`` and ``sizes`` are those of the commit that
    is taken in, ``signals`` how many it had until now.

    ``stored`` are the kinds of which the database has rows that may change, ``rest``
    is what its row there has beside its progress (``progress.py``); ``again`` says
    that rows which were done have changed: it must be folded anew.
    """

    __slots__ = (
        "again",
        "at",
        "by",
        "calls",
        "cause",
        "children",
        "key",
        "out",
        "rest",
        "row",
        "said",
        "signals",
        "sizes",
        "stored",
        "version",
        "waits",
    )

    version: int
    by: str
    cause: str | None
    at: datetime
    sizes: Sizes
    signals: int

    def __init__(self, row: ExecutionRow, out: Rows) -> None:
        self.row, self.out = row, out
        self.key = Key(row.user, row.execution)
        self.calls: list[CallRow] = []
        self.waits: dict[str, WaitRow] = {}
        self.children: dict[str, ChildRow] = {}
        self.stored: set[type[Row]] = set()
        self.rest: tuple[Any, ...] | None = None
        self.again = self.said = False

    @property
    def final(self) -> bool:
        """It has ended."""
        return self.row.status in FINAL

    def open_rows(self) -> list[Row]:
        """All rows that may still change."""
        return [self.row, *self.calls, *self.waits.values(), *self.children.values()]

    # ── what several events do ───────────────────────────────────────────────

    def _size(self, place: int, field: str, text: str) -> int:
        known = self.sizes.get(f"/{place}/{field}") if self.sizes is not NONE else None
        return size(text) if known is None else known

    def _stop(self, until: datetime) -> None:
        row = self.row
        if row.running_since is not None:
            passed = (until - row.running_since).total_seconds()
            row.active_seconds += max(0.0, passed)
        row.running_since = row.runner = None

    def _rest(self, status: str) -> None:
        self._stop(self.at)
        self.row.idle_attempts, self.row.status = 0, status

    def _end(self, status: str) -> None:
        row = self.row
        self._rest(status)
        row.completed_at = self.at
        row.pause_requested = row.cancel_requested = False
        self._drop_waits()

    @property
    def _resting(self) -> str:
        if "input" in self.waits:
            return "awaiting_input"
        return "awaiting_event" if "event" in self.waits or self.children else "pending"

    def _wake(self) -> None:
        if self.row.status != "paused":
            self.row.status = self._resting

    def _spend(self, usage: Any, cost: float | None, unpriced: int = 0) -> None:
        row = self.row
        row.input_tokens += usage.input
        row.output_tokens += usage.output
        if usage.cache_read or usage.cache_write:
            row.cache_read += usage.cache_read
            row.cache_write += usage.cache_write
        if cost is None:
            unpriced += 1
        else:
            row.cost += cost
        if unpriced:
            row.unpriced += unpriced

    def _signal(self, kind: str, detail: str | None = None) -> None:
        self.signals += 1
        self.out[SignalRow].append(
            SignalRow(
                self.row.eid,
                self.version,
                self.signals,
                self.row.user,
                kind,
                self.by,
                self.cause,
                cut(detail) if detail else None,
                self.at,
            )
        )

    # ── calls ────────────────────────────────────────────────────────────────

    def call(self, call_id: str | None) -> CallRow | None:
        """The open call of the last reply that has this id."""
        for call in self.calls if call_id else ():
            if call.call_id == call_id:
                return call
        return None

    def close(self, call: CallRow, output: str, outcome: str = "success") -> None:
        """End a call with what the model is told."""
        call.phase, call.outcome, call.completed_at = "done", outcome, self.at
        call.output, call.output_size = cut(output), size(output)
        if len(self.calls) > 1:
            self.calls = [other for other in self.calls if other is not call]
        else:
            self.calls = []
        self.out[CallRow].append(call)

    def _leave(self) -> None:
        """What is open of the last reply stays so: nothing leads back to it."""
        if self.calls:
            self.out[CallRow].extend(self.calls)
            self.calls = []

    def _answer_call(self, call: CallRow, kind: str | None, fact: Any) -> None:
        """Let an answer close the call that asked, or open it to be run."""
        choice = fact.answer if isinstance(fact.answer, dict) else {}
        decision, why = choice.get("decision"), str(choice.get("reason") or "")
        if fact.timed_out:
            self.close(call, "Nobody answered in time.", "failed")
        elif kind == "question":
            self.close(call, _said(fact.answer))
        elif decision in ("approve", "edit", "run_again"):
            call.phase, call.approved = "open", True
            if decision == "edit":
                self._edit(call, _encode(choice.get("arguments")).decode())
        elif kind == "approval":
            self.close(call, f"Denied. {why}".strip(), "denied")
        else:
            self.close(call, f"{IN_DOUBT} {why}".strip(), "in_doubt")

    @staticmethod
    def _edit(call: CallRow, arguments: str) -> None:
        call.arguments, call.arguments_size = cut(arguments), size(arguments)

    # ── waits ────────────────────────────────────────────────────────────────

    def _begin_wait(self, kind: str, **fields: Any) -> None:
        self._end_wait(kind, "dropped")
        row = self.row
        wait = WaitRow(row.eid, self.version, kind, row.user, self.at)
        for name, value in fields.items():
            setattr(wait, name, value)
        self.waits[kind] = wait

    def _await(self, awaited: e.Awaited) -> None:
        self._begin_wait(
            "event",
            event_type=awaited.event_type,
            filter=as_json(awaited.where),
            after_trigger=awaited.after_trigger,
            call_id=awaited.call_id,
            deadline=utc_or_none(awaited.deadline),
        )

    def _end_wait(
        self, kind: str, outcome: str, trigger: str | None = None
    ) -> WaitRow | None:
        wait = self.waits.pop(kind, None)
        if wait:
            wait.ended_at, wait.outcome, wait.trigger = self.at, outcome, trigger
            self.out[WaitRow].append(wait)
        return wait

    def _drop_waits(self) -> None:
        for kind in list(self.waits):
            self._end_wait(kind, "dropped")


def _said(answer: Any) -> str:
    return answer if isinstance(answer, str) else _encode(answer).decode()

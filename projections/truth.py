"""What the rows of an execution must be: from its history, by the execution itself.

Slow, and written apart from the fold on purpose: what is status, counter or phase
comes from ``Execution``, which runners obey. ``wake verify --read-model`` holds
every row against this.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from events.commit import Commit, Recorded, unseal
from events.errors import WakeError
from events.names import LANES, Key, split_subject
from events.rawlog import Raw
from events.state import Call, State, Turn
from projections.noted import Noted
from projections.purge import is_purge
from projections.row import Row
from projections.rows import CallRow, ChildRow, ExecutionRow, WaitRow
from projections.texts import as_json, cut, size, utc, utc_or_none


@dataclass
class Truth:
    """The rows that an execution must have; ``damaged`` says what ends its history."""

    rows: dict[type[Row], list[Row]] = field(default_factory=lambda: defaultdict(list))
    damaged: str | None = None


def truth_of(key: Key, history: Sequence[Raw]) -> Truth:
    """Fold a history as far as that goes."""
    teller = Teller(key)
    damaged = None
    for raw in history:
        try:
            teller.take(raw, unseal(raw.body, key))
        except WakeError as error:
            damaged = str(error)
            break
    nothing = teller.nothing or (bool(history) and is_purge(history[-1], key))
    return Truth({} if nothing else teller.rows(), damaged)


class Teller(Noted):
    """Folds one history; ``rows`` are what it has come to."""

    @property
    def nothing(self) -> bool:
        """There is nothing to be seen: no commit, or it is being deleted."""
        return self._last is None or self.state.purged

    def take(self, raw: Raw, commit: Commit) -> None:
        """Take in the next commit as it is stored; raises WakeError."""
        key, route = split_subject(raw.subject)
        self.follow(Recorded(raw.position, key, route, commit, raw.body))

    def follow(self, recorded: Recorded) -> None:
        """Take in the next commit; raises WakeError."""
        before = self._last
        self._execution.follow(recorded)
        self._first, self._last = self._first or recorded, recorded
        for place, fact in enumerate(recorded.commit.events):
            self._note(recorded, before, place, fact.upcast())
        self._close_waits(recorded)
        self._look_at_calls(recorded)

    # ── what the state tells ─────────────────────────────────────────────────

    def _close_waits(self, recorded: Recorded) -> None:
        """Whatever the state does not wait for any more has been dropped."""
        state = self.state
        there = {
            "input": state.request,
            "event": state.awaited,
            "start": state.scheduled_for,
        }
        for kind in [kind for kind in self._waits if there[kind] is None]:
            self._end(kind, recorded, "dropped")

    def _look_at_calls(self, recorded: Recorded) -> None:
        for (step, number), call in _calls(self.state):
            row = self._calls[step, number]
            if row.phase != "done" and call.phase == "done":
                row.completed_at = utc(recorded.commit.at)
                row.outcome, row.output = call.outcome, cut(call.output)
                row.output_size = row.output_size or size(call.output)
            if cut(call.arguments) != row.arguments:  # a person changed them
                row.arguments_size = size(call.arguments)
            row.arguments = cut(call.arguments)
            row.phase, row.attempt = call.phase, call.attempt
            row.approved = call.approved

    def rows(self) -> dict[type[Row], list[Row]]:
        """All rows, as of the newest commit."""
        rows = {kind: list(some) for kind, some in self._rows.items()}
        rows[ExecutionRow] = [self._row()]
        rows[CallRow] = list(self._calls.values())
        rows.setdefault(WaitRow, []).extend(self._waits.values())
        rows.setdefault(ChildRow, []).extend(self._children.values())
        return rows

    def _row(self) -> ExecutionRow:
        state, last, failure = self.state, self._last, self.state.failure
        assert last is not None  # noqa: S101 - see _eid
        return ExecutionRow(
            eid=self._eid,
            execution=state.id,
            user=state.user,
            status=state.status,
            agent=state.agent.name,
            model=state.agent.model,
            lane=state.lane,
            workspace=state.workspace,
            input=cut(state.input),
            input_size=self._sizes.get("input", 0),
            output=None if state.output is None else cut(state.output),
            output_size=0 if state.output is None else self._sizes["output"],
            metadata=as_json(state.metadata),
            notes=as_json(state.notes),
            tasks=as_json(state.tasks),
            finish_reason=state.finish_reason,
            error=failure.error if failure else None,
            error_message=cut(failure.message) if failure else None,
            retryable=failure.retryable if failure else None,
            cancel_reason=cut(state.cancel_reason),
            parent=state.parent.execution if state.parent else None,
            parent_call=state.parent.call_id if state.parent else None,
            depth=state.parent.depth if state.parent else 0,
            origin=state.origin[0] if state.origin else None,
            origin_version=state.origin[1] if state.origin else None,
            version=state.version,
            position=last.position,
            steps=state.steps,
            input_tokens=state.usage.input,
            output_tokens=state.usage.output,
            cache_read=state.usage.cache_read,
            cache_write=state.usage.cache_write,
            cost=state.cost,
            unpriced=state.unpriced,
            runner=state.runner,
            attempt=state.attempt,
            idle_attempts=state.idle_attempts,
            chunk=state.chunk,
            pause_requested=state.pause_requested,
            cancel_requested=state.cancel_requested,
            on_doubt=state.agent.on_doubt,
            active_seconds=state.active_seconds,
            created_at=utc_or_none(state.created_at),
            started_at=utc_or_none(state.started_at),
            queued_at=utc(last.commit.at) if last.route in LANES else None,
            running_since=utc_or_none(state.running_since),
            paused_at=utc_or_none(state.paused_at),
            updated_at=utc_or_none(state.updated_at),
            completed_at=utc_or_none(state.completed_at),
        )


def _calls(state: State) -> Iterator[tuple[tuple[int, int], Call]]:
    """The calls that the newest commit can have changed, by step and number."""
    for turn in state.turns[-3:]:
        if isinstance(turn, Turn):
            for number, call in enumerate(turn.calls, 1):
                yield (turn.step, number), call

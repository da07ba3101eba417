"""An execution that may still change, as rows: what is open, and what is done.

The same rules as ``events/execution.py``, to other ends: that one knows all that
a runner needs, this one what people ask about, and no more than fits a row. Each
is checked against the other (``truth.py``). Following cannot fail: what happened
cannot be refused.
"""

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from events import catalog as e
from events.commit import Commit
from events.execution import IN_DOUBT
from events.names import LANES
from projections.dealings import Dealings
from projections.rows import (
    AttemptRow,
    CallRow,
    StepRow,
)
from projections.texts import NONE, as_json, cut, size, sizes_of, utc

_lanes = frozenset(LANES)


class Live(Dealings):
    """An execution that follows its history; one method for each event."""

    __slots__ = ()

    def follow(self, commit: Commit, route: str, position: int) -> None:
        """Take in the next commit; nothing of it is held longer than it is needed."""
        row, queued, place = self.row, self.row.queued_at, 0
        self.version, self.by, self.cause = commit.version, commit.by, commit.cause
        self.at = at = utc(commit.at)
        self.signals = 0
        self.sizes = sizes_of(commit) if commit.blobs else NONE
        for fact in commit.events:  # nearly always one: enumerate takes twice as long
            _appliers[type(fact)](self, fact, place)
            place += 1  # noqa: SIM113
        row.version, row.position, row.updated_at = self.version, position, at
        if row.created_at is None:
            row.created_at = at
        if route in _lanes:
            row.queued_at = at
        elif queued is not None:
            row.queued_at = None

    # ── what each event does ─────────────────────────────────────────────────

    def created(self, fact: e.Created, place: int) -> None:
        """Somebody asked for it."""
        row, agent, parent = self.row, fact.agent, fact.parent
        row.agent, row.model, row.on_doubt = agent.name, agent.model, agent.on_doubt
        row.lane, row.workspace = fact.lane, fact.workspace
        row.input = cut(fact.input)
        row.input_size = self._size(place, "input", fact.input)
        row.metadata = as_json(fact.metadata)
        if parent:
            row.parent, row.parent_call = parent.execution, parent.call_id
            row.depth = parent.depth
        if fact.scheduled_for:
            self._begin_wait("start", deadline=utc(fact.scheduled_for))
        if fact.awaited:
            self._await(fact.awaited)
        row.status = self._resting

    def start_abandoned(self, _fact: e.StartAbandoned, _place: int) -> None:
        """It was never created."""
        self._end("cancelled")

    def started(self, fact: e.Started, _place: int) -> None:
        """A runner took it."""
        row = self.row
        self._stop(row.updated_at or self.at)
        queued = row.queued_at
        row.status, row.runner, row.attempt = "running", fact.runner, fact.attempt
        row.idle_attempts += 1
        row.running_since = self.at
        row.started_at = row.started_at or self.at
        self.out[AttemptRow].append(
            AttemptRow(
                row.eid,
                self.version,
                fact.attempt,
                row.user,
                row.agent,
                row.lane,
                fact.runner,
                queued,
                (self.at - queued).total_seconds() if queued else None,
                self.at,
            )
        )

    def model_responded(self, fact: e.ModelResponded, place: int) -> None:
        """The model answered."""
        row, usage, at, version = self.row, fact.usage, self.at, self.version
        text = fact.text
        if self.calls:
            self._leave()
        self.said, row.steps = False, fact.step
        if row.idle_attempts:
            row.idle_attempts = 0
        self._spend(usage, fact.cost)
        self.out[StepRow].append(
            StepRow(
                row.eid,
                fact.step,
                version,
                row.user,
                row.agent,
                fact.model,
                cut(text),
                size(text) if self.sizes is NONE else self._size(place, "text", text),
                len(fact.tool_calls),
                usage.input,
                usage.output,
                usage.cache_read,
                usage.cache_write,
                fact.cost,
                fact.latency_ms,
                fact.finish_reason,
                at,
            )
        )
        number = 0
        for call in fact.tool_calls:
            asked, number = call.arguments, number + 1
            self.calls.append(
                CallRow(
                    row.eid,
                    fact.step,
                    number,
                    version,
                    call.id,
                    call.name,
                    cut(asked),
                    size(asked)
                    if self.sizes is NONE
                    else self._size(place, f"tool_calls/{number - 1}/arguments", asked),
                    "open",
                    None,
                    0,
                    False,  # noqa: FBT003 - a column
                    None,
                    0,
                    None,
                    at,
                )
            )

    def tool_started(self, fact: e.ToolStarted, _place: int) -> None:
        """An irreversible tool is about to run."""
        call = self.call(fact.call_id)
        if call:
            call.phase, call.attempt, call.started_at = "started", fact.attempt, self.at

    def tool_completed(self, fact: e.ToolCompleted, place: int) -> None:
        """A call came to an end."""
        if self.row.idle_attempts:
            self.row.idle_attempts = 0
        call = self.call(fact.call_id)
        if call:
            call.latency_ms = fact.latency_ms
            self.close(call, fact.output, fact.outcome)
            if self.sizes is not NONE:
                call.output_size = self._size(place, "output", fact.output)

    def tool_in_doubt(self, fact: e.ToolInDoubt, _place: int) -> None:
        """Nobody knows if it happened."""
        call = self.call(fact.call_id)
        if call and self.row.on_doubt == "ask":
            call.phase = "in_doubt"
        elif call:
            self.close(call, IN_DOUBT, "in_doubt")

    def tasks_planned(self, fact: e.TasksPlanned, _place: int) -> None:
        """The todo list was replaced."""
        self.row.tasks = as_json(fact.tasks)

    def metadata_written(self, fact: e.MetadataWritten, _place: int) -> None:
        """Notes were written; None removes one."""
        notes = {**_noted(self.row.notes), **fact.notes}
        self.row.notes = as_json({k: v for k, v in notes.items() if v is not None})

    def chunk_completed(self, fact: e.ChunkCompleted, _place: int) -> None:
        """To the back of its lane."""
        self.row.chunk = fact.chunk
        self._rest("pending")

    def recovered(self, fact: e.Recovered, _place: int) -> None:
        """Its runner is gone."""
        self._stop(self.row.updated_at or self.at)
        self.row.status = "pending"
        self._signal("recovered", fact.reason)

    def completed(self, fact: e.Completed, place: int) -> None:
        """It ended by itself."""
        row = self.row
        row.output, row.finish_reason = cut(fact.output), fact.finish_reason
        row.output_size = self._size(place, "output", fact.output)
        self._end("completed")

    def failed(self, fact: e.Failed, _place: int) -> None:
        """It ended by an error."""
        row = self.row
        row.error, row.error_message = fact.error, cut(fact.message)
        row.retryable = fact.retryable
        self._end("failed")

    def purged(self, _fact: e.Purged, _place: int) -> None:
        """It is about to be deleted: its rows are, see ``fold.py``."""


def _method(kind: type[e.Event]) -> str:
    """The method for an event, after its wire name: ``tool_started.v1``."""
    return str(kind.__struct_config__.tag).partition(".")[0]


_Applier = Callable[[Live, Any, int], None]


def _applier(kind: type[e.Event]) -> _Applier:
    """What an event does; one of an old shape does what its successor does."""
    if kind.upcast is e.Event.upcast:
        applier: _Applier = getattr(Live, _method(kind))
        return applier

    def upcast(live: Live, fact: e.Event, place: int) -> None:
        new = fact.upcast()
        _appliers[type(new)](live, new, place)

    return upcast


_appliers = {kind: _applier(kind) for kind in get_args(e.AnyEvent)}


def _noted(notes: str | None) -> dict[str, Any]:
    noted: dict[str, Any] = msgspec.json.decode(notes) if notes else {}
    return noted

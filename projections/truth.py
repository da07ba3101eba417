"""What the rows of an execution must be: from its history, by the execution itself.

Slow, and written apart from the fold on purpose: what is status, counter or phase
comes from ``Execution``, which runners obey. ``wake verify --read-model`` holds
every row against this.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from events import catalog as e
from events.commit import Commit, Recorded, unseal
from events.errors import WakeError
from events.execution import Execution
from events.names import LANES, Key, split_subject
from events.rawlog import Raw
from events.state import Call, State, Turn
from projections.purge import is_purge
from projections.rows import (
    AttemptRow,
    CallRow,
    ChildRow,
    ExecutionRow,
    Row,
    SignalRow,
    StepRow,
    WaitRow,
)
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


class Teller:
    """Folds one history, and notes what the state alone does not tell."""

    def __init__(self, key: Key) -> None:
        self._execution = Execution(key)
        self._first: Recorded | None = None
        self._last: Recorded | None = None
        self._rows: dict[type[Row], list[Row]] = defaultdict(list)
        self._waits: dict[str, WaitRow] = {}
        self._children: dict[str, ChildRow] = {}
        self._calls: dict[tuple[int, int], CallRow] = {}
        self._sizes: dict[str, int] = {}

    @property
    def state(self) -> State:
        """The state after the newest commit."""
        return self._execution.state

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

    # ── what events tell ─────────────────────────────────────────────────────

    def _note(  # noqa: C901 - a line for each kind
        self, recorded: Recorded, before: Recorded | None, place: int, fact: e.Event
    ) -> None:
        match fact:
            case e.Created():
                self._note_size(recorded, place, "input", fact.input)
                self._note_created(recorded, fact)
            case e.Completed():
                self._note_size(recorded, place, "output", fact.output)
            case e.Started():
                self._rows[AttemptRow].append(self._attempt(recorded, before, fact))
            case e.ModelResponded():
                self._rows[StepRow].append(self._step(recorded, place, fact))
                self._note_calls(recorded, place, fact)
            case e.ToolStarted() | e.ToolCompleted():
                self._note_tool(recorded, place, fact)
            case e.InputRequested() | e.EventAwaited():
                self._note_wait(recorded, fact)
            case e.InputReceived() | e.EventReceived():
                self._note_end(recorded, fact)
            case e.ChildSpawned():
                self._note_child(recorded, fact)
            case e.ChildFinished():
                self._note_child_end(recorded, fact)
            case e.Forked():
                self._leave_children(recorded)
        signal = _signal(fact)
        if signal:
            self._note_signal(recorded, *signal)

    def _note_size(self, recorded: Recorded, place: int, field: str, text: str) -> None:
        self._sizes[field] = _size(recorded, f"/{place}/{field}", text)

    def _note_created(self, recorded: Recorded, fact: e.Created) -> None:
        if fact.scheduled_for:
            wait = self._wait(recorded, "start", deadline=utc(fact.scheduled_for))
            self._waits["start"] = wait
        if fact.awaited:
            self._waits["event"] = self._awaited(recorded, fact.awaited)

    def _attempt(
        self, recorded: Recorded, before: Recorded | None, fact: e.Started
    ) -> Row:
        at = utc(recorded.commit.at)
        queued = before and before.route in LANES
        since = utc(before.commit.at) if before and queued else None
        return AttemptRow(
            eid=self._eid,
            version=recorded.commit.version,
            attempt=fact.attempt,
            user=self.state.user,
            agent=self.state.agent.name,
            lane=self.state.lane,
            runner=fact.runner,
            queued_at=since,
            waited=(at - since).total_seconds() if since else None,
            started_at=at,
        )

    def _step(self, recorded: Recorded, place: int, fact: e.ModelResponded) -> Row:
        return StepRow(
            eid=self._eid,
            step=fact.step,
            version=recorded.commit.version,
            user=self.state.user,
            agent=self.state.agent.name,
            model=fact.model,
            text=cut(fact.text),
            text_size=_size(recorded, f"/{place}/text", fact.text),
            calls=len(fact.tool_calls),
            input_tokens=fact.usage.input,
            output_tokens=fact.usage.output,
            cache_read=fact.usage.cache_read,
            cache_write=fact.usage.cache_write,
            cost=fact.cost,
            latency_ms=fact.latency_ms,
            finish_reason=fact.finish_reason,
            responded_at=utc(recorded.commit.at),
        )

    def _note_calls(
        self, recorded: Recorded, place: int, fact: e.ModelResponded
    ) -> None:
        for number, call in enumerate(fact.tool_calls, 1):
            path = f"/{place}/tool_calls/{number - 1}/arguments"
            self._calls[fact.step, number] = CallRow(
                eid=self._eid,
                step=fact.step,
                number=number,
                version=recorded.commit.version,
                call_id=call.id,
                tool=call.name,
                arguments=cut(call.arguments),
                arguments_size=_size(recorded, path, call.arguments),
                phase="open",
                outcome=None,
                attempt=0,
                approved=False,
                output=None,
                output_size=0,
                latency_ms=None,
                asked_at=utc(recorded.commit.at),
                started_at=None,
                completed_at=None,
            )

    def _note_tool(
        self, recorded: Recorded, place: int, fact: e.ToolStarted | e.ToolCompleted
    ) -> None:
        row = self._open_call(fact.call_id)
        if row is None:
            return
        if isinstance(fact, e.ToolStarted):
            row.started_at = utc(recorded.commit.at)
        else:
            row.latency_ms = fact.latency_ms
            row.output_size = _size(recorded, f"/{place}/output", fact.output)

    def _open_call(self, call_id: str) -> CallRow | None:
        step = max((step for step, _ in self._calls), default=0)
        rows = (row for (s, _), row in self._calls.items() if s == step)
        return next((r for r in rows if r.call_id == call_id), None)

    def _note_wait(
        self, recorded: Recorded, fact: e.InputRequested | e.EventAwaited
    ) -> None:
        if isinstance(fact, e.EventAwaited):
            self._end("event", recorded, "dropped")
            self._waits["event"] = self._awaited(recorded, fact.awaited)
            return
        self._end("input", recorded, "dropped")
        self._waits["input"] = self._wait(
            recorded,
            "input",
            request=fact.request,
            ask=fact.kind,
            question=cut(fact.question),
            call_id=fact.call_id,
            deadline=utc_or_none(fact.deadline),
        )

    def _awaited(self, recorded: Recorded, awaited: e.Awaited) -> WaitRow:
        return self._wait(
            recorded,
            "event",
            event_type=awaited.event_type,
            filter=as_json(awaited.where),
            after_trigger=awaited.after_trigger,
            call_id=awaited.call_id,
            deadline=utc_or_none(awaited.deadline),
        )

    def _wait(self, recorded: Recorded, kind: str, **fields: object) -> WaitRow:
        wait = WaitRow(
            eid=self._eid,
            version=recorded.commit.version,
            kind=kind,
            user=self.state.user,
            began_at=utc(recorded.commit.at),
        )
        for name, value in fields.items():
            setattr(wait, name, value)
        return wait

    def _note_end(
        self, recorded: Recorded, fact: e.InputReceived | e.EventReceived
    ) -> None:
        outcome = "timed_out" if fact.timed_out else "received"
        if isinstance(fact, e.InputReceived):
            self._end("input", recorded, outcome)
        elif fact.trigger is None and not fact.timed_out:
            self._end("start", recorded, outcome)
        else:
            self._end("event", recorded, outcome, fact.trigger)

    def _end(
        self, kind: str, recorded: Recorded, outcome: str, trigger: str | None = None
    ) -> None:
        wait = self._waits.pop(kind, None)
        if wait:
            wait.ended_at = utc(recorded.commit.at)
            wait.outcome, wait.trigger = outcome, trigger
            self._rows[WaitRow].append(wait)

    def _note_child(self, recorded: Recorded, fact: e.ChildSpawned) -> None:
        self._children[fact.child] = ChildRow(
            eid=self._eid,
            child=fact.child,
            version=recorded.commit.version,
            user=self.state.user,
            call_id=fact.call_id,
            agent=fact.agent,
            prompt=cut(fact.prompt),
            status="running",
            summary=None,
            tokens=0,
            cost=None,
            spawned_at=utc(recorded.commit.at),
            finished_at=None,
        )

    def _note_child_end(self, recorded: Recorded, fact: e.ChildFinished) -> None:
        child = self._children.get(fact.child)
        if child and child.status == "running":
            child.status, child.summary = fact.status, cut(fact.summary) or None
            child.tokens, child.cost = fact.usage.total, fact.cost
            child.finished_at = utc(recorded.commit.at)

    def _leave_children(self, recorded: Recorded) -> None:
        for child in self._children.values():
            if child.status == "running":
                child.status, child.finished_at = "left", utc(recorded.commit.at)
        self._rows[ChildRow] += self._children.values()
        self._children = {}

    def _note_signal(self, recorded: Recorded, kind: str, detail: str) -> None:
        version = recorded.commit.version
        before = [r for r in self._rows[SignalRow] if getattr(r, "version") == version]  # noqa: B009 - a Row has none
        self._rows[SignalRow].append(
            SignalRow(
                eid=self._eid,
                version=version,
                number=len(before) + 1,
                user=self.state.user,
                kind=kind,
                by=recorded.commit.by,
                cause=recorded.commit.cause,
                detail=cut(detail) or None,
                happened_at=utc(recorded.commit.at),
            )
        )

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

    @property
    def _eid(self) -> int:
        assert self._first is not None  # noqa: S101 - rows are made of commits
        return self._first.position

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


def _size(recorded: Recorded, path: str, text: str) -> int:
    known = [blob.size for blob in recorded.commit.blobs if blob.path == path]
    return known[0] if known else size(text)


def _signal(  # noqa: PLR0911 - a line for each kind
    fact: e.Event,
) -> tuple[str, str] | None:
    """What a fact is as a signal, and what was said with it."""
    match fact:
        case e.PauseRequested():
            return "pause_requested", ""
        case e.Paused():
            return "paused", ""
        case e.Resumed():
            return "resumed", ""
        case e.CancelRequested():
            return "cancel_requested", fact.reason
        case e.Cancelled():
            return "killed" if fact.forced else "cancelled", fact.reason
        case e.InputReceived() if not fact.timed_out:
            return "input_received", msgspec.json.encode(fact.answer).decode()
        case e.Recovered():
            return "recovered", fact.reason
        case e.Retried():
            return "retried", fact.reason
        case e.Forked():
            return "forked", fact.input or ""
        case _:
            return None

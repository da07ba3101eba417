"""What a history tells that the state of its execution does not.

When, by whom and how long: the one half of the truth (``truth.py``), event by event.
It is written apart from the fold on purpose.
"""

from collections import defaultdict

from events import catalog as e
from events.commit import Recorded
from events.execution import Execution
from events.names import LANES, Key
from events.state import State
from projections.row import Row
from projections.rows import AttemptRow, CallRow, ChildRow, SignalRow, StepRow, WaitRow
from projections.signals import signal_of
from projections.texts import as_json, cut, size, utc, utc_or_none


class Noted:
    """Rows of one history, made of what its events say."""

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
    def _eid(self) -> int:
        assert self._first is not None  # noqa: S101 - rows are made of commits
        return self._first.position

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
        signal = signal_of(fact)
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


def _size(recorded: Recorded, path: str, text: str) -> int:
    known = [blob.size for blob in recorded.commit.blobs if blob.path == path]
    return known[0] if known else size(text)

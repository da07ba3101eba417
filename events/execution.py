"""The execution: one durable agent job, folded from its history.

The methods under ``@event`` *evolve* ``state``; they cannot fail, because what
happened cannot be refused. What may happen is decided in ``deciding.py``,
``running.py`` and ``commands.py``.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

import msgspec
from eventsourcing.domain import event

from events import catalog as e
from events.commit import Recorded, check
from events.errors import Corrupt
from events.messages import Outcome, Task, ToolCall, Usage
from events.names import LANES, Key, Route
from events.running import Running
from events.spec import AgentSpec, Lane
from events.state import Call, Child, Failure, Said, Status, Turn

IN_DOUBT = (
    "Outcome unknown: the runner was lost while this ran. It may or may not have "
    "happened; check before you do it again."
)
NOT_RUN = "Not run: the conversation went on without it."
_SIGNALS = (e.PauseRequested, e.CancelRequested, e.Resumed, e.ChildFinished)


class Wait(NamedTuple):
    """A wait for an event, and the commit that parked the execution for it."""

    awaited: e.Awaited
    position: int
    version: int
    chain: str
    lane: Lane


class Execution(Running):
    """One execution at one version, and the decisions not yet in the log."""

    @classmethod
    def fold(cls, key: Key, history: Iterable[Recorded]) -> Self:
        """Rebuild from a history; raises Corrupt on a gap or a broken chain."""
        execution = cls(key)
        for recorded in history:
            execution.follow(recorded)
        return execution

    @classmethod
    def parked(cls, key: Key, wait: Wait) -> Self:
        """Return an execution of which nobody knows more than what it waits for.

        Enough for ``receive``, if the commit that parked it is still its last one;
        if not, the log refuses the append. What it was told before (``applied``) is
        not in it, nor anything else.
        """
        execution = cls(key)
        state = execution.state
        state.version, state.chain = wait.version, wait.chain
        state.lane, state.awaited = wait.lane, wait.awaited
        state.status = "awaiting_event"
        execution.last_known_position = wait.position
        return execution

    def follow(self, recorded: Recorded) -> None:
        """Take in the next commit of the log; raises Corrupt if it is not that."""
        commit = recorded.commit
        if commit.version != self.state.version + 1:
            raise Corrupt(
                f"history of {self.key} has a gap: version {commit.version} follows "
                f"{self.state.version}; restore EVENTS from a backup"
            )
        check(recorded, self.state.chain)
        self.now, self.todo = commit.at, None
        for fact in commit.events:
            fact.upcast().mutate(self)
        self.committed(recorded)

    def committed(self, recorded: Recorded) -> None:
        """Note that the log holds what the state already shows."""
        state, commit = self.state, recorded.commit
        state.version, state.chain = commit.version, commit.chain
        state.updated_at = commit.at
        if state.created_at is None:
            state.created_at = commit.at
        if commit.cause is not None:
            state.applied.add(commit.cause)
        if recorded.route in LANES:
            state.work_version = commit.version
        self.last_known_position = recorded.position

    @property
    def position(self) -> int:
        """Where in the log the last commit stands; 0 before the first."""
        return self.last_known_position or 0

    def route(self, facts: Sequence[e.Event]) -> Route:
        """Who has to act on a commit of these events, now that they are applied."""
        state = self.state
        if state.final:
            return "finished"
        if state.runnable:
            return state.lane
        if state.status == "running":
            signal = any(isinstance(fact, _SIGNALS) for fact in facts)
            return "signal" if signal else "log"
        return "parked"

    def _rest(self, status: Status) -> None:
        """Let go of the runner; the way it ended was orderly."""
        self._stop(self.now)
        self.state.idle_attempts = 0
        self.state.status = status

    def _stop(self, until: datetime) -> None:
        state = self.state
        if state.running_since is not None:
            state.active_seconds = state.running_time(until)
        state.running_since, state.runner = None, None

    def _end(self, status: Status) -> None:
        self._rest(status)
        self.state.completed_at = self.now
        self.state.request = self.state.awaited = self.state.scheduled_for = None
        self.state.pause_requested = self.state.cancel_requested = False

    def _wake(self) -> None:
        """Go on, unless paused: then that waits for the resume."""
        if self.state.status != "paused":
            self.state.status = self.state.resting

    def _shut(self, call_id: str | None, output: str, outcome: Outcome) -> None:
        call = self.state.call(call_id) if call_id else None
        if call:
            call.close(output, outcome)

    @event(e.Created)
    def _(
        self,
        agent: AgentSpec,
        input: str,  # noqa: A002 - the event's field
        metadata: dict[str, Any],
        lane: Lane,
        workspace: str | None,
        parent: e.Parent | None,
        scheduled_for: datetime | None,
        awaited: e.Awaited | None,
        digest: str,
    ) -> None:
        state = self.state
        state.digest = digest
        state.agent, state.input, state.metadata = agent, input, metadata
        state.lane, state.workspace, state.parent = lane, workspace, parent
        state.scheduled_for, state.awaited = scheduled_for, awaited
        state.status = state.resting

    @event(e.StartAbandoned)
    def _(self) -> None:
        self._end("cancelled")

    @event(e.Started)
    def _(self, runner: str, attempt: int, delivery: int, own: bool) -> None:  # noqa: FBT001 - the event's field
        state = self.state
        self._stop(state.updated_at or self.now)
        state.status, state.runner, state.attempt = "running", runner, attempt
        state.delivery, state.own = delivery, own
        state.idle_attempts += 1
        state.running_since = self.now
        state.started_at = state.started_at or self.now

    @event(e.ModelResponded)
    def _(
        self,
        step: int,
        text: str,
        tool_calls: tuple[ToolCall, ...],
        usage: Usage,
        cost: float | None,
        opaque: Any,
    ) -> None:
        state = self.state
        calls = [Call(id=c.id, name=c.name, arguments=c.arguments) for c in tool_calls]
        state.turns.append(Turn(step=step, text=text, calls=calls, opaque=opaque))
        state.steps, state.chunk_steps = step, state.chunk_steps + 1
        state.idle_attempts = 0
        self._spend(usage, cost)

    def _spend(self, usage: Usage, cost: float | None, unpriced: int = 0) -> None:
        state = self.state
        state.usage = state.usage + usage
        state.cost += cost or 0.0
        state.unpriced += unpriced + (cost is None)

    @event(e.ToolStarted)
    def _(self, call_id: str, attempt: int) -> None:
        call = self.state.call(call_id)
        if call:
            call.phase, call.attempt = "started", attempt

    @event(e.ToolCompleted)
    def _(self, call_id: str, output: str, outcome: Outcome) -> None:
        self._shut(call_id, output, outcome)
        self.state.idle_attempts = 0

    @event(e.ToolInDoubt)
    def _(self, call_id: str) -> None:
        call = self.state.call(call_id)
        if call and self.state.agent.on_doubt == "ask":
            call.phase = "in_doubt"
        elif call:
            call.close(IN_DOUBT, "in_doubt")

    @event(e.TasksPlanned)
    def _(self, tasks: tuple[Task, ...]) -> None:
        self.state.tasks = tasks

    @event(e.MetadataWritten)
    def _(self, notes: dict[str, Any]) -> None:
        merged = {**self.state.notes, **notes}
        self.state.notes = {k: v for k, v in merged.items() if v is not None}

    @event(e.InputRequested)
    def _(
        self,
        request: str,
        kind: e.AskKind,
        call_id: str,
        question: str,
        schema: dict[str, Any] | None,
        digest: str | None,
        deadline: datetime | None,
    ) -> None:
        self.state.request = e.InputRequested(
            request=request,
            kind=kind,
            call_id=call_id,
            question=question,
            schema=schema,
            digest=digest,
            deadline=deadline,
        )
        call = self.state.call(call_id)
        if call:
            call.phase = "asked"
        self._rest("awaiting_input")

    @event(e.InputReceived)
    def _(self, answer: Any, timed_out: bool) -> None:  # noqa: FBT001 - the event's field
        request, self.state.request = self.state.request, None
        call = self.state.call(request.call_id) if request else None
        if request and call:
            answered(request.kind, call, answer, timed_out=timed_out)
        self._wake()

    @event(e.EventAwaited)
    def _(self, awaited: e.Awaited) -> None:
        self.state.awaited = awaited
        call = self.state.call(awaited.call_id) if awaited.call_id else None
        if call:
            call.phase = "waiting"
        self._rest("awaiting_event")

    @event(e.EventReceived)
    def _(
        self,
        event_type: str,
        payload: Any,
        trigger: str | None,
        timed_out: bool,  # noqa: FBT001 - the event's field
    ) -> None:
        state = self.state
        if trigger is None and not timed_out:  # a start came due
            state.scheduled_for = None
            self._wake()
            return
        awaited, state.awaited = state.awaited, None
        told = _told(event_type, payload, timed_out=timed_out)
        if awaited and awaited.call_id:
            self._shut(awaited.call_id, told, "failed" if timed_out else "success")
        elif awaited:
            state.turns.append(Said(told))
        self._wake()

    @event(e.PauseRequested)
    def _(self) -> None:
        self.state.pause_requested = True

    @event(e.Paused)
    def _(self) -> None:
        self._rest("paused")
        self.state.pause_requested = False
        self.state.paused_at = self.now

    @event(e.Resumed)
    def _(self) -> None:
        self.state.pause_requested = False
        if self.state.status == "paused":
            self.state.status = self.state.resting

    @event(e.CancelRequested)
    def _(self, reason: str) -> None:
        self.state.cancel_requested, self.state.cancel_reason = True, reason

    @event(e.Cancelled)
    def _(self, reason: str) -> None:
        self.state.cancel_reason = reason
        self._end("cancelled")

    @event(e.ChunkCompleted)
    def _(self, chunk: int) -> None:
        self.state.chunk, self.state.chunk_steps = chunk, 0
        self._rest("pending")

    @event(e.ChildSpawned)
    def _(self, call_id: str, child: str, agent: str, prompt: str) -> None:
        self.state.children[child] = Child(agent=agent, call_id=call_id, prompt=prompt)
        call = self.state.call(call_id)
        if call:
            call.phase = "waiting"
        self._rest("awaiting_event")

    @event(e.ChildFinished)
    def _(
        self,
        child: str,
        status: str,
        summary: str,
        usage: Usage,
        cost: float | None,
        unpriced: int,
    ) -> None:
        known = self.state.children.get(child)
        outcome: Outcome = "success" if status == "completed" else "failed"
        if known:
            known.status = status
            self._shut(known.call_id, summary or f"The subagent {status}.", outcome)
        self._spend(usage, cost, unpriced)
        if self.state.status == "awaiting_event":
            self.state.status = self.state.resting

    @event(e.Recovered)
    def _(self) -> None:
        self._stop(self.state.updated_at or self.now)
        self.state.status = "pending"

    @event(e.Retried)
    def _(self) -> None:
        state = self.state
        state.status, state.failure, state.completed_at = "pending", None, None
        state.idle_attempts = 0

    @event(e.Forked)
    def _(
        self,
        source: str,
        source_version: int,
        model: str | None,
        input: str | None,  # noqa: A002 - see above
    ) -> None:
        state = self.state
        state.origin, state.purged = (source, source_version), False
        self._rest("pending")
        state.parent = state.request = state.awaited = state.scheduled_for = None
        state.pause_requested = state.cancel_requested = False
        state.completed_at = state.failure = state.finish_reason = state.output = None
        state.children = {}
        if model is not None:
            state.agent = msgspec.structs.replace(state.agent, model=model)
        for call in state.turn.calls if state.turn else ():
            call.approved = False  # that was for the source, and once
            if call.phase in ("asked", "waiting"):
                call.phase = "open"
        if input is not None:
            self._leave_calls()
            state.turns.append(Said(input))

    def _leave_calls(self) -> None:
        """Close what the last reply asked for: the talk goes on without it."""
        for call in self.state.turn.calls if self.state.turn else ():
            if call.phase in ("started", "in_doubt"):
                call.close(IN_DOUBT, "in_doubt")
            elif call.phase != "done":
                call.close(NOT_RUN, "failed")

    @event(e.Completed)
    def _(self, output: str, finish_reason: e.FinishReason) -> None:
        self.state.output, self.state.finish_reason = output, finish_reason
        self._end("completed")

    @event(e.Failed)
    def _(self, error: str, message: str, retryable: bool) -> None:  # noqa: FBT001 - see above
        self.state.failure = Failure(error=error, message=message, retryable=retryable)
        self._end("failed")

    @event(e.Purged)
    def _(self) -> None:
        self.state.purged = True


def answered(kind: e.AskKind, call: Call, answer: Any, *, timed_out: bool) -> None:
    """Let an answer close the call that asked, or open it to be run."""
    choice = answer if isinstance(answer, dict) else {}
    decision, reason = choice.get("decision"), str(choice.get("reason") or "")
    if timed_out:
        call.close("Nobody answered in time.", "failed")
    elif kind == "question":
        call.close(answer if isinstance(answer, str) else _json(answer))
    elif decision in ("approve", "edit", "run_again"):
        call.phase, call.approved = "open", True
        if decision == "edit":
            call.arguments = _json(choice.get("arguments"))
    elif kind == "approval":
        call.close(f"Denied. {reason}".strip(), "denied")
    else:
        call.close(f"{IN_DOUBT} {reason}".strip(), "in_doubt")


def _told(event_type: str, payload: Any, *, timed_out: bool) -> str:
    if timed_out:
        return f"No event {event_type!r} arrived in time."
    return f"Event {event_type}: {_json(payload)}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()

"""What others do to an execution: people, what happens outside, its subagents."""

import msgspec

from events import catalog as e
from events.execution import IN_DOUBT, NOT_RUN
from projections.opened import Opened
from projections.rows import CallRow, ChildRow
from projections.texts import cut, utc_or_none

_encode = msgspec.json.Encoder().encode


class Dealings(Opened):
    """One method for each event that somebody else has caused, or is waited for."""

    __slots__ = ()

    def input_requested(self, fact: e.InputRequested, _place: int) -> None:
        """A person is asked."""
        self._begin_wait(
            "input",
            request=fact.request,
            ask=fact.kind,
            question=cut(fact.question),
            call_id=fact.call_id,
            deadline=utc_or_none(fact.deadline),
        )
        call = self.call(fact.call_id)
        if call:
            call.phase = "asked"
        self._rest("awaiting_input")

    def input_received(self, fact: e.InputReceived, _place: int) -> None:
        """The person answered, or the deadline did."""
        wait = self._end_wait("input", "timed_out" if fact.timed_out else "received")
        call = self.call(wait.call_id) if wait else None
        if wait and call:
            self._answer_call(call, wait.ask, fact)
        if not fact.timed_out:
            self._signal("input_received", _encode(fact.answer).decode())
        self._wake()

    def event_awaited(self, fact: e.EventAwaited, _place: int) -> None:
        """It waits for something outside."""
        self._await(fact.awaited)
        call = self.call(fact.awaited.call_id)
        if call:
            call.phase = "waiting"
        self._rest("awaiting_event")

    def event_received(self, fact: e.EventReceived, _place: int) -> None:
        """What was awaited arrived, or its deadline did, or a start came due."""
        if fact.trigger is None and not fact.timed_out:
            self._end_wait("start", "received")
            self._wake()
            return
        outcome = "timed_out" if fact.timed_out else "received"
        wait = self._end_wait("event", outcome, fact.trigger)
        call = self.call(wait.call_id) if wait and wait.call_id else None
        if call:
            self.close(call, _told(fact), "failed" if fact.timed_out else "success")
        elif wait and not wait.call_id:
            self._leave()  # something was said that answers no call
            self.said = True
        self._wake()

    def pause_requested(self, _fact: e.PauseRequested, _place: int) -> None:
        """Its runner shall stop."""
        self.row.pause_requested = True
        self._signal("pause_requested")

    def paused(self, _fact: e.Paused, _place: int) -> None:
        """It rests."""
        self._rest("paused")
        self.row.pause_requested, self.row.paused_at = False, self.at
        self._signal("paused")

    def resumed(self, _fact: e.Resumed, _place: int) -> None:
        """It may go on."""
        self.row.pause_requested = False
        if self.row.status == "paused":
            self.row.status = self._resting
        self._signal("resumed")

    def cancel_requested(self, fact: e.CancelRequested, _place: int) -> None:
        """Its runner shall end it."""
        self.row.cancel_requested, self.row.cancel_reason = True, cut(fact.reason)
        self._signal("cancel_requested", fact.reason)

    def cancelled(self, fact: e.Cancelled, _place: int) -> None:
        """Ended on request."""
        self.row.cancel_reason = cut(fact.reason)
        self._end("cancelled")
        self._signal("killed" if fact.forced else "cancelled", fact.reason)

    def child_spawned(self, fact: e.ChildSpawned, _place: int) -> None:
        """A subagent was asked for."""
        self.children[fact.child] = ChildRow(
            self.row.eid,
            fact.child,
            self.version,
            self.row.user,
            fact.call_id,
            fact.agent,
            cut(fact.prompt),
            "running",
            None,
            0,
            None,
            self.at,
            None,
        )
        call = self.call(fact.call_id)
        if call:
            call.phase = "waiting"
        self._rest("awaiting_event")

    def child_finished(self, fact: e.ChildFinished, _place: int) -> None:
        """A subagent ended."""
        child = self.children.pop(fact.child, None)
        if child:
            child.status, child.summary = fact.status, cut(fact.summary) or None
            child.tokens, child.cost = fact.usage.total, fact.cost
            child.finished_at = self.at
            self.out[ChildRow].append(child)
            call = self.call(child.call_id)
            outcome = "success" if fact.status == "completed" else "failed"
            if call:
                told = fact.summary or f"The subagent {fact.status}."
                self.close(call, told, outcome)
        self._spend(fact.usage, fact.cost, fact.unpriced)
        if self.row.status == "awaiting_event":
            self.row.status = self._resting

    def retried(self, fact: e.Retried, _place: int) -> None:
        """Somebody wants it to go on."""
        row = self.row
        row.status, row.idle_attempts = "pending", 0
        row.completed_at = row.error = row.error_message = row.retryable = None
        self._signal("retried", fact.reason)

    def forked(self, fact: e.Forked, _place: int) -> None:
        """All before this was copied; here the ways part."""
        row = self.row
        row.origin, row.origin_version = fact.source, fact.source_version
        self._rest("pending")
        self._drop_waits()
        row.parent = row.parent_call = row.completed_at = None
        row.depth, row.output, row.output_size = 0, None, 0
        row.error = row.error_message = row.retryable = row.finish_reason = None
        row.pause_requested = row.cancel_requested = False
        self._leave_children()
        if fact.model is not None:
            row.model = fact.model
        self._withdraw_approvals()
        for call in self.calls:
            if call.phase in ("asked", "waiting"):
                call.phase = "open"
        if fact.input is not None:
            self._go_on_without_calls()
        self._signal("forked", fact.input)

    def _withdraw_approvals(self) -> None:
        """An approval was for the source, and once."""
        self.again = True
        done = (c for c in self.out[CallRow] if isinstance(c, CallRow))
        last = (self.row.eid, 0 if self.said else self.row.steps)
        for call in [*self.calls, *(c for c in done if (c.eid, c.step) == last)]:
            call.approved = False

    def _leave_children(self) -> None:
        for child in self.children.values():
            child.status, child.finished_at = "left", self.at
            self.out[ChildRow].append(child)
        self.children = {}

    def _go_on_without_calls(self) -> None:
        self.said = True
        for call in list(self.calls):
            if call.phase in ("started", "in_doubt"):
                self.close(call, IN_DOUBT, "in_doubt")
            else:
                self.close(call, NOT_RUN, "failed")


def _told(fact: e.EventReceived) -> str:
    if fact.timed_out:
        return f"No event {fact.event_type!r} arrived in time."
    return f"Event {fact.event_type}: {_encode(fact.payload).decode()}"

"""What people may ask of an execution: imperative, and may be refused.

Each command decides what it means for the execution as it stands. To ask for
what already is so is accepted and changes nothing.
"""

from typing import Any

import msgspec

from events import answers
from events import catalog as e
from events.deciding import Deciding
from events.errors import NotAllowedNow, NotFound


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the commands; one with the same id has its effect once."""

    command_id: str = ""

    def decide(self, execution: Deciding) -> None:
        """Trigger what the request means now; raises Refused."""
        raise NotImplementedError


class Pause(Command, frozen=True, kw_only=True, tag="pause"):
    """Let it rest: at its runner's next commit, or at once if none holds it."""

    def decide(self, execution: Deciding) -> None:
        """Trigger a pause; refused after the end."""
        state = execution.state
        _alive(execution, "paused")
        if state.status == "running" and not state.pause_requested:
            execution.trigger_event(e.PauseRequested)
        elif state.status not in ("running", "paused"):
            execution.trigger_event(e.Paused)


class Resume(Command, frozen=True, kw_only=True, tag="resume"):
    """Let it go on, or withdraw a pause that has not taken effect yet."""

    def decide(self, execution: Deciding) -> None:
        """Trigger a resume; refused after the end."""
        _alive(execution, "resumed")
        if execution.state.status == "paused" or execution.state.pause_requested:
            execution.trigger_event(e.Resumed)


class Cancel(Command, frozen=True, kw_only=True, tag="cancel"):
    """End it in order: at its runner's next commit, or at once if none holds it."""

    reason: str = ""

    def decide(self, execution: Deciding) -> None:
        """Trigger a cancel; refused once it completed or failed."""
        state = execution.state
        if _already_cancelled(execution):
            return
        if state.status != "running":
            execution.note_doubts()
            execution.trigger_event(e.Cancelled, reason=self.reason)
        elif not state.cancel_requested:
            execution.trigger_event(e.CancelRequested, reason=self.reason)


class Kill(Command, frozen=True, kw_only=True, tag="kill"):
    """End it now, whatever it is doing."""

    reason: str = ""

    def decide(self, execution: Deciding) -> None:
        """End it, noting the irreversible calls whose outcome nobody will know."""
        if _already_cancelled(execution):
            return
        execution.note_doubts()
        execution.trigger_event(e.Cancelled, reason=self.reason, forced=True)


class Input(Command, frozen=True, kw_only=True, tag="input"):
    """Answer the request it waits for.

    An approval is answered by ``{"decision": "approve" | "deny" | "edit",
    "reason": …, "arguments": …, "digest": …}``, a doubt by ``{"decision":
    "run_again" | "tell", "reason": …, "digest": …}``, a question by any JSON that
    fits its schema. A digest that is given has to be that of the request.
    """

    request: str
    answer: Any

    def decide(self, execution: Deciding) -> None:
        """Trigger the answer; refused unless it fits, and this very request is open."""
        asked = execution.state.request
        _alive(execution, "answered")
        if asked is None or asked.request != self.request:
            raise NotFound(
                f"{execution.key} has no open request {self.request!r:.80}"
                + (f"; it waits for {asked.request!r}" if asked else "")
            )
        answers.check(asked, execution.state.call(asked.call_id), self.answer)
        execution.trigger_event(
            e.InputReceived, request=self.request, answer=self.answer
        )


class Retry(Command, frozen=True, kw_only=True, tag="retry"):
    """Let a failed execution go on from its last recorded step."""

    reason: str = ""

    def decide(self, execution: Deciding) -> None:
        """Trigger a retry; refused unless it failed, and for subagents."""
        state = execution.state
        execution.must_exist()
        if state.status != "failed" or state.purged:
            raise NotAllowedNow(f"{execution.key} is {state.status}, not failed")
        if state.parent is not None:
            raise NotAllowedNow(
                f"{execution.key} is a subagent whose parent was told that it failed: "
                f"retry or restart {state.parent.execution}"
            )
        execution.trigger_event(e.Retried, reason=self.reason)


AnyCommand = Pause | Resume | Cancel | Kill | Input | Retry


def _alive(execution: Deciding, done: str) -> None:
    state = execution.state
    execution.must_exist()
    if state.final:
        raise NotAllowedNow(f"{execution.key} is {state.status}: it cannot be {done}")


def _already_cancelled(execution: Deciding) -> bool:
    if execution.state.status == "cancelled":
        return True
    _alive(execution, "cancelled")
    return False

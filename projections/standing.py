"""The status that an execution has after a commit: mostly, the commit itself says.

Its route does: what is in a lane is pending, what is for its runner or for nobody
is running. What is parked or finished says by its events why. Only a commit that
leaves an execution parked for an older reason needs the history: an input that
arrives while it is paused, a resume while it waits. Then it is read and folded.
"""

from collections.abc import Awaitable, Callable, Sequence

from events import catalog as e
from events.commit import Recorded
from events.names import LANES
from events.state import State
from projections.notices import StatusChanged

Load = Callable[[Recorded], Awaitable[State | None]]
"""Gives the state of an execution after a commit; None if nobody knows."""

_QUEUED = frozenset(LANES)
_SAY = (
    e.Created,
    e.Paused,
    e.Resumed,
    e.InputRequested,
    e.InputReceived,
    e.EventAwaited,
    e.EventReceived,
    e.ChildSpawned,
    e.ChildFinished,
)
"""Events that have a say in what a parked execution waits for."""


class Unsaid(Exception):
    """A commit does not say by itself which status it led to: its history does."""


async def standing(recorded: Recorded, load: Load) -> StatusChanged | None:
    """What a commit decided about the status; None if nothing.

    The status may be the one it was: an input that arrives while it is paused.
    """
    try:
        return said(recorded)
    except Unsaid:
        state = await load(recorded)
        return None if state is None else of_state(state)


def said(recorded: Recorded) -> StatusChanged | None:
    """What a commit itself says about the status; raises Unsaid."""
    facts, version = recorded.commit.events, recorded.commit.version
    if recorded.route in _QUEUED:
        return StatusChanged(version=version, status="pending", reason=_why(facts))
    if recorded.route == "finished":
        return _ended(recorded)
    if recorded.route != "parked":
        return _begun(version, facts)
    told = _parked(version, facts)
    if told is None:
        raise Unsaid
    return told


def of_state(state: State) -> StatusChanged:
    """What is to be said of the status an execution has now."""
    failure = state.failure
    return StatusChanged(
        version=state.version,
        status=state.status,
        runner=state.runner,
        attempt=state.attempt if state.status == "running" else None,
        reason=(state.cancel_reason or None) if state.status == "cancelled" else None,
        request=state.request if state.status == "awaiting_input" else None,
        event_type=_awaited(state),
        output=state.output,
        finish_reason=state.finish_reason,
        error=failure.error if failure else None,
        message=failure.message if failure else None,
        retryable=failure.retryable if failure else None,
    )


def _awaited(state: State) -> str | None:
    waits = state.status == "awaiting_event" and state.awaited
    return waits.event_type if waits else None


def _begun(version: int, facts: Sequence[e.Event]) -> StatusChanged | None:
    """It runs: that is new if a runner has just taken it."""
    for fact in facts:
        if isinstance(fact, e.Started):
            return StatusChanged(
                version=version,
                status="running",
                runner=fact.runner,
                attempt=fact.attempt,
            )
    return None


def _why(facts: Sequence[e.Event]) -> str | None:
    """Why it is work again: lost, retried, another chunk, or nothing special."""
    for fact in facts:
        match fact:
            case e.Recovered(reason=reason) | e.Retried(reason=reason):
                return reason or None
    return None


def _ended(recorded: Recorded) -> StatusChanged | None:
    """What it came to; nothing new if it is only about to be deleted."""
    commit = recorded.commit
    version, packed = commit.version, bool(commit.blobs)
    for fact in commit.events:
        match fact:
            case e.Completed():
                return StatusChanged(
                    version=version,
                    status="completed",
                    output=fact.output,
                    finish_reason=fact.finish_reason,
                    truncated=packed,
                )
            case e.Failed():
                return StatusChanged(
                    version=version,
                    status="failed",
                    error=fact.error,
                    message=fact.message,
                    retryable=fact.retryable,
                )
            case e.Cancelled():
                reason = fact.reason or None
                return StatusChanged(version=version, status="cancelled", reason=reason)
            case e.StartAbandoned():
                return StatusChanged(version=version, status="cancelled")
    return None


def _parked(version: int, facts: Sequence[e.Event]) -> StatusChanged | None:
    """What it waits for, if the last event that has a say in it tells."""
    fact = next((fact for fact in reversed(facts) if isinstance(fact, _SAY)), None)
    match fact:
        case e.Paused():
            return StatusChanged(version=version, status="paused")
        case e.InputRequested():
            return StatusChanged(version=version, status="awaiting_input", request=fact)
        case e.Created(awaited=None):  # for later
            return StatusChanged(version=version, status="pending")
        case e.EventAwaited() | e.Created() | e.ChildSpawned():
            awaited = None if isinstance(fact, e.ChildSpawned) else fact.awaited
            event_type = awaited.event_type if awaited else None
            return StatusChanged(
                version=version, status="awaiting_event", event_type=event_type
            )
    return None

"""What has to be done now: the one rule that every runner obeys.

Pure: the same state at the same time gives the same answer. Some actions need
the world (``CallModel``, ``RunTools``); the others are themselves events and
are performed by the decision that leads to them, in the same commit. ``Await``
is among those if that decision was given the last position of TRIGGERS.
"""

from dataclasses import dataclass
from datetime import datetime

from events.catalog import AskKind, FinishReason
from events.control import CONTROL
from events.state import Call, State, Turn


@dataclass(frozen=True)
class CallModel:
    """Ask the model for the next reply."""


@dataclass(frozen=True)
class RunTools:
    """Run these calls, side by side."""

    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Ask:
    """Ask a person, and park."""

    kind: AskKind
    call: Call


@dataclass(frozen=True)
class Await:
    """Park until an event arrives."""

    call: Call


@dataclass(frozen=True)
class Spawn:
    """Start these subagents, and park."""

    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Yield:
    """Go to the back of the lane."""


@dataclass(frozen=True)
class Pause:
    """A requested pause takes effect."""


@dataclass(frozen=True)
class Cancel:
    """A requested cancel takes effect."""


@dataclass(frozen=True)
class Finish:
    """End, with the model's last words."""

    reason: FinishReason


@dataclass(frozen=True)
class Nothing:
    """No runner has anything to do here."""


Action = (
    CallModel | RunTools | Ask | Await | Spawn | Yield | Pause | Cancel | Finish
) | Nothing


def next_action(state: State, now: datetime) -> Action:
    """Say what has to be done at ``now`` with an execution that is running."""
    if state.status != "running":
        return Nothing()
    turn = state.turn
    open_calls = [c for c in turn.calls if c.phase != "done"] if turn else []
    runnable = tuple(c for c in open_calls if _is_runnable(c, state))
    if any(call.phase == "started" for call in runnable):
        return RunTools(runnable)  # irreversible: it is seen to its end first
    return (
        _signal(state)
        or _end(state, turn, now)
        or _work_left(state, open_calls, runnable)
        or _limit(state)
        or _chunk(state)
        or CallModel()
    )


def _is_runnable(call: Call, state: State) -> bool:
    """Say whether a runner may run it as things stand."""
    if call.phase == "started":
        return True
    approved = call.approved or call.name not in state.agent.approvals
    return call.phase == "open" and call.name not in CONTROL and approved


def _signal(state: State) -> Action | None:
    if state.cancel_requested:
        return Cancel()
    return Pause() if state.pause_requested else None


def _end(state: State, turn: Turn | None, now: datetime) -> Action | None:
    if turn and not turn.calls:
        return Finish("final_answer")
    if state.running_time(now) >= state.agent.limits.timeout:
        return Finish("timeout")
    return None


def _work_left(
    state: State, calls: list[Call], runnable: tuple[Call, ...]
) -> Action | None:
    """What the last reply still asks for; whatever parks comes after what runs."""
    for call in calls:
        if call.phase == "in_doubt":
            return Ask("doubt", call)
    if runnable:
        return RunTools(runnable)
    waiting = [call for call in calls if call.phase == "open"]
    for call in waiting:
        if call.name in state.agent.approvals and not call.approved:
            return Ask("approval", call)
        if call.name == "ask_user":
            return Ask("question", call)
        if call.name == "await_event":
            return Await(call)
    return Spawn(tuple(waiting)) if waiting else None


def _limit(state: State) -> Action | None:
    limits = state.agent.limits
    if state.steps >= limits.max_steps:
        return Finish("max_steps")
    if state.usage.total >= limits.max_tokens:
        return Finish("max_tokens")
    if limits.max_cost is not None and state.cost >= limits.max_cost:
        return Finish("max_cost")
    return None


def _chunk(state: State) -> Action | None:
    chunking = state.agent.chunking
    if chunking is None or state.chunk_steps < chunking.steps_per_chunk:
        return None
    if state.chunk + 1 >= chunking.max_chunks:
        return Finish("max_chunks")
    return Yield()

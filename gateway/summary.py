"""What came of an execution: as words, as one object, as an exit code."""

from typing import Any

from events.names import Key
from events.state import State
from gateway import question
from gateway.composition import Place
from gateway.exits import Exit
from gateway.progress import waits_for
from gateway.wording import cost, one_line, seconds, tokens

LIMITS = {
    "max_steps": "it reached its limit of {limits.max_steps:,} steps",
    "max_tokens": "it reached its limit of {limits.max_tokens:,} tokens",
    "max_cost": "it reached its limit of ${limits.max_cost}",
    "timeout": "it reached its time limit of {limits.timeout:g} s",
    "max_chunks": "it reached its limit of {chunking.max_chunks:,} chunks",
}


def exit_of(state: State) -> Exit:
    """The exit code that tells of this state."""
    if state.status == "completed":
        normal = state.finish_reason == "final_answer"
        return Exit.COMPLETED if normal else Exit.LIMIT
    if state.status == "failed":
        return Exit.FAILED
    return Exit.CANCELLED if state.status == "cancelled" else Exit.WAITING


def reason(state: State) -> str | None:
    """Why it is not a normal end, in words; None if it is one."""
    if state.failure is not None:
        failure = state.failure
        return f"{failure.error}: {one_line(failure.message)}"
    if state.status == "cancelled":
        return f"asked for by: {one_line(state.cancel_reason) or 'nobody knows'}"
    text = LIMITS.get(state.finish_reason or "")
    agent = state.agent
    limit = text and text.format(limits=agent.limits, chunking=agent.chunking)
    return f"NOT A NORMAL END: {limit}" if limit else _waiting(state)


def _waiting(state: State) -> str | None:
    waiting = waits_for(state)
    return waiting and one_line(waiting)


def ended(state: State) -> list[str]:
    """How it stands, in a few lines."""
    status: str = state.status
    if state.finish_reason is not None:
        status = f"{status} ({state.finish_reason})"
    why = reason(state)
    return [
        f"{status}: {', '.join(used(state))}",
        *([why] if why else []),
        f"execution {state.id}",
    ]


def used(state: State) -> tuple[str, ...]:
    """What it took: steps, tokens, money, time."""
    known = state.updated_at
    ran = state.running_time(known) if known else 0.0
    return (
        f"{state.steps:,} steps" if state.steps != 1 else "1 step",
        tokens(state.usage),
        cost(state.cost, state.unpriced),
        seconds(ran),
    )


def hints(key: Key, state: State, place: Place) -> list[str]:
    """What to type next."""
    look = f"its history: wake events {key.execution}{place.options}"
    if state.status == "awaiting_input":
        return [*question.answers(key, state, place), look]
    if state.final or state.status == "awaiting_event":
        return [look]
    return [resume_hint(key, place), look]


def resume_hint(key: Key, place: Place) -> str:
    """How to go on with it."""
    return f"go on with: wake run --resume {key.execution}{place.options}"


def as_object(state: State) -> dict[str, Any]:
    """The last line of ``wake run --json``; ``tokens`` is in and out, ``cost`` US $.

    ``asks`` is what it waits to be told, see ``question.as_object``.
    """
    failure = state.failure
    return {
        "id": state.id,
        "status": state.status,
        "output": state.output,
        "steps": state.steps,
        "tokens": state.usage.total,
        "finish_reason": state.finish_reason,
        "cost": None if state.unpriced else state.cost,
        "asks": question.as_object(state),
        "error": failure
        and {
            "error": failure.error,
            "message": failure.message,
            "retryable": failure.retryable,
        },
    }

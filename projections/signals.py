"""Which events are signals: something that was asked of a live execution."""

import msgspec

from events import catalog as e


def signal_of(  # noqa: PLR0911 - a line for each kind
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

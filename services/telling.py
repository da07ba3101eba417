"""Telling an execution's log lines: the port that ``logwriter`` stands behind."""

from typing import Any, Protocol

from events.names import Key, Level


class Tell(Protocol):
    """Writes a line about an execution; never blocks and never raises.

    ``event_type`` is a dotted word (``tool.failed``); ``context`` becomes JSON.
    """

    def __call__(
        self,
        key: Key,
        level: Level,
        event_type: str,
        message: str,
        /,
        **context: Any,
    ) -> None:
        """Write it; best effort."""


def silent(
    _key: Key, _level: Level, _event_type: str, _message: str, /, **_context: Any
) -> None:
    """Tell nobody."""

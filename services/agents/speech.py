"""What a model says while it says it: the port to whoever wants to read along."""

from collections.abc import Callable
from typing import Protocol

from events.names import Key
from services.agents.model import ignore


class Speech(Protocol):
    """One step's model call, with all its tries. Nothing here waits or fails."""

    @property
    def say(self) -> Callable[[str], None]:
        """Say some more."""
        ...

    def again(self) -> None:
        """Begin anew: what was said so far came to nothing."""
        ...

    def end(self) -> None:
        """Say no more: the reply is there, or never will be."""
        ...


Speak = Callable[[Key, int, int], Speech]
"""Begins the speech of an execution at a step, in an attempt."""


class Aloud:
    """Passes words on as they come, whatever becomes of them."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self.say = hear

    def again(self) -> None:
        """What was heard cannot be taken back."""

    def end(self) -> None:
        """Nothing is left to be said."""


_mute = Aloud(ignore)


def mute(_key: Key, _step: int, _attempt: int) -> Speech:
    """Let nobody read along."""
    return _mute

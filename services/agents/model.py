"""What a model is to a runner: the port that every provider stands behind."""

from collections.abc import Callable
from typing import Protocol

from events.messages import Reply, Request


def ignore(_text: str, /) -> None:
    """Hear nothing of the tokens as they come."""


class Model(Protocol):
    """Answers a conversation.

    Raises ModelUnavailable when the same request may succeed later, and
    ModelRefused when it will not; cancellation ends the call in flight.
    """

    name: str

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """One answer; ``on_text`` hears its text piece by piece as it comes."""
        ...

    async def aclose(self) -> None:
        """Let go of connections; asking twice is fine, asking for replies is not."""
        ...

"""What each user did through this gateway: lists show at least that."""

from collections import OrderedDict
from typing import Final

MOST: Final = 10_000
"""Users that are remembered; whoever did something longest ago is forgotten."""


class Seen:
    """The last position that each user was answered with."""

    def __init__(self) -> None:
        self._positions: OrderedDict[str, int] = OrderedDict()

    def note(self, user: str, position: int) -> None:
        """Remember a position, unless a later one is known."""
        known = self._positions.pop(user, 0)
        self._positions[user] = max(known, position)
        if len(self._positions) > MOST:
            self._positions.popitem(last=False)

    def of(self, user: str) -> int:
        """The position that a user may expect to see; 0: none."""
        return self._positions.get(user, 0)

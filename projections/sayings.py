"""What models are saying right now, as far as it was heard.

For who begins to watch in the middle of it. A piece that comes after its reply was
recorded, or after the model began anew, is superseded.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from events.deltas import Delta
from events.names import Key

MOST = 64 * 1024
"""Characters that are kept of one saying: of a longer one, its end."""

SAYINGS = 1_000
"""Executions of which it is kept: the one that was silent longest goes first."""

REPLIES = 20_000
"""Executions of which the last recorded step is remembered: pieces may come late."""


@dataclass
class _Saying:
    """The pieces of one saying, without a hole."""

    last: Delta
    parts: list[str] = field(default_factory=list)
    offset: int = 0
    size: int = 0

    def add(self, delta: Delta) -> None:
        if delta.offset != self.offset + self.size:
            self.parts, self.offset, self.size = [], delta.offset, 0
        self.parts.append(delta.text)
        self.size += len(delta.text)
        self.last = delta
        if self.size > MOST:
            self.parts = ["".join(self.parts)[-MOST:]]
            self.offset, self.size = self.offset + self.size - MOST, MOST


class Sayings:
    """By execution."""

    def __init__(self) -> None:
        self._sayings: OrderedDict[Key, _Saying] = OrderedDict()
        self._replied: OrderedDict[Key, int] = OrderedDict()

    def hear(self, key: Key, delta: Delta) -> bool:
        """Take a piece in; False if it is superseded."""
        if delta.step <= self._replied.get(key, 0):
            return False
        saying = self._sayings.get(key)
        if saying is None or delta.place > saying.last.place:
            saying = self._sayings[key] = _Saying(delta, offset=delta.offset)
        elif delta.place < saying.last.place:
            return False
        saying.add(delta)
        self._sayings.move_to_end(key)
        if len(self._sayings) > SAYINGS:
            self._sayings.popitem(last=False)
        return True

    def replied(self, key: Key, step: int) -> None:
        """The reply of a step is recorded: whatever was said of it is over."""
        self._sayings.pop(key, None)
        self._replied[key] = max(step, self._replied.pop(key, 0))
        if len(self._replied) > REPLIES:
            self._replied.popitem(last=False)

    def end(self, key: Key) -> None:
        """It stopped in the middle, or is over."""
        self._sayings.pop(key, None)

    def so_far(self, key: Key) -> Delta | None:
        """What was said so far, as one piece."""
        saying = self._sayings.get(key)
        if saying is None:
            return None
        text = "".join(saying.parts)
        return msgspec.structs.replace(saying.last, offset=saying.offset, text=text)

"""A cursor: how far somebody has come in the live feed, events and log lines alike.

It means the same for every gateway and every execution: positions of EVENTS and
LOGS. So whoever has one goes on with it wherever and with whatever.
"""

import re
from typing import NamedTuple

from events.errors import InvalidInput

WHOLE = 1 << 30
"""In place of a message's number in its commit: all of them."""

_CURSOR = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,6}))?-([0-9]{1,18})")


class Cursor(NamedTuple):
    """All up to message ``number`` of the commit at ``position``, and up to ``line``.

    Written ``17-4``; ``17.2-4`` within a commit of which more is to come.
    """

    position: int = 0
    number: int = WHOLE
    line: int = 0

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what was written, ``0`` being the beginning; raises InvalidInput."""
        if text == "0":
            return cls()
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise InvalidInput(
                f"{text!r:.80} is no cursor: give back one that a message had, or 0 "
                "for the beginning"
            )
        position, number, line = found.groups()
        return cls(int(position), WHOLE if number is None else int(number), int(line))

    def __str__(self) -> str:
        part = "" if self.number == WHOLE else f".{self.number}"
        return f"{self.position}{part}-{self.line}"

    @property
    def place(self) -> tuple[int, int]:
        """How far it is in events."""
        return self.position, self.number

    def covers(self, other: "Cursor") -> bool:
        """Whether whoever is here has all that one who is there has."""
        return self.place >= other.place and self.line >= other.line

    def furthest(self, other: "Cursor") -> "Cursor":
        """Where one is who has what both have."""
        position, number = max(self.place, other.place)
        return Cursor(position, number, max(self.line, other.line))


BEGINNING = Cursor()

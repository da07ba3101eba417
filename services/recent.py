"""Where triggers were seen lately: whether a wait may have missed one.

Who parks while a trigger is under way is seen by the reactor sooner or later than
that trigger. Later: then this says that there was one, and where to look.
"""

from collections import OrderedDict
from collections.abc import Iterable

KEPT = 10_000
"""Subjects remembered; of those forgotten it is only known that they were."""


class Recent:
    """The last position of each subject; all up to ``floor`` is unknown."""

    def __init__(self, floor: int, kept: int = KEPT) -> None:
        self._floor, self._kept = floor, kept
        self._last: OrderedDict[str, int] = OrderedDict()

    def note(self, subject: str, position: int) -> None:
        """Take in a trigger; positions only grow."""
        self._last[subject] = position
        self._last.move_to_end(subject)
        if len(self._last) > self._kept:
            _, self._floor = self._last.popitem(last=False)

    def may_have(self, subjects: Iterable[str], after: int) -> bool:
        """Whether there may have been one beyond ``after`` on any of these subjects."""
        if after < self._floor:
            return True
        return any(self._last.get(subject, 0) > after for subject in subjects)

"""Two forms of the fault suite: short in ``make test``, long in ``make faults``."""

import sys
from typing import TypeVar

T = TypeVar("T")

LONG = "--long" in sys.argv
"""Every kill point, larger loads, more rounds."""


def by_form(short: T, long: T) -> T:
    """Choose what belongs to the form that was asked for."""
    return long if LONG else short

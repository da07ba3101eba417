"""Values of the database as JSON that says what they are.

A number that JSON's readers would round is text: whole numbers beyond 2^53, and
all with a fixed number of decimals. So is what is no number. Everything else that
JSON has not comes from the database as text already (``sqltext.faithful``).
"""

from decimal import Decimal
from math import isfinite, isnan
from typing import Any, Final

EXACT: Final = 2**53 - 1
"""The largest whole number that a double has, and so every reader of JSON."""


def plain(value: Any) -> Any:
    """A value of a row, for JSON."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -EXACT <= value <= EXACT else str(value)
        case float():
            return value if isfinite(value) else _no_number(value)
        case Decimal():
            return f"{value:f}"
        case list() | tuple():  # a tuple is a list of a fixed length
            return [plain(item) for item in value]
        case _:
            return str(value)


def _no_number(value: float) -> str:
    if isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"

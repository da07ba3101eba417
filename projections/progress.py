"""What of an execution's row moves with every step: it is updated where it is.

The row has fifty columns, long texts among them. To delete it and add it anew takes
four times as long, and the old one is in everybody's way until the next checkpoint.
A row of which anything else has changed is replaced.
"""

from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Final

import msgspec

from projections.live import Live
from projections.rows import ExecutionRow

MOVING: Final = (
    "eid",
    "version",
    "position",
    "steps",
    "input_tokens",
    "output_tokens",
    "cache_read",
    "cache_write",
    "cost",
    "unpriced",
    "idle_attempts",
    "updated_at",
)
"""These columns; the first names the row."""

_columns = ExecutionRow.__struct_fields__
_values = msgspec.structs.astuple
_moving: Any = itemgetter(*map(_columns.index, MOVING))
_resting: Any = itemgetter(
    *(place for place, name in enumerate(_columns) if name not in MOVING)
)


def resting(live: Live) -> tuple[Any, ...]:
    """The values of all columns but these."""
    values: tuple[Any, ...] = _resting(_values(live.row))
    return values


def moved(lives: Iterable[Live]) -> dict[int, tuple[Any, ...]]:
    """Those whose row is there, and has changed in these columns only.

    By eid, with the values of these columns.
    """
    here = {}
    for live in lives:
        if live.rest is not None:
            values = _values(live.row)
            if live.rest == _resting(values):
                here[live.row.eid] = _moving(values)
    return here

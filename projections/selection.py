"""What a query is: SQL, the values that are bound in it, and the order of its rows."""

from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from projections.keysets import Ordering
from projections.texts import utc


class Select(NamedTuple):
    """A query: rows of ``sql`` in an order, the keys among its columns.

    The names of the columns are the fields of ``item``; those of the keys that are
    none are left out of it. ``heavy`` is what may take long. With ``more`` there
    are rows of several queries; ``wide`` has the rest of the columns (see Question).
    """

    sql: str
    values: dict[str, Any]
    ordering: Ordering
    item: type[msgspec.Struct]
    heavy: bool = False
    more: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()

    def page(self, condition: str) -> str:
        """The SQL for a page of rows that fulfil a condition, of ``$most`` rows.

        Each table is asked for so many by itself: of a view over both, DuckDB
        sorts all that there is (215 ms for a million executions, not 12).
        """
        order = f"ORDER BY {self.ordering.sql} LIMIT $most"
        parts = [
            f"SELECT * FROM ({sql}) WHERE {condition} {order}"
            for sql in (self.sql, *self.more)
        ]
        if not self.more:
            return parts[0]
        return f"SELECT * FROM (({') UNION ALL ('.join(parts)})) {order}"


class Conditions:
    """What rows must be, each bound by a name."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.values: dict[str, Any] = {}

    def add(self, part: str, **values: Any) -> None:
        """Demand something if all of its values are given."""
        if None not in values.values():
            self._parts.append(part)
            self.values.update(values)

    def within(
        self, column: str, name: str, low: datetime | None, high: datetime | None
    ) -> None:
        """Demand that a time is in a range, without its end."""
        if low is not None:
            self.add(f"{column} >= ${name}_from", **{f"{name}_from": utc(low)})
        if high is not None:
            self.add(f"{column} < ${name}_to", **{f"{name}_to": utc(high)})

    @property
    def sql(self) -> str:
        """What stands after WHERE."""
        return " AND ".join(self._parts) or "true"

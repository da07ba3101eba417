"""What a row is: a struct whose fields are columns, with their types and meanings."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, get_args, get_type_hints

import msgspec

Small = "INTEGER"
"""The SQL type of numbers that stay small: they are written four times as fast."""


class Row(msgspec.Struct, gc=False):
    """Base of all rows; the first fields are those that name a row.

    Made with values by position, in the order of the columns: by name it takes
    forty times as long, and every event makes one.
    """

    table: ClassVar[str]
    named_by: ClassVar[int] = 2


class Column(NamedTuple):
    """A column: its name, its SQL type and what it means."""

    name: str
    type: str
    means: str


_TYPES = {
    int: "BIGINT",
    float: "DOUBLE",
    str: "VARCHAR",
    bool: "BOOLEAN",
    datetime: "TIMESTAMP",
}


def columns(kind: type[Row]) -> list[Column]:
    """The columns of a table, in order."""
    return list(_columns(kind))


def _columns(kind: type[Row]) -> Iterator[Column]:
    hints = get_type_hints(kind, include_extras=True)
    for name in kind.__struct_fields__:
        annotated, *more = get_args(hints[name])
        yield Column(name, _sql_type(annotated, more), more[-1])


def _sql_type(annotated: Any, more: list[str]) -> str:
    if len(more) > 1:
        return more[0]
    plain = next(t for t in (annotated, *get_args(annotated)) if t in _TYPES)
    return _TYPES[plain]


_LIMITS = {Small: 2**31 - 1, "BIGINT": 2**63 - 1}


def fitted(kind: type[Row], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make values fit their columns: what is too large becomes the largest.

    Anybody who may append can make up a number; it must not stop all others.
    """
    return tuple(
        _fitted(value, column.type)
        for value, column in zip(values, columns(kind), strict=True)
    )


def _fitted(value: Any, sql_type: str) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    limit = _LIMITS.get(sql_type)
    if limit is None or value is None:
        return value
    return max(-limit - 1, min(limit, value))

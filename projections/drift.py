"""Drift: where rows are not what the log says they must be."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from events.names import Key
from projections.row import Row, columns, fitted
from projections.rows import ExecutionRow
from projections.truth import Truth

Found = Mapping[type[Row], Sequence[Row]]
"""Rows by kind."""


class Difference(NamedTuple):
    """One row that is not what it must be."""

    key: Key
    row: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.row} {self.what}"


def differences(key: Key, truth: Truth, found: Found) -> Iterator[Difference]:
    """Say where the rows of an execution differ from the truth."""
    for kind in dict.fromkeys([*truth.rows, *found]):
        wanted = _by_name(kind, truth.rows.get(kind, ()))
        there = _by_name(kind, found.get(kind, ()))
        for name in sorted(wanted.keys() | there.keys(), key=repr):
            row = f"{kind.table} {_shown(name)}".strip()
            for what in _compare(kind, wanted.get(name, []), there.get(name, [])):
                if what[0] != "problem" or not _accounted(truth, what[1]):
                    yield Difference(key, row, what[2])


def _accounted(truth: Truth, problem: Any) -> bool:
    """The reason for a damaged history is in words; that there is one must agree."""
    return (truth.damaged is None) == (problem is None)


def _by_name(kind: type[Row], rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Any]]:
    """Rows as tuples, by what names them; all of one name are kept."""
    named: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        values = fitted(kind, msgspec.structs.astuple(row))
        named.setdefault(_name(kind, row), []).append(values)
    return named


def _name(kind: type[Row], row: Row) -> tuple[Any, ...]:
    """What tells a row from the others of its execution."""
    fields = kind.__struct_fields__[: kind.named_by]
    return tuple(getattr(row, field) for field in fields if field != "eid")


def _shown(name: tuple[Any, ...]) -> str:
    return "/".join(map(str, name))


def _compare(
    kind: type[Row], wanted: list[Any], there: list[Any]
) -> Iterator[tuple[str, Any, str]]:
    """Column, value and what is wrong with it."""
    if len(wanted) != len(there):
        count = f"is there {len(there)} times" if there else "is missing"
        yield "", None, count if wanted else "must not be there"
        return
    for must, has in zip(
        sorted(wanted, key=repr), sorted(there, key=repr), strict=True
    ):
        for column, a, b in zip(columns(kind), must, has, strict=True):
            if a != b and not (a != a and b != b):  # noqa: PLR0124 - NaN is itself here
                said = f"has {column.name} {b!r:.60}, must be {a!r:.60}"
                yield column.name, b, said


def is_there(found: Found) -> bool:
    """Whether the model has this execution at all."""
    return bool(found.get(ExecutionRow))

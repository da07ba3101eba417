"""The rows of ``wake sql`` as a table, as JSON, CSV or Parquet: as they come."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from gateway.shown import aligned
from gateway.wording import printable
from projections.queries import Column

TOGETHER = 1_000
"""Rows of a table that are aligned with each other: as many as are held at once."""

LINE_END = "\r\n"
"""Of CSV, as RFC 4180 has it."""

Write = Callable[[bytes], object]


def named(columns: Sequence[Column]) -> list[Column]:
    """The columns with names that are all different, as DuckDB would do it."""
    seen: dict[str, int] = {}
    found = []
    for column in columns:
        name, count = column.name, seen.get(column.name, 0)
        while count and f"{column.name}_{count}" in seen:
            count += 1
        if count:
            name = f"{column.name}_{count}"
        seen[column.name] = count + 1
        seen.setdefault(name, 1)
        found.append(Column(name=name, type=column.type))
    return found


class Format(ABC):
    """Takes rows one after the other; ``end`` writes what is left.

    ``more`` is set when the limit cut them off.
    """

    def __init__(self, write: Write) -> None:
        self.write = write
        self.columns: Sequence[Column] = ()
        self.more = False

    def begin(self, columns: Sequence[Column]) -> None:
        """Take the columns, before the first row."""
        self.columns = columns

    @abstractmethod
    def row(self, values: Sequence[Any]) -> None:
        """Take a row."""

    def end(self) -> None:  # noqa: B027 - most have nothing left
        """Take that there are no more."""


class Table(Format):
    """Columns under each other, for people; ``width`` None: nothing is cut."""

    def __init__(self, write: Write, width: int | None) -> None:
        super().__init__(write)
        self._width = width
        self._rows: list[tuple[str, ...]] = []
        self._headed = False

    def row(self, values: Sequence[Any]) -> None:
        """Take a row."""
        self._rows.append(tuple(map(_cell, values)))
        if len(self._rows) == TOGETHER:
            self._flush()

    def end(self) -> None:
        """Write what is still held, or that there was nothing."""
        if self._rows or not self._headed:
            self._flush()

    def _flush(self) -> None:
        heads = tuple(column.name for column in self.columns)
        lines = list(aligned([heads, *self._rows], self._width))
        for line in lines[self._headed :]:
            self.write(f"{printable(line)}\n".encode(errors="replace"))
        self._headed, self._rows = True, []


class Json(Format):
    """An object a line, with the columns by their names."""

    def begin(self, columns: Sequence[Column]) -> None:
        """Take the columns; no two names are the same from here on."""
        super().begin(named(columns))

    def row(self, values: Sequence[Any]) -> None:
        """Take a row."""
        names = (column.name for column in self.columns)
        self.write(_json(dict(zip(names, values, strict=True))) + b"\n")


class Numbered(Format):
    """An object a line, with the columns by their numbers: see ``parquet``."""

    def row(self, values: Sequence[Any]) -> None:
        """Take a row."""
        self.write(_json({str(n): v for n, v in enumerate(values)}) + b"\n")


class Csv(Format):
    """As RFC 4180 has it; what is nothing is empty, an empty text is quoted."""

    def begin(self, columns: Sequence[Column]) -> None:
        """Take the columns; no two names are the same from here on."""
        super().begin(named(columns))
        self.row([column.name for column in self.columns])

    def row(self, values: Sequence[Any]) -> None:
        """Take a row."""
        line = ",".join(map(_field, values)) + LINE_END
        self.write(line.encode(errors="replace"))


_json: Final = msgspec.json.Encoder().encode


def _cell(value: Any) -> str:
    return "-" if value is None else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return _json(value).decode()


def _field(value: Any) -> str:
    if value is None:
        return ""
    if value == "":
        return '""'
    line = io.StringIO()
    # What a line ends with is quoted within a field; so it has to be named here.
    csv.writer(line, lineterminator=LINE_END).writerow([_text(value)])
    return line.getvalue().removesuffix(LINE_END)

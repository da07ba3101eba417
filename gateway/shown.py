"""How what was asked is shown to people: in aligned columns, or in a sentence."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from gateway.wording import cost, moment, one_line, short
from projections import queries as q

EMPTY = 'nothing has run here yet: start with wake run "PROMPT"'

NONE_LIKE = "no execution is like that"


class Shown(NamedTuple):
    """How items are shown to people: headings, cells, and what is said of none."""

    heads: tuple[str, ...]
    cells: Callable[[Any], tuple[str, ...]]
    none: str


def aligned(rows: Sequence[tuple[str, ...]], width: int | None) -> Iterator[str]:
    """Cells under each other, numbers to the right; None: nothing is cut."""
    clean = [tuple(map(one_line, row)) for row in rows]
    columns = list(zip(*clean, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(map(_is_number, column[1:])) for column in columns]
    for row in clean:
        cells = (
            cell.rjust(most) if number else cell.ljust(most)
            for cell, most, number in zip(row, widths, numbers, strict=True)
        )
        line = "  ".join(cells).rstrip()
        yield line if width is None else short_kept(line, width)


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").lstrip("$").replace(".", "").isdigit()


def short_kept(line: str, width: int) -> str:
    """A line of at most so many characters, its blanks as they are."""
    return line if len(line) <= width else f"{line[: max(0, width - 1)]}…"


COUNTS = Shown(
    ("STATUS", "EXECUTIONS"),
    lambda one: (one.status, f"{one.executions:,}"),
    EMPTY,
)
ACTIVE = Shown(
    ("USER", "ACTIVE", "PENDING", "RUNNING", "PAUSED", "AWAITING"),
    lambda one: (
        one.user,
        f"{one.executions:,}",
        f"{one.pending:,}",
        f"{one.running:,}",
        f"{one.paused:,}",
        f"{one.awaiting:,}",
    ),
    "nothing is under way",
)
STUCK = Shown(
    ("ID", "USER", "STATUS", "SINCE", "WHY"),
    lambda one: (one.id, one.user, one.status, moment(one.since), one.why),
    "nothing is stuck",
)
AWAITING = Shown(
    ("ID", "USER", "STATUS", "SINCE", "UNTIL", "EVENT", "WHERE"),
    lambda one: (
        one.id,
        one.user,
        one.status,
        moment(one.since),
        moment(one.deadline),
        one.event_type,
        msgspec.json.encode(one.filter).decode() if one.filter else "-",
    ),
    "nothing waits for that",
)
FOUND = Shown(
    ("ID", "USER", "AT", "IN", "TEXT"),
    lambda one: (
        one.id,
        one.user,
        moment(one.at),
        one.kind if one.line is None else f"{one.level} {one.line}",
        short(one.excerpt, 200),
    ),
    "nothing has that text",
)


def usage_by(by: Sequence[str]) -> Shown:
    """How usage is shown, by the columns that it is summed up by."""
    heads = (*(name.upper() for name in by), "STEPS", "TOKENS IN", "OUT", "COST")
    return Shown(heads, partial(_usage, by), "nothing was used")


def _usage(by: Sequence[str], one: q.Usage) -> tuple[str, ...]:
    return (
        *(str(getattr(one, name)) for name in by),
        f"{one.steps:,}",
        f"{one.input_tokens:,}",
        f"{one.output_tokens:,}",
        cost(one.cost, one.unpriced),
    )

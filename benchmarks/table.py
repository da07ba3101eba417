"""What every benchmark prints: a table for people, or one JSON object a line."""

import argparse
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

import msgspec


class Figure(NamedTuple):
    """One measured value; ``floor`` is the same work done bare, in the same run.

    ``ratio`` says how much of the floor was reached, 1.0 being all of it; for a
    duration that is floor / value.
    """

    figure: str
    value: float
    unit: str
    floor: float | None = None

    @property
    def ratio(self) -> float | None:
        """How much of the floor was reached."""
        if self.floor is None:
            return None
        duration = self.unit in ("s", "ms")
        return self.floor / self.value if duration else self.value / self.floor


class Options(NamedTuple):
    """How a benchmark was asked for."""

    quick: bool
    json: bool


def options(description: str) -> Options:
    """Read the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within 60 s")
    parser.add_argument("--json", action="store_true", help="one object a line")
    given = parser.parse_args()
    return Options(given.quick, given.json)


def show(title: str, figures: Iterable[Figure], *, as_json: bool) -> None:
    """Print the figures."""
    if as_json:
        for figure in figures:
            line = {**figure._asdict(), "ratio": figure.ratio}
            print(msgspec.json.encode(line).decode(), flush=True)
        return
    print(f"\n{title}\n")
    print(f"{'figure':<44}{'value':>12} {'unit':<9}{'floor':>12}{'ratio':>8}")
    for figure in figures:
        floor = "" if figure.floor is None else _number(figure.floor)
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        value = _number(figure.value)
        print(f"{figure.figure:<44}{value:>12} {figure.unit:<9}{floor:>12}{ratio:>8}")


def _number(value: float) -> str:
    """Three digits of what is small; what counts things is whole."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"  # noqa: PLR2004 - one digit


def middle(figures: list[Figure]) -> Figure:
    """Take the run in the middle, floor and value of the same run."""
    by_ratio = sorted(figures, key=lambda f: f.ratio or f.value)
    return by_ratio[len(by_ratio) // 2]


def p50(samples: list[float]) -> float:
    """Return the median."""
    return median(samples)

"""Two forms of the fault suite: short in ``make test``, long in ``make faults``."""

from typing import TypeVar

import pytest

T = TypeVar("T")

LONG = False
"""Every kill point, larger loads, more rounds."""


def choose(config: pytest.Config) -> None:
    """Take the form that was asked for, in whichever process: before any import."""
    global LONG  # noqa: PLW0603 - one run, one form
    LONG = config.getoption("--long")


def by_form(short: T, long: T) -> T:
    """Choose what belongs to the form that was asked for."""
    return long if LONG else short

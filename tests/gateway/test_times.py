"""Times on the command line."""

from datetime import UTC, datetime

import pytest

from events.errors import InvalidInput
from gateway.times import moment_of, run_at, seconds_of
from services.handler import utc_now


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("15m", 900), ("2h", 7200)]
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """A whole number and a unit."""
    assert seconds_of(text, "--in") == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "h", "-5m", "1.5h", "5 m", "5m\n", "5w", "1h30m", "٣m", "9999999d"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """With the flag, and how to write one."""
    with pytest.raises(InvalidInput, match=r"--in .*: write a time as 90s, 30m"):
        seconds_of(text, "--in")


@pytest.mark.parametrize(
    "text",
    ["2026-12-01T09:00+01:00", "2026-12-01T08:00:00Z", "20261201T080000+0000"],
)
def test_a_time_has_a_zone(text: str) -> None:
    """However it is written."""
    assert moment_of(text, "--at") == datetime(2026, 12, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-12-01T09:00", "has no zone: add it"),
        ("2026-12-01", "has no zone"),
        ("tomorrow", "is no time: write it as"),
        ("2026-02-30T09:00Z", "is no time"),
        ("2026-12-01T25:00Z", "is no time"),
        ("", "is no time"),
        ("9" * 5000, "is no time"),
    ],
)
def test_what_is_no_time_is_refused(text: str, said: str) -> None:
    """With what is wrong."""
    with pytest.raises(InvalidInput, match=said):
        moment_of(text, "--at")


def test_a_start_has_one_time_or_none() -> None:
    """A duration counts from now."""
    assert run_at(None, None) is None
    later = run_at(None, "2h")
    assert later is not None
    assert 7190 < (later - utc_now()).total_seconds() <= 7200
    with pytest.raises(InvalidInput, match="--at and --in say the same"):
        run_at("2026-12-01T09:00Z", "2h")

"""Times as people write them on a command line."""

import re
from datetime import datetime, timedelta

from events.errors import InvalidInput
from services.handler import utc_now

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


LONGEST = 36_500
"""Days; what is a century away no log has seen, nor will see."""


def seconds_of(text: str, flag: str) -> float:
    """Read a duration as 90s, 30m, 2h, 1d; raises InvalidInput."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    seconds = int(found[1]) * UNITS[found[2]] if found else -1.0
    if not 0 <= seconds <= LONGEST * UNITS["d"]:
        raise InvalidInput(
            f"{flag} {text!r:.40}: write a time as 90s, 30m, 2h, 1d, of at most "
            f"{LONGEST}d"
        )
    return seconds


def moment_of(text: str, flag: str) -> datetime:
    """Read a time with its zone; raises InvalidInput."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"{flag} {text!r:.40} is no time: write it as 2026-12-01T09:00+01:00"
        ) from error
    if when.tzinfo is None:
        raise InvalidInput(
            f"{flag} {text!r:.40} has no zone: add it, as in +01:00, or Z for UTC"
        )
    return when


def run_at(at: str | None, after: str | None) -> datetime | None:
    """When an execution is to begin; None: now. Raises InvalidInput."""
    if at is not None and after is not None:
        raise InvalidInput("--at and --in say the same: give one of them")
    if after is not None:
        return utc_now() + timedelta(seconds=seconds_of(after, "--in"))
    return None if at is None else moment_of(at, "--at")

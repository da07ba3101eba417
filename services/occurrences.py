"""When a schedule is due: by cron expression in a time zone, or by interval.

Cron is that of Debian, also where clocks are turned (``cronsim``): a time that is
left out comes right after the gap, one that comes twice counts once; what recurs
within the hour (minute or hour begin with ``*``) goes on by real time.
"""

from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from events.errors import InvalidInput
from events.timetable import Definition

FIELDS = 5
MINUTE = 60.0

SHOW = 'write MINUTE HOUR DAY MONTH WEEKDAY, as in "0 9 * * 1-5"'

OWN = "localtime"
"""No zone but that of the machine, which some systems have among the files."""

AGAIN = 4
"""Looks for a time that is later: where clocks are turned back, one is earlier."""


def following(definition: Definition, after: datetime) -> datetime | None:
    """Return the first time beyond ``after``, in UTC; None: there is none."""
    if definition.every:
        interval = timedelta(seconds=definition.every)
        passed = (after - definition.since) // interval
        return definition.since + interval * max(1, passed + 1)
    times = CronSim(definition.cron, after.astimezone(zone_of(definition.zone)))
    for _ in range(AGAIN):
        found = next(times, None)
        if found is None:
            return None
        if found.astimezone(UTC) > after:
            return found.astimezone(UTC)
    return None


def check(definition: Definition, least: float) -> None:
    """Raise InvalidInput for what makes no sense or recurs too often.

    ``least`` is the interval in seconds that this user is allowed.
    """
    if bool(definition.cron) == bool(definition.every):
        raise InvalidInput("a schedule has either cron or every: give one of them")
    if definition.cron:
        _check_cron(definition.cron)
        _check_zone(definition.zone)
    elif definition.zone != "UTC":
        raise InvalidInput("an interval has no time zone: leave time_zone out")
    if following(definition, definition.since) is None:
        raise InvalidInput(f"cron {definition.cron!r} never comes: {SHOW}")
    gap = definition.every or least_gap(definition.cron)
    if gap < least:
        raise InvalidInput(
            f"this recurs every {gap:g} s, and you may have one run every {least:g} s: "
            "let it recur less often"
        )


def _check_cron(cron: str) -> None:
    if not cron.isascii() or not cron.isprintable():
        raise InvalidInput(f"cron {cron!r:.40} is no text: {SHOW}")
    if len(cron.split()) != FIELDS:
        raise InvalidInput(
            f"cron {cron!r} has {len(cron.split())} fields, not {FIELDS}: {SHOW}"
        )
    try:
        CronSim(cron, datetime.now(UTC))
    except CronSimError as error:
        raise InvalidInput(f"cron {cron!r}: {str(error).lower()}; {SHOW}") from error


def _check_zone(name: str) -> None:
    """Raise InvalidInput unless it means the same wherever a service runs."""
    zone_of(name)
    if name == OWN:
        raise InvalidInput(
            f"{name!r} is another zone on another machine: name it (as Europe/Berlin)"
        )


def least_gap(cron: str) -> float:
    """Seconds between the two times of a day that are closest, midnight included."""
    minute, hour, *_ = cron.split()
    midnight = datetime(2026, 1, 1, tzinfo=UTC)
    times = CronSim(f"{minute} {hour} * * *", midnight - timedelta(seconds=1))
    last = first = next(times)
    least = timedelta(days=1)
    while last < first + timedelta(days=1) and least.total_seconds() > MINUTE:
        last, before = next(times), last
        least = min(least, last - before)
    return least.total_seconds()


@lru_cache(maxsize=512)
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone; raises InvalidInput with one that may have been meant."""
    if name in _zones():
        return ZoneInfo(name)
    meant = {zone.casefold(): zone for zone in _zones()}
    tails = {zone.rpartition("/")[2].casefold(): zone for zone in sorted(_zones())}
    sought = name[:64].casefold().replace(" ", "_")
    close = get_close_matches(sought, [*meant, *tails], n=1, cutoff=0.7)
    hint = (
        f"did you mean {(meant | tails)[close[0]]}?" if close else "see the IANA list"
    )
    raise InvalidInput(f"no time zone {name!r:.80}: {hint} (as Europe/Berlin, or UTC)")


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())

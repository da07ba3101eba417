"""When schedules are due: cron in a time zone, intervals, and what makes no sense."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timetables import definition

from events.errors import InvalidInput
from services import occurrences
from services.occurrences import check, following, least_gap, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def berlin(cron: str, *start: int, count: int = 4) -> list[str]:
    """The next times in Berlin, with their distance to UTC."""
    after, found = datetime(*start, tzinfo=BERLIN).astimezone(UTC), []  # type: ignore[misc, arg-type]
    for _ in range(count):
        after = following(definition(cron=cron, zone="Europe/Berlin"), after)  # type: ignore[assignment]
        found.append(f"{after.astimezone(BERLIN):%m-%d %H:%M%z}")
    return found


def test_a_time_of_day_is_that_of_its_zone() -> None:
    """Nine o'clock on working days, in winter and in summer."""
    assert berlin("0 9 * * 1-5", 2026, 3, 27, 12) == [
        "03-30 09:00+0200",
        "03-31 09:00+0200",
        "04-01 09:00+0200",
        "04-02 09:00+0200",
    ]


def test_a_time_that_is_left_out_comes_right_after_the_gap() -> None:
    """There was no 02:30 on that day: three o'clock is the first after it."""
    assert berlin("30 2 * * *", 2026, 3, 27, 12) == [
        "03-28 02:30+0100",
        "03-29 03:00+0200",
        "03-30 02:30+0200",
        "03-31 02:30+0200",
    ]


def test_a_time_that_comes_twice_counts_once() -> None:
    """The first of the two."""
    assert berlin("30 2 * * *", 2026, 10, 24, 12, count=2) == [
        "10-25 02:30+0200",
        "10-26 02:30+0100",
    ]


def test_asked_between_the_two_it_is_tomorrow() -> None:
    """Never a time that is past already."""
    between = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10, the second time
    found = following(definition(cron="30 2 * * *", zone="Europe/Berlin"), between)
    assert found == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("month", [3, 10])
def test_what_recurs_within_the_hour_goes_on_by_real_time(month: int) -> None:
    """Where clocks are turned neither a gap nor a repetition is seen."""
    last = 29 if month == 3 else 25
    after = datetime(2026, month, last, tzinfo=UTC)
    quarter = definition(cron="*/15 * * * *", zone="Europe/Berlin")
    times = [after]
    for _ in range(20):
        times.append(following(quarter, times[-1]))  # type: ignore[arg-type]
    assert {b - a for a, b in pairwise(times)} == {timedelta(minutes=15)}


ZONES = st.sampled_from(
    ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Cairo", "UTC"]
)
CRONS = st.sampled_from(
    [
        "30 2 * * *",
        "0 0 * * *",
        "*/7 * * * *",
        "0 */3 * * *",
        "30 1,2,3 * * 0",
        "59 23 L * *",
    ]
)
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31))  # noqa: DTZ001 - in UTC


@given(CRONS, ZONES, TIMES)
def test_the_next_time_is_always_later_and_never_left_out(
    cron: str, zone: str, naive: datetime
) -> None:
    """Whatever the zone: from any moment, and so that asking again goes on."""
    plan, after = definition(cron=cron, zone=zone), naive.replace(tzinfo=UTC)
    first = following(plan, after)
    assert first is not None
    assert first > after
    middle = after + (first - after) / 2
    assert following(plan, middle) == first
    assert following(plan, first) > first  # type: ignore[operator]


@given(st.integers(1, 100_000), st.integers(0, 10**9), st.integers(0, 999_999))
def test_an_interval_stays_on_its_grid(every: int, seconds: int, micro: int) -> None:
    """Counted from when it was defined, however late anybody asks."""
    plan = definition(every=every)
    after = plan.since + timedelta(seconds=seconds, microseconds=micro)
    found = following(plan, after)
    assert found is not None
    assert after < found <= after + timedelta(seconds=every)
    assert (found - plan.since) % timedelta(seconds=every) == timedelta(0)
    assert following(plan, plan.since - timedelta(1)) == plan.since + timedelta(
        seconds=every
    )


NONSENSE = [
    "nonsense",
    "* * * *",
    "* * * * * *",
    "61 * * * *",
    "* 24 * * *",
    "* * 0 * *",
    "* * * 13 *",
    "* * * * 8",
    "*/0 * * * *",
    "5-1 * * * *",
    "-1 * * * *",
    "1-99999999999999999999 * * * *",
    "0 0 31 2 *",
    "0 0 * * MON#6",
    "0 0 * * L",
    "a,b * * * *",
    ", , , , ,",
    "/ / / / /",
    "@daily",
    "@every 1s",
    "٣ * * * *",
    "* * * * *\n",
    "*\t* * * *",
    "\0 * * * *",
    "$(reboot) * * * *",
]


@pytest.mark.parametrize("cron", NONSENSE)
def test_cron_nonsense_is_refused(cron: str) -> None:
    """With what is wrong and an example that is right."""
    with pytest.raises(InvalidInput, match=r'write MINUTE HOUR .* "0 9 \* \* 1-5"'):
        check(definition(cron=cron), 1)


@given(st.text("0123456789*/,-#LW MONJA", max_size=128))
def test_any_text_is_a_cron_expression_or_is_refused(text: str) -> None:
    """And one that is accepted has a next time, which is later."""
    plan = definition(cron=text or "x")
    try:
        check(plan, 60)
    except InvalidInput:
        return
    assert following(plan, plan.since) > plan.since  # type: ignore[operator]


@pytest.mark.parametrize(
    ("zone", "meant"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
    ],
)
def test_an_unknown_zone_is_refused_with_one_that_may_be_meant(
    zone: str, meant: str
) -> None:
    """Misspelt, in the wrong case, or without its continent."""
    with pytest.raises(InvalidInput, match=rf"did you mean {meant}\?"):
        check(definition(cron="0 9 * * *", zone=zone), 1)


@pytest.mark.parametrize(
    "zone",
    ["", "CET+1", "../../etc/passwd", "/etc/localtime", "Europe", "\0", "x" * 10_000],
)
def test_what_is_no_zone_is_no_file_either(zone: str) -> None:
    """Only names of the database are looked up."""
    with pytest.raises(InvalidInput, match="no time zone"):
        zone_of(zone)


def test_where_a_service_runs_does_not_say_when(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Debian has the zone of the machine among the files: it is another elsewhere."""
    monkeypatch.setattr(occurrences, "_zones", lambda: {"localtime"})
    monkeypatch.setattr(occurrences, "ZoneInfo", lambda _: BERLIN)
    plan = definition(cron="0 9 * * *", zone="localtime")
    with pytest.raises(InvalidInput, match="another zone on another machine"):
        check(plan, 1)
    assert following(plan, plan.since) is not None, "an older one goes on"
    zone_of.cache_clear()


def test_a_schedule_is_one_thing() -> None:
    """Cron or interval; a zone only where there is a clock to read."""
    for both in ({}, {"cron": "0 9 * * *", "every": 60}):
        with pytest.raises(InvalidInput, match="either cron or every"):
            check(definition(**both), 1)
    with pytest.raises(InvalidInput, match="an interval has no time zone"):
        check(definition(every=60, zone="Europe/Berlin"), 1)


@pytest.mark.parametrize(
    ("cron", "gap"),
    [
        ("* * * * *", 60),
        ("*/5 * * * *", 300),
        ("0 9 * * 1-5", 86_400),
        ("0,59 0,23 * * *", 60),  # over midnight
        ("0 */7 * * *", 10_800),
        ("30 2 29 2 *", 86_400),
    ],
)
def test_the_times_of_a_day_that_are_closest(cron: str, gap: float) -> None:
    """By the hours and minutes alone, midnight included."""
    assert least_gap(cron) == gap


@pytest.mark.parametrize("plan", [{"every": 59}, {"every": 1}, {"cron": "* * * * *"}])
def test_what_recurs_too_often_is_refused(plan: dict[str, int | str]) -> None:
    """A schedule per second for a user who may have one every five minutes."""
    with pytest.raises(InvalidInput, match="you may have one run every 300 s"):
        check(definition(**plan), 300)
    check(definition(**plan), 1)

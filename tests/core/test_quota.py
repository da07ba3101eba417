"""What a user may start: the rules, without a log and without a clock."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import quota as rules
from events.errors import Corrupt
from events.journal import Last
from events.names import MOST_ADMITTED
from events.quota import (
    CLOSED,
    EXACT,
    GRACE,
    REPEATED,
    WINDOW,
    Admitted,
    Allotment,
    Claim,
    Exhausted,
    Full,
    Quota,
    Starts,
)

NOW = 1_780_000_000.0
FREE, PRO = Allotment(1, 10), Allotment(5, 100)
NOTHING = Quota()


def started(quota: Quota, allotment: Allotment, name: str, now: float = NOW) -> Quota:
    """Admit a start that is admitted."""
    decided = rules.admit(rules.current(quota, now), allotment, Claim(name), now)
    assert isinstance(decided, Quota), decided
    return decided


def count(quota: Quota) -> int:
    """How many starts count."""
    return sum(one.count for one in quota.starts)


# ── at a time ────────────────────────────────────────────────────────────────


def test_as_many_are_admitted_as_may_run_at_a_time() -> None:
    """The next is told who may have ended; who is left out makes room."""
    quota = NOTHING
    for name in "abcde":
        quota = started(quota, PRO, name)
    full = rules.admit(quota, PRO, Claim("f"), NOW)
    assert isinstance(full, Full)
    assert [one.execution for one in full.doubtful] == list("abcde")
    assert count(quota) == 5
    after = started(rules.without(quota, {"b"}), PRO, "f")
    assert [one.execution for one in after.admitted] == list("acdef")


def test_one_start_that_is_asked_twice_counts_once() -> None:
    """Also when there is no room for another; and its time begins anew."""
    once = started(NOTHING, FREE, "a")
    again = started(once, FREE, "a", NOW + 50)
    assert again.admitted == (Admitted("a", NOW + 50),)
    assert count(again) == 1


def test_a_retry_takes_the_room_of_what_it_lets_go_on() -> None:
    """It counts as one more start; asked twice, as one."""
    quota = started(NOTHING, FREE, "a")
    for _ in range(2):
        decided = rules.admit(quota, FREE, Claim("a", after=7), NOW + 1)
        assert isinstance(decided, Quota)
        quota = decided
        assert quota.admitted == (Admitted("a", NOW + 1, 7),)
        assert count(quota) == 2
    assert isinstance(rules.admit(quota, FREE, Claim("b", after=3), NOW), Full)


def test_a_lower_limit_counts_what_was_admitted_under_a_higher_one() -> None:
    """Nobody who had room for five starts a sixth as free."""
    quota = NOTHING
    for name in "abcde":
        quota = started(quota, PRO, name)
    assert isinstance(rules.admit(quota, FREE, Claim("f"), NOW), Full)
    left = rules.without(quota, set("abcd"))
    assert isinstance(rules.admit(left, FREE, Claim("f"), NOW), Full)
    started(rules.without(quota, set("abcde")), FREE, "f")


def test_without_a_limit_at_a_time_only_the_last_minute_is_kept() -> None:
    """So that a start counts once, and the value does not grow."""
    allotment, quota = Allotment(None, 1_000_000), NOTHING
    for number in range(REPEATED + 50):
        quota = started(quota, allotment, f"e{number}", NOW)
    assert len(quota.admitted) == REPEATED
    for number in (50, REPEATED + 49):
        assert started(quota, allotment, f"e{number}").starts == quota.starts
    later = started(quota, allotment, "x", NOW + GRACE + 1)
    assert [one.execution for one in later.admitted] == ["x"]


# ── within an hour ───────────────────────────────────────────────────────────


def test_as_many_are_started_within_an_hour_as_may() -> None:
    """The next waits until the oldest of them has left the window."""
    quota, allotment = NOTHING, Allotment(None, 3)
    for number in range(3):
        quota = started(quota, allotment, f"e{number}", NOW + 60 * number)
    refused = rules.admit(quota, allotment, Claim("x"), NOW + 200)
    assert refused == Exhausted(WINDOW - 200)
    assert isinstance(refused, Exhausted)
    then = NOW + 200 + refused.retry_after
    quota = rules.current(quota, then)
    assert count(quota) == 2
    quota = started(quota, allotment, "x", then)
    assert rules.admit(quota, allotment, Claim("y"), then) == Exhausted(60.0)


def test_a_limit_that_was_lowered_waits_for_as_many_as_are_too_many() -> None:
    """Not only for the oldest."""
    starts = tuple(Starts(NOW + n) for n in range(10))
    refused = rules.admit(Quota(starts=starts), Allotment(None, 4), Claim("x"), NOW + 9)
    assert refused == Exhausted(NOW + 6 + WINDOW - (NOW + 9))


def test_without_an_hourly_limit_nothing_is_counted() -> None:
    """What is not limited costs no room."""
    assert started(NOTHING, Allotment(5, None), "a").starts == ()


@given(
    gaps=st.lists(st.floats(0, 2 * WINDOW), min_size=1, max_size=60),
    limit=st.integers(1, 12),
)
def test_no_window_ever_has_more_starts_than_may_be(
    gaps: list[float], limit: int
) -> None:
    """Wherever an hour is laid; and each refusal is over when it says so."""
    now, quota, admitted = NOW, NOTHING, list[float]()
    allotment = Allotment(None, limit)
    for number, gap in enumerate(gaps):
        now += gap
        quota = rules.current(quota, now)
        decided = rules.admit(quota, allotment, Claim(f"e{number}"), now)
        if isinstance(decided, Quota):
            quota = decided
            admitted.append(now)
            continue
        assert isinstance(decided, Exhausted)
        assert 0 < decided.retry_after <= WINDOW
        then = now + decided.retry_after + 0.001
        free = rules.admit(rules.current(quota, then), allotment, Claim("x"), then)
        assert isinstance(free, Quota)
    for at in admitted:
        assert sum(at - WINDOW < other <= at for other in admitted) <= limit


@given(gaps=st.lists(st.floats(0, 30), max_size=400))
def test_of_a_large_limit_starts_are_kept_together(gaps: list[float]) -> None:
    """All of them count, none leaves before its hour is over, some seconds later."""
    quota, now, times = NOTHING, NOW, list[float]()
    allotment = Allotment(None, 1_000_000)
    for number, gap in enumerate(gaps):
        now += gap
        times.append(now)
        quota = started(quota, allotment, f"e{number}", now)
        exactly = sum(now - WINDOW < at for at in times)
        grain = WINDOW / EXACT
        at_most = sum(now - WINDOW - grain < at for at in times)
        assert exactly <= count(quota) <= at_most


def test_a_value_has_room_whatever_was_started() -> None:
    """Even of the largest limits with the longest ids."""
    quota, allotment = NOTHING, Allotment(MOST_ADMITTED, 1_000_000)
    for number in range(3 * EXACT):
        name = f"{number:064}"
        quota = rules.without(quota, {f"{number - MOST_ADMITTED:064}"})
        quota = started(quota, allotment, name, NOW + 1.5 * number)
    assert len(quota.admitted) == MOST_ADMITTED
    assert len(rules.encoded(quota)) < 160_000


# ── clocks ───────────────────────────────────────────────────────────────────


def test_a_clock_that_went_back_keeps_nobody_out_for_longer_than_an_hour() -> None:
    """What was started tomorrow counts as started now, and that can be written."""
    tomorrow = NOW + 86_400
    quota = started(NOTHING, Allotment(None, 1), "a", tomorrow)
    assert rules.ahead(quota, NOW)
    quota = rules.current(quota, NOW)
    assert not rules.ahead(quota, NOW)
    assert rules.admit(quota, Allotment(None, 1), Claim("b"), NOW) == Exhausted(WINDOW)
    started(quota, Allotment(None, 1), "b", NOW + WINDOW)


def test_times_stay_in_order_when_a_clock_goes_back() -> None:
    """So that the value can be read again."""
    quota = NOTHING
    for number, ahead in enumerate((0, 500, -300, 20, -1000, 4000)):
        quota = started(quota, Allotment(None, 100), f"e{number}", NOW + ahead)
        assert rules.decoded(rules.encoded(quota), "ada") == quota


# ── what the log says ────────────────────────────────────────────────────────

HERE = Last(9, "agents")
END = Last(9, "finished")


@pytest.mark.parametrize(
    ("after", "last", "age", "expected"),
    [
        (0, None, 0, "counts"),  # it is about to be created
        (0, None, GRACE - 1, "counts"),
        (0, None, GRACE, "absent"),
        (0, None, CLOSED - 1, "absent"),
        (0, None, CLOSED, "over"),  # deleted since; nobody would create it now
        (0, HERE, 0, "counts"),
        (0, HERE, 10 * CLOSED, "counts"),  # however long it runs
        (0, Last(9, "parked"), CLOSED, "counts"),
        (0, END, 0, "over"),
        (9, END, 0, "counts"),  # its retry is about to be appended
        (9, END, GRACE, "over"),
        (8, END, 0, "over"),  # it went on behind 8, and ended again
        (9, Last(12, "agents"), CLOSED, "counts"),
        (9, None, 5, "counts"),
    ],
)
def test_who_takes_room(
    after: int, last: Last | None, age: float, expected: str
) -> None:
    """Whoever has not ended; and for a minute who was just admitted."""
    assert rules.standing(Admitted("a", NOW - age, after), last, NOW) == expected


# ── how it is told ───────────────────────────────────────────────────────────


def test_how_far_limits_are_used() -> None:
    """With the seconds until there is room, once there is none."""
    quota = started(NOTHING, PRO, "a", NOW - 100)
    concurrent, hourly = rules.uses(quota, PRO, NOW)
    assert (concurrent.used, concurrent.limit, concurrent.remaining) == (1, 5, 4)
    assert (hourly.used, hourly.limit, hourly.remaining) == (1, 100, 99)
    assert concurrent.retry_after is hourly.retry_after is None
    concurrent, hourly = rules.uses(quota, Allotment(1, 1), NOW)
    assert (concurrent.remaining, concurrent.retry_after) == (0, rules.SOON)
    assert (hourly.remaining, hourly.retry_after) == (0, WINDOW - 100)
    without = rules.uses(quota, Allotment(), NOW)
    assert [(u.used, u.limit, u.remaining) for u in without] == [(None,) * 3] * 2


# ── what is stored ───────────────────────────────────────────────────────────


def test_what_is_stored_is_plain_json() -> None:
    """Readable without this code."""
    quota = msgspec.structs.replace(started(NOTHING, FREE, "a"), tier="free")
    assert json.loads(rules.encoded(quota)) == {
        "tier": "free",
        "admitted": [["a", NOW, 0]],
        "starts": [[NOW, 1]],
    }
    assert rules.decoded(rules.encoded(quota), "ada") == quota
    assert rules.decoded(b"", "ada") == NOTHING
    assert rules.decoded(b'{"more": [1]}', "ada") == NOTHING  # of a newer version


@pytest.mark.parametrize(
    "value",
    [
        b"nonsense",
        b"[]",
        b"\xff\xfe",
        b"null",
        b'{"admitted": [[1, 2, 3]]}',
        b'{"admitted": [["a"]]}',
        b'{"admitted": [["a", -5]]}',
        b'{"starts": [[1e999, 1]]}',
        b'{"starts": [[5, 0]]}',
        b'{"starts": [[5, -3]]}',
        b'{"starts": [[5, 1], [4, 1]]}',
        b'{"starts": [["5", 1]]}',
        b'{"starts":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_a_damaged_value_is_told_with_what_to_do(value: bytes) -> None:
    """Taken for nothing, it would let anybody start anew."""
    with pytest.raises(Corrupt, match="delete the key ada"):
        rules.decoded(value, "ada")


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["tier", "admitted", "starts"]), inner, max_size=3
            )
        ),
    )
)
def test_whatever_is_stored_is_read_or_refused(value: Any) -> None:
    """Never anything else; and what is read can be decided on."""
    try:
        quota = rules.decoded(msgspec.json.encode(value), "ada")
    except Corrupt:
        return
    rules.admit(rules.current(quota, NOW), PRO, Claim("x"), NOW)

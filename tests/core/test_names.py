"""Ids and subjects: what comes from outside never becomes more than one token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import InvalidInput
from events.names import (
    LANES,
    ROUTES,
    Key,
    check_id,
    commit_subject,
    history_filter,
    lane_consumer,
    lane_filter,
    split_subject,
)

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "a.b",
        "*",
        ">",
        "a>",
        "a b",
        "a\n",
        "\na",
        "a\x00",
        "ä",
        "a/b",
        "$JS",
        "\u0661",
        "a\u200b",
        "\ud800",
        "../a",
        "x" * 65,
    ],
)
def test_a_hostile_id_is_refused(value: str) -> None:
    """Dots, wildcards, white space, other alphabets; the message fits a line."""
    with pytest.raises(InvalidInput, match=r"^user '.*use 1 to 64 of") as raised:
        check_id(value, "user")
    assert "\n" not in str(raised.value)


@given(IDS, IDS, st.sampled_from(ROUTES))
def test_a_subject_is_taken_apart_as_it_was_made(
    user: str, execution: str, route: str
) -> None:
    """Every lawful id is one token."""
    key = Key(check_id(user), check_id(execution))
    subject = commit_subject(key, route)  # type: ignore[arg-type]  # it is a Route
    assert subject.count(".") == 3
    assert split_subject(subject) == (key, route)
    assert subject.startswith(history_filter(key).removesuffix("*"))


def test_every_lane_is_a_route() -> None:
    """And has a consumer of its own, whose name is one token."""
    assert set(LANES) < set(ROUTES)
    assert len({lane_consumer(lane) for lane in LANES}) == len(LANES)
    assert lane_filter("agents") == "events.*.*.agents"
    assert lane_filter("agents", Key("u", "e")) == "events.u.e.agents"
    assert "." not in lane_consumer("agents", Key("u", "e"))

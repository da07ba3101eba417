"""The index of who waits for what: it finds the right ones, and stays small."""

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.catalog import Awaited
from events.cloudevents import Trigger
from events.names import EVERYBODY, Key
from services.handler import utc_now
from services.ids import new_id
from services.recent import Recent
from services.waits import Waiting, Waits

CHAIN = "ab" * 32
ADA, BEA = Key("ada", "run-1"), Key("bea", "run-1")


def waiting(
    key: Key = ADA,
    event_type: str = "ci.done",
    *,
    position: int = 10,
    after: int = 0,
    **where: Any,
) -> Waiting:
    """A wait, with everything that a test does not care about."""
    awaited = Awaited(event_type=event_type, where=where, after_trigger=after)
    return Waiting(key, awaited, position, 3, CHAIN, "agents_long")


def trigger(
    payload: Any = None,
    user: str = "ada",
    event_type: str = "ci.done",
    position: int = 5,
) -> Trigger:
    """Something that happened."""
    return Trigger(position, user, event_type, f"seq-{position}", payload)


def wanting(waits: Waits, happened: Trigger) -> list[Key]:
    """Whose waits want it."""
    return [one.key for one in waits.wanting(happened)]


def test_a_wait_comes_back_as_it_was() -> None:
    """With all that waking it takes, also numbers beyond 64 bits and nested values."""
    one = waiting(n=2**100, text="é\0", none=None, deep={"a": [1, 2.5]}, after=7)
    waits = Waits()
    waits.add(one)
    assert waits.get(ADA) == one
    assert one.wait
    assert one.wait.chain == CHAIN
    unknown = one._replace(lane=None)
    waits.add(unknown)
    assert waits.get(ADA) == unknown
    assert unknown.wait is None


def test_only_the_same_user_and_type_are_found() -> None:
    """Unless it is for everybody; then in the order in which they came."""
    waits = Waits()
    for key in (BEA, ADA, Key("ada", "run-2")):
        waits.add(waiting(key))
    waits.add(waiting(Key("ada", "run-3"), "ci"))
    assert wanting(waits, trigger()) == [ADA, Key("ada", "run-2")]
    assert wanting(waits, trigger(user="bea")) == [BEA]
    assert wanting(waits, trigger(user="b")) == []
    assert set(wanting(waits, trigger(user=EVERYBODY))) == {
        BEA,
        ADA,
        Key("ada", "run-2"),
    }
    assert wanting(waits, trigger(event_type="ci.done.x")) == []


@pytest.mark.parametrize(
    ("where", "payload", "found"),
    [
        ({}, None, True),
        ({}, [1], True),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 0}, {"a": False}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": [1]}, False),
        ({"a": 1}, [1], False),
        ({"a": 1}, "a", False),
        ({"a": 1}, None, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": 1, "b": "x"}, {"b": "x", "a": 1}, True),
        ({"a": 1, "b": "x"}, {"b": "y", "a": 1}, False),
        ({"a": 1, "b": "x"}, {"a": 1}, False),
        ({"a": {"b": [1, True]}}, {"a": {"b": [1, True]}}, True),
        ({"a": {"b": [1, True]}}, {"a": {"b": [1, 1]}}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"n": 2**100}, {"n": 2**100}, True),
    ],
)
def test_a_filter_asks_for_equal_values_in_the_payloads_fields(
    where: dict[str, Any],
    payload: Any,
    found: bool,  # noqa: FBT001 - a case's
) -> None:
    """Equal as JSON: true is no number; a field that is missing is not null."""
    waits = Waits()
    waits.add(waiting(**where))
    assert bool(waits.wanting(trigger(payload))) is found


def test_what_happened_before_a_wait_began_does_not_end_it() -> None:
    """The first one that can is the one behind."""
    waits = Waits()
    waits.add(waiting(after=5))
    assert not waits.wanting(trigger(position=5))
    assert waits.wanting(trigger(position=6))


def test_a_wait_is_dropped_once_and_only_if_it_is_the_one() -> None:
    """Who has begun another wait meanwhile keeps that."""
    waits = Waits()
    waits.drop(ADA)
    waits.add(waiting(position=10))
    waits.add(waiting(event_type="other", position=20))
    assert len(waits) == 1
    waits.drop(ADA, 10)
    assert wanting(waits, trigger(event_type="other")) == [ADA]
    assert wanting(waits, trigger()) == []
    waits.drop(ADA, 20)
    waits.drop(ADA)
    assert len(waits) == 0


def test_who_may_have_missed_something_is_found() -> None:
    """By the last trigger of its own subject, or of everybody's."""
    waits = Waits()
    waits.add(waiting(after=7))
    waits.add(waiting(BEA, after=3))
    assert list(waits.missed({})) == []
    assert list(waits.missed({"triggers.ada.ci.done": 7})) == []
    assert list(waits.missed({"triggers.ada.ci.done": 8})) == [7]
    assert list(waits.missed({"triggers.all.ci.done": 5})) == [3]
    assert sorted(waits.missed({"triggers.all.ci.done": 9})) == [3, 7]


values = st.sampled_from([None, True, False, 0, 1, 1.0, "a", "", [1], {"x": 1}])
payloads = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
keys = st.builds(Key, st.sampled_from(["ada", "bea"]), st.sampled_from("12345"))


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(keys, st.sampled_from(["x", "y"]), payloads) | keys, max_size=30
    ),
    payloads,
    st.sampled_from(["ada", "bea", EVERYBODY]),
)
def test_the_index_finds_what_a_look_at_all_would_find(
    steps: list[Any], payload: dict[str, Any], user: str
) -> None:
    """Whatever was added, added again under the same key, and dropped."""
    waits, naive = Waits(), dict[Key, Waiting]()
    for step in steps:
        if isinstance(step, Key):
            waits.drop(step)
            naive.pop(step, None)
        else:
            key, event_type, where = step
            naive[key] = waiting(key, event_type, **where)
            waits.add(naive[key])
    happened = trigger(payload, user, "x")
    expected = {
        key
        for key, one in naive.items()
        if user in (EVERYBODY, key.user) and one.awaited.wants("x", payload, 5)
    }
    found = wanting(waits, happened)
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len(waits) == len(naive)
    for key in naive:
        waits.drop(key)
    assert not waits._by_hash
    assert not waits._shapes


@pytest.mark.parametrize(
    ("kind", "many"),
    [("one type", 20_000), ("a filter each", 20_000), ("a type each", 20_000)],
)
def test_thousands_of_waits_take_little(kind: str, many: int) -> None:
    """At most 400 bytes each, the names of the executions included."""
    now = utc_now()

    def one(number: int) -> Waiting:
        key = Key(f"user-{number % 50}", new_id(now))
        event_type = f"ci.done.{number}" if kind == "a type each" else "ci.done"
        where = {"order": number} if kind == "a filter each" else {}
        return waiting(key, event_type, position=number, after=number, **where)

    gc.collect()
    tracemalloc.start()
    waits = Waits()
    for number in range(many):
        waits.add(one(number))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(waits) == many
    assert size / many <= 400


def test_what_was_seen_lately_tells_whether_something_was_missed() -> None:
    """Of what is too long ago nobody knows: then one has to look."""
    recent = Recent(floor=10, kept=2)
    recent.note("a", 11)
    recent.note("b", 12)
    assert recent.may_have(["z"], 9)
    assert not recent.may_have(["z"], 10)
    assert recent.may_have(["z", "a"], 10)
    assert not recent.may_have(["a"], 11)
    recent.note("a", 13)
    recent.note("c", 14)  # b is forgotten
    assert recent.may_have(["z"], 11)
    assert not recent.may_have(["z"], 12)
    assert recent.may_have(["a"], 12)

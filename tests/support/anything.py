"""Events of every kind with anything in them, for Hypothesis."""

from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from events.catalog import AnyEvent, Event

Texts = st.SearchStrategy[str]
Strategy = st.SearchStrategy[Any]

SHORT = st.text(max_size=10)


def one_event(texts: Texts = SHORT) -> st.SearchStrategy[Event]:
    """Any event; ``texts`` are what its strings may be."""
    plain = _plain(texts)
    return st.one_of([_structs(kind, plain) for kind in get_args(AnyEvent)])


def _plain(texts: Texts) -> dict[Any, Strategy]:
    leaves = st.none() | st.booleans() | st.integers() | texts
    return {
        Any: st.recursive(leaves, _nested, max_leaves=5),
        str: texts,
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        NoneType: st.none(),
        datetime: st.datetimes(timezones=st.just(UTC)),
    }


def _nested(inner: Strategy) -> Strategy:
    names = st.text(max_size=3)
    return st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2)


def _values(kind: Any, plain: dict[Any, Strategy]) -> Strategy:
    """All values of a field's type."""
    if kind in plain:
        return plain[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _structs(kind, plain)
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in (Union, UnionType):
        return st.one_of([_values(one, plain) for one in inside])
    if origin is tuple:
        return st.lists(_values(inside[0], plain), max_size=2).map(tuple)
    assert origin is dict, kind
    keys, values = (_values(one, plain) for one in inside)
    return st.dictionaries(keys, values, max_size=2)


def _structs(kind: type[msgspec.Struct], plain: dict[Any, Strategy]) -> Strategy:
    """All structs of a kind, field by field."""
    fields = msgspec.structs.fields(kind)
    return st.builds(
        kind, **{field.name: _values(field.type, plain) for field in fields}
    )

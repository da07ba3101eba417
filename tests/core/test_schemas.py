"""Schemas that a model wrote: which are taken, and what answers to them are."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from events import schemas

COLOUR = {
    "type": "object",
    "required": ["colour"],
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "count": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
}
PATIENCE = 5.0
"""Seconds of a processor: ten times what the worst takes."""


def nested(levels: int) -> dict[str, Any]:
    """A schema within a schema, so many times."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {},
        COLOUR,
        {"enum": ["red", 1, None, {"$ref": "data"}]},
        {"const": {"pattern": "(a+)+$"}},
        {"default": {"$ref": "x"}, "examples": [{"pattern": "x"}]},
        {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "null"}}},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        {"type": "string", "format": "date", "x-widget": "calendar"},
        nested(31),
    ],
)
def test_a_schema_is_taken(schema: dict[str, Any]) -> None:
    """What looks like a keyword but is a name or data is no reason to refuse."""
    assert schemas.problem(schema) is None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strng"}, "$.type: 'strng' is not valid"),
        ({"type": 7}, "$.type: 7 is not valid"),
        ({"enum": "red"}, "$.enum: 'red' is not of type 'array'"),
        ({"required": "colour"}, "$.required: 'colour' is not of type 'array'"),
        ({"properties": ["a"]}, "$.properties: ['a'] is not of type 'object'"),
        ({"items": [{"type": "null"}]}, "$.items: "),
        ({"properties": {"\u202ea\n": {"minimum": "1"}}}, "'\\u202ea\\n'.minimum: "),
        ({"minLength": -1}, "$.minLength: -1 is less than"),
        ({"$ref": "#"}, "$ref is not taken: write the schema out in full"),
        ({"$ref": "https://evil.example/s.json"}, "$ref is not taken"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "$ref is not taken"),
        ({"anyOf": [{"$dynamicRef": "#x"}]}, "$dynamicRef is not taken"),
        ({"$id": "https://[bad"}, "$id is not taken"),
        ({"$defs": {"a": {"$anchor": "b"}}}, "$anchor is not taken"),
        ({"items": {"pattern": "^(a+)+$"}}, "pattern is not taken: patterns are not"),
        ({"not": {"patternProperties": {"(a+)+$": {}}}}, "patternProperties is not"),
        ({"unevaluatedProperties": False}, "use items or additionalProperties"),
        ({"title": "x" * 9_000}, "more than 8,192 bytes: ask for less at once"),
        ({"anyOf": [{}] * 200}, "more than 200 schemas in it"),
        (nested(32), "more than 32 levels: ask for something flatter"),
        (nested(900), "more than 32 levels"),
    ],
)
def test_a_schema_is_not_taken(schema: dict[str, Any], said: str) -> None:
    """It says where, and what to do instead, in a short printable line."""
    problem = schemas.problem(schema)
    assert problem is not None
    assert said in problem
    assert problem.isprintable()
    assert len(problem) < 800


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"colour": "red"}, None),
        ({"colour": "blue", "count": 2}, None),
        ({"colour": "green"}, "$.colour: 'green' is not one of ['red', 'blue']"),
        ({"colour": "red", "count": 0}, "$.count: 0 is less than the minimum of 1"),
        ({"colour": "red", "count": True}, "$.count: True is not of type 'integer'"),
        ({}, "$: 'colour' is a required property"),
        ({"colour": "red", "x": 1}, "$: Additional properties are not allowed ('x' "),
        ("red", "$: 'red' is not of type 'object'"),
        (None, "$: None is not of type 'object'"),
        ([], "$: [] is not of type 'object'"),
        ("x" * 5_000, '$: {"type": "object"} is expected'),
        ({"colour": "x" * 70_000}, "$: at most 65,536 bytes are expected"),
    ],
)
def test_an_answer_fits_or_it_is_said_where_it_does_not(
    answer: Any, said: str | None
) -> None:
    """With what is expected there."""
    found = schemas.mismatch(COLOUR, answer)
    assert (found is None) == (said is None)
    assert found is None or found.startswith(said or "")


def test_a_schema_that_would_not_be_taken_allows_everything() -> None:
    """It was recorded before there were rules: nobody must be stuck with it."""
    assert schemas.mismatch({"type": "strng"}, "x") is None
    assert schemas.mismatch({"pattern": "^(a+)+$"}, "a" * 40 + "!") is None


LONG = ["x"] * 15_000
BOMBS: list[tuple[dict[str, Any], Any]] = [
    ({"items": {"anyOf": [{"type": "null"}] * 190}}, LONG),
    ({"items": {"anyOf": [{"type": "null"}] * 99}}, LONG[:95]),
    ({"anyOf": [{"type": "null"}] * 199}, "x" * 65_000),
    ({"anyOf": [{"type": "null"}] * 199}, "\x01" * 10_000),
    ({"uniqueItems": True}, [{"a": n} for n in range(7_000)]),
    ({"uniqueItems": True}, [{"a": n} for n in range(70)]),
    ({"allOf": [{"uniqueItems": True}] * 190}, [[n] for n in range(5_000)]),
    ({"additionalProperties": {"type": "null"}}, {str(n): n for n in range(6_000)}),
    ({"additionalProperties": False}, {str(n): n for n in range(6_000)}),
    ({"propertyNames": {"maxLength": 1}}, {str(n): n for n in range(6_000)}),
    ({"contains": {"const": 1}}, [0] * 30_000),
    ({"multipleOf": 0.1}, 10**400),
    ({"multipleOf": 5e-324}, 1e308),
    ({"enum": [[[[]]]] * 1_000}, [[[[]]]] * 10_000),
    (nested(31), "x"),
]


@pytest.mark.parametrize("bomb", range(len(BOMBS)))
def test_no_schema_keeps_a_decision_from_ending(bomb: int) -> None:
    """Whatever the answer is, it is judged or refused in a moment."""
    schema, answer = BOMBS[bomb]
    began = time.thread_time()
    assert schemas.problem(schema) is None
    found = schemas.mismatch(schema, answer)
    assert time.thread_time() - began < PATIENCE
    assert found is None or (found.isprintable() and len(found) < 800)


SMALL = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    [
        *("type", "enum", "const", "properties", "items", "anyOf", "required"),
        *("not", "minimum", "additionalProperties", "uniqueItems"),
        *("$ref", "pattern", "$defs"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYWORDS, SMALL, max_size=4), SMALL)
def test_whatever_is_written_is_judged(schema: dict[str, Any], answer: Any) -> None:
    """Never an error of another kind; and what is taken is judged in full."""
    problem = schemas.problem(schema)
    found = schemas.mismatch(schema, answer)
    if problem is None:
        assert (found is None) == Draft202012Validator(schema).is_valid(answer)
    else:
        assert found is None

"""JSON schemas that a model wrote, and answers that must fit them.

Draft 2020-12 without what has no bound: references (a dozen short lines unfold to
thousands) and patterns (28 letters keep one busy for 12 s). The rest is bounded
before it is evaluated, so it may be decided wherever decisions are made; the
same schema and answer always come to the same.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from jsonschema.exceptions import SchemaError, ValidationError

MAX_SCHEMA = 8 * 1024
"""Bytes of a schema: a form of a hundred fields."""

MAX_PARTS = 200
"""Schemas in a schema, itself among them; each takes some 0.3 ms to check."""

MAX_ANSWER = 64 * 1024
"""Bytes of an answer that has a schema; what is wrong is told with the value."""

DEEPEST = 32
"""Levels of a schema: what recurses over it stays far from Python's limit."""

EFFORT = 20_000
"""Comparisons that one answer may cost: of 7 µs each, or 20 where they fail."""

SHORT = 300
"""Characters that what is wrong is told in."""

REFUSED = {
    **dict.fromkeys(
        ("$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor"),
        "write the schema out in full, without references",
    ),
    **dict.fromkeys(
        ("pattern", "patternProperties"),
        "patterns are not evaluated: say in the question which form you want",
    ),
    **dict.fromkeys(
        ("unevaluatedItems", "unevaluatedProperties"),
        "use items or additionalProperties",
    ),
}
"""Keywords that are not taken, and what to do instead."""

_MAPS = frozenset({"properties", "dependentSchemas", "$defs", "definitions"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_EACH = frozenset({"items", "contains", "additionalProperties", "propertyNames"})
"""Keywords that are held against each value of a list or an object."""

_SINGLE = _EACH | {"not", "if", "then", "else", "contentSchema"}


def problem(schema: dict[str, Any]) -> str | None:
    """Say why a schema is not taken, and what to do; None if it is."""
    if len(msgspec.json.encode(schema)) > MAX_SCHEMA:
        return f"it has more than {MAX_SCHEMA:,} bytes: ask for less at once"
    if _deeper(schema, DEEPEST):
        return f"it has more than {DEEPEST} levels: ask for something flatter"
    parts = list(_within(schema))
    if len(parts) > MAX_PARTS:
        return f"it has more than {MAX_PARTS} schemas in it: ask for less at once"
    for keyword in (keyword for part in parts for keyword in part):
        if keyword in REFUSED:
            return f"{keyword} is not taken: {REFUSED[keyword]}"
    return _malformed(schema)


def mismatch(schema: dict[str, Any], answer: Any) -> str | None:
    """Say where an answer breaks a schema, and what is expected; None if it fits.

    A schema that is not taken (an older version took it) allows everything.
    """
    if problem(schema) is not None:
        return None
    if len(msgspec.json.encode(answer)) > MAX_ANSWER:
        return f"$: at most {MAX_ANSWER:,} bytes are expected"
    if _effort(schema, answer) > EFFORT:
        return "$: fewer values are expected, so many cannot be checked"
    return _broken(schema, answer)


def _malformed(schema: dict[str, Any]) -> str | None:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - takes 0.1 s
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415 - see above

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return _told(error)
    return None


def _broken(schema: dict[str, Any], answer: Any) -> str | None:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - takes 0.1 s
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - see above

    try:
        error = best_match(Draft202012Validator(schema).iter_errors(answer))
    except OverflowError:  # an integer of 400 digits is no multiple of a float
        return "$: numbers of a usual size are expected"
    return None if error is None else _told(error)


def _told(error: "SchemaError | ValidationError") -> str:
    """Where it is wrong, and what is expected, in a line."""
    parts = (
        f"[{part}]" if isinstance(part, int) else f".{_name(part)}"
        for part in error.absolute_path
    )
    said = error.message
    if len(said) > SHORT:  # the value, and only then what is expected of it
        rule = json.dumps({error.validator: error.validator_value})
        said = f"{rule[:SHORT]} is expected"
    return f"${''.join(parts)}"[:SHORT] + f": {said}"


def _name(part: str) -> str:
    return part if part.isidentifier() and part.isprintable() else repr(part)


def _within(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and every schema in it, whatever shape they have."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword, value in schema.items():
        for inner in _schemas(keyword, value):
            yield from _within(inner)


def _schemas(keyword: str, value: Any) -> Iterator[Any]:
    """The schemas that the value of a keyword holds; in data there are none."""
    if keyword in _MAPS and isinstance(value, dict):
        yield from value.values()
    elif keyword in _LISTS and isinstance(value, list):
        yield from value
    elif keyword in _SINGLE:
        yield value


def _effort(schema: dict[str, Any], answer: Any) -> int:
    """Comparisons that holding an answer against a schema costs at most.

    Without references each schema in it meets one value, except those that are
    for each of many; to tell that values are unique may take every pair.
    """
    each = pairs = 0
    for one in _within(schema):
        each += sum(_count(one[keyword]) for keyword in _EACH & one.keys())
        pairs += one.get("uniqueItems") is True
    values = _count(answer)
    return _count(schema) + each * values + pairs * values**2


def _count(value: Any) -> int:
    """How many values there are in one, itself among them."""
    count, rest = 0, [value]
    while rest:
        count += 1
        rest.extend(_inner(rest.pop()))
    return count


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested deeper than so many levels."""
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level for inner in _inner(outer)]
    return bool(level)


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []

"""Values drawn from a JSON schema, as far as our own descriptions go."""

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(-1e9, 1e9)
)
ANYTHING = st.recursive(
    st.one_of(SCALARS, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=8,
)
"""Any JSON."""


def from_schema(schema: Schema) -> st.SearchStrategy[Any]:
    """What a schema (without references) allows."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([from_schema(one) for one in schema["anyOf"]])
    kind = schema.get("type")
    return _KINDS[kind](schema) if kind else ANYTHING


def _object(schema: Schema) -> st.SearchStrategy[Any]:
    properties = {n: from_schema(s) for n, s in schema.get("properties", {}).items()}
    needed = schema.get("required", ())
    fixed = st.fixed_dictionaries(
        {name: properties[name] for name in needed},
        optional={n: s for n, s in properties.items() if n not in needed},
    )
    if "properties" in schema:
        return fixed
    more = schema.get("additionalProperties", {})
    inner = ANYTHING if more in (True, {}) else from_schema(more)
    return st.dictionaries(st.text(max_size=20), inner, max_size=4)


def _array(schema: Schema) -> st.SearchStrategy[Any]:
    least, most = schema.get("minItems", 0), min(schema.get("maxItems", 4), 4)
    return st.lists(from_schema(schema.get("items", {})), min_size=least, max_size=most)


def _string(schema: Schema) -> st.SearchStrategy[Any]:
    if schema.get("format") == "date-time":
        moments = st.datetimes(timezones=st.timezones())
        return moments.map(lambda moment: moment.isoformat())
    least, most = schema.get("minLength", 0), schema.get("maxLength", 300)
    if "pattern" in schema:
        return st.from_regex(schema["pattern"]).filter(lambda s: len(s) <= most)
    return st.text(min_size=least, max_size=min(most, 300))


def _number(schema: Schema) -> st.SearchStrategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1e9))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1e9))
    ends = "exclusiveMinimum" in schema, "exclusiveMaximum" in schema
    return st.floats(low, high, exclude_min=ends[0], exclude_max=ends[1])


def _integer(schema: Schema) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum", -(2**53)), schema.get("maximum", 2**53)
    return st.integers(low, high)


_KINDS = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
}

import re
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from gateway.keylines import DEPTH, line_of, lines_of

VALUES = (
    "1",
    "-1.5e3",
    "2024-01-01T00:00:00Z",
    '"a # b = c [d]"',
    r'"a\"b\\"',
    r"'C:\'",
    '"""one\nk = 1\n[t]\n"""',
    '"""quotes at the end """""',
    r'"""\"""" ' + "# more",
    "'''it's\n\"\"\"\n[x]'''",
    "''",
    '""',
    '[\n  1, # ]\n  "]",\n]',
    "[[1, 2], []]",
    "{ a = 1, b = { c = [2] } }",
    '{ "x=y" = "}" }',
)
STATEMENTS = st.lists(
    st.tuples(
        st.sampled_from(("", "\n", "# [no]\n", "  \t", "\n\n# k = 1\n")),
        st.booleans(),
        st.sampled_from(("k{}", '"k{}"', "'k{}'", "a{}.b", 'a{} . "b"')),
        st.sampled_from(VALUES),
        st.sampled_from(("\n", "  # end\n", "\r\n", "\n\n")),
    ),
    max_size=12,
)


@given(STATEMENTS)
def test_lines_of_keys(statements: list[tuple[str, bool, str, str, str]]) -> None:
    """Each key is found where it first stands, whatever stands in between."""
    text, table = "", ()
    expected: dict[tuple[str, ...], int] = {}
    for number, (before, header, shape, written, after) in enumerate(statements):
        text += before
        name = shape.format(number)
        key = tuple(re.findall(r"\w+", name))
        line = text.count("\n") + 1
        if header:
            table, key = key, ()
            text += f"[{name}]{after}"
        else:
            text += f"{name} = {written}{after}"
        for depth in range(1, DEPTH + 1):
            expected.setdefault((table + key)[:depth], line)
    tomllib.loads(text)  # what is built here is valid
    assert lines_of(text) == expected


def test_the_nearest_line() -> None:
    """A key within an inline table is found by its table, a stranger not at all."""
    lines = lines_of("\nrunner = { lease = 1 }")
    assert line_of(("runner", "lease"), lines) == 2
    assert line_of(("logs",), lines) is None

"""SQL that others write: what of it is let through, and how its values come out.

Nothing can be written nor read beside the tables, whatever the text says: the
database sees to that (``store.py``). This is for what it would still let pass.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import duckdb

from events.errors import InvalidInput

READING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)

BARRED: Final = frozenset(
    {
        "checkpoint",  # has all changes put into the tables at once
        "force_checkpoint",
        "truncate_duckdb_logs",
        "write_log",
        "query",  # SQL within a string: nobody would see what is in it
        "json_execute_serialized_sql",
        "register_external_resource_type",  # stays; and calls by name, any of these
        "register_external_resource",
        "create_external_resource",
        "destroy_external_resource",
        "deregister_external_resource",
    }
)
"""Functions that do something, rather than tell something."""

_FAITHFUL = re.compile(
    r"(BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|VARCHAR|"
    r'DECIMAL\(\d+,\d+\)|"NULL")(\[\d*\])*'
)
"""Types whose values Python has too; all others come as DuckDB writes them."""


REMEMBERED = 128
"""Texts that are not looked at again: to do so takes a sixth of a common question."""

LONG = 10_000
"""Characters of a text that is not remembered: nobody asks it again and again."""


class Asked(NamedTuple):
    """One statement that only reads: without what stands behind it, and parsed."""

    bare: str
    statement: duckdb.Statement


def check(sql: str) -> Asked:
    """Return the one statement that there is if it only reads, else InvalidInput.

    Whether it does is in its text alone, so of one text the answer is always the
    same; and a statement that is run is copied first, whoever else runs it.
    """
    return _remembered(sql) if len(sql) <= LONG else _checked(sql)


@lru_cache(REMEMBERED)
def _remembered(sql: str) -> Asked:
    return _checked(sql)


def _checked(sql: str) -> Asked:
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise InvalidInput(f"the query failed: {error}") from error
    if len(found) != 1 or found[0].type not in READING:
        raise InvalidInput("a query is one SELECT; nothing can be changed here")
    for name in _called(sql):
        if name in BARRED:
            raise InvalidInput(f"{name}() cannot be called here: it is no question")
    return Asked(_bare(sql), found[0])


def _tokens(sql: str) -> Iterator[tuple[int, bytes]]:
    """The words of a query but comments, each with where it begins, in bytes."""
    text = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(text)]
    for (start, kind), end in zip(tokens, ends, strict=True):
        if kind != duckdb.token_type.comment:
            yield start, text[start:end].strip()


def _bare(sql: str) -> str:
    """The query without the semicolons and comments after it."""
    text = sql.encode()
    end = 0
    for start, word in _tokens(sql):
        if word != b";":
            end = start + len(word)
    return text[:end].decode()


def _called(sql: str) -> Iterator[str]:
    """The names that stand before a parenthesis."""
    words = [word for _, word in _tokens(sql)]
    for word, following in pairwise(words):
        if following.startswith(b"("):
            yield word.decode(errors="replace").strip('"').lower()


def in_python(type_: str) -> bool:
    """Whether Python has the values of a type as they are."""
    return _FAITHFUL.fullmatch(type_) is not None


def faithful(sql: str, types: list[str]) -> str:
    """The query with what Python cannot hold as text: nothing of it is lost."""
    if all(map(in_python, types)):
        return sql
    columns = ", ".join(
        f"#{n}" if in_python(t) else f"CAST(#{n} AS VARCHAR)"
        for n, t in enumerate(types, 1)
    )
    return f"SELECT {columns} FROM (\n{sql}\n)"

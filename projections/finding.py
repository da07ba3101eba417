"""Finding a text: in prompts, outputs and log lines, in any case of its letters."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, get_args

from events.names import LEVELS
from projections import queries as q
from projections.keysets import Key, Ordering
from projections.selection import Conditions, Select

ASCII = 0x7F
"""What is beyond it means nothing in a regular expression."""

AROUND = 80
"""Characters before what was found; three times as many are shown in all."""


def anywhere(*columns: str) -> str:
    """The condition that a text stands in one of some columns, in any case."""
    found = (f"regexp_matches({column}, $pattern, 'i')" for column in columns)
    return f"({' OR '.join(found)})"


def pattern(text: str) -> str:
    """A regular expression for a text and nothing else; the fastest there is.

    ILIKE with an escape takes twice as long, and so does lower().
    """
    return "".join(
        c if c.isalnum() or ord(c) > ASCII else f"\\x{ord(c):02x}" for c in text
    )


# ── what is found ────────────────────────────────────────────────────────────


def search(request: q.SearchRequest) -> Select:
    """Find a text in prompts, outputs and log lines."""
    values = {"text": request.text}
    parts = []
    for kind in get_args(q.Kind):
        if kind in request.kinds:
            sql, bound = _SEARCHED[kind](request)
            parts.append(sql)
            values |= bound
    keys = (
        Key('"at"', datetime | None, descending=True),
        Key("kind", str),
        Key("number", int, descending=True),
    )
    sql = "\nUNION ALL\n".join(parts)
    return Select(sql, values, Ordering(keys), q.Found, heavy=True)


def _texts(kind: str, at: str, request: q.SearchRequest) -> tuple[str, dict[str, Any]]:
    where = Conditions()
    where.add(anywhere(kind), pattern=pattern(request.text))
    where.add('"user" = $user', user=request.user)
    where.within(at, "found", request.from_, request.to)
    sql = f"""\
SELECT '{kind}' AS kind, execution AS id, "user", {at} AS "at",
  {_excerpt(kind)} AS excerpt, NULL AS line, NULL AS level, eid AS number
FROM executions WHERE {where.sql}"""
    return sql, where.values


def _lines(request: q.SearchRequest) -> tuple[str, dict[str, Any]]:
    where = Conditions()
    where.add(anywhere("message"), pattern=pattern(request.text))
    where.add('"user" = $user', user=request.user)
    if request.level is not None:
        levels = list(LEVELS[LEVELS.index(request.level) :])
        where.add("list_contains($levels, level)", levels=levels)
    where.within("written_at", "found", request.from_, request.to)
    sql = f"""\
SELECT 'log' AS kind, execution AS id, "user", written_at AS "at",
  {_excerpt("message")} AS excerpt, id AS line, level, id AS number
FROM logs WHERE {where.sql}"""
    return sql, where.values


_SEARCHED: Final[dict[str, Callable[[q.SearchRequest], tuple[str, dict[str, Any]]]]] = {
    "input": lambda request: _texts("input", "created_at", request),
    "output": lambda request: _texts("output", "updated_at", request),
    "log": _lines,
}


def _excerpt(column: str) -> str:
    found = f"instr(lower({column}), lower($text))"
    return f"substr({column}, greatest(1, {found} - {AROUND}), {3 * AROUND})"

"""The SQL of each query. What is asked for is bound; none of it becomes SQL.

Every text here is put together of constants of this file and of ``views.py``.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, Final, NamedTuple, get_args

import msgspec

from events.names import LEVELS
from events.state import FINAL
from projections import queries as q
from projections.keysets import Key, Ordering
from projections.texts import utc
from projections.views import OWN_STEPS, both

SHOWN = "CASE WHEN problem IS NULL THEN status ELSE 'corrupt' END"
"""The status of an execution, unless what came after it cannot be read."""

ASCII = 0x7F
"""What is beyond it means nothing in a regular expression."""

AROUND = 80
"""Characters before what was found; three times as many are shown in all."""

_SORTED_BY: Final[dict[str, tuple[str, Any]]] = {
    "created_at": ("created_at", datetime | None),
    "updated_at": ("updated_at", datetime | None),
    "completed_at": ("completed_at", datetime | None),
    "steps": ("steps", int),
    "tokens": ("input_tokens + output_tokens", int),
    "cost": ("cost", float),
}
"""What a list can be sorted by, as SQL, and the type of its values."""


class Select(NamedTuple):
    """A query: rows of ``sql`` in an order, the keys among its columns.

    The names of the columns are the fields of ``item``; those of the keys that are
    none are left out of it. ``heavy`` is what may take long. With ``more`` there
    are rows of several queries; with ``wide`` the columns come from that, which is
    asked about ``chosen``: only for the rows of the page.
    """

    sql: str
    values: dict[str, Any]
    ordering: Ordering
    item: type[msgspec.Struct]
    heavy: bool = False
    more: tuple[str, ...] = ()
    wide: str = ""

    def page(self, condition: str) -> str:
        """The SQL for a page of rows that fulfil a condition, of ``$most`` rows.

        Each table is asked for so many by itself: of a view over both, DuckDB
        sorts all that there is (215 ms for a million executions, not 12).
        """
        order = f"ORDER BY {self.ordering.sql} LIMIT $most"
        parts = [
            f"SELECT * FROM ({sql}) WHERE {condition} {order}"
            for sql in (self.sql, *self.more)
        ]
        narrow = parts[0]
        if self.more:
            narrow = f"SELECT * FROM (({') UNION ALL ('.join(parts)})) {order}"
        if not self.wide:
            return narrow
        return (
            f"WITH chosen AS MATERIALIZED ({narrow}) {self.wide} "
            f"ORDER BY {self.ordering.sql}"
        )


class Conditions:
    """What rows must be, each bound by a name."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.values: dict[str, Any] = {}

    def add(self, part: str, **values: Any) -> None:
        """Demand something if all of its values are given."""
        if None not in values.values():
            self._parts.append(part)
            self.values.update(values)

    def within(
        self, column: str, name: str, low: datetime | None, high: datetime | None
    ) -> None:
        """Demand that a time is in a range, without its end."""
        if low is not None:
            self.add(f"{column} >= ${name}_from", **{f"{name}_from": utc(low)})
        if high is not None:
            self.add(f"{column} < ${name}_to", **{f"{name}_to": utc(high)})

    @property
    def sql(self) -> str:
        """What stands after WHERE."""
        return " AND ".join(self._parts) or "true"


# ── executions ───────────────────────────────────────────────────────────────

_LISTED = ", ".join(
    {
        "id": "execution AS id",
        "user": '"user"',
        "status": f"{SHOWN} AS status",
        "tokens": "input_tokens + output_tokens AS tokens",
    }.get(name, name)
    for name in q.Execution.__struct_fields__
)


def executions(request: q.ListRequest) -> Select:
    """List executions."""
    where = Conditions()
    where.add('"user" = $user', user=request.user)
    where.add(_of(request.status), status=list(request.status) or None)
    where.add("agent = $agent", agent=request.agent)
    where.add("model = $model", model=request.model)
    where.add("lane = $lane", lane=request.lane)
    where.add("parent = $parent", parent=request.parent)
    where.add("error = $error", error=request.error)
    where.within("created_at", "created", request.created_from, request.created_to)
    where.within("updated_at", "updated", request.updated_from, request.updated_to)
    columns = ("input", "output", "error_message")
    where.add(_anywhere(*columns), pattern=request.text and _pattern(request.text))
    for number, (key, value) in enumerate(request.metadata.items()):
        path, wanted = f"path_{number}", f"value_{number}"
        where.add(
            f"json_extract_string(metadata, ${path}) = ${wanted}",
            **{path: _pointer(key), wanted: value},
        )
    column, kind = _SORTED_BY[request.sort]
    descending = request.order == "desc"
    keys = (Key("sorted", kind, descending), Key("eid", int, descending))
    narrow = f"SELECT {column} AS sorted, eid FROM"
    return Select(
        f"{narrow} executions_hot WHERE {where.sql}",
        where.values,
        Ordering(keys),
        q.Execution,
        heavy=request.text is not None,
        more=(f"{narrow} executions_done WHERE {where.sql}",),
        wide=f"SELECT sorted, eid, {_LISTED} FROM executions JOIN chosen USING (eid)",
    )


def _of(statuses: Sequence[str]) -> str:
    """The condition on a status; that of all but the corrupt takes half the time."""
    if "corrupt" in statuses:
        return f"list_contains($status, {SHOWN})"
    return "list_contains($status, status) AND problem IS NULL"


def _anywhere(*columns: str) -> str:
    """The condition that a text stands in one of some columns, in any case."""
    found = (f"regexp_matches({column}, $pattern, 'i')" for column in columns)
    return f"({' OR '.join(found)})"


def _pattern(text: str) -> str:
    """A regular expression for a text and nothing else; the fastest there is.

    ILIKE with an escape takes twice as long, and so does lower().
    """
    return "".join(
        c if c.isalnum() or ord(c) > ASCII else f"\\x{ord(c):02x}" for c in text
    )


def _pointer(key: str) -> str:
    """A JSON pointer (RFC 6901) to a member: a path that no key breaks out of."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def counts(request: q.CountRequest) -> Select:
    """Count executions by status."""
    where = Conditions()
    where.add('"user" = $user', user=request.user)
    where.add("agent = $agent", agent=request.agent)
    where.within("created_at", "created", request.created_from, request.created_to)
    found = both("status, problem", where.sql)
    sql = f"SELECT {SHOWN} AS status, count(*) AS executions FROM ({found}) GROUP BY 1"
    return Select(sql, where.values, Ordering((Key("status", str),)), q.StatusCount)


def active(request: q.ActiveRequest) -> Select:
    """Count executions that have not ended, by user."""
    where = Conditions()
    where.add("NOT list_contains($final, status)", final=sorted(FINAL))
    where.add('"user" = $user', user=request.user)
    sql = f"""\
SELECT "user", count(*) AS executions,
  count(*) FILTER (status = 'pending') AS pending,
  count(*) FILTER (status = 'running') AS running,
  count(*) FILTER (status = 'paused') AS paused,
  count(*) FILTER (starts_with(status, 'awaiting_')) AS awaiting
FROM executions_hot WHERE {where.sql} GROUP BY 1"""
    return Select(sql, where.values, Ordering((Key('"user"', str),)), q.UserCount)


def awaiting(request: q.AwaitingRequest) -> Select:
    """List executions that wait for an event."""
    where = Conditions()
    where.add("w.kind = 'event' AND w.ended_at IS NULL")
    where.add('e."user" = $user', user=request.user)
    where.add("w.event_type = $event_type", event_type=request.event_type)
    sql = f"""\
SELECT e.execution AS id, e."user", e.agent, e.status, w.event_type, w.filter,
  w.call_id, w.began_at AS since, w.deadline, w.eid
FROM waits_hot w JOIN executions_hot e USING (eid) WHERE {where.sql}"""
    keys = (Key("since", datetime), Key("eid", int))
    return Select(sql, where.values, Ordering(keys), q.Awaiting)


def stuck(request: q.StuckRequest) -> Select:
    """List executions that should have moved on."""
    where = Conditions()
    where.add('"user" = $user', user=request.user)
    where.add("agent = $agent", agent=request.agent)
    sql = f"""\
SELECT execution AS id, "user", agent, status, why, since, runner
FROM stuck WHERE {where.sql}"""
    keys = (Key("since", datetime | None), Key('"user"', str), Key("id", str))
    return Select(sql, where.values, Ordering((*keys, Key("why", str))), q.Stuck)


# ── what was used ────────────────────────────────────────────────────────────

_GROUPED_BY: Final[dict[str, tuple[str, Any]]] = {
    "day": ("CAST(responded_at AS DATE)", date),
    "user": ('"user"', str),
    "agent": ("agent", str),
    "model": ("model", str),
}


def usage(request: q.UsageRequest) -> Select:
    """Sum up what was used."""
    where = Conditions()
    where.add('"user" = $user', user=request.user)
    where.add("agent = $agent", agent=request.agent)
    where.add("model = $model", model=request.model)
    where.within("responded_at", "responded", request.from_, request.to)
    by = [name for name in _GROUPED_BY if name in request.by]
    columns = [
        f'{_GROUPED_BY[name][0] if name in by else "NULL"} AS "{name}"'
        for name in _GROUPED_BY
    ]
    grouped = f"GROUP BY {', '.join(_GROUPED_BY[n][0] for n in by)}" if by else ""
    sql = f"""\
SELECT {", ".join(columns)}, count(*) AS steps,
  coalesce(sum(input_tokens), 0)::BIGINT AS input_tokens,
  coalesce(sum(output_tokens), 0)::BIGINT AS output_tokens,
  coalesce(sum(cache_read), 0)::BIGINT AS cache_read,
  coalesce(sum(cache_write), 0)::BIGINT AS cache_write,
  coalesce(sum(cost), 0.0) AS cost, count(*) FILTER (cost IS NULL) AS unpriced
FROM ({OWN_STEPS}) WHERE {where.sql} {grouped}"""
    keys = tuple(Key(f'"{name}"', _GROUPED_BY[name][1]) for name in by)
    ordering = Ordering(keys or (Key("steps", int),))
    return Select(sql, where.values, ordering, q.Usage, heavy=True)


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
    where.add(_anywhere(kind), pattern=_pattern(request.text))
    where.add('"user" = $user', user=request.user)
    where.within(at, "found", request.from_, request.to)
    sql = f"""\
SELECT '{kind}' AS kind, execution AS id, "user", {at} AS "at",
  {_excerpt(kind)} AS excerpt, NULL AS line, NULL AS level, eid AS number
FROM executions WHERE {where.sql}"""
    return sql, where.values


def _lines(request: q.SearchRequest) -> tuple[str, dict[str, Any]]:
    where = Conditions()
    where.add(_anywhere("message"), pattern=_pattern(request.text))
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


SELECTS: Final[dict[type[q.Request], Callable[[Any], Select]]] = {
    q.ListRequest: executions,
    q.CountRequest: counts,
    q.ActiveRequest: active,
    q.AwaitingRequest: awaiting,
    q.StuckRequest: stuck,
    q.UsageRequest: usage,
    q.SearchRequest: search,
}
"""Every query by its request."""

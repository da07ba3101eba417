"""The SQL of each query. What is asked for is bound; none of it becomes SQL.

Every text is put together of constants: of this, ``finding.py`` and ``views.py``.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, Final

from events.state import FINAL
from projections import queries as q
from projections.finding import anywhere, pattern, search
from projections.keysets import Key, Ordering
from projections.selection import Conditions, Select
from projections.views import OWN_STEPS, both

SHOWN = "CASE WHEN problem IS NULL THEN status ELSE 'corrupt' END"
"""The status of an execution, unless what came after it cannot be read."""

_SORTED_BY: Final[dict[str, tuple[str, Any]]] = {
    "created_at": ("created_at", datetime | None),
    "updated_at": ("updated_at", datetime | None),
    "completed_at": ("completed_at", datetime | None),
    "steps": ("steps", int),
    "tokens": ("input_tokens + output_tokens", int),
    "cost": ("cost", float),
}
"""What a list can be sorted by, as SQL, and the type of its values."""


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

_TABLES: Final = ("executions_hot", "executions_done")
_WIDE: Final = tuple(
    f"SELECT eid, {_LISTED} FROM {table} WHERE eid IN (SELECT unnest($eids))"
    for table in _TABLES
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
    where.add(anywhere(*columns), pattern=request.text and pattern(request.text))
    for number, (key, value) in enumerate(request.metadata.items()):
        path, wanted = f"path_{number}", f"value_{number}"
        where.add(
            f"json_extract_string(metadata, ${path}) = ${wanted}",
            **{path: _pointer(key), wanted: value},
        )
    column, kind = _SORTED_BY[request.sort]
    descending = request.order == "desc"
    keys = (Key("sorted", kind, descending), Key("eid", int, descending))
    hot, done = (
        f"SELECT {part} AS part, eid, {column} AS sorted FROM {table} WHERE {where.sql}"
        for part, table in enumerate(_TABLES)
    )
    return Select(
        hot,
        where.values,
        Ordering(keys),
        q.Execution,
        heavy=request.text is not None,
        more=(done,),
        wide=_WIDE,
    )


def _of(statuses: Sequence[str]) -> str:
    """The condition on a status; that of all but the corrupt takes half the time."""
    if "corrupt" in statuses:
        return f"list_contains($status, {SHOWN})"
    return "list_contains($status, status) AND problem IS NULL"


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

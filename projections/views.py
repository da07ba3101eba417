"""Views: questions that are asked again and again, as tables.

``now()`` is made UTC without a zone, as all times here. What a fork copied from
its source is left out wherever something is added up: it was paid once.
"""

from typing import Final, NamedTuple


class View(NamedTuple):
    """A view: its SQL, and what it and its columns mean."""

    name: str
    means: str
    columns: dict[str, str]
    sql: str


def both(columns: str, condition: str) -> str:
    """Some columns of executions, hot and done.

    As the view ``executions`` has them; but of that DuckDB plans all fifty, twice,
    before it drops those that nobody asks for: 1 ms of CPU each time.
    """
    return f"""\
SELECT {columns} FROM executions_hot WHERE {condition}
UNION ALL
SELECT {columns} FROM executions_done WHERE {condition}"""


def own(table: str) -> str:
    """The rows of a table without those that a fork copied from its source."""
    return f"""\
SELECT t.* FROM {table} t ANTI JOIN (
{both("eid, origin_version", "origin_version IS NOT NULL")}
) f ON f.eid = t.eid AND t.version <= f.origin_version"""


OWN_STEPS = own("steps")

NOW = "make_timestamp(epoch_us(now()))"

QUIET = "INTERVAL 10 MINUTE"
"""How long nothing may happen before it is called stuck."""

_GROUPED = {
    "day": "The day, UTC.",
    "user": "Whose executions.",
    "agent": "Of which agent type.",
    "model": "The model that answered.",
    "steps": "How many replies.",
    "input_tokens": "Tokens in.",
    "output_tokens": "Tokens out.",
    "cache_read": "Of the tokens in: read from a cache.",
    "cache_write": "Of the tokens in: written to a cache.",
    "cost": "US dollars, as far as known.",
    "unpriced": "Replies whose price is not known.",
}

_UNREADABLE = """\
execution, "user", agent, status, 'its history cannot be read' AS why,
  updated_at AS since, runner"""

_PERCENTILES = {
    "p50_ms": "Half are faster, in milliseconds.",
    "p90_ms": "Nine of ten are faster.",
    "p99_ms": "99 of a hundred are faster.",
    "max_ms": "The slowest.",
}


def _percentiles(column: str) -> str:
    shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    parts = [f"quantile_cont({column}, {share}) AS {n}_ms" for n, share in shares]
    return ", ".join([*parts, f"max({column}) AS max_ms"])


VIEWS: Final = (
    View(
        "usage",
        "What was used and what it cost, by day, user, agent and model.",
        _GROUPED,
        f"""\
SELECT CAST(responded_at AS DATE) AS day, "user", agent, model, count(*) AS steps,
  sum(input_tokens)::BIGINT AS input_tokens,
  sum(output_tokens)::BIGINT AS output_tokens,
  sum(cache_read)::BIGINT AS cache_read, sum(cache_write)::BIGINT AS cache_write,
  coalesce(sum(cost), 0.0) AS cost, count(*) FILTER (cost IS NULL) AS unpriced
FROM ({OWN_STEPS}) GROUP BY ALL""",
    ),
    View(
        "failures",
        "Why executions did not come to a normal end.",
        {
            "agent": "Of which agent type.",
            "status": "failed, completed (by a limit) or cancelled.",
            "reason": "The error, the limit, or what was said with the cancel.",
            "executions": "How many.",
            "retryable": "How many of them a retry could help.",
            "last_at": "When the last one ended.",
            "example": "The id of the last one.",
        },
        """\
SELECT agent, status,
  coalesce(error, CASE WHEN status = 'cancelled' THEN cancel_reason
    ELSE finish_reason END) AS reason,
  count(*) AS executions, count(*) FILTER (retryable) AS retryable,
  max(completed_at) AS last_at, arg_max(execution, completed_at) AS example
FROM executions
WHERE status IN ('failed', 'cancelled')
  OR (status = 'completed' AND finish_reason <> 'final_answer')
GROUP BY ALL""",
    ),
    View(
        "step_latency",
        "How long models take to answer.",
        {
            "agent": "Of which agent type.",
            "model": "The model that answered.",
            "steps": "How many replies.",
            **_PERCENTILES,
        },
        f"""\
SELECT agent, model, count(*) AS steps, {_percentiles("latency_ms")}
FROM ({OWN_STEPS}) GROUP BY ALL""",
    ),
    View(
        "tool_latency",
        "How long tools take.",
        {
            "tool": "The tool's name.",
            "calls": "How many calls came to an end.",
            "failed": "How many of them did not succeed.",
            **_PERCENTILES,
        },
        f"""\
SELECT tool, count(*) AS calls, count(*) FILTER (outcome <> 'success') AS failed,
  {_percentiles("latency_ms")}
FROM ({own("tool_calls")}) WHERE phase = 'done' GROUP BY ALL""",
    ),
    View(
        "queue_times",
        "How long work waited for a runner, by hour and lane.",
        {
            "hour": "The hour in which it was taken, UTC.",
            "lane": "The lane.",
            "attempts": "How often work was taken.",
            **_PERCENTILES,
        },
        f"""\
SELECT date_trunc('hour', started_at) AS hour, lane, count(*) AS attempts,
  {_percentiles("waited * 1000")}
FROM ({own("attempts")}) WHERE waited IS NOT NULL GROUP BY ALL""",
    ),
    View(
        "queued",
        "What waits for a runner now, by lane.",
        {
            "lane": "The lane.",
            "executions": "How many wait.",
            "oldest": "Since when the first of them does.",
            "seconds": "For how long it has.",
        },
        f"""\
SELECT lane, count(*) AS executions, min(queued_at) AS oldest,
  epoch({NOW} - min(queued_at)) AS seconds
FROM executions_hot WHERE queued_at IS NOT NULL GROUP BY ALL""",
    ),
    View(
        "stuck",
        "What has not moved for ten minutes and should have, or is beyond its time.",
        {
            "execution": "Its id.",
            "user": "Whose it is.",
            "agent": "Of which agent type.",
            "status": "Its status.",
            "why": "What is wrong with it.",
            "since": "Since when.",
            "runner": "The runner that holds it, if one does.",
        },
        f"""\
{both(_UNREADABLE, "problem IS NOT NULL")}
UNION ALL
SELECT execution, "user", agent, status, 'no commit while it runs', updated_at, runner
FROM executions_hot WHERE status = 'running' AND updated_at < {NOW} - {QUIET}
UNION ALL
SELECT execution, "user", agent, status, 'no runner takes it', queued_at, runner
FROM executions_hot WHERE queued_at < {NOW} - {QUIET}
UNION ALL
SELECT e.execution, e."user", e.agent, e.status,
  'its ' || w.kind || ' is beyond the deadline', w.deadline, e.runner
FROM waits_hot w JOIN executions_hot e USING (eid)
WHERE w.deadline < {NOW} - INTERVAL 1 MINUTE""",
    ),
)

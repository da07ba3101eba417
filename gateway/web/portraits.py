"""Executions and what belongs to them, as REST shows them."""

from datetime import datetime
from typing import Any, cast

from events.catalog import Awaited, InputRequested
from events.commit import Recorded
from events.execution import Execution
from events.logbook import Line
from events.messages import Usage
from events.spec import AgentSpec
from events.state import State
from events.timetable import Entry
from gateway.web import shapes
from projections import queries as q
from services.schedules import foreseen, status


def detail(
    execution: Execution, now: datetime, lines: tuple[Line, ...] = ()
) -> shapes.AgentDetail:
    """An execution as it is."""
    return shapes.AgentDetail(**_detail(execution, now), logs=tuple(map(line, lines)))


def snapshot(execution: Execution) -> shapes.Snapshot:
    """An execution as it was when its last commit was made."""
    state = execution.state
    then = state.updated_at
    assert then is not None  # noqa: S101 - it has a commit
    return shapes.Snapshot(**_detail(execution, then), turns=tuple(state.turns))


def _detail(execution: Execution, now: datetime) -> dict[str, Any]:
    state = execution.state
    return {
        **_agent(state, now),
        "position": execution.position,
        "request": _asked(state.request),
        "awaiting": _awaited(state.awaited),
        "scheduled_for": state.scheduled_for,
        "pause_requested": state.pause_requested,
        "cancel_requested": state.cancel_requested,
        "tasks": state.tasks,
        "notes": state.notes,
        "children": tuple(state.children),
    }


def _agent(state: State, now: datetime) -> dict[str, Any]:
    failure = state.failure
    return {
        "id": state.id,
        "user": state.user,
        "agent_type": state.agent.name,
        "status": state.status,
        "step_count": state.steps,
        "token_usage": _tokens(state.usage),
        "input": state.input,
        "output": state.output,
        "metadata": state.metadata,
        "created_at": state.created_at,
        "started_at": state.started_at,
        "paused_at": state.paused_at,
        "completed_at": state.completed_at,
        "updated_at": state.updated_at,
        "duration_seconds": duration(state.started_at, state.completed_at, now),
        "version": state.version,
        "model": state.agent.model,
        "cost": state.cost,
        "finish_reason": state.finish_reason,
        "error": failure
        and shapes.AgentError(
            type=failure.error, message=failure.message, retryable=failure.retryable
        ),
        "parent": state.parent.execution if state.parent else None,
    }


def duration(
    started: datetime | None, ended: datetime | None, now: datetime
) -> float | None:
    """Seconds from start to end, or to now; None before the start."""
    if started is None:
        return None
    return max(0.0, ((ended or now) - started).total_seconds())


def listed(row: q.Execution, now: datetime) -> shapes.Agent:
    """An execution in a list."""
    return shapes.Agent(
        id=row.id,
        user=row.user,
        agent_type=row.agent,
        status=cast("Any", row.status),
        step_count=row.steps,
        token_usage=shapes.TokenUsage(
            input=row.input_tokens,
            output=row.output_tokens,
            total=row.tokens,
            cache_read=row.cache_read,
            cache_write=row.cache_write,
        ),
        input=row.input,
        output=row.output,
        metadata=row.metadata,
        created_at=row.created_at,
        started_at=row.started_at,
        paused_at=row.paused_at,
        completed_at=row.completed_at,
        updated_at=row.updated_at,
        duration_seconds=duration(row.started_at, row.completed_at, now),
        version=row.version,
        position=row.position,
        model=row.model,
        cost=row.cost,
        finish_reason=row.finish_reason,
        error=_error(row),
        parent=row.parent,
    )


def _error(row: q.Execution) -> shapes.AgentError | None:
    if row.error is None:
        return None
    return shapes.AgentError(
        type=row.error,
        message=row.error_message or "",
        retryable=bool(row.retryable),
    )


def _tokens(usage: Usage) -> shapes.TokenUsage:
    return shapes.TokenUsage(
        input=usage.input,
        output=usage.output,
        total=usage.total,
        cache_read=usage.cache_read,
        cache_write=usage.cache_write,
    )


def _asked(request: InputRequested | None) -> shapes.Asked | None:
    if request is None:
        return None
    return shapes.Asked(
        request=request.request,
        kind=request.kind,
        question=request.question,
        schema=request.schema,
        digest=request.digest,
        deadline=request.deadline,
    )


def _awaited(awaited: Awaited | None) -> shapes.AwaitedEvent | None:
    if awaited is None:
        return None
    return shapes.AwaitedEvent(
        event_type=awaited.event_type, where=awaited.where, deadline=awaited.deadline
    )


def line(found: Line) -> shapes.LogLine:
    """A line of the log."""
    return shapes.LogLine(
        id=found.id,
        at=found.at,
        level=found.level,
        event_type=found.event_type,
        message=found.message,
        by=found.by,
        context=found.context,
    )


def commit(recorded: Recorded) -> shapes.History:
    """A commit."""
    one = recorded.commit
    return shapes.History(
        version=one.version,
        position=recorded.position,
        id=one.id,
        at=one.at,
        by=one.by,
        cause=one.cause,
        route=recorded.route,
        events=one.events,
    )


def kind(spec: AgentSpec) -> shapes.AgentType:
    """A type of agents."""
    return shapes.AgentType(
        name=spec.name,
        description=spec.description,
        model=spec.model,
        tools=spec.tools,
        subagents=spec.subagents,
        max_steps=spec.limits.max_steps,
        max_tokens=spec.limits.max_tokens,
        max_cost=spec.limits.max_cost,
        timeout=spec.limits.timeout,
    )


def schedule(entry: Entry) -> shapes.Scheduled:
    """A recurring start."""
    definition, ran = entry
    return shapes.Scheduled(
        name=definition.name,
        status=status(definition),
        agent_type=str(definition.start.get("agent_type", "")),
        input=str(definition.start.get("input", "")),
        cron=definition.cron,
        every=definition.every or None,
        time_zone=definition.zone,
        overlap=definition.overlap,
        missed=definition.missed,
        next=foreseen(entry),
        last=ran.due,
        last_outcome=ran.outcome or "",
        last_execution=ran.execution,
        problem=ran.problem,
        started=ran.started,
        skipped=ran.skipped,
        times_missed=ran.missed,
    )

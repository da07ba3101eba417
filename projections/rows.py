"""The rows of the read model: each table with its columns and what they mean.

These structs are the one place where a column is written down; the tables of the
database, what is compared by ``wake verify`` and ``docs/read-model.md`` follow
from them. All times are UTC. ``version`` is that of the commit which a row goes
back to: where it is not beyond an execution's ``origin_version``, the row was
copied with the history that the execution was forked from.
"""

from datetime import datetime
from typing import Annotated

from projections.row import Row, Small


class ExecutionRow(Row):
    """An execution as it is after its newest commit."""

    table = "executions"
    named_by = 1

    eid: Annotated[int, "The position of its first commit: what all tables share."]
    execution: Annotated[str, "Its id."]
    user: Annotated[str, "Whose it is."]
    status: Annotated[str, "pending, running, paused, awaiting_event and so on."] = (
        "pending"
    )
    agent: Annotated[str, "The agent type."] = ""
    model: Annotated[str, "The model that its agent asks, as configured."] = ""
    lane: Annotated[str, "The lane that its work is put into."] = "agents"
    workspace: Annotated[str | None, "The directory; none: one of its own."] = None
    input: Annotated[str, "What was asked; a text."] = ""
    input_size: Annotated[int, Small, "Bytes of the whole input."] = 0
    output: Annotated[str | None, "What it came to; a text."] = None
    output_size: Annotated[int, Small, "Bytes of the whole output."] = 0
    metadata: Annotated[str | None, "What the caller noted; JSON."] = None
    notes: Annotated[str | None, "What the agent noted; JSON."] = None
    tasks: Annotated[str | None, "The agent's todo list; JSON."] = None
    finish_reason: Annotated[str | None, "Why it completed."] = None
    error: Annotated[str | None, "What kind of error it failed by."] = None
    error_message: Annotated[str | None, "The error in words; a text."] = None
    retryable: Annotated[bool | None, "Whether a retry could help."] = None
    cancel_reason: Annotated[str, "What was said with the cancel; a text."] = ""
    problem: Annotated[
        str | None, "Why commits beyond `version` cannot be read; see `dead_letters`."
    ] = None
    parent: Annotated[str | None, "The execution that started it as a subagent."] = None
    parent_call: Annotated[str | None, "The tool call that asked for it."] = None
    depth: Annotated[int, Small, "How many executions are above it."] = 0
    origin: Annotated[str | None, "The execution that it was forked from."] = None
    origin_version: Annotated[int | None, Small, "… and at which version."] = None
    version: Annotated[int, Small, "How many commits it has."] = 0
    position: Annotated[int, "The position of its newest commit."] = 0
    steps: Annotated[int, Small, "Model calls, those before a fork included."] = 0
    input_tokens: Annotated[int, "Tokens in, subagents included."] = 0
    output_tokens: Annotated[int, "Tokens out, subagents included."] = 0
    cache_read: Annotated[int, "Of the tokens in: read from a cache."] = 0
    cache_write: Annotated[int, "Of the tokens in: written to a cache."] = 0
    cost: Annotated[float, "US dollars, subagents included, as far as known."] = 0.0
    unpriced: Annotated[int, Small, "Replies whose price is not known."] = 0
    runner: Annotated[str | None, "The runner that holds it."] = None
    attempt: Annotated[int, Small, "How often a runner has taken it."] = 0
    idle_attempts: Annotated[int, Small, "… of late without any progress."] = 0
    chunk: Annotated[int, Small, "How often it went to the back of its lane."] = 0
    pause_requested: Annotated[bool, "It will pause at its next commit."] = False
    cancel_requested: Annotated[bool, "It will end at its next commit."] = False
    on_doubt: Annotated[str, "Whom its agent lets decide in doubt: tell or ask."] = (
        "tell"
    )
    active_seconds: Annotated[float, "Running time, up to `running_since`."] = 0.0
    created_at: Annotated[datetime | None, "When it was created."] = None
    started_at: Annotated[datetime | None, "When a runner first took it."] = None
    queued_at: Annotated[
        datetime | None, "Since when it waits for a runner, if it does."
    ] = None
    running_since: Annotated[datetime | None, "Since when it runs, if it does."] = None
    paused_at: Annotated[datetime | None, "When it was last paused."] = None
    updated_at: Annotated[datetime | None, "When its newest commit was made."] = None
    completed_at: Annotated[datetime | None, "When it ended, however it did."] = None


class StepRow(Row):
    """One reply of a model. What it cost is here, and nowhere else twice."""

    table = "steps"

    eid: Annotated[int, "Whose step."]
    step: Annotated[int, Small, "Its number, from 1."]
    version: Annotated[int, Small, "The commit that recorded it."]
    user: Annotated[str, "Whose execution."]
    agent: Annotated[str, "Of which agent type."]
    model: Annotated[str, "The model that answered, as it calls itself."]
    text: Annotated[str, "What it said; a text."]
    text_size: Annotated[int, Small, "Bytes of all that it said."]
    calls: Annotated[int, Small, "Tool calls that it asked for."]
    input_tokens: Annotated[int, Small, "Tokens in."]
    output_tokens: Annotated[int, Small, "Tokens out."]
    cache_read: Annotated[int, Small, "Of the tokens in: read from a cache."]
    cache_write: Annotated[int, Small, "Of the tokens in: written to a cache."]
    cost: Annotated[float | None, "US dollars; none: not known."]
    latency_ms: Annotated[float, "How long it took."]
    finish_reason: Annotated[str, "Why the model stopped."]
    responded_at: Annotated[datetime, "When it was recorded."]


class CallRow(Row):
    """One tool call, and how far it got."""

    table = "tool_calls"
    named_by = 3

    eid: Annotated[int, "Whose call."]
    step: Annotated[int, Small, "The step that asked for it."]
    number: Annotated[int, Small, "Its number within the step, from 1."]
    version: Annotated[int, Small, "The commit that recorded the step."]
    call_id: Annotated[str, "Its id, unique within the step."]
    tool: Annotated[str, "The tool's name."]
    arguments: Annotated[str, "As the model wrote them, or a person; a text."]
    arguments_size: Annotated[int, Small, "Bytes of the whole arguments."]
    phase: Annotated[str, "open, asked, started, in_doubt, waiting or done."]
    outcome: Annotated[str | None, "Once done: success, failed, denied or in_doubt."]
    attempt: Annotated[int, Small, "The attempt that started it, if irreversible."]
    approved: Annotated[bool, "A person let it run."]
    output: Annotated[str | None, "Once done, what the model is told; a text."]
    output_size: Annotated[int, Small, "Bytes of the whole output."]
    latency_ms: Annotated[float | None, "How long the tool took, if it ran."]
    asked_at: Annotated[datetime, "When the model asked for it."]
    started_at: Annotated[
        datetime | None, "When it was about to run, if irreversible."
    ] = None
    completed_at: Annotated[datetime | None, "When it was done."] = None


class SignalRow(Row):
    """Something that a person or a service asked of a live execution."""

    table = "signals"
    named_by = 3

    eid: Annotated[int, "Whose signal."]
    version: Annotated[int, Small, "The commit that recorded it."]
    number: Annotated[int, Small, "Its number within the commit, from 1."]
    user: Annotated[str, "Whose execution."]
    kind: Annotated[
        str,
        "pause_requested, paused, resumed, cancel_requested, cancelled, killed, "
        "input_received, recovered, retried or forked.",
    ]
    by: Annotated[str, "Who caused it."]
    cause: Annotated[str | None, "The id of the command, if one did."]
    detail: Annotated[str | None, "The reason, or the answer as JSON; a text."]
    happened_at: Annotated[datetime, "When."]


class WaitRow(Row):
    """Something that an execution waited for, or waits for still."""

    table = "waits"
    named_by = 3

    eid: Annotated[int, "Whose wait."]
    version: Annotated[int, Small, "The commit that began it."]
    kind: Annotated[str, "input, event or start (at a time)."]
    user: Annotated[str, "Whose execution."]
    began_at: Annotated[datetime, "Since when."]
    ended_at: Annotated[datetime | None, "Until when; none: it waits."] = None
    outcome: Annotated[
        str | None, "received, timed_out, or dropped by something else."
    ] = None
    deadline: Annotated[
        datetime | None, "When it ends in any case; start: the time."
    ] = None
    call_id: Annotated[str | None, "The tool call that waits."] = None
    request: Annotated[str | None, "input: the id that an answer names."] = None
    ask: Annotated[str | None, "input: question, approval or doubt."] = None
    question: Annotated[str | None, "input: what a person is asked; a text."] = None
    event_type: Annotated[str | None, "event: its type."] = None
    filter: Annotated[str | None, "event: what its payload must equal; JSON."] = None
    after_trigger: Annotated[int | None, "event: beyond this position of TRIGGERS."] = (
        None
    )
    trigger: Annotated[str | None, "event: the id of the trigger that ended it."] = None


class ChildRow(Row):
    """A subagent, as its parent knows it."""

    table = "children"

    eid: Annotated[int, "The parent."]
    child: Annotated[str, "The id of the child's execution."]
    version: Annotated[int, Small, "The commit that asked for it."]
    user: Annotated[str, "Whose executions."]
    call_id: Annotated[str, "The tool call that asked for it."]
    agent: Annotated[str, "Its agent type."]
    prompt: Annotated[str, "What it is to do; a text."]
    status: Annotated[
        str, "running, how it ended, or left: a fork knows nothing of it."
    ]
    summary: Annotated[str | None, "What it came to; a text."]
    tokens: Annotated[int, "Tokens in and out, counted with the parent."]
    cost: Annotated[float | None, "US dollars; none: not known."]
    spawned_at: Annotated[datetime, "When it was asked for."]
    finished_at: Annotated[datetime | None, "When the parent was told of its end."]


class AttemptRow(Row):
    """A runner took an execution."""

    table = "attempts"

    eid: Annotated[int, "Whose attempt."]
    version: Annotated[int, Small, "The commit that recorded it."]
    attempt: Annotated[int, Small, "Its number, from 1."]
    user: Annotated[str, "Whose execution."]
    agent: Annotated[str, "Of which agent type."]
    lane: Annotated[str, "From which lane it was taken."]
    runner: Annotated[str, "By which runner."]
    queued_at: Annotated[datetime | None, "Since when it waited; none: taken over."]
    waited: Annotated[float | None, "How many seconds it waited."]
    started_at: Annotated[datetime, "When it was taken."]


class LogRow(Row):
    """A log line, as long as LOGS keeps it."""

    table = "logs"
    named_by = 1

    @property
    def number(self) -> int:
        """Where it stands in its stream."""
        return self.id

    id: Annotated[int, "Its id: its position in LOGS."]
    user: Annotated[str, "Whose execution."]
    execution: Annotated[str, "The id of the execution."]
    level: Annotated[str, "debug, info, warning or error."]
    event_type: Annotated[str, "What it is about."]
    by: Annotated[str, "Who wrote it."]
    message: Annotated[str, "What it says; a text."]
    context: Annotated[str | None, "More of it; JSON."]
    written_at: Annotated[datetime, "When."]


class TriggerRow(Row):
    """Something that happened outside, as long as TRIGGERS keeps it."""

    table = "triggers"
    named_by = 1

    @property
    def number(self) -> int:
        """Where it stands in its stream."""
        return self.position

    position: Annotated[int, "Where it stands in TRIGGERS."]
    user: Annotated[str, "Whose executions it is for; all: everybody's."]
    event_type: Annotated[str, "Its type."]
    id: Annotated[str, "Its id, if its body has one; what `waits` name as `trigger`."]
    body: Annotated[str, "What was sent; a text."]
    body_size: Annotated[int, Small, "Bytes of all of it."]


class ScheduleRow(Row):
    """A start that recurs, as it is defined now, and what came of it."""

    table = "schedules"

    user: Annotated[str, "Whose."]
    name: Annotated[str, "What it is called."]
    agent: Annotated[str, "The agent type that it starts."]
    input: Annotated[str, "What is asked each time; a text."]
    cron: Annotated[str, "When, as a cron expression; empty: by the interval."]
    every: Annotated[int, Small, "The interval in seconds; 0: by the expression."]
    zone: Annotated[str, "The time zone of the expression."]
    paused: Annotated[bool, "It starts nothing now."]
    defined_at: Annotated[
        datetime | None, "When it was last changed; none: it was removed, and ran yet."
    ]
    defined_by: Annotated[str, "By whom."]
    next_at: Annotated[
        datetime | None, "The time after the last that came; none before the first."
    ] = None
    execution: Annotated[str | None, "The last run."] = None
    run_for: Annotated[datetime | None, "The time that the last run was for."] = None
    outcome: Annotated[
        str | None, "What became of the last time: started, skipped, queued, missed."
    ] = None
    problem: Annotated[str | None, "Why the last run was not accepted; a text."] = None
    started: Annotated[int, Small, "How many runs were started."] = 0
    skipped: Annotated[int, Small, "How many were not: the one before went on."] = 0
    missed: Annotated[int, Small, "How many were not: nobody was there."] = 0


class DeadLetterRow(Row):
    """A message that could not be folded, put aside. It changes nothing else."""

    table = "dead_letters"

    stream: Annotated[str, "EVENTS, LOGS, TRIGGERS or RECURRING."]
    position: Annotated[int, "Where it stands there."]
    subject: Annotated[str, "Its subject."]
    user: Annotated[str | None, "Whose, if the subject tells."]
    execution: Annotated[str | None, "Of which execution, if the subject tells."]
    reason: Annotated[str, "Why it could not be folded."]
    body: Annotated[str, "What it says, as far as it is text; a text."]


ROWS: tuple[type[Row], ...] = (
    ExecutionRow,
    StepRow,
    CallRow,
    SignalRow,
    WaitRow,
    ChildRow,
    AttemptRow,
    LogRow,
    TriggerRow,
    ScheduleRow,
    DeadLetterRow,
)
"""Every kind of row, in the order of the documentation."""

HOT: tuple[type[Row], ...] = (ExecutionRow, CallRow, WaitRow, ChildRow)
"""Rows that change: as long as they do, they are kept apart, in ``<table>_hot``."""

OWNED: tuple[type[Row], ...] = tuple(k for k in ROWS if "eid" in k.__struct_fields__)
"""Rows that belong to an execution, and go with it."""

"""The executions of a log as rows, for ``wake ls``."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, get_args

import msgspec

from events.errors import Corrupt, InvalidInput
from events.execution import Execution
from events.state import Failure, State, Status
from gateway.composition import Log
from gateway.wording import one_line, short
from projections.queries import Execution as Listed

if TYPE_CHECKING:
    from events.names import Key

WIDE = 120
"""Columns from which on an execution and its prompt fit one line."""

STATUSES = (*get_args(Status), "corrupt")
"""What can be asked for."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One execution; ``status`` is ``corrupt`` when its history is damaged.

    ``error`` says why it failed; it is gone once it was retried.
    """

    id: str
    user: str
    agent: str
    status: str
    steps: int
    tokens: int
    started: datetime | None
    prompt: str
    error: Failure | None = None


def checked(asked: Iterable[str]) -> frozenset[str]:
    """Return the statuses asked for, none for all of them; raises InvalidInput."""
    given = [word.strip() for text in asked for word in text.split(",")]
    for word in given:
        if word not in STATUSES:
            raise InvalidInput(
                f"--status {word!r:.40}: there are: {', '.join(STATUSES)}"
            )
    return frozenset(given)


def chosen(rows: Iterable[Row], statuses: Collection[str]) -> list[Row]:
    """Return the rows of these statuses; all of them if none is named."""
    return [row for row in rows if not statuses or row.status in statuses]


async def rows_of(log: Log) -> list[Row]:
    """Fold the whole log; the newest execution first."""
    found: dict[Key, Execution] = {}
    damaged: set[Key] = set()
    deleted: set[Key] = set()
    async with aclosing(log.journal.follow(live=False, whole=False)) as runs:
        async for run in runs:
            for recorded in run:
                known = found.setdefault(recorded.key, Execution(recorded.key))
                try:
                    known.follow(recorded)
                except Corrupt:
                    damaged.add(recorded.key)
                if recorded.commit.purges:
                    deleted.add(recorded.key)
    for key in damaged & deleted:  # the rest of what is just being deleted
        del found[key]
    rows = [_row(x.state, corrupt=key in damaged) for key, x in found.items()]
    return sorted(rows, key=_age, reverse=True)


def _age(row: Row) -> tuple[float, str]:
    return (row.started.timestamp() if row.started else 0.0, row.id)


def _row(state: State, *, corrupt: bool) -> Row:
    return Row(
        id=state.id,
        user=state.user,
        agent=state.agent.name,
        status="corrupt" if corrupt else state.status,
        steps=state.steps,
        tokens=state.usage.total,
        started=state.created_at,
        prompt=state.input,
        error=state.failure,
    )


def row_of(one: Listed) -> Row:
    """An execution as the read model has it; its prompt has 4,000 characters."""
    failure = None
    if one.error is not None:
        failure = Failure(
            error=one.error,
            message=one.error_message or "",
            retryable=bool(one.retryable),
        )
    return Row(
        id=one.id,
        user=one.user,
        agent=one.agent,
        status=one.status,
        steps=one.steps,
        tokens=one.tokens,
        started=one.created_at,
        prompt=one.input,
        error=failure,
    )


def table(
    rows: Sequence[Row], width: int | None, *, headed: bool = True
) -> Iterator[str]:
    """Lines for ``width`` columns; None: one line for each, with nothing cut.

    In a narrow terminal agent and prompt go below what has to be copied. Why one
    failed stands below it, or without a terminal at the end of its line.
    """
    head = f"{'ID':36}  {'STATUS':14} {'STEPS':>5} {'TOKENS':>7}  {'STARTED':11}"
    narrow = None if width is None or width >= WIDE else width
    if headed:
        yield head if narrow else f"{head}  {'AGENT':14}  PROMPT"
    for row in rows:
        first, agent, prompt = _first(row), one_line(row.agent), one_line(row.prompt)
        line, why = f"{first}  {agent:14}  {prompt}", _why(row)
        if width is None:
            yield f"{line}  ({why})" if why else line
            continue
        if narrow:
            yield first
            yield "    " + short(f"{agent}: {prompt}", narrow - 4)
        else:
            yield short(line, width)
        if why:
            yield "    " + short(why, width - 4)


def _why(row: Row) -> str:
    failure = row.error
    return "" if failure is None else one_line(f"{failure.error}: {failure.message}")


def _first(row: Row) -> str:
    started = row.started.astimezone().strftime("%m-%d %H:%M") if row.started else "-"
    counts = f"{row.steps:>5} {row.tokens:>7,}"
    return f"{row.id:36}  {row.status:14} {counts}  {started:11}"

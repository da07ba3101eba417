"""The executions of a log as rows, for ``wake ls``."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from events.errors import Corrupt
from events.execution import Execution
from events.state import State
from gateway.composition import Log
from gateway.wording import one_line, short

if TYPE_CHECKING:
    from events.names import Key

WIDE = 120
"""Columns from which on an execution and its prompt fit one line."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One execution; ``status`` is ``corrupt`` when its history is damaged."""

    id: str
    user: str
    agent: str
    status: str
    steps: int
    tokens: int
    started: datetime | None
    prompt: str


async def rows_of(log: Log) -> list[Row]:
    """Fold the whole log; the newest execution first."""
    found: dict[Key, Execution] = {}
    damaged: set[Key] = set()
    async with aclosing(log.journal.follow(live=False, whole=False)) as runs:
        async for run in runs:
            for recorded in run:
                known = found.setdefault(recorded.key, Execution(recorded.key))
                try:
                    known.follow(recorded)
                except Corrupt:
                    damaged.add(recorded.key)
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
    )


def table(rows: Sequence[Row], width: int | None) -> Iterator[str]:
    """Lines for ``width`` columns; None: one line for each, with nothing cut.

    In a narrow terminal agent and prompt go below what has to be copied.
    """
    head = f"{'ID':36}  {'STATUS':14} {'STEPS':>5} {'TOKENS':>7}  {'STARTED':11}"
    narrow = None if width is None or width >= WIDE else width
    yield head if narrow else f"{head}  {'AGENT':14}  PROMPT"
    for row in rows:
        first, agent, prompt = _first(row), one_line(row.agent), one_line(row.prompt)
        if narrow:
            yield first
            yield "    " + short(f"{agent}: {prompt}", narrow - 4)
        else:
            line = f"{first}  {agent:14}  {prompt}"
            yield line if width is None else short(line, width)


def _first(row: Row) -> str:
    started = row.started.astimezone().strftime("%m-%d %H:%M") if row.started else "-"
    counts = f"{row.steps:>5} {row.tokens:>7,}"
    return f"{row.id:36}  {row.status:14} {counts}  {started:11}"

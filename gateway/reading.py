"""``wake show``, ``wake events``: reading the log, changing nothing."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Any

import msgspec

from events.commit import Recorded
from events.errors import InvalidInput
from events.names import Key, check_id
from events.state import Call, State
from gateway import facts, question
from gateway.composition import Log, Place, reach, with_log
from gateway.orders import find
from gateway.output import put, put_json
from gateway.plain import MARKS
from gateway.progress import Progress
from gateway.subagents import Below, listed, subagents
from gateway.summary import reason, used
from gateway.times import moment_of
from gateway.wording import (
    arguments,
    moment,
    one_line,
    printable,
    seconds,
    short,
    tokens,
)

LONGEST = 12
"""Digits that a version may have: nobody makes so many commits."""


def show(place: Place, execution: str, *, at: str | None, as_json: bool) -> None:
    """Print an execution as it is, or was at a version or time; raises WakeError."""
    wanted = _moment(at)
    key, history, below = _history(place, execution, wanted)
    progress = Progress.of(key, history)
    if as_json:
        put_json({**_whole(progress.state), "subagents": below})
        return
    for line in _lines(progress, below):
        put(line)
    if at is None:
        for line in question.answers(key, progress.state, place):
            put(line)


def events(place: Place, execution: str, *, follow: bool, as_json: bool) -> None:
    """Print every commit of an execution, a line each; raises WakeError.

    With ``follow`` also those to come, until it ends. On a folder that nobody
    serves none will come.
    """
    tell = _print_raw if as_json else _print_commit
    if follow and reach(place) is not None:
        with_log(place, partial(_follow, execution=execution, tell=tell))
        return
    _, history, _ = _history(place, execution)
    for recorded in history:
        tell(recorded)


async def _follow(log: Log, execution: str, tell: Callable[[Recorded], None]) -> None:
    key = await find(log.journal, check_id(execution))
    async with aclosing(log.journal.follow(key=key)) as runs:
        async for run in runs:
            for recorded in run:
                tell(recorded)
            if run[-1].route == "finished":
                return


def _print_raw(recorded: Recorded) -> None:
    put_json(recorded.body)


def width_of() -> int | None:
    """Columns of the terminal; None where it is none, and nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _history(
    place: Place, execution: str, wanted: int | datetime | None = None
) -> tuple[Key, list[Recorded], list[Below]]:
    """An execution up to a moment, and how the subagents stand that it had by then."""
    check_id(execution)
    place.check()

    async def load(log: Log) -> tuple[Key, list[Recorded], list[Below]]:
        key = await find(log.journal, execution)
        history = await log.journal.read(key)
        history = history[: _version(wanted, history)]
        return key, history, await subagents(log.journal, key, history)

    return with_log(place, load)


def _moment(at: str | None) -> int | datetime | None:
    """A version or a time; raises InvalidInput for what is neither."""
    if at is None:
        return None
    if at.removeprefix("-").isdecimal():
        return int(at[:LONGEST])
    return moment_of(at, "--at")


def _version(at: int | datetime | None, history: Sequence[Recorded]) -> int:
    """The version asked for; raises InvalidInput unless there is one."""
    newest = len(history)
    if at is None:
        return newest
    if isinstance(at, datetime):
        return _version_of(at, history)
    if not 1 <= at <= newest:
        raise InvalidInput(f"--at {at}: this execution has the versions 1 to {newest}")
    return at


def _version_of(at: datetime, history: Sequence[Recorded]) -> int:
    """The newest version of a time: up to the first commit that is of later."""
    version = sum(1 for _ in takewhile(lambda r: r.commit.at <= at, history))
    if not version:
        created = history[0].commit.at.isoformat()
        raise InvalidInput(
            f"--at {at.isoformat()}: it was not there yet, it begins at {created}"
        )
    return version


# ── show ─────────────────────────────────────────────────────────────────────


def _whole(state: State) -> dict[str, Any]:
    """All of the state, and the conversation as a model is told it."""
    whole: dict[str, Any] = msgspec.to_builtins(state)
    whole["conversation"] = msgspec.to_builtins(list(state.conversation()))
    return whole


def _lines(progress: Progress, below: list[Below]) -> Iterator[str]:
    state = progress.state
    for name, value in _fields(state):
        yield f"{name:10} {value}"
    for name, text in (("prompt", state.input), ("result", state.output or "")):
        if text:
            yield f"\n{name}"
            yield from (f"  {line}" for line in printable(text).rstrip().split("\n"))
        if name == "prompt":
            yield from _plan(state)
            yield from _steps(progress)
            yield from listed(below)
    if state.request:
        yield ""
        yield from question.asked(state)


def _fields(state: State) -> Iterator[tuple[str, str]]:
    yield "execution", state.id
    yield "user", state.user
    yield "version", f"{state.version}, of {moment(state.updated_at)}"
    yield "status", state.status
    if state.parent is not None:
        yield "parent", state.parent.execution
    if why := state.finish_reason or reason(state):
        yield "because", why
    yield "agent", f"{one_line(state.agent.name)} on {one_line(state.agent.model)}"
    yield "workspace", one_line(state.workspace or _unnamed(state))
    yield "used", ", ".join(used(state))
    yield "attempt", f"{state.attempt}" + (f" by {state.runner}" * bool(state.runner))
    yield "created", moment(state.created_at)
    if state.completed_at:
        yield "ended", moment(state.completed_at)
    for note, value in state.notes.items():
        yield "note", short(f"{note}: {msgspec.json.encode(value).decode()}", 200)


def _unnamed(state: State) -> str:
    """Where it works if nobody named a directory."""
    return "its parent's" if state.parent and state.parent.root else "its own"


def _plan(state: State) -> Iterator[str]:
    if state.tasks:
        yield "\nplan"
    for task in state.tasks:
        yield f"  {MARKS[task.status]} {one_line(task.title)}"


def _steps(progress: Progress) -> Iterator[str]:
    if progress.steps:
        yield "\nsteps"
    for step in progress.steps:
        took = f"{tokens(step.usage)}, {seconds(step.seconds)}"
        yield f"  {step.number:>2} {short(step.said, 100)} [{took}]"
        for call in step.turn.calls:
            yield f"     {short(call.name, 40)} {arguments(call.arguments)}{_end(call)}"


def _end(call: Call) -> str:
    if call.phase != "done":
        return f" [{call.phase}]"
    bad = call.outcome != "success"
    return f" [{call.outcome}]" + f": {short(call.output, 160)}" * bad


# ── events ───────────────────────────────────────────────────────────────────


def _print_commit(recorded: Recorded) -> None:
    commit = recorded.commit
    where = f"{commit.version:>4}  {moment(commit.at)}  {recorded.route:8}"
    said = "; ".join(map(facts.told, commit.events))
    line = f"{where}  {one_line(commit.by)}  {said}"
    width = width_of()
    put(line if width is None else short(line, max(width, 60)))

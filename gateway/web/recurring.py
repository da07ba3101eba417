"""Recurring starts over REST."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from events.errors import NotFound
from events.names import Key
from gateway.web import portraits, shapes
from gateway.web.desk import Unanswered
from gateway.web.finding import is_id
from gateway.web.operation import Call, Result
from gateway.web.steering import command_id, idempotency_key, named_in_body, start_body


def _nothing(name: str) -> NotFound:
    return NotFound(f"there is no schedule {name!r:.80}")


async def listing(call: Call) -> Result:
    """One's own schedules, by name."""
    entries = await call.edge.timetable.all(call.who.user)
    items = tuple(map(portraits.schedule, entries))
    return Result(payload=shapes.Schedules(items=items))


async def one(call: Call) -> Result:
    """A schedule."""
    if not is_id(call.id):
        raise _nothing(call.id)
    entry = await call.edge.timetable.find((call.who.user, call.id))
    if entry is None:
        raise _nothing(call.id)
    return Result(payload=portraits.schedule(entry))


async def add(call: Call) -> Result:
    """Let a start recur."""
    asked: shapes.Recurrence = call.body
    rest = msgspec.to_builtins(asked)
    rest.pop("name")
    body = {name: value for name, value in rest.items() if value}
    body["start"] = start_body(asked.start)
    with named_in_body():
        return await _ask(call, asked.name, "schedule", body, _said(asked), status=201)


def change(verb: str) -> Callable[[Call], Awaitable[Result]]:
    """Make the handler of a command about a schedule that there is."""

    async def asked(call: Call) -> Result:
        if not is_id(call.id):
            raise _nothing(call.id)
        return await _ask(call, call.id, verb, {}, call.id)

    asked.__doc__ = f"Ask for {verb}."
    return asked


def _said(asked: shapes.Recurrence) -> str:
    """All of a request: under the same key another one has an answer of its own."""
    return msgspec.json.encode(asked, order="deterministic").decode()


async def _ask(
    call: Call,
    name: str,
    verb: str,
    body: dict[str, Any],
    about: str,
    status: int = 200,
) -> Result:
    command = command_id(call, about, verb, idempotency_key(call))
    if command is not None:
        body["command_id"] = command
    try:
        answer = await call.edge.desk.ask(
            call.who, Key(call.who.user, name), verb, body
        )
    except Unanswered as error:
        queued = shapes.Queued(id=name, command_id=error.command, detail=str(error))
        return Result(payload=queued, status=202)
    accepted = shapes.ScheduleAccepted(
        name=answer.execution,
        status=answer.status,
        next=answer.next,
        command_id=answer.command_id,
    )
    return Result(payload=accepted, status=status)

"""Starting executions, and what people ask of those there are."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final

import msgspec

from events.commit import Recorded
from events.errors import InvalidInput, NotAllowedNow, NotFound
from events.execution import Execution
from events.names import Key
from gateway.web import shapes
from gateway.web.desk import Unanswered
from gateway.web.finding import history_of, key_of, nothing
from gateway.web.operation import Call, Result
from services import requests as r
from services.handler import utc_now
from services.ids import new_id

KEY: Final = "Idempotency-Key"
"""The header under which a request that is sent again takes effect once."""

POSITION: Final = "X-Wake-Position"
"""The header with the position that a command led to."""

MAX_KEY: Final = 256


async def start(call: Call) -> Result:
    """Start an execution: once, however often it is asked with the same key."""
    asked: shapes.Start = call.body
    key = idempotency_key(call, asked.options.idempotency_key)
    body = start_body(asked)
    if key:
        body["idempotency_key"] = key
    execution = _execution(call.who.user, asked, key) if key else new_id(utc_now())
    sent = Key(call.who.user, r.NEW if key else execution)
    with named_in_body():
        # Each has an id of its own, or an answer to one could pass for another's.
        result = await _ask(call, sent, "start", body, None, execution)
    status = 201 if result.status == 200 else result.status  # noqa: PLR2004 - HTTP's
    headers = dict(result.headers)
    headers["Location"] = f"/api/agents/{result.payload.id}"
    return Result(payload=result.payload, status=status, headers=headers)


@contextmanager
def named_in_body() -> Iterator[None]:
    """Tell what a body names and is not there, an agent type, as invalid input."""
    try:
        yield
    except NotFound as error:
        raise InvalidInput(str(error)) from error


def start_body(asked: shapes.Start) -> dict[str, Any]:
    """A start as a command has it; what is not given is left out."""
    options = msgspec.to_builtins(asked.options)
    given = {name: value for name, value in options.items() if value}
    if "limits" in given:
        limits = given["limits"]
        given["limits"] = {n: v for n, v in limits.items() if v is not None}
    return {"agent_type": asked.agent_type, "input": asked.input, **given}


def _execution(user: str, asked: shapes.Start, key: str) -> str:
    """The id that follows from an idempotency key."""
    named = r.Start(agent_type=asked.agent_type, input=asked.input, idempotency_key=key)
    return r.execution_of(Key(user, r.NEW), named, "").execution


def idempotency_key(call: Call, in_body: str = "") -> str:
    """The key under which it is asked, of header or body; raises InvalidInput."""
    header = call.headers.get(KEY, "")
    if len(header) > MAX_KEY or not header.isprintable():
        raise InvalidInput(f"{KEY} is up to {MAX_KEY} printable characters")
    if header and in_body and header != in_body:
        raise InvalidInput(
            f"the header {KEY} and options.idempotency_key differ: give one of them"
        )
    return header or in_body


def command_id(call: Call, about: str, verb: str, key: str) -> str | None:
    """The id of a command that is sent again under a key; None without one.

    ``about`` tells it from others under that key, whose answers are not its own.
    """
    if not key:
        return None
    said = f"{call.who.user}\n{about}\n{verb}\n{key}"
    return "key-" + blake2b(said.encode(), digest_size=16).hexdigest()


async def _ask(
    call: Call,
    key: Key,
    verb: str,
    body: dict[str, Any],
    command: str | None,
    execution: str,
) -> Result:
    """Send a command: 200 and how it stands now, or 202 when nobody answers."""
    if command is not None:
        body["command_id"] = command
    try:
        answer = await call.edge.desk.ask(call.who, key, verb, body)
    except Unanswered as error:
        queued = shapes.Queued(
            id=execution, command_id=error.command, detail=str(error)
        )
        return Result(payload=queued, status=202)
    call.edge.seen.note(call.who.user, answer.position)
    accepted = shapes.Accepted(
        id=answer.execution,
        status=answer.status,  # type: ignore[arg-type]  # ours
        version=answer.version,
        position=answer.position,
        command_id=answer.command_id,
    )
    return Result(payload=accepted, headers={POSITION: str(answer.position)})


def signal(verb: str) -> Callable[[Call], Awaitable[Result]]:
    """Make the handler of a command that has at most a reason."""

    async def asked(call: Call) -> Result:
        key = await key_of(call)
        reason = getattr(call.body or call.query, "reason", "")
        body = {"reason": reason} if reason else {}
        return await _signal(call, key, verb, body)

    asked.__doc__ = f"Ask an execution to {verb}."
    return asked


async def answer(call: Call) -> Result:
    """Answer what an execution asks."""
    key, history = await history_of(call)
    asked: shapes.Answering = call.body
    request = asked.request
    if request is None:
        request = _open(key, history)
    body = {"request": request, "answer": asked.answer}
    return await _signal(call, key, "input", body)


def _open(key: Key, history: list[Recorded]) -> str:
    state = Execution.fold(key, history).state
    if state.request is None:
        raise NotAllowedNow(f"{key.execution} is {state.status}: it asks for nothing")
    return state.request.request


async def _signal(call: Call, key: Key, verb: str, body: dict[str, Any]) -> Result:
    command = command_id(call, call.id, verb, idempotency_key(call))
    try:
        return await _ask(call, key, verb, body, command, key.execution)
    except NotFound as error:
        if not await call.edge.journal.tip(key):
            raise nothing(call.id) from error
        raise NotAllowedNow(str(error)) from error

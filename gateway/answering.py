"""``wake input``: shows what an execution asks, or answers it.

On a running service the answer is a command like any other. On a data folder that
nobody serves it is decided here, as ``wake run`` does what is done there.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import msgspec
import uvloop

from events import schemas
from events.catalog import AskKind, InputRequested
from events.errors import InvalidInput, NotFound
from events.jetstream import JetStreamJournal
from events.journal import Journal
from events.names import Key, check_id
from events.pinned import JetStreamInbox
from events.state import State
from events.wire import Wire
from gateway import question
from gateway.asking import ask, encoded
from gateway.composition import PATIENCE, Place, connect, hold, open_log, reach
from services import requests
from services.handler import Handler
from services.requests import Answer

T = TypeVar("T")

_FLAGS: dict[str, AskKind] = {
    "approve": "approval",
    "deny": "approval",
    "edit": "approval",
    "run_again": "doubt",
    "tell": "doubt",
}
_KINDS = {"question": "a question", "approval": "an approval", "doubt": "a doubt"}


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer as it was typed: a text, or one of the flags."""

    text: str | None = None
    approve: bool = False
    deny: str | None = None
    edit: str | None = None
    run_again: bool = False
    tell: str | None = None

    def check(self) -> bool:
        """Say whether there is one; raises InvalidInput if there are several."""
        given = [_flag(k) for k, v in asdict(self).items() if v not in (None, False)]
        if len(given) > 1:
            raise InvalidInput(f"give one answer, not {' and '.join(given)}")
        return bool(given)

    def value(self, asked: InputRequested) -> Any:
        """The answer to a request; raises InvalidInput if it is for another kind.

        A decision is bound to the arguments that were there when it was made.
        """
        if self.text is not None:
            return as_answer(asked.schema, self.text)
        flag = next(name for name in _FLAGS if getattr(self, name) not in (None, False))
        if _FLAGS[flag] != asked.kind:
            raise InvalidInput(
                f"--{flag.replace('_', '-')} answers {_KINDS[_FLAGS[flag]]}, but "
                f"{asked.request} is {_KINDS[asked.kind]}: give "
                + " or ".join(question.FLAGS[asked.kind])
            )
        value: dict[str, Any] = {"decision": flag, "digest": asked.digest}
        if self.edit is not None:
            return {**value, "arguments": _arguments(self.edit)}
        return {**value, "reason": self.deny or self.tell or ""}


def _flag(name: str) -> str:
    return "an answer" if name == "text" else f"--{name.replace('_', '-')}"


def _arguments(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(
            f"--edit takes the new arguments as a JSON object: {error}"
        ) from error


def as_answer(schema: dict[str, Any] | None, text: str) -> Any:
    """Take JSON as what it says, and anything else as text.

    What fits only as text is text: ``42`` may answer a question for a string.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    if schema is None or schemas.mismatch(schema, value) is None:
        return value
    return text if schemas.mismatch(schema, text) is None else value


def show(place: Place, user: str, execution: str) -> tuple[Key, State]:
    """What an execution asks; raises NotFound if it asks for nothing."""
    key = Key(check_id(user, "user"), check_id(execution, "execution"))

    async def shown(journal: Journal, _wire: Wire | None) -> State:
        return await _asking(journal, key)

    return key, _with_log(place, shown)


def answer(
    place: Place,
    user: str,
    execution: str,
    given: Given,
    *,
    request: str | None,
    command_id: str | None,
) -> Answer:
    """Answer a request, by default the open one; raises WakeError."""
    key = Key(check_id(user, "user"), check_id(execution, "execution"))
    command = check_id(command_id or f"cli-{secrets.token_hex(8)}", "command_id")

    async def answered(journal: Journal, wire: Wire | None) -> Answer:
        body = await _body(journal, key, given, request)
        body["command_id"] = command
        if wire is not None:
            return await ask(JetStreamInbox(wire), key, "input", body)
        return await _decide(journal, key, command, encoded(body))

    return _with_log(place, answered)


async def _body(
    journal: Journal, key: Key, given: Given, request: str | None
) -> dict[str, Any]:
    """The command's body. A text for a named request is sent whatever is open."""
    try:
        asked = (await _asking(journal, key)).request
    except NotFound:
        if request is None or given.text is None:
            raise
        return {"request": request, "answer": as_answer(None, given.text)}
    assert asked is not None  # noqa: S101 - see _asking
    return {"request": request or asked.request, "answer": given.value(asked)}


async def _asking(journal: Journal, key: Key) -> State:
    state = (await Handler(journal, "cli").load(key)).state
    if state.request is None:
        what = f"is {state.status}" if state.version else "is not there"
        raise NotFound(f"{key.execution} {what}: it asks for nothing")
    return state


async def _decide(journal: Journal, key: Key, command: str, body: bytes) -> Answer:
    """Do what lifecycle does with an input; we hold the folder, so nobody else can."""
    decide = requests.parse("input", body).decide
    handler = Handler(journal, f"user:{key.user}")
    execution = await handler.handle(key, decide, cause=command)
    return requests.acceptance(command, execution)


def _with_log(place: Place, talk: Callable[[Journal, Wire | None], Awaitable[T]]) -> T:
    """Open the log; with the wire, if there are services to talk to on it."""
    login = reach(place)

    async def served() -> T:
        assert login is not None  # noqa: S101 - see below
        wire = await connect(login)
        try:
            return await talk(JetStreamJournal(wire), wire)
        finally:
            await wire.close()

    if login is not None:
        return uvloop.run(served())
    place.check()

    async def unserved() -> T:
        async with open_log(held) as log:
            return await talk(log.journal, None if log.server else log.wire)

    with hold(place, wait=PATIENCE) as held:
        return uvloop.run(unserved())

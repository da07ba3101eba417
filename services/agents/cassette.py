"""A recorded conversation, and a model that plays it again.

A cassette is JSON lines, one for each reply. A reply is found by its *key*:
the first prompt, the tools offered and every call made so far; ids, times and
tool results are not part of it. What was heard just before the reply (tool
results, later messages) is kept as digests: when it differs on replay, the
reply no longer answers it, and that is an error.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from events.errors import InvalidInput, Misconfigured, ModelRefused
from events.messages import (
    AssistantMessage,
    Message,
    Reply,
    Request,
    ToolMessage,
    UserMessage,
)
from services.agents.model import Model, ignore

_HEAD = 60
"""Characters of a prompt or a result that are kept for a person to recognise."""


class Heard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing the model was told between two of its replies; ``size`` in characters.

    ``call`` is the id of the tool call it is the result of, or the ordinal of
    a message of the user's; ``what`` names it for a person.
    """

    call: str
    what: str
    digest: str
    size: int
    head: str


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recorded reply; ``step`` counts from 1, ``prompt`` and ``tools`` explain."""

    key: str
    step: int
    prompt: str
    tools: tuple[str, ...]
    heard: tuple[Heard, ...]
    reply: Reply


class Cassette:
    """Plays the replies of a file, with the usage and cost that were recorded.

    Raises Misconfigured when the file cannot be read and InvalidInput when a
    line of it is malformed; ``reply`` raises ModelRefused on a miss and on a
    drift. Of two recordings of the same reply the later one counts.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"cassette:{path}"
        self._path = path
        self._lines = {line.key: line for line in load(path)}

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """The recorded reply; asked twice, the same."""
        lines = [
            self._find(step, key, messages, request)
            for step, (key, messages) in enumerate(_steps(request), 1)
        ]
        reply = lines[-1].reply
        if reply.text:
            on_text(reply.text)
        return reply

    async def aclose(self) -> None:
        """Nothing to let go."""

    def _find(
        self, step: int, key: str, messages: list[Message], request: Request
    ) -> Line:
        line = self._lines.get(key)
        if line is None:
            raise ModelRefused(self._miss(step, request))
        self._refuse_drift(line, messages)
        return line

    def _refuse_drift(self, line: Line, messages: list[Message]) -> None:
        then = {heard.call: heard for heard in line.heard}
        now = {heard.call: heard for heard in _heard(messages)}
        for call in (*then, *(call for call in now if call not in then)):
            before, after = then.get(call), now.get(call)
            if before != after:
                raise ModelRefused(
                    f"{self._path}: drift at step {line.step}: "
                    f"{_difference(before, after)}; record the conversation again"
                )

    def _miss(self, step: int, request: Request) -> str:
        recorded = next(iter(self._lines.values()), None)
        if recorded is None:
            return f"{self._path}: nothing is recorded in it"
        return (
            f"{self._path}: no reply recorded for step {step} of this conversation "
            f"(prompt {_first_prompt(request)[:_HEAD]!r}, tools {_names(request)}); "
            f"the cassette begins with prompt {recorded.prompt!r}, "
            f"tools {', '.join(recorded.tools) or 'none'}; record it again"
        )


class Recorder:
    """Passes everything on to ``model`` and appends each reply to a cassette.

    The line is written before the reply is returned: a reply that somebody
    acted upon is in the file. Raises as Cassette does when the file that is
    already there is not a whole cassette.
    """

    def __init__(self, model: Model, path: Path) -> None:
        self.name = model.name
        self._model = model
        self._path = path
        if path.exists():
            load(path)

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """The wrapped model's reply; asked twice, it is recorded twice."""
        reply = await self._model.reply(request, on_text)
        self._append(_line(request, reply))
        return reply

    async def aclose(self) -> None:
        """Close the wrapped model."""
        await self._model.aclose()

    def _append(self, line: Line) -> None:
        """One write in append mode, so that two recorders do not mix lines."""
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            problem = f"cannot record to {self._path}: {error.strerror}"
            raise Misconfigured(problem) from error


def load(path: Path) -> list[Line]:
    """The lines of a cassette; raises Misconfigured or InvalidInput."""
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"cannot read the cassette {str(path)!r}: {error.strerror}"
        raise Misconfigured(problem) from error
    lines = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        if raw.strip():
            try:
                lines.append(msgspec.json.decode(raw, type=Line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                problem = f"{path}, line {number}: not a recorded reply: {error}"
                raise InvalidInput(problem) from error
    if content and not content.endswith(b"\n"):
        cut = f"{path}, line {number}: cut off; remove it"
        raise InvalidInput(cut)
    return lines


def _line(request: Request, reply: Reply) -> Line:
    *_, (key, messages) = steps = list(_steps(request))
    return Line(
        key=key,
        step=len(steps),
        prompt=_first_prompt(request)[:_HEAD],
        tools=tuple(tool.name for tool in request.tools),
        heard=tuple(_heard(messages)),
        reply=reply,
    )


def _steps(request: Request) -> Iterator[tuple[str, list[Message]]]:
    """Each reply's key and what was heard before it; the last one is due now.

    A key continues the one before, so all of a conversation cost one pass.
    """
    tools = sorted(request.tools, key=lambda tool: tool.name)
    key = _digest([_first_prompt(request), tools])
    messages: list[Message] = []
    for message in request.messages:
        if isinstance(message, AssistantMessage):
            yield key, messages
            calls = [(call.name, call.arguments) for call in message.tool_calls]
            key, messages = _digest([key, calls]), []
        else:
            messages.append(message)
    yield key, messages


def _heard(messages: list[Message]) -> Iterator[Heard]:
    """Results by call id, as side by side they come in any order."""
    ordinal = 0
    for message in messages:
        if isinstance(message, ToolMessage):
            what = f"the result of {message.name} (call {message.call_id})"
            content = f"{message.outcome}: {message.output}"
            yield _one_heard(message.call_id, what, content)
        elif isinstance(message, UserMessage):
            ordinal += 1
            yield _one_heard(f"message {ordinal}", "a message", message.text)


def _one_heard(call: str, what: str, text: str) -> Heard:
    return Heard(
        call=call, what=what, digest=_digest(text), size=len(text), head=text[:_HEAD]
    )


def _difference(before: Heard | None, after: Heard | None) -> str:
    if before is None or after is None:
        missing, there = (
            ("recorded", after) if before is None else ("there now", before)
        )
        return f"{there.what if there else 'a message'} was not {missing}"
    return (
        f"{before.what} was {before.size} characters {before.head!r}, "
        f"is {after.size} characters {after.head!r}"
    )


def _first_prompt(request: Request) -> str:
    return next((m.text for m in request.messages if isinstance(m, UserMessage)), "")


def _names(request: Request) -> str:
    return ", ".join(tool.name for tool in request.tools) or "none"


def _digest(value: Any) -> str:
    encoded = msgspec.json.encode(value, order="deterministic")
    return blake2b(encoded, digest_size=16).hexdigest()

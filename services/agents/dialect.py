"""The one file in which our messages become pydantic-ai's, and come back."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec
from pydantic import ValidationError
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from events.messages import (
    AssistantMessage,
    Message,
    Outcome,
    Reply,
    Request,
    ToolCall,
    ToolMessage,
    ToolSchema,
    Usage,
    UserMessage,
)

MAX_ID = 64
"""Characters of a call's id, and of a tool's name: what every provider takes."""

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")

_MARKS: dict[Outcome, str] = {
    "success": "",
    "failed": "[failed] ",
    "denied": "[denied] ",
    "in_doubt": "[outcome unknown] ",
}
"""In the text itself, since not every provider has a field for it."""

_KEPT = (
    "provider_name",
    "provider_url",
    "canonical_system",
    "provider_details",
    "provider_response_id",
    "model_name",
    "finish_reason",
)


# ── ours → theirs ────────────────────────────────────────────────────────────


def parameters(request: Request) -> ModelRequestParameters:
    """The system prompt and the tools."""
    system = [InstructionPart(content=request.system)] if request.system else []
    return ModelRequestParameters(
        function_tools=[_tool(schema) for schema in request.tools],
        instruction_parts=system,
    )


def _tool(schema: ToolSchema) -> ToolDefinition:
    return ToolDefinition(
        name=schema.name,
        description=schema.description,
        parameters_json_schema=schema.parameters,
    )


def history(messages: Sequence[Message], name: str) -> Iterator[ModelMessage]:
    """The conversation for the model ``name``.

    All that is said between two answers is one request; an answer without text
    and calls is left out, since providers refuse to hear it again.
    """
    said: list[ModelRequestPart] = []
    for message in messages:
        if not isinstance(message, AssistantMessage):
            said.append(_said(message))
        elif message.text.strip() or message.tool_calls:
            if said:
                yield ModelRequest(parts=said)
            said = []
            yield _restored(message, name) or _answered(message)
    if said:
        yield ModelRequest(parts=said)


def _said(message: UserMessage | ToolMessage) -> ModelRequestPart:
    # Anthropic refuses a blank text, and the whole conversation would be stuck.
    if isinstance(message, UserMessage):
        text = message.text if message.text.strip() else "(empty message)"
        return UserPromptPart(content=text)
    text = message.output if message.output.strip() else "(no output)"
    outcome = message.outcome
    return ToolReturnPart(
        tool_name=_fit(message.name),
        content=_MARKS[outcome] + text,
        tool_call_id=message.call_id,
        outcome="interrupted" if outcome == "in_doubt" else outcome,
    )


def _answered(message: AssistantMessage) -> ModelResponse:
    parts: list[ModelResponsePart] = []
    if message.text.strip():
        parts.append(TextPart(content=message.text))
    parts.extend(ToolCallPart(**_call_fields(call)) for call in message.tool_calls)
    return ModelResponse(parts=parts)


def _call_fields(call: ToolCall) -> dict[str, Any]:
    return {
        "tool_name": _fit(call.name),
        "args": call.arguments,
        "tool_call_id": call.id,
    }


def _fit(name: str) -> str:
    """``name`` as every provider takes it: a model may have made it up."""
    return _UNFIT.sub("_", name)[:MAX_ID] or "unnamed"


# ── theirs → ours ────────────────────────────────────────────────────────────


def to_reply(
    name: str, request: Request, response: ModelResponse, latency_ms: float
) -> Reply:
    """The provider's ``response`` to ``request`` as a reply of the model ``name``."""
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    texts = [part.content for part in response.parts if isinstance(part, TextPart)]
    # OpenAI's responses end with "stop" even when a tool is asked for.
    ending = response.finish_reason or "stop"
    return Reply(
        model=name,
        text=sound("".join(texts)),
        tool_calls=tuple(_calls(calls, _used_ids(request))),
        usage=_usage(response),
        cost=_cost(response),
        latency_ms=latency_ms,
        finish_reason="tool_call" if calls and ending == "stop" else ending,
        opaque=_opaque(name, response),
    )


def _used_ids(request: Request) -> set[str]:
    asked = (m for m in request.messages if isinstance(m, AssistantMessage))
    return {call.id for message in asked for call in message.tool_calls}


def _calls(parts: Iterable[ToolCallPart], used: set[str]) -> Iterator[ToolCall]:
    """The calls, each with an id of its own in the whole conversation.

    Small servers number the calls of each answer from zero; an id that came
    twice would answer the wrong call, and a tool's key would repeat.
    """
    for part in parts:
        given = _fit(part.tool_call_id)
        call_id, number = given, 1
        while call_id in used:
            number += 1
            call_id = f"{given[: MAX_ID - 8]}-{number}"
        used.add(call_id)
        arguments = sound(_arguments(part))
        yield ToolCall(id=call_id, name=sound(part.tool_name), arguments=arguments)


def _arguments(part: ToolCallPart) -> str:
    """JSON text as the model wrote it, even if it is none."""
    if isinstance(part.args, str):
        return part.args or "{}"
    return msgspec.json.encode(part.args or {}).decode()


def _usage(response: ModelResponse) -> Usage:
    usage = response.usage
    return Usage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cache_read=usage.cache_read_tokens,
        cache_write=usage.cache_write_tokens,
    )


def _cost(response: ModelResponse) -> float | None:
    """US dollars, told by the provider or from the price list; None if unknown."""
    if response.usage.cost is not None:
        return float(response.usage.cost)
    try:
        price = response.cost().total_price
    except (LookupError, ValueError, AssertionError):
        return None  # no such model in the list, or the provider told no usage
    return float(price) or None


def sound(value: Any) -> Any:
    """``value`` with every text fit for UTF-8, which is all that the log takes.

    Some servers cut an emoji in two halves; halves that meet are joined, a
    lone one becomes a replacement character.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {sound(key): sound(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [sound(entry) for entry in value]
    return value


# ── what only the provider understands ───────────────────────────────────────


class _Opaque(msgspec.Struct):
    """An answer as its provider gave it, less the text and the calls.

    These stand in the message; ``parts`` says in which order, each text part
    with its number of characters. ``provider`` is the prefix of the model's
    name, so that two protocols of one company do not get each other's.
    """

    provider: str
    response: dict[str, Any]
    parts: list[dict[str, Any]]


def _opaque(name: str, response: ModelResponse) -> Any:
    """What must be sent back verbatim, as JSON; None when there is nothing."""
    if all(_is_plain(part) for part in response.parts):
        return None
    (whole,) = sound(ModelMessagesTypeAdapter.dump_python([response], mode="json"))
    kept = {key: whole[key] for key in _KEPT if whole.get(key) is not None}
    parts = [_skeleton(part) for part in whole["parts"]]
    return {"provider": _provider(name), "response": kept, "parts": parts}


def _provider(name: str) -> str:
    return name.partition(":")[0]


def _is_plain(part: ModelResponsePart) -> bool:
    return (
        isinstance(part, TextPart | ToolCallPart)
        and part.id is None
        and part.provider_details is None
    )


def _skeleton(part: dict[str, Any]) -> dict[str, Any]:
    part = {key: value for key, value in part.items() if value is not None}
    if part["part_kind"] == "text":
        part["characters"] = len(part.pop("content"))
    elif part["part_kind"] == "tool-call":
        for key in ("tool_name", "args", "tool_call_id"):
            part.pop(key, None)
    return part


def _restored(message: AssistantMessage, name: str) -> ModelResponse | None:
    """The answer as its provider gave it; None for another provider's.

    None also when it does not fit the message: the message is what counts.
    """
    try:
        kept = msgspec.convert(message.opaque, _Opaque)
        if kept.provider != _provider(name):
            return None
        filled = _filled(kept.parts, message)
        whole = kept.response | {"kind": "response", "parts": filled}
        (restored,) = ModelMessagesTypeAdapter.validate_python([whole])
    except (msgspec.ValidationError, ValidationError, LookupError, TypeError):
        return None
    return cast("ModelResponse", restored)


def _filled(
    parts: Iterable[dict[str, Any]], message: AssistantMessage
) -> list[dict[str, Any]]:
    """``parts`` with the message's text and calls; raises LookupError on a misfit."""
    text, calls, filled = message.text, list(message.tool_calls), []
    for part in parts:
        match part["part_kind"]:
            case "text":
                piece, text = _cut(text, part["characters"])
                filled.extend([part | {"content": piece}] if piece.strip() else [])
            case "tool-call":
                filled.append(part | _call_fields(calls.pop(0)))
            case _:
                filled.append(part)
    if text or calls:
        raise LookupError
    return filled


def _cut(text: str, size: int) -> tuple[str, str]:
    return text[:size], text[size:]

"""What is said between an execution and its model, in no provider's dialect.

``services/agents/dialect.py`` maps these to and from the providers; the log
holds only these.
"""

from typing import Any, Literal

import msgspec

Outcome = Literal["success", "failed", "denied", "in_doubt"]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tool the model asks for; ``arguments`` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str = "{}"


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Tokens of one or several model calls; cached ones are part of ``input``."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def total(self) -> int:
        """Tokens in and out."""
        return self.input + self.output

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
        )


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model.

    ``cost`` is in US dollars, None when the price is unknown. ``opaque`` is what
    a provider wants to see again verbatim (signed thinking, say), as JSON.
    """

    model: str
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    cost: float | None = None
    latency_ms: float = 0.0
    finish_reason: str = "stop"
    opaque: Any = None


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool call came to; ``output`` is the text that the model reads.

    ``tasks`` and ``notes`` are set by tools whose effect is on the execution
    itself: its todo list, its metadata.
    """

    call_id: str
    output: str
    outcome: Outcome = "success"
    latency_ms: float = 0.0
    tasks: "tuple[Task, ...] | None" = None
    notes: dict[str, Any] | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an agent's todo list."""

    title: str
    status: Literal["pending", "in_progress", "done"] = "pending"


class UserMessage(msgspec.Struct, frozen=True, tag="user"):
    """What the user asked, or a note to the model."""

    text: str


class AssistantMessage(msgspec.Struct, frozen=True, tag="assistant"):
    """What the model answered."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    opaque: Any = None


class ToolMessage(msgspec.Struct, frozen=True, tag="tool"):
    """What a tool call came to, as the model is told."""

    call_id: str
    name: str
    output: str
    outcome: Outcome = "success"


Message = UserMessage | AssistantMessage | ToolMessage


class ToolSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it is offered to a model; ``parameters`` is a JSON schema (object)."""

    name: str
    description: str
    parameters: dict[str, Any]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """All that a model is told for one answer."""

    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()

"""What a tool is: a name, a schema, an effect, and a coroutine.

A tool's arguments are a msgspec Struct: its JSON schema is what the model
sees, and what the model sends is decoded into it (a model's mistake becomes a
message to the model). A tool that cannot do what was asked raises
``ToolFailed`` with a message that a model can act upon.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from events.errors import ToolFailed
from events.messages import Task, ToolSchema
from events.spec import Effect
from services.tools.workspace import Workspace

MAX_OUTPUT = 48 * 1024
"""Bytes of UTF-8 a tool's output may have: what a model can use in one go."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every tool's arguments."""


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, kw_only=True)
class StateContext:
    """What a tool may know of the execution that called it.

    ``key`` is the call's idempotency key: the same however often it is run.
    """

    key: str
    notes: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ToolContext(StateContext):
    """What a tool may use besides: a directory, and ``timeout`` seconds.

    ``tell(level, event_type, message, **context)`` writes a line into the
    execution's log; it never blocks and never raises.
    """

    workspace: Workspace
    timeout: float = 60.0
    tell: Callable[..., None] = lambda *_, **__: None


@dataclass(frozen=True, kw_only=True)
class ToolOutput:
    """What the model is told, and the effect on the execution itself, if any."""

    text: str
    tasks: tuple[Task, ...] | None = None
    notes: dict[str, Any] | None = None


class Tool(ABC, Generic[A]):
    """A tool; one instance serves every execution, so it holds no state of one."""

    name: ClassVar[str]
    description: ClassVar[str]
    effect: ClassVar[Effect]
    arguments: type[A]

    @abstractmethod
    async def run(self, arguments: A, context: ToolContext) -> ToolOutput:
        """Do it. Raises ToolFailed; a cancellation ends all that it started."""

    @cached_property
    def schema(self) -> ToolSchema:
        """How the tool is offered to a model."""
        parameters = msgspec.json.schema(self.arguments)
        return ToolSchema(
            name=self.name,
            description=self.description,
            parameters=flat(parameters),
        )

    def parse(self, text: str) -> A:
        """Decode what a model sent; raises ToolFailed with what is wrong."""
        try:
            return msgspec.json.decode(text or "{}", type=self.arguments)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ToolFailed(f"invalid arguments for {self.name}: {error}") from error


class StateTool(Tool[A]):
    """A tool whose whole effect is an event of the execution itself.

    It does no I/O, so the runner records its result in the same commit as the
    reply that asked for it.
    """

    @abstractmethod
    def apply(self, arguments: A, context: StateContext) -> ToolOutput:
        """Decide the effect; pure. Raises ToolFailed."""

    async def run(self, arguments: A, context: ToolContext) -> ToolOutput:
        """Do it."""
        return self.apply(arguments, context)


def flat(schema: dict[str, Any]) -> dict[str, Any]:
    """Unwrap msgspec's ``$ref``/``$defs``: providers want one object schema."""
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(value) for key, value in node.items()}
        if isinstance(node, list):
            return [resolve(value) for value in node]
        return node

    whole: dict[str, Any] = resolve({k: v for k, v in schema.items() if k != "$defs"})
    return whole


def clip(text: str, limit: int = MAX_OUTPUT) -> str:
    """Cut ``text`` to ``limit`` bytes of UTF-8, saying how much was left out."""
    raw = text.encode(errors="replace")
    if len(raw) <= limit:
        return raw.decode()  # what UTF-8 cannot say is replaced
    kept = raw[:limit].decode(errors="ignore")
    return f"{kept}\n[cut: {len(raw) - limit:,} of {len(raw):,} bytes left out]"

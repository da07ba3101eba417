"""Tools that touch nothing, and remember that they ran."""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from events.errors import ToolFailed
from events.spec import AgentSpec, Chunking, Effect, Limits
from services.tools.base import (
    Arguments,
    StateContext,
    StateTool,
    Tool,
    ToolContext,
    ToolOutput,
)

Behaviour = Callable[[ToolContext], Awaitable[object]]


class What(Arguments, frozen=True, kw_only=True):
    """What the call is about."""

    what: str = "it"


class World:
    """What the tools did: ``ran`` in order, as (tool, what, idempotency key).

    ``behave`` makes a call about something do more than that.
    """

    def __init__(self, **behave: Behaviour) -> None:
        self.ran: list[tuple[str, str, str]] = []
        self.behave = behave

    def tools(self) -> dict[str, Tool[Any]]:
        """One of each effect, and one on the state."""
        kinds = (Look, Write, Launch)
        return {kind.name: kind(self) for kind in kinds} | {Note.name: Note()}

    def count(self, tool: str) -> int:
        """How often a tool ran."""
        return sum(name == tool for name, _, _ in self.ran)


class _Recorded(Tool[What]):
    description: ClassVar[str] = "A tool for tests."
    arguments = What

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self, arguments: What, context: ToolContext) -> ToolOutput:
        """Remember, and behave."""
        self._world.ran.append((self.name, arguments.what, context.key))
        behave = self._world.behave.get(arguments.what)
        told = await behave(context) if behave else None
        if isinstance(told, ToolOutput):
            return told
        return ToolOutput(text=told if isinstance(told, str) else arguments.what)


class Look(_Recorded):
    """Changes nothing."""

    name: ClassVar[str] = "look"
    effect: ClassVar[Effect] = "read"


class Write(_Recorded):
    """Twice is once."""

    name: ClassVar[str] = "write"
    effect: ClassVar[Effect] = "idempotent"


class Launch(_Recorded):
    """Not to be done twice."""

    name: ClassVar[str] = "launch"
    effect: ClassVar[Effect] = "irreversible"


class Note(StateTool[What]):
    """Keeps a note in the execution itself."""

    name: ClassVar[str] = "note"
    description: ClassVar[str] = "A state tool for tests."
    effect: ClassVar[Effect] = "idempotent"
    arguments = What

    def apply(self, arguments: What, context: StateContext) -> ToolOutput:  # noqa: ARG002 - the port's
        """Note it; some things cannot be noted."""
        if arguments.what == "refused":
            raise ToolFailed("that cannot be noted")
        if arguments.what == "crash":
            raise KeyError(arguments.what)
        return ToolOutput(text="noted", notes={arguments.what: True})


def agent(
    *more: str,
    limits: Limits | None = None,
    chunking: Chunking | None = None,
    approvals: tuple[str, ...] = (),
) -> AgentSpec:
    """An agent that has the fake tools, and ``more`` by name."""
    effects: dict[str, Effect] = {
        kind.name: kind.effect for kind in (Look, Write, Launch, Note)
    }
    return AgentSpec(
        name="tester",
        model="fake",
        tools=(*effects, *more),
        effects=effects,
        approvals=approvals,
        limits=limits or Limits(),
        chunking=chunking,
    )

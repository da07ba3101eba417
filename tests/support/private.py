"""``wake`` with a model and tools of the test's own; all the rest is the real thing.

The model obeys the plan in an execution's input; what it and the tools do they
note in the ledger. ``FAULTS_LEDGER`` names its folder, ``FAULTS_NAME`` the
process; ``FAULTS_CLOCK`` is a file with the seconds that its clock is wrong,
``FAULTS_GRACE`` are the seconds in which a runner may come back to the reactor.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, Self, cast

import msgspec
from ledger import Ledger
from plan import Plan, Step, Use

from events.catalog import Created
from events.messages import (
    AssistantMessage,
    Reply,
    Request,
    ToolCall,
    Usage,
    UserMessage,
)
from events.spec import AgentSpec, Effect, Limits
from gateway import cli, parts, up
from gateway.composition import Bench
from services import handler
from services.agents.loop import Means
from services.agents.model import ignore
from services.agents.registry import Registry
from services.tools.base import Arguments, Tool, ToolContext, ToolOutput

EFFECTS: dict[str, Effect] = {
    "look": "read",
    "write": "idempotent",
    "launch": "irreversible",
}
LIMITS = Limits(max_steps=1_000, max_tokens=10_000_000, timeout=600)
AGENT = AgentSpec(
    name="tester",
    model="planned",
    tools=tuple(EFFECTS),
    effects=EFFECTS,
    limits=LIMITS,
)


def created(plan: Plan) -> Created:
    """Say what an execution with this plan begins with."""
    return Created(agent=AGENT, input=plan.text)


def _ledger() -> Ledger:
    return Ledger(Path(os.environ["FAULTS_LEDGER"]))


def _name() -> str:
    return os.environ["FAULTS_NAME"]


async def take_its_time(ledger: Ledger, what: Step | Use) -> None:
    """Wait at the gate, take the time, or take the whole process down."""
    await ledger.passed(what.gate)
    await asyncio.sleep(what.pause)
    if what.kills:
        os.kill(os.getpid(), signal.SIGKILL)


class Planned:
    """The model: replies as the plan says."""

    name = "planned"

    def __init__(self) -> None:
        self._ledger = _ledger()

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """Note that it is asked, then answer."""
        said = sum(isinstance(m, AssistantMessage) for m in request.messages)
        plan = Plan.read(cast("UserMessage", request.messages[0]).text)
        self._ledger.note_call(plan.name, said + 1, _name())
        what = plan.steps[said] if said < len(plan.steps) else Step()
        await take_its_time(self._ledger, what)
        on_text("words")
        usage = Usage(input=1, output=1)
        return Reply(
            model=self.name, text="words", tool_calls=_calls(what), usage=usage
        )

    async def aclose(self) -> None:
        """Nothing to let go."""


def _calls(what: Step) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(id=f"c{n}", name=use.tool, arguments=msgspec.json.encode(use).decode())
        for n, use in enumerate(what.uses)
    )


class Doing(Arguments, frozen=True, kw_only=True):
    """The arguments of every tool: its use in the plan."""

    tool: str
    pause: float = 0.0
    gate: str = ""
    kills: bool = False


class _Noted(Tool[Doing]):
    description: ClassVar[str] = "A tool for tests."
    arguments = Doing

    def __init__(self) -> None:
        self._ledger = _ledger()

    async def run(self, arguments: Doing, context: ToolContext) -> ToolOutput:
        """Note the effect, then take its time."""
        self._ledger.note_effect(context.key, _name())
        use = msgspec.convert(msgspec.to_builtins(arguments), Use)
        await take_its_time(self._ledger, use)
        return ToolOutput(text="done")


class Look(_Noted):
    """Changes nothing."""

    name: ClassVar[str] = "look"
    effect: ClassVar[Effect] = "read"


class Write(_Noted):
    """Twice is once."""

    name: ClassVar[str] = "write"
    effect: ClassVar[Effect] = "idempotent"


class Launch(_Noted):
    """Not to be done twice."""

    name: ClassVar[str] = "launch"
    effect: ClassVar[Effect] = "irreversible"


class PrivateBench(Bench):
    """The private tools and the private model."""

    @classmethod
    async def find(cls, mode: Literal["required", "off"] = "required") -> Self:  # noqa: ARG003 - there is no sandbox
        """Offer the tools of tests."""
        tools: list[Tool[Any]] = [Look(), Write(), Launch()]
        return cls({tool.name: tool for tool in tools})

    @asynccontextmanager
    async def means(
        self, data: Path, workspaces: Path, *_: object, **more: Any
    ) -> AsyncIterator[Means]:
        """Drive executions with them."""
        means = Means(
            open_model=lambda _: Planned(),
            tools=self.tools,
            workspaces=workspaces,
            closed=(data,),
            **more,
        )
        try:
            yield means
        finally:
            await means.close()


class PrivateRegistry(Registry):
    """One agent type."""

    @classmethod
    def load(cls, *_: object, **__: object) -> Registry:
        """Know only the tester."""
        return Registry({AGENT.name: AGENT})


class WrongClock(datetime):
    """A wall clock that is wrong by as many seconds as its file says."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        """Look at the file each time, so that it may jump."""
        wrong = float(Path(os.environ["FAULTS_CLOCK"]).read_text())
        return datetime.now(tz or UTC) + timedelta(seconds=wrong)


def main() -> None:
    """Be ``wake``."""
    _put(up, "Bench", PrivateBench)
    _put(parts, "Registry", PrivateRegistry)
    _put(parts, "TOOLS", EFFECTS)
    if "FAULTS_CLOCK" in os.environ:
        _put(handler, "datetime", WrongClock)
    if "FAULTS_GRACE" in os.environ:
        grace = float(os.environ["FAULTS_GRACE"])
        _put(parts, "Recovery", partial(parts.Recovery, grace=grace))
    cli.main()


def _put(module: ModuleType, name: str, value: Any) -> None:
    """Put something in the place of what a module uses by that name."""
    assert hasattr(module, name), f"{module.__name__} has no {name}"
    setattr(module, name, value)

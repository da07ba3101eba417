"""What the executions of a simulation are to do: agents, replies, tools, by chance."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_tools import Launch, Look, Note, What, World, Write

from events.errors import ModelRefused, ModelUnavailable, ToolFailed
from events.messages import AssistantMessage, Reply, Request, ToolCall, Usage
from events.names import LANES, Key
from events.spec import AgentSpec, Chunking, Effect, Limits
from services.agents.model import ignore
from services.tools.base import Tool, ToolContext

TOOLS: dict[str, Effect] = {t.name: t.effect for t in (Look, Write, Launch, Note)}
NAMES = (*TOOLS, "launch", "ask_user")
MOST_STEPS = 6


@dataclass(frozen=True)
class Plan:
    """One execution: its agent, and the replies that it will get."""

    key: Key
    agent: AgentSpec
    replies: tuple[Reply, ...]
    parks: bool
    """Nobody cares for it in the end: if it waits then, it goes on waiting."""


def draw(chance: random.Random, number: int) -> Plan:
    """Draw an execution."""
    name = f"x{number}"
    steps = chance.randint(1, MOST_STEPS)
    return Plan(
        key=Key(chance.choice(("ada", "bob")), name),
        agent=_agent(chance, name),
        replies=(*(_reply(chance, n) for n in range(1, steps + 1)), _last(chance)),
        parks=chance.random() < 0.15,
    )


def _agent(chance: random.Random, name: str) -> AgentSpec:
    chunks = Chunking(steps_per_chunk=chance.randint(1, 3))
    return AgentSpec(
        name=name,
        system_prompt=name,
        model="sim",
        tools=(*TOOLS, "ask_user"),
        effects=TOOLS,
        approvals=("launch",) if chance.random() < 0.2 else (),
        on_doubt=chance.choice(("tell", "ask")),
        lane=chance.choice(LANES),
        limits=Limits(
            max_steps=chance.choice((3, 20, 20, 20)),
            max_tokens=1_000_000,
            timeout=chance.choice((10.0, 600.0, 600.0, 600.0)),
            max_attempts=chance.choice((2, 5, 50, 50)),
        ),
        chunking=chunks if chance.random() < 0.25 else None,
    )


def _reply(chance: random.Random, step: int) -> Reply:
    names = [chance.choice(NAMES) for _ in range(chance.choice((1, 1, 2, 3)))]
    calls = tuple(
        ToolCall(id=f"{name}{step}{n}", name=name, arguments=_arguments(name))
        for n, name in enumerate(names)
    )
    return Reply(model="sim", tool_calls=calls, usage=Usage(input=1, output=1))


def _arguments(name: str) -> str:
    return '{"question": "Which?"}' if name == "ask_user" else '{"what": "sim"}'


def _last(chance: random.Random) -> Reply:
    return Reply(model="sim", text="Done.", latency_ms=float(chance.randint(1, 9)))


@dataclass
class Provider:
    """The model: answers by plan, takes its time, and fails now and then."""

    chance: random.Random
    plans: dict[str, Plan]
    asked: Callable[[Key, int], None]
    """Hears of every request, as it arrives."""
    lease: float
    name: str = "sim"

    async def reply(
        self,
        request: Request,
        on_text: Callable[[str], None] = ignore,  # noqa: ARG002 - the port's
    ) -> Reply:
        """Answer as planned."""
        plan = self.plans[request.system]
        step = 1 + sum(isinstance(m, AssistantMessage) for m in request.messages)
        self.asked(plan.key, step)
        await asyncio.sleep(duration(self.chance, self.lease))
        luck = self.chance.random()
        if luck < 0.04:
            raise ModelUnavailable("503")
        if luck < 0.045:
            raise ModelRefused("400")
        return plan.replies[min(step, len(plan.replies)) - 1]

    async def aclose(self) -> None:
        """Nothing to let go."""


@dataclass
class Workshop(World):
    """The tools: what they do counts as they begin, and then it takes a while."""

    chance: random.Random
    ran_now: Callable[[str], None]
    """Hears the idempotency key of every run, as it begins."""
    lease: float
    ran: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def behave(self) -> dict[str, Any]:  # type: ignore[override]
        """All of them behave alike."""
        return {"sim": self._run}

    async def _run(self, context: ToolContext) -> None:
        self.ran_now(context.key)
        await asyncio.sleep(duration(self.chance, self.lease))
        if self.chance.random() < 0.05:
            raise ToolFailed("it did not work")


def duration(chance: random.Random, lease: float) -> float:
    """Draw how long something takes: mostly no time, sometimes longer than a lease."""
    if chance.random() < 0.12:
        return chance.random() * 2 * lease
    return chance.random() * 0.5


__all__ = ["Plan", "Provider", "Tool", "What", "Workshop", "draw"]

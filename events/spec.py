"""What an agent is: the specification that an execution keeps from its start."""

from typing import Literal

import msgspec

Effect = Literal["read", "idempotent", "irreversible"]
Lane = Literal["agents", "agents_long", "agents_priority"]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an execution ends by itself.

    ``timeout`` is seconds of running time; time parked does not count.
    ``max_cost`` is in US dollars. ``max_attempts`` bounds consecutive starts
    that made no progress.
    """

    max_steps: int = 20
    max_tokens: int = 20_000
    max_cost: float | None = None
    timeout: float = 120.0
    max_attempts: int = 5


class Chunking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a long execution shares its runner: it yields after so many steps."""

    steps_per_chunk: int = 10
    max_chunks: int = 50


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent type, resolved: a running execution keeps the one it started with.

    ``effects`` holds what each of ``tools`` does to the world; a tool that is
    not in it counts as irreversible. ``approvals`` names the tools that a
    person must approve. ``on_doubt`` says who decides after a runner died
    within an irreversible tool: the model is told, or a person is asked.
    """

    name: str
    description: str = ""
    system_prompt: str = ""
    model: str = "scripted"
    tools: tuple[str, ...] = ()
    effects: dict[str, Effect] = {}
    subagents: tuple[str, ...] = ()
    approvals: tuple[str, ...] = ()
    on_doubt: Literal["tell", "ask"] = "tell"
    limits: Limits = Limits()
    lane: Lane = "agents"
    chunking: Chunking | None = None
    max_depth: int = 3

    def effect(self, tool: str) -> Effect:
        """What ``tool`` does to the world; the careful answer when unknown."""
        return self.effects.get(tool, "irreversible")

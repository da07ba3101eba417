"""What an execution of a test is to do: its input, which the private model obeys."""

from typing import Literal

import msgspec

ToolName = Literal["look", "write", "launch"]


class Use(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool call; it waits at its ``gate``, takes ``pause`` seconds, and may kill."""

    tool: ToolName
    pause: float = 0.0
    gate: str = ""
    kills: bool = False


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reply of the model that asks for ``uses``; it takes its time as they do."""

    uses: tuple[Use, ...] = ()
    pause: float = 0.0
    gate: str = ""
    kills: bool = False


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that execution ``name`` is to do; after the last step it is done."""

    name: str
    steps: tuple[Step, ...] = ()

    @property
    def text(self) -> str:
        """The plan as an execution's input."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def read(cls, text: str) -> "Plan":
        """Read it from an execution's input."""
        return msgspec.json.decode(text, type=cls)


def step(*tools: ToolName, pause: float = 0.0, gate: str = "") -> Step:
    """Make a step of plain uses; the model takes ``pause`` or waits at ``gate``."""
    return Step(tuple(map(Use, tools)), pause=pause, gate=gate)


def steps(count: int, pause: float = 0.02) -> tuple[Step, ...]:
    """Make steps of every kind of tool, in turn."""
    kinds: tuple[tuple[ToolName, ...], ...] = (("write",), ("launch",), ("look",))
    return tuple(step(*kinds[n % 3], pause=pause) for n in range(count))

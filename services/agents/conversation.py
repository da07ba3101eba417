"""A conversation as the scripted model looks at it: what was asked, what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from events.messages import (
    AssistantMessage,
    Message,
    Outcome,
    Request,
    ToolMessage,
    ToolSchema,
    UserMessage,
)

CHANGES = frozenset({"write_file", "edit_file", "spawn_agent", "ask_user"})
"""Tools that are not asked again when the outcome is unknown."""


class Call(NamedTuple):
    """A call that is wanted; the same arguments are the same call."""

    name: str
    arguments: str = "{}"

    def value(self, key: str) -> str:
        """One of its arguments, as text; empty when it has none of that name."""
        try:
            arguments = msgspec.json.decode(self.arguments)
        except msgspec.DecodeError:
            return ""
        found = arguments.get(key, "") if isinstance(arguments, dict) else ""
        return found if isinstance(found, str) else ""


class Answer(NamedTuple):
    """What a call came to."""

    outcome: Outcome
    output: str


@dataclass(frozen=True)
class Turn:
    """All since the last final answer: the prompt and the calls with their answers.

    ``prompt`` is its first message of the user's, ``remarks`` are the later ones.
    ``step`` numbers the reply that is due, within the whole conversation;
    ``replies`` counts those of this turn.
    """

    prompt: str
    remarks: str
    step: int
    replies: int
    asked: dict[Call, int] = field(default_factory=dict)
    answers: dict[Call, list[Answer]] = field(default_factory=dict)

    def settled(self, call: Call) -> bool:
        """Whether asking (again) would be of no use.

        A call without a certain answer is asked twice at most, and one that
        changes something only once.
        """
        if any(a.outcome != "in_doubt" for a in self.answers.get(call, ())):
            return True
        return self.asked.get(call, 0) >= (1 if call.name in CHANGES else 2)

    def answer(self, call: Call) -> Answer | None:
        """The last answer to a call, or None."""
        answers = self.answers.get(call)
        return answers[-1] if answers else None

    def successes(self, name: str) -> Iterator[tuple[Call, str]]:
        """Every call of that tool that went well, with its output."""
        for call, answers in self.answers.items():
            if call.name == name and answers[-1].outcome == "success":
                yield call, answers[-1].output

    @property
    def heard(self) -> int:
        """Characters of tool output so far."""
        return sum(len(a.output) for all_ in self.answers.values() for a in all_)


def turn_of(messages: tuple[Message, ...]) -> Turn:
    """Read a conversation; whatever it holds, there is a turn."""
    replies = [m for m in messages if isinstance(m, AssistantMessage)]
    start = _start(messages)
    recent = messages[start:]
    said = [m.text for m in recent if isinstance(m, UserMessage)] or [""]
    turn = Turn(
        prompt=said[0],
        remarks="\n".join(said[1:]),
        step=len(replies) + 1,
        replies=sum(isinstance(m, AssistantMessage) for m in recent),
    )
    calls: dict[str, Call] = {}
    for message in recent:
        if isinstance(message, AssistantMessage):
            for asked in message.tool_calls:
                call = calls[asked.id] = Call(asked.name, asked.arguments)
                turn.asked[call] = turn.asked.get(call, 0) + 1
        elif isinstance(message, ToolMessage) and message.call_id in calls:
            answer = Answer(message.outcome, message.output)
            turn.answers.setdefault(calls[message.call_id], []).append(answer)
    return turn


def _start(messages: tuple[Message, ...]) -> int:
    """Where the turn begins: after the last answer that asked for no tool."""
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if isinstance(message, AssistantMessage) and not message.tool_calls:
            return place + 1
    return 0


class Offer:
    """The tools of a request; a call is made to fit the schema that is offered."""

    def __init__(self, request: Request) -> None:
        self._tools = {tool.name: tool for tool in request.tools}

    def has(self, name: str) -> bool:
        """Whether the tool may be called."""
        return name in self._tools

    def calls(self, name: str, **arguments: Any) -> tuple[Call, ...]:
        """The call in a tuple, or none when the tool is not offered.

        Arguments that its schema does not know are left out.
        """
        tool = self._tools.get(name)
        if tool is None:
            return ()
        known = _properties(tool)
        fitting = {k: v for k, v in arguments.items() if not known or k in known}
        return (Call(name, msgspec.json.encode(fitting).decode()),)


def _properties(tool: ToolSchema) -> dict[str, Any]:
    properties = tool.parameters.get("properties")
    return properties if isinstance(properties, dict) else {}

"""Lets a model talk with tools until its final answer, as a runner would."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from events.errors import ToolFailed
from events.messages import (
    AssistantMessage,
    Message,
    Outcome,
    Reply,
    Request,
    ToolCall,
    ToolMessage,
    ToolSchema,
    UserMessage,
)
from services.agents.model import Model
from services.tools.base import Tool, ToolContext

MAX_REPLIES = 30
Answering = Callable[[ToolCall], Awaitable[tuple[Outcome, str]]]


@dataclass(frozen=True)
class Talk:
    """A finished conversation."""

    requests: list[Request]
    replies: list[Reply]

    @property
    def answer(self) -> str:
        """The final text."""
        return self.replies[-1].text

    @property
    def calls(self) -> list[ToolCall]:
        """Every call that was made, in order."""
        return [call for reply in self.replies for call in reply.tool_calls]

    def outputs(self, name: str) -> list[str]:
        """What one tool returned, in order."""
        last = self.requests[-1].messages
        return [m.output for m in last if isinstance(m, ToolMessage) and m.name == name]


async def converse(
    model: Model, prompt: str, tools: tuple[ToolSchema, ...], answering: Answering
) -> Talk:
    """Ask until a reply has no calls; fails if that takes too many replies."""
    messages: list[Message] = [UserMessage(prompt)]
    talk = Talk([], [])
    while len(talk.replies) < MAX_REPLIES:
        request = Request(system="Look around.", messages=tuple(messages), tools=tools)
        reply = await model.reply(request)
        talk.requests.append(request)
        talk.replies.append(reply)
        if not reply.tool_calls:
            return talk
        messages.append(AssistantMessage(reply.text, reply.tool_calls))
        results = await asyncio.gather(*map(answering, reply.tool_calls))
        for call, (outcome, output) in zip(reply.tool_calls, results, strict=True):
            messages.append(ToolMessage(call.id, call.name, output, outcome))
    raise AssertionError(f"no final answer after {MAX_REPLIES} replies")


def real(tools: dict[str, Tool[Any]], context: ToolContext) -> Answering:
    """Answers from real tools."""

    async def answer(call: ToolCall) -> tuple[Outcome, str]:
        tool = tools[call.name]
        try:
            output = await tool.run(tool.parse(call.arguments), context)
        except ToolFailed as error:
            return "failed", str(error)
        return "success", output.text

    return answer


def always(outcome: Outcome, output: str) -> Answering:
    """The same answer to everything."""

    async def answer(_call: ToolCall) -> tuple[Outcome, str]:
        return outcome, output

    return answer

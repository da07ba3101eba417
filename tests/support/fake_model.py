"""A model that answers by a script, and remembers what it was asked."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from events.messages import AssistantMessage, Reply, Request, ToolCall, Usage
from services.agents.model import ignore

Answer = Reply | Exception | Callable[[], Awaitable[Reply]]


def says(text: str = "done") -> Reply:
    """Answer in words: the end."""
    return Reply(model="fake", text=text, usage=Usage(input=1, output=1))


def wants(*calls: ToolCall, text: str = "") -> Reply:
    """Ask for tools."""
    return Reply(model="fake", text=text, tool_calls=calls)


def use(tool: str, what: str = "", *, id: str = "") -> ToolCall:  # noqa: A002 - the field
    """Make a call of a fake tool."""
    arguments = f'{{"what": "{what}"}}' if what else "{}"
    return ToolCall(id=id or f"{tool}-{what}", name=tool, arguments=arguments)


class Hang:
    """Never answers; ``begun`` and ``ended`` tell how far it came."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, *_: object) -> Reply:
        """Wait to be cancelled."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        raise AssertionError


class FakeModel:
    """Gives the n-th of ``script`` as its n-th reply of a conversation.

    Several answers for one reply, in a list, are given one after the other each
    time it is asked again; the last one stays. ``asked`` counts the requests for
    each reply, whoever makes them.
    """

    name = "fake"

    def __init__(self, *script: Answer | list[Answer]) -> None:
        self._script: Sequence[Answer | list[Answer]] = script or [says()]
        self.asked: Counter[int] = Counter()
        self.requests: list[Request] = []
        self.at_once = self.most_at_once = 0

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """Answer as the script says."""
        step = 1 + sum(isinstance(m, AssistantMessage) for m in request.messages)
        self.asked[step] += 1
        self.requests.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = await self._answer(step)
        finally:
            self.at_once -= 1
        on_text(answer.text)
        return answer

    async def _answer(self, step: int) -> Reply:
        answer = self._script[min(step, len(self._script)) - 1]
        if isinstance(answer, list):
            answer = answer[min(self.asked[step], len(answer)) - 1]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Reply):
            await asyncio.sleep(0)
            return answer
        return await answer()

    async def aclose(self) -> None:
        """Nothing to let go."""

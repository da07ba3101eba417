"""A model provider on loopback that answers what a test told it to.

What the providers' fakes share: the script, the record of what arrived, and
the ways in which an answer can go wrong. Each fake adds its protocol.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

Ending = Literal["whole", "drop", "end", "hang", "garbage", "error"]
Events = AsyncIterator[bytes]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool call, whose argument text arrives in the given pieces."""

    id: str
    name: str
    arguments: tuple[str, ...] = ("{}",)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A streamed answer; after its text, ``ending`` says whether it comes whole.

    ``drop``: the connection breaks. ``end``: the stream ends as if it were
    whole. ``hang``: silence until the client goes. ``garbage``: a frame that
    is no JSON. ``error``: the provider reports ``failure`` within the stream.
    """

    text: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    thinking: str = ""
    signature: str = ""
    finish: str = ""
    tokens: tuple[int, int] = (10, 5)
    cached: tuple[int, int] = (0, 0)
    ending: Ending = "whole"
    failure: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An HTTP status in place of an answer; a ``body`` that is text goes as HTML."""

    status: int
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class FakeProvider(ABC):
    """Serves the script's answers in order and keeps every request it got.

    ``at`` says when each came, in the event loop's time. With ``port`` it listens
    where another one did before. ``gone`` is set when a client leaves before its
    answer was complete.
    """

    def __init__(self, *script: Answer | Refusal, port: int = 0) -> None:
        self.script = deque(script)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at: list[float] = []
        self.port = port
        self.gone = asyncio.Event()
        self.address = ""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{path:.*}", self._serve)
        # A handler is cancelled when its client leaves: so ``gone`` is known.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=1.0
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        self.address = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def last(self) -> dict[str, Any]:
        """The body of the last request."""
        return self.requests[-1]

    @property
    @abstractmethod
    def url(self) -> str:
        """The base URL that this provider's clients want."""

    @abstractmethod
    def events(self, path: str, body: dict[str, Any], answer: Answer) -> Events:
        """The frames of ``answer`` up to the end of its text."""

    @abstractmethod
    def closing(self, path: str, body: dict[str, Any], answer: Answer) -> Events:
        """The frames that complete a whole answer."""

    @abstractmethod
    def error(self, path: str, failure: dict[str, Any]) -> bytes:
        """The frame that reports a failure within the stream."""

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.at.append(asyncio.get_running_loop().time())
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        turn = self.script.popleft()
        if isinstance(turn, Refusal):
            return _refuse(turn)
        try:
            return await self._stream(request, body, turn)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise

    async def _stream(
        self, request: web.Request, body: dict[str, Any], answer: Answer
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        async for frame in self.events(request.path, body, answer):
            await response.write(frame)
        await self._end(request, response, body, answer)
        return response

    async def _end(
        self,
        request: web.Request,
        response: web.StreamResponse,
        body: dict[str, Any],
        answer: Answer,
    ) -> None:
        match answer.ending:
            case "whole":
                async for frame in self.closing(request.path, body, answer):
                    await response.write(frame)
            case "drop":
                transport = request.transport
                assert transport is not None
                transport.abort()
            case "hang":
                await asyncio.Event().wait()
            case "garbage":
                await response.write(b"data: {not json\n\n")
            case "error":
                await response.write(self.error(request.path, answer.failure))
            case "end":
                pass


def frame(data: Any, event: str = "") -> bytes:
    """One server-sent event; half an emoji goes escaped, as real servers send it."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raw = json.dumps(data).encode()
    head = f"event: {event}\n" if event else ""
    return head.encode() + b"data: " + raw + b"\n\n"


def _refuse(turn: Refusal) -> web.Response:
    if isinstance(turn.body, str):
        return web.Response(
            status=turn.status,
            text=turn.body,
            headers=turn.headers,
            content_type="text/html",
        )
    return web.json_response(turn.body, status=turn.status, headers=turn.headers)

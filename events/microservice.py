"""A NATS micro service (ADR-32 of NATS): found and counted by any of its tools.

Unlike ``nats.micro`` of nats-py, which handles one request of an endpoint after
the other, requests are answered side by side: one that waits holds up no other.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import msgspec

from events.errors import (
    OutcomeUnknown,
    Refused,
    Retryable,
    TooLarge,
    Unavailable,
    WakeError,
)
from events.names import SERVICE_ERROR, SERVICE_ERROR_CODE, SERVICES
from events.wire import Wire

logger = logging.getLogger(__name__)

QUEUE = "q"
"""The queue group of all endpoints: what ADR-32 has where nothing else is said."""

MOST = 256
"""Requests in hand at once; whoever asks beyond is told to come again."""

LONGEST = 500
"""Characters of an error in a header; its body has all of it."""


class Request(NamedTuple):
    """What came to an endpoint; ``reply`` is where its answer goes."""

    body: bytes
    reply: str
    headers: Mapping[str, str]


class Endpoint(NamedTuple):
    """A subject, and what answers it: with bytes, or by raising WakeError."""

    name: str
    subject: str
    answer: Callable[[Request], Awaitable[bytes]]
    about: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an answer that is none."""

    code: str
    message: str


class InHand(msgspec.Struct):
    """What is being answered now."""

    in_hand: int = 0


class Counts(msgspec.Struct, kw_only=True):
    """What an endpoint has done; times in nanoseconds."""

    name: str
    subject: str
    queue_group: str = QUEUE
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0
    data: InHand = msgspec.field(default_factory=InHand)

    def note(self, nanoseconds: int, error: WakeError | None) -> None:
        """Count one request."""
        self.num_requests += 1
        self.processing_time += nanoseconds
        self.average_processing_time = self.processing_time // self.num_requests
        if error is not None:
            self.num_errors += 1
            self.last_error = f"{error.code}: {_one_line(error)}"


class MicroService:
    """Some endpoints under one name; ``serve`` as long as they are to be there."""

    def __init__(
        self,
        wire: Wire,
        name: str,
        version: str,
        description: str,
        endpoints: Sequence[Endpoint],
    ) -> None:
        self._wire, self._endpoints = wire, endpoints
        self._about = {"name": name, "id": secrets.token_hex(11), "version": version}
        self._description = description
        self._counts = {
            e.name: Counts(name=e.name, subject=e.subject) for e in endpoints
        }
        self._began = datetime.now(UTC)
        self.ready = asyncio.Event()

    async def serve(self) -> None:
        """Answer until cancelled; raises OutcomeUnknown if nothing can be heard."""
        async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
            for subject, answer in self._controls().items():
                await self._hear(group, stack, subject, answer, "")
            for endpoint in self._endpoints:
                answer = partial(self._counted, endpoint)
                await self._hear(group, stack, endpoint.subject, answer, QUEUE)
            await self._wire.flush()
            self.ready.set()
            await asyncio.Event().wait()

    async def _hear(
        self,
        group: asyncio.TaskGroup,
        stack: AsyncExitStack,
        subject: str,
        answer: Callable[[Request], Coroutine[Any, Any, None]],
        queue: str,
    ) -> None:
        def take(message: Any) -> None:
            if message.reply:  # else nobody would hear of it
                request = Request(message.data, message.reply, message.headers or {})
                group.create_task(answer(request))

        subscription = await self._wire.subscribe(subject, take, queue)
        stack.push_async_callback(self._wire.unsubscribe, subscription)

    # ── answering ────────────────────────────────────────────────────────────

    async def _counted(self, endpoint: Endpoint, request: Request) -> None:
        began = time.perf_counter_ns()
        error = None
        counts = self._counts[endpoint.name]
        counts.data.in_hand += 1
        try:
            answer = await self._answered(endpoint, request)
            await self._send(request.reply, answer)
        except WakeError as problem:
            error = problem
            await self._complain(request.reply, problem)
        finally:
            counts.data.in_hand -= 1
        counts.note(time.perf_counter_ns() - began, error)

    async def _answered(self, endpoint: Endpoint, request: Request) -> bytes:
        if sum(one.data.in_hand for one in self._counts.values()) > MOST:
            raise Unavailable("too much is asked at once: ask again later")
        try:
            return await endpoint.answer(request)
        except WakeError:
            raise
        except Exception as error:
            # A mistake in one answer must not take down all that is served here.
            logger.exception("%s failed", endpoint.subject)
            raise WakeError(f"{endpoint.name} failed by a mistake of ours") from error

    async def _complain(self, reply: str, error: WakeError) -> None:
        headers = {SERVICE_ERROR: _one_line(error), SERVICE_ERROR_CODE: _number(error)}
        problem = Problem(code=error.code, message=_text(error))
        await self._send(reply, msgspec.json.encode(problem), headers)

    async def _send(
        self, reply: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        try:
            await self._wire.send(reply, body, headers=headers)
        except OutcomeUnknown:
            return  # whoever asked hears nothing, and asks again

    # ── being found ──────────────────────────────────────────────────────────

    def _controls(self) -> dict[str, Callable[[Request], Coroutine[Any, Any, None]]]:
        name, own = self._about["name"], self._about["id"]
        told = {"PING": self._pong, "INFO": self._info, "STATS": self._stats}
        return {
            f"{SERVICES}.{verb}{which}": partial(self._tell, verb.lower(), what)
            for verb, what in told.items()
            for which in ("", f".{name}", f".{name}.{own}")
        }

    async def _tell(
        self, verb: str, what: Callable[[], dict[str, Any]], request: Request
    ) -> None:
        kind = f"io.nats.micro.v1.{verb}_response"
        told = {"type": kind, **self._about, "metadata": {}, **what()}
        await self._send(request.reply, msgspec.json.encode(told))

    def _pong(self) -> dict[str, Any]:
        return {}

    def _info(self) -> dict[str, Any]:
        endpoints = [
            {
                "name": endpoint.name,
                "subject": endpoint.subject,
                "queue_group": QUEUE,
                "metadata": {"about": endpoint.about},
            }
            for endpoint in self._endpoints
        ]
        return {"description": self._description, "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        began = self._began.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"started": began, "endpoints": list(self._counts.values())}


def _one_line(error: WakeError) -> str:
    """A header has no line breaks, and ends at one: no error may make another."""
    return " ".join(_text(error).split())[:LONGEST]


def _text(error: WakeError) -> str:
    return str(error).encode(errors="replace").decode()


def _number(error: WakeError) -> str:
    if isinstance(error, TooLarge):
        return "413"
    if isinstance(error, Refused):
        return "400"
    return "503" if isinstance(error, Retryable) else "500"

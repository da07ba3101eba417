"""Asking the read model over NATS: a method for each query of ``projections.queries``.

Who waits no longer says so, and the query is stopped. Whose process dies is missed
by the projector within a second.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from events.errors import InvalidInput, OutcomeUnknown, Unavailable, WakeError
from events.microservice import Problem
from events.names import BEAT, BEATS, SERVICE_ERROR
from events.wire import NO_RESPONDERS, Nobody, Wire, status
from projections import queries as q

T = TypeVar("T")
Request = q.Request | q.SqlRequest | q.Ordered

SILENCE = 10.0
"""Seconds without a sign of life, after which the projector is given up."""

_problem = msgspec.json.Decoder(Problem)
_line = msgspec.json.Decoder(list[Any] | dict[str, Any])


class NoProjector(Unavailable):
    """No projector answers: start one with wake up or wake service projector."""


NoProjector.code = Unavailable.code  # to programs it is no other error


class Queries:
    """What can be asked of the one projector.

    All raise InvalidInput for a request that is wrong, and Unavailable when it
    cannot be answered now: NoProjector, if there is none.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def list(self, request: q.ListRequest) -> q.Page[q.Execution]:
        """List executions."""
        return await self._page(request, q.Execution)

    async def count(self, request: q.CountRequest) -> q.Page[q.StatusCount]:
        """Count executions by status."""
        return await self._page(request, q.StatusCount)

    async def active(self, request: q.ActiveRequest) -> q.Page[q.UserCount]:
        """Count executions that have not ended, by user."""
        return await self._page(request, q.UserCount)

    async def awaiting(self, request: q.AwaitingRequest) -> q.Page[q.Awaiting]:
        """List executions that wait for an event."""
        return await self._page(request, q.Awaiting)

    async def stuck(self, request: q.StuckRequest) -> q.Page[q.Stuck]:
        """List executions that should have moved on."""
        return await self._page(request, q.Stuck)

    async def usage(self, request: q.UsageRequest) -> q.Page[q.Usage]:
        """Sum up what was used."""
        return await self._page(request, q.Usage)

    async def search(self, request: q.SearchRequest) -> q.Page[q.Found]:
        """Find a text in prompts, outputs and log lines."""
        return await self._page(request, q.Found)

    async def sql(self, request: q.SqlRequest) -> q.Rows:
        """Ask by SQL for what fits one message; raises TooLarge if it does not."""
        return _decoded(await self._ask(request), q.Rows)

    async def stream(self, request: q.SqlRequest) -> AsyncGenerator[Any, None]:
        """Ask by SQL for however much: what it comes to, line by line.

        First an object with ``columns`` and ``position``, then an array for each
        row, and last an object with ``rows``, their number, and ``more``. Close it.
        """
        line = bytearray()
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                *ends, rest = piece.split(b"\n")
                for end in ends:
                    value = _read(_line, bytes(line + end))
                    line.clear()
                    yield value
                line += rest

    async def rebuild(self) -> q.Rebuilt:
        """Order the read model anew; raises NotAllowedNow while it is being built."""
        return _decoded(await self._ask(q.RebuildRequest()), q.Rebuilt)

    async def verify(self) -> q.Verified:
        """Order that every row is compared with the log."""
        return _decoded(await self._ask(q.VerifyRequest()), q.Verified)

    async def _page(self, request: q.Request, kind: type[T]) -> q.Page[T]:
        return _decoded(await self._ask(request), q.Page[kind])  # type: ignore[valid-type]

    async def _ask(self, request: Request) -> bytes:
        async with self._asked(request) as heard:
            message = await _next(heard)
            heard.ended = True
            return bytes(message.data)

    async def _pieces(self, request: q.SqlRequest) -> AsyncGenerator[bytes, None]:
        """The pieces of a stream; each is answered when it was taken in."""
        async with self._asked(replace(request, stream=True)) as heard:
            while not heard.ended:
                message = await _next(heard)
                yield message.data
                if message.reply:
                    await self._wire.send(message.reply, b"")
                else:
                    heard.ended = True

    @asynccontextmanager
    async def _asked(self, request: Request) -> "AsyncIterator[Heard]":
        """Ask; gives what comes back. Who leaves before its end stops the query."""
        heard = Heard()
        reply = self._wire.open(heard.put_nowait)
        body = encoded(request)
        try:
            await self._wire.send(
                request.subject, body, reply=reply, headers=WITH_BEATS
            )
            yield heard
        except Nobody as error:
            raise NoProjector from error
        except OutcomeUnknown as error:
            raise Unavailable(f"the read model cannot be asked: {error}") from error
        finally:
            self._wire.shut(reply)
            if not heard.ended:
                await self._cancel(reply)

    async def _cancel(self, reply: str) -> None:
        """Say that nobody waits for it; if that is lost, its time limit stops it."""
        request = q.CancelRequest(reply=reply)
        with suppress(OutcomeUnknown):
            await self._wire.send(request.subject, encoded(request), reply=reply)


class Heard(asyncio.Queue[Any]):
    """What comes back to a question; ``ended`` when that was all."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False


WITH_BEATS: Final = {BEATS: "1"}


async def _next(heard: Heard) -> Any:
    """Wait for a message, as long as there are signs of life; raises its error."""
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                message = await heard.get()
        except TimeoutError as error:
            raise Unavailable("the projector says nothing more") from error
        headers = message.headers or {}
        if status(message) == NO_RESPONDERS:
            heard.ended = True
            raise NoProjector
        if SERVICE_ERROR in headers:
            heard.ended = True
            raise _error(message.data)
        if BEAT not in headers:
            return message


def encoded(request: msgspec.Struct) -> bytes:
    """Write a request down; raises InvalidInput for what is no text."""
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object!r:.80} is not UTF-8: write it so") from error


def _decoded(data: bytes, kind: type[T]) -> T:
    return _read(msgspec.json.Decoder(kind), data)


def _read(decoder: "msgspec.json.Decoder[T]", data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Unavailable(f"the answer cannot be read: {error}") from error


def _error(data: bytes) -> WakeError:
    """An error with the class that its code names."""
    try:
        problem = _problem.decode(data)
    except (msgspec.DecodeError, UnicodeError) as error:
        return Unavailable(f"the answer cannot be read: {error}")
    kind = next((k for k in _kinds() if k.code == problem.code), WakeError)
    return kind(problem.message)


def _kinds(base: type[WakeError] = WakeError) -> Iterator[type[WakeError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)

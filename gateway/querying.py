"""Asking the read model over NATS: a method for each query of ``projections.queries``.

Who waits no longer says so, and the query is stopped. Whose process dies is missed
by the projector within a second.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from events.errors import InvalidInput, OutcomeUnknown, Unavailable, WakeError
from events.names import BEAT, BEATS
from events.wire import NO_RESPONDERS, Nobody, Wire, status
from projections import queries as q

T = TypeVar("T")

SILENCE = 10.0
"""Seconds without a sign of life, after which the projector is given up."""

_problem = msgspec.json.Decoder(q.Problem)


class NoProjector(Unavailable):
    """No projector answers: start one with wake up or wake service projector."""


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

    async def _page(self, request: q.Request, kind: type[T]) -> q.Page[T]:
        return _decoded(await self._ask(request), q.Page[kind])  # type: ignore[valid-type]

    async def _ask(self, request: q.Request | q.SqlRequest) -> bytes:
        body = encoded(request)
        heard: asyncio.Queue[Any] = asyncio.Queue()
        reply = self._wire.open(heard.put_nowait)
        try:
            await self._wire.send(
                request.subject, body, reply=reply, headers=WITH_BEATS
            )
            return await _answer(heard)
        except Nobody as error:
            raise NoProjector from error
        except OutcomeUnknown as error:
            raise Unavailable(f"the read model cannot be asked: {error}") from error
        except (asyncio.CancelledError, TimeoutError) as error:
            await self._cancel(reply)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Unavailable("the projector says nothing more") from error
        finally:
            self._wire.shut(reply)

    async def _cancel(self, reply: str) -> None:
        """Say that nobody waits for it; if that is lost, its time limit stops it."""
        request = q.CancelRequest(reply=reply)
        with suppress(OutcomeUnknown):
            await self._wire.send(request.subject, encoded(request))


WITH_BEATS: Final = {BEATS: "1"}


async def _answer(heard: "asyncio.Queue[Any]") -> bytes:
    """Wait for an answer, as long as there are signs of life."""
    while True:
        async with asyncio.timeout(SILENCE):
            message = await heard.get()
        if status(message) == NO_RESPONDERS:
            raise NoProjector
        if not (message.headers and BEAT in message.headers):
            break
    data: bytes = message.data
    if message.headers:
        raise _error(data)
    return data


def encoded(request: msgspec.Struct) -> bytes:
    """Write a request down; raises InvalidInput for what is no text."""
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object!r:.80} is not UTF-8: write it so") from error


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
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

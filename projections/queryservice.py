"""The read model as a NATS micro service, ``queries``: what it is asked and ordered.

Who has gone is not worked for. Whoever waits no longer says so, by ``cancel`` with
the reply subject of what it asked. And whoever asked for signs of life gets one
every second, as a request: the server says at once that nobody is there for it
when the process that asked has died.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from events.errors import OutcomeUnknown, Retryable, WakeError
from events.microservice import Endpoint, MicroService, Request
from events.names import BEAT, BEATS
from events.wire import NO_RESPONDERS, Wire, status
from projections import sqlrows
from projections.desk import Desk, parsed
from projections.projector import Projector
from projections.queries import (
    CancelRequest,
    RebuildRequest,
    SqlRequest,
    VerifyRequest,
)
from projections.selects import SELECTS

VERSION = "1.0.0"
"""Of the requests and answers; a change that breaks somebody's raises the first."""

EVERY = 1.0
"""Seconds between two signs of life."""

SILENCE = 10.0
"""Seconds in which a piece must be answered."""


class Unheard(Retryable):
    """Nobody waits for the answer any more."""


class QueryService:
    """Answers queries for a projector; ``serve`` as long as that runs."""

    def __init__(self, wire: Wire, projector: Projector) -> None:
        self._wire, self._projector = wire, projector
        self._desk = Desk(projector)
        self._asked: dict[str, asyncio.Task[Any]] = {}
        kinds: list[type[Any]] = [*SELECTS, RebuildRequest, VerifyRequest]
        endpoints = [_endpoint(kind, partial(self._answer, kind)) for kind in kinds]
        endpoints.append(_endpoint(SqlRequest, self._sql))
        endpoints.append(_endpoint(CancelRequest, self._cancel))
        about = "What can be asked of the read model; see docs/read-model.md."
        self.service = MicroService(wire, "queries", VERSION, about, endpoints)

    async def serve(self) -> None:
        """Answer, once the file is ours; raises OutcomeUnknown."""
        await self._projector.owned.wait()
        await self.service.serve()

    async def _answer(self, kind: type[Any], request: Request) -> bytes:
        asked = parsed(kind, request.body)
        return await self._while_heard(request, partial(self._desk.answer, asked))

    async def _sql(self, request: Request) -> bytes:
        asked = parsed(SqlRequest, request.body)
        rows = partial(self._rows, asked, request.reply)
        return await self._while_heard(request, rows)

    async def _rows(self, asked: SqlRequest, reply: str) -> bytes:
        position = await self._desk.reached(asked.min_position, asked.wait)
        readers = self._projector.readers
        if not asked.stream:
            return await sqlrows.whole(readers, asked, position)
        send = partial(self._send_piece, reply)
        return await sqlrows.stream(readers, asked, position, send)

    async def _cancel(self, request: Request) -> bytes:
        asked = self._asked.get(parsed(CancelRequest, request.body).reply)
        if asked is not None:
            asked.cancel()
        return msgspec.json.encode({"cancelled": asked is not None})

    # ── as long as somebody hears ────────────────────────────────────────────

    async def _while_heard(
        self, request: Request, work: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """Do work until nobody waits for it; raises Unheard then."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_outcome(work))
            self._asked[request.reply] = task
            beating = group.create_task(self._beat(request, task))
            await asyncio.wait([task])
            beating.cancel()
            self._asked.pop(request.reply, None)
        if task.cancelled():
            raise Unheard
        outcome = task.result()
        if isinstance(outcome, WakeError):
            raise outcome
        return outcome

    async def _beat(self, request: Request, task: "asyncio.Task[Any]") -> None:
        """Send signs of life, if they are wanted; nobody there: stop it."""
        if BEATS not in request.headers:
            return

        def gone(message: Any) -> None:
            if status(message) == NO_RESPONDERS:
                task.cancel()

        back = self._wire.open(gone)
        try:
            while True:
                await asyncio.sleep(EVERY)
                with suppress(OutcomeUnknown):  # then the next one
                    await self._wire.send(
                        request.reply, b"", reply=back, headers={BEAT: "1"}
                    )
        finally:
            self._wire.shut(back)

    async def _send_piece(self, reply: str, piece: bytes) -> None:
        """Send a piece; raises Unheard unless it is answered in time."""
        try:
            await self._wire.request(reply, piece, wait=SILENCE)
        except OutcomeUnknown as error:
            raise Unheard from error


def _endpoint(
    kind: type[Any], answer: Callable[[Request], Awaitable[bytes]]
) -> Endpoint:
    about = (kind.__doc__ or "").split("\n", 1)[0]
    return Endpoint(kind.endpoint, kind.subject, answer, about)


async def _outcome(work: Callable[[], Awaitable[bytes]]) -> bytes | WakeError:
    try:
        return await work()
    except WakeError as error:
        return error

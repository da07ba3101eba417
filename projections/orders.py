"""Orders to the projector over NATS: ``rebuild`` and ``verify``.

Only one process can open the read model, so who wants something of it tells that
one. While an order is carried out, a sign of life is sent every second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from events.errors import (
    FolderInUse,
    Misconfigured,
    NotAllowedNow,
    OutcomeUnknown,
    Unavailable,
    WakeError,
)
from events.names import PROJECTOR_ALL, projector_subject
from events.wire import NO_RESPONDERS, Nobody, Wire, status
from projections.projector import Projector

BEAT = 1.0
"""Seconds between two signs of life."""

SILENCE = 10.0
"""Seconds without one, after which the projector is given up."""


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the projector says: not done, done with a result, or why not."""

    done: bool = False
    result: dict[str, Any] | None = None
    error: str | None = None
    message: str = ""


class Failed(WakeError):
    """The projector could not do it, for a reason that we do not know."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


KNOWN = {
    kind.code: kind for kind in (NotAllowedNow, Unavailable, Misconfigured, FolderInUse)
}
"""What a projector fails by."""

Kinds = Mapping[str, Callable[[], Awaitable[Any]]]
"""What can be ordered."""


class _Message(Protocol):
    subject: str
    reply: str


_said = msgspec.json.Decoder(Said)


class Orders:
    """Takes orders for a projector; ``serve`` as long as that runs."""

    def __init__(self, wire: Wire, projector: Projector) -> None:
        self._wire = wire
        self._kinds: Kinds = {"rebuild": projector.rebuild, "verify": projector.verify}
        self._came: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def serve(self) -> None:
        """Carry out what is ordered, each beside the others."""
        subscription = await self._wire.subscribe(PROJECTOR_ALL, self._take)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    kind, reply = await self._came.get()
                    group.create_task(self._carry_out(kind, reply))
        finally:
            await self._wire.unsubscribe(subscription)

    def _take(self, message: _Message) -> None:
        kind = message.subject.rpartition(".")[2]
        if kind in self._kinds and message.reply:
            self._came.put_nowait((kind, message.reply))

    async def _carry_out(self, kind: str, reply: str) -> None:
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat(reply))
            said = await self._outcome(kind)
            beating.cancel()
        await self._say(reply, said)

    async def _outcome(self, kind: str) -> Said:
        try:
            done = await self._kinds[kind]()
        except WakeError as error:
            return Said(error=error.code, message=str(error))
        return Said(done=True, result=done._asdict())

    async def _beat(self, reply: str) -> None:
        while True:
            await self._say(reply, Said())
            await asyncio.sleep(BEAT)

    async def _say(self, reply: str, said: Said) -> None:
        try:
            await self._wire.send(reply, msgspec.json.encode(said))
        except OutcomeUnknown:
            return  # whoever asked hears nothing more, and gives up


async def order(wire: Wire, kind: str) -> dict[str, Any] | None:
    """Tell the projector to do something; returns what it came to.

    None if no projector is there. Raises what it said, and Unavailable if it says
    nothing more.
    """
    heard: asyncio.Queue[Any] = asyncio.Queue()
    reply = wire.open(heard.put_nowait)
    try:
        await wire.send(projector_subject(kind), b"", reply=reply)
        while True:
            async with asyncio.timeout(SILENCE):
                message = await heard.get()
            if status(message) == NO_RESPONDERS:
                return None
            said = _said.decode(message.data)
            if said.error is not None:
                raise _failed(said.error, said.message)
            if said.done:
                return said.result or {}
    except Nobody:
        return None
    except (TimeoutError, OutcomeUnknown) as error:
        raise Unavailable("the projector says nothing more") from error
    finally:
        wire.shut(reply)


def _failed(code: str, message: str) -> WakeError:
    kind = KNOWN.get(code)
    return Failed(code, message) if kind is None else kind(message)

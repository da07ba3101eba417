"""Presence on core NATS, and departures on the system account."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from events.errors import OutcomeUnknown
from events.names import DEPARTED_ALL, RUNNERS_ALL, runner_subject
from events.presence import Connection, Departures, Heard, Lost, Presence, Presences
from events.wire import Wire

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = logging.getLogger(__name__)

_presence = msgspec.json.Decoder(Presence)
_encoder = msgspec.json.Encoder()


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    id: int


class _Departure(msgspec.Struct):
    """What the server says of a client that is gone (NATS advisory)."""

    server: _Server
    client: _Client


_departure = msgspec.json.Decoder(_Departure)


class NatsPresences(Presences):
    """Presence among the clients of one account."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def connection(self) -> Connection:
        """Who we are to the server now; another after each reconnect."""
        return self._wire.identity

    @property
    def connected(self) -> bool:
        """Whether we hear anything now."""
        return self._wire.connected

    async def tell(self, presence: Presence) -> None:
        """Say it; while there is no connection nobody could hear it."""
        if not self._wire.connected:
            return
        try:
            await self._wire.send(
                runner_subject(presence.runner), _encoder.encode(presence)
            )
        except OutcomeUnknown as error:
            logger.debug("presence not told: %s", error)

    @asynccontextmanager
    async def hear(self, heard: Heard) -> AsyncIterator[None]:
        """Call ``heard`` with what every runner says; what is no presence is left."""

        def take(message: "Msg") -> None:
            try:
                presence = _presence.decode(message.data)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                logger.warning("no presence on %s: %s", message.subject, error)
                return
            if message.subject == runner_subject(presence.runner):
                heard(presence)

        subscription = await self._wire.subscribe(RUNNERS_ALL, take)
        await self._wire.flush()
        try:
            yield
        finally:
            await self._wire.unsubscribe(subscription)


class NatsDepartures(Departures):
    """What the server tells its system account; ``wire`` is a client of that."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @asynccontextmanager
    async def hear(self, lost: Lost) -> AsyncIterator[None]:
        """Call ``lost`` with each connection that ended."""

        def take(message: "Msg") -> None:
            try:
                gone = _departure.decode(message.data)
            except (msgspec.DecodeError, UnicodeError) as error:
                logger.warning("no departure on %s: %s", message.subject, error)
            else:
                lost(Connection(gone.server.id, gone.client.id))

        subscription = await self._wire.subscribe(DEPARTED_ALL, take)
        await self._wire.flush()
        try:
            yield
        finally:
            await self._wire.unsubscribe(subscription)

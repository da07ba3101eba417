"""Deltas on NATS: published without an acknowledgement, kept for some minutes.

Who listens hears them by a plain subscription. The stream, in the memory of the
server, is for whoever comes too late: a gateway that was started anew. A server
that restarts forgets it; ``keep`` makes it again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Never

from events.deltas import (
    MAX_DELTA,
    Delta,
    Deltas,
    Heard,
    decode_delta,
    encode_delta,
)
from events.errors import InvalidInput, OutcomeUnknown, TooLarge, Unavailable
from events.feed import reading
from events.names import DELTAS, DELTAS_ALL, Key, delta_subject
from events.provisioning import NO_STREAM, provision
from events.wire import ANSWER, ApiError, Wire

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = logging.getLogger(__name__)

MINUTES = 15
"""How long a delta is kept: longer than a model usually speaks."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes that are kept in all: the oldest go first."""

AGAIN = 1.0
"""Seconds before a server that could not make the stream is asked again."""

_stream: dict[str, Any] = {
    "name": DELTAS,
    "description": "wakestream: what models say while they say it",
    "subjects": [DELTAS_ALL],
    "retention": "limits",
    "storage": "memory",
    "discard": "old",
    "max_age": int(MINUTES * 60e9),
    "max_bytes": MAX_BYTES,
    "max_msg_size": MAX_DELTA,
    "duplicate_window": int(100e6),
    "no_ack": True,
}


class NatsDeltas(Deltas):
    """The deltas of one account of a nats-server or cluster."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def publish(self, key: Key, delta: Delta) -> None:
        """Send it, if there is somebody to send it to."""
        if not self._wire.connected:
            return  # it would wait in the client, and arrive when it is worth nothing
        try:
            await self._wire.send(delta_subject(key), encode_delta(delta))
        except (OutcomeUnknown, TooLarge) as error:
            logger.debug("a delta of %s was lost: %s", key, error)

    @asynccontextmanager
    async def hear(self, heard: Heard) -> AsyncIterator[None]:
        """Call ``heard`` with each as it comes; what is no delta is left."""

        def take(message: "Msg") -> None:
            _pass_on(message, heard)

        subscription = await self._wire.subscribe(DELTAS_ALL, take)
        try:
            yield
        finally:
            await self._wire.unsubscribe(subscription)

    async def kept(self, heard: Heard) -> None:
        """Call ``heard`` with what the stream has; nothing if there is no stream."""
        config = {
            "stream_name": DELTAS,
            "config": {
                "deliver_policy": "all",
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": int(60e9),
            },
        }
        try:
            async with (
                asyncio.timeout(ANSWER),
                aclosing(reading(self._wire, DELTAS, config)) as runs,
            ):
                async for run in runs:
                    for message in run:
                        _pass_on(message, heard)
        except (TimeoutError, OutcomeUnknown, ApiError) as error:
            if isinstance(error, ApiError) and error.number == NO_STREAM:
                return
            raise Unavailable(f"deltas cannot be read now: {error}") from error

    async def keep(self) -> Never:
        """Let the server keep them, also after it was restarted."""
        lost = asyncio.Event()
        self._wire.watch(lost.set)
        try:
            while True:
                lost.clear()
                await self._provision()
                await lost.wait()
        finally:
            self._wire.unwatch(lost.set)

    async def _provision(self) -> None:
        """Make the stream, as soon as the server can; without it they are only heard.

        An operator may allow no memory for it: that is said once.
        """
        while True:
            try:
                await provision(self._wire, _stream, replicas=1)
            except ApiError as error:
                logger.warning("deltas are not kept: %s", error)
            except OutcomeUnknown:
                await asyncio.sleep(AGAIN)
                continue
            return


def _pass_on(message: "Msg", heard: Heard) -> None:
    try:
        key, delta = decode_delta(message.subject, message.data)
    except InvalidInput as error:
        logger.debug("%s: %s", message.subject, error)
        return
    heard(key, delta)

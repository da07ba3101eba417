"""Log lines for tests, and ways to look at them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats_server import NatsServer, take_away

from events.logbook import Line, Logbook
from events.names import LOGS, Key
from events.wire import Wire

KEY = Key("ada", "e1")
OTHER = Key("ada", "e2")
STRANGER = Key("bob", "e1")
NOON = datetime(2031, 5, 6, 12, 0, 0, 123456, tzinfo=UTC)


def line(message: str = "told", key: Key = KEY, **fields: Any) -> Line:
    """One line, with everything that a test does not care about."""
    user, execution = key
    fields = {"level": "info", "event_type": "tool.completed", "at": NOON, **fields}
    return Line(user=user, execution=execution, message=message, **fields)


def said(lines: Sequence[Line]) -> list[str]:
    """Return what lines say."""
    return [line.message for line in lines]


async def collect(
    book: Logbook, count: int, key: Key | None = KEY, **options: Any
) -> list[Line]:
    """Follow until so many lines came."""
    lines: list[Line] = []
    async with aclosing(book.follow(key, **options)) as runs:
        async for run in runs:
            lines += run
            if len(lines) >= count:
                return lines
    raise AssertionError


async def wipe(wire: Wire) -> None:
    """Take away what an earlier test left."""
    await take_away(wire, LOGS)


async def info(wire: Wire) -> dict[str, Any]:
    """Return what the server says of the stream."""
    answer: dict[str, Any] = msgspec.json.decode(await wire.api(f"STREAM.INFO.{LOGS}"))
    return answer


async def connected(server: NatsServer) -> AsyncIterator[Wire]:
    """A connection to a server that has no log lines."""
    wire = await Wire.connect(server.url)
    await wipe(wire)
    yield wire
    await wire.close()

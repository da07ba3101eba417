"""Somebody who watches over a websocket or server-sent events, and a log to watch."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
from aiohttp import WSMsgType

from events.commit import Recorded
from events.deltastream import NatsDeltas
from events.jetstream import JetStreamJournal
from events.logbook import Line
from events.logstream import JetStreamLogbook
from events.names import Key
from events.wire import Wire

LIMIT = 60.0
"""Seconds until a test gives up waiting."""

LIVE = frozenset(
    ("step.completed", "tool.completed", "status.changed", "log", "delta", "status")
)


AT = datetime(2026, 1, 1, tzinfo=UTC)


def aline(key: Key, text: str = "well") -> Line:
    """A log line."""
    return Line(
        at=AT,
        user=key.user,
        execution=key.execution,
        level="info",
        event_type="test.said",
        message=text,
    )


class Writer:
    """Writes to the log as the services do."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.journal: JetStreamJournal
        self.logbook: JetStreamLogbook
        self.deltas = NatsDeltas(wire)
        self._ends: dict[Key, int] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> "AsyncIterator[Writer]":
        """Connect for as long as the block lasts."""
        wire = await Wire.connect(url)
        try:
            writer = cls(wire)
            writer.journal = await JetStreamJournal.open(wire)
            writer.logbook = await JetStreamLogbook.open(wire)
            yield writer
        finally:
            await wire.close()

    async def commit(self, *commits: Recorded) -> int:
        """Append commits of their histories; returns the last position."""
        for one in commits:
            after = self._ends.get(one.key, 0)
            stored = await self.journal.append(one, after=after)
            self._ends[one.key] = stored.position
        return self._ends[commits[-1].key]

    async def line(self, line: Line) -> None:
        """Write a log line."""
        await self.logbook.write([line])


class Onlooker:
    """One websocket."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.heard: list[Any] = []

    @classmethod
    @asynccontextmanager
    async def at(
        cls, url: str, token: str | None = None, **more: Any
    ) -> "AsyncIterator[Onlooker]":
        """Connect to a gateway, with a token in a header."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= more.pop("headers", {})
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/ws", headers=headers, **more) as ws,
        ):
            yield cls(ws)

    async def say(self, **order: Any) -> None:
        """Send an order."""
        await self.ws.send_str(msgspec.json.encode(order).decode())

    async def next(self) -> Any:
        """The next message; fails at the end of the connection."""
        async with asyncio.timeout(LIMIT):
            message = await self.ws.receive()
        assert message.type is WSMsgType.TEXT, (message, self.ws.close_code)
        heard = msgspec.json.decode(message.data)
        self.heard.append(heard)
        return heard

    async def until(self, kind: str, **wanted: Any) -> Any:
        """Wait for a message of a type."""
        while True:
            heard = await self.next()
            if heard["type"] == kind and wanted.items() <= heard.items():
                return heard

    async def subscribe(self, execution: str, **more: Any) -> Any:
        """Subscribe, and wait until it is live; returns the answer."""
        await self.say(type="subscribe", execution=execution, **more)
        answer = await self.next()
        while answer["type"] not in {"subscribed", "error"}:
            answer = await self.next()
        if answer["type"] == "subscribed":
            await self.until("live", execution=execution)
        return answer

    async def messages(self, count: int) -> list[Any]:
        """Wait until so many messages of the feed have come; returns them."""
        while len(self.live) < count:
            await self.next()
        return self.live

    @property
    def live(self) -> list[Any]:
        """The messages of the feed among what came."""
        return [one for one in self.heard if one["type"] in LIVE]

    async def closed(self) -> tuple[int | None, str]:
        """Wait until it is closed; returns the code and the reason."""
        async with asyncio.timeout(LIMIT):
            while True:
                message = await self.ws.receive()
                if message.type is WSMsgType.CLOSE:
                    return message.data, message.extra or ""
                if message.type in {WSMsgType.CLOSED, WSMsgType.ERROR}:
                    return self.ws.close_code, ""


class Reader:
    """One stream of server-sent events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.heard: list[dict[str, str]] = []

    @classmethod
    @asynccontextmanager
    async def at(
        cls, url: str, path: str, token: str, last: str | None = None
    ) -> "AsyncIterator[Reader]":
        """Open a stream."""
        headers = {"Authorization": f"Bearer {token}"}
        if last is not None:
            headers["Last-Event-ID"] = last
        async with (
            aiohttp.ClientSession() as session,
            session.get(url + path, headers=headers) as response,
        ):
            yield cls(response)

    async def next(self) -> dict[str, str] | None:
        """The next event; None at the end."""
        event: dict[str, str] = {}
        async with asyncio.timeout(LIMIT):
            while line := await self.response.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(":")
                if line == b"\n" and "event" in event:
                    self.heard.append(event)
                    return event
                if name and name != "retry":
                    event[name] = value.strip()
        return None

    async def to_the_end(self) -> Sequence[dict[str, str]]:
        """All that come until it ends."""
        while await self.next():
            pass
        return self.heard

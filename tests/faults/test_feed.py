"""The live feed while everything that can restart does: no gap, nothing twice.

Clients come and go at random, each with the last cursor it has, on websockets and on
server-sent events, to one execution or to all of a user's. The nats-server is killed,
the gateway is ended and started anew.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import edges
import msgspec
import pytest
from edges import Gateway
from form import by_form
from nats_server import NatsServer
from onlookers import Onlooker, Reader, Writer, aline
from watching import Streams, bare, busy, everything, kind_of

from events.commit import Recorded
from events.errors import Unavailable
from events.names import EVENTS, LOGS, Key
from events.rawstream import JetStreamRawLog
from projections import livefeed
from projections.ring import MOST_BYTES, Ring

CLIENTS, RECONNECTS, KILLS, STEPS = by_form((12, 150, 2, 20), (60, 1_000, 2, 120))
USERS = ("ada", "bob", "cy")
GONE = (aiohttp.ClientError, OSError, AssertionError, TimeoutError)

STAY = 0.5
"""Seconds that a visit lasts at most, from when it was let in."""


class Town:
    """A server, gateways one after the other, and who writes to the log."""

    def __init__(self, server: NatsServer, folder: Path, chance: Random) -> None:
        self.server, self.chance = server, chance
        self._folder = folder
        self._gateway: Gateway | None = None
        self.written = asyncio.Event()
        self.reconnects = 0
        """How often somebody came back and was let in."""

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[None]:
        """Run a gateway as long as the block lasts."""
        async with edges.gateway(self.server.url, self._folder, ["gateway"]) as one:
            self._gateway = one
            try:
                yield
            finally:
                self._gateway = None

    def at(self, user: str) -> tuple[str, str]:
        """Where the gateway is now, and a token; raises OSError if there is none."""
        if self._gateway is None:
            raise OSError("no gateway")
        minted = self._gateway.tokens.mint(user, lifetime=timedelta(minutes=10))
        return self._gateway.url, minted.token

    async def write(self, writer: Writer, log: Sequence[Recorded]) -> None:
        """Append commits, and lines about them; whatever happens, once each.

        As fast as is needed for all to have something to come back for.
        """
        for place, recorded in enumerate(log):
            await self.come_back(place / len(log))
            await writer.commit(recorded)
            for number in range(self.chance.choice([0, 0, 1, 2])):
                text = f"{recorded.commit.id} {number}"
                line = aline(recorded.key, text)
                await _insist(writer, msgspec.structs.replace(line, ref=text))

    async def come_back(self, part: float) -> None:
        """Wait until a part of all the reconnects are made."""
        while self.reconnects < RECONNECTS * part:  # noqa: ASYNC110 - the clients'
            await asyncio.sleep(0.005)


async def _insist(writer: Writer, line: Any) -> None:
    while True:
        try:
            await writer.line(line)
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return


class Wanderer:
    """A client that comes and goes; what it has is what it could read."""

    def __init__(self, town: Town, topic: Key | str, *, events: bool) -> None:
        self.topic, self.heard, self.cursor = topic, list[Any](), "0"
        self._town, self._events = town, events

    async def wander(self) -> None:
        """Come and go until nothing more is written."""
        while not self._town.written.is_set():
            await self.visit(self._town.chance.randrange(1, 40))

    async def visit(self, most: int | None = None) -> bool:
        """Take up to so many messages, or all; False if it could not come."""
        try:
            async with asyncio.timeout(None) as self._visit:
                if self._events and most is not None:  # a stream may have no end
                    await self._stream(most)
                else:
                    await self._socket(most)
        except GONE:
            await asyncio.sleep(0.02)
            return False
        return True

    async def _socket(self, most: int | None) -> None:
        user, execution = _names(self.topic)
        url, token = self._town.at(user)
        async with Onlooker.at(url, token) as one:
            order = {"execution": execution, "after": self.cursor}
            await one.say(type="subscribe", **order)
            taken = 0
            while most is None or taken < most:
                message = await one.next()
                assert message["type"] != "error", message
                if message["type"] == "live" and most is None:
                    return
                if message["type"] == "subscribed":
                    self._let_in(most)
                if message["type"] not in {"ready", "subscribed", "live"}:
                    self._take(message)
                    taken += 1
            if self._town.chance.random() < 0.5:
                one.ws._response.connection.transport.abort()  # type: ignore[union-attr]

    async def _stream(self, most: int) -> None:
        user, execution = _names(self.topic)
        url, token = self._town.at(user)
        path, last = f"/api/agents/{execution}/stream?after=0", self.cursor
        async with Reader.at(url, path, token, None if last == "0" else last) as one:
            if one.response.status == 204:
                return
            assert one.response.status == 200
            self._let_in(most)
            for _ in range(most):
                event = await one.next()
                if event is None or event["event"] in {"end", "closing"}:
                    return
                self._take(json.loads(event["data"]))

    def _let_in(self, most: int | None) -> None:
        """Count it; a visit that wants so many stays no longer than is useful."""
        self._town.reconnects += 1
        if most is not None:
            self._visit.reschedule(asyncio.get_running_loop().time() + STAY)

    def _take(self, message: Any) -> None:
        self.heard.append(message)
        self.cursor = message["cursor"]


def _names(topic: Key | str) -> tuple[str, str]:
    return topic if isinstance(topic, Key) else (topic, "*")


def by_stream(messages: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Events and lines each in their order: between them there is none."""
    lines = kind_of(messages, "log")
    return bare([m for m in messages if m["type"] != "log"]), bare(lines)


async def stored(writer: Writer) -> Streams:
    """All that the log has, in memory."""
    streams = Streams()
    for name, log in ((EVENTS, streams.events), (LOGS, streams.logs)):
        raw = JetStreamRawLog(writer.wire, name, (f"{name.lower()}.>",))
        last = await raw.tip(f"{name.lower()}.>")
        async for run in raw.between(f"{name.lower()}.>", 0, last):
            for one in run:
                log.add(one.subject, one.body)
    return streams


async def _fate(town: Town, writing: "list[asyncio.Task[None]]") -> None:
    """Kill the server, end the gateway and start another, kill the server."""
    for begin in (0.0, 0.5):
        async with town.gateway():
            for number in range(1, KILLS // 2 + 1):
                await town.come_back(begin + 0.4 * number / (KILLS // 2))
                town.server.kill()
                town.server.start()
            await town.come_back(begin + 0.5)
            if begin:
                await asyncio.wait(writing)
                town.written.set()


@pytest.mark.timeout(600)
async def test_nothing_is_missing_and_nothing_comes_twice(
    own_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it all is killed or restarted while they come and go."""
    monkeypatch.setattr(livefeed, "MOST", 200)
    monkeypatch.setattr(Ring.__init__, "__defaults__", (200, MOST_BYTES))
    town = Town(own_server, tmp_path, Random(1))  # noqa: S311 - a schedule, no secret
    keys = [Key(user, f"e{n}") for n in range(4) for user in USERS]
    logs = [busy(town.chance, key, STEPS) for key in keys]
    wanderers = [
        Wanderer(town, topic, events=isinstance(topic, Key) and n % 3 == 0)
        for n, topic in enumerate(([*keys[:6], *USERS] * 9)[:CLIENTS])
    ]
    async with Writer.open(own_server.url) as writer:
        for log in logs:  # or the first to come would find nothing
            await writer.commit(log[0])
        async with asyncio.TaskGroup() as group:
            writing = [group.create_task(town.write(writer, log[1:])) for log in logs]
            for one in wanderers:
                group.create_task(one.wander())
            group.create_task(_fate(town, writing))
        streams = await stored(writer)
        async with town.gateway():
            for one in wanderers:
                while not await one.visit():
                    pass
    assert town.reconnects >= RECONNECTS
    for one in wanderers:
        wanted = by_stream(await everything(streams, one.topic))
        assert wanted[0]
        assert by_stream(one.heard) == wanted

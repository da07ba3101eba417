"""Watching the live feed without a network: who takes what, and what must have come."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
from histories import Story, call, spec

from events.commands import Pause, Resume
from events.commit import Recorded
from events.deltas import MemoryDeltas
from events.names import Key, commit_subject
from events.rawlog import MemoryRawLog
from events.spec import Limits
from projections.feedcursor import BEGINNING, Cursor
from projections.hub import Frame, Hub
from projections.livefeed import LiveFeed
from projections.notices import KINDS, Kind
from projections.ring import Ring, Topic


def busy(chance: Random, key: Key, steps: int) -> list[Recorded]:
    """A long history: steps with a call or two, a pause now and then, an end."""
    story = Story(key)
    limits = Limits(max_steps=steps + 9, max_tokens=10**9, timeout=10**6)
    story.running(spec(limits=limits))
    for number in range(steps):
        calls = [f"c{number}-{n}" for n in range(chance.choice([1, 1, 2]))]
        story.respond(*map(call, calls), text="Well. " * chance.randrange(40))
        story.finish(*calls)
        if chance.random() < 0.1:
            story.command(Pause())
            story.do(lambda x: x.obey(x.state.attempt))
            story.command(Resume())
            story.begin()
    story.respond(text="That is all.")
    return list(story.log)


class Viewer:
    """Takes everything; ``heard`` is what came, ``cursor`` where that left it."""

    def __init__(self, kinds: Sequence[Kind] = KINDS) -> None:
        self.kinds = frozenset(kinds)
        self.heard: list[Any] = []
        self.cursor = BEGINNING
        self._stirred = asyncio.Event()

    def put(self, frame: Frame) -> None:
        """Take a message."""
        message = msgspec.json.decode(frame.text)
        assert message["cursor"] == str(frame.cursor)
        self.cursor = Cursor.parse(message["cursor"])
        self.heard.append(message)
        self._stirred.set()

    async def send(self, frame: Frame) -> None:
        """Take a message, and let others do something."""
        self.put(frame)
        await asyncio.sleep(0)

    async def until(self, count: int) -> list[Any]:
        """Wait for so many messages; returns them."""
        async with asyncio.timeout(60):
            while len(self.heard) < count:
                self._stirred.clear()
                await self._stirred.wait()
        return self.heard


class Streams:
    """EVENTS, LOGS and deltas in memory, and a feed that reads them."""

    def __init__(self) -> None:
        self.events, self.logs = MemoryRawLog(), MemoryRawLog()
        self.deltas = MemoryDeltas()

    def feed(self, most: int = 10_000) -> LiveFeed:
        """Make a gateway's feed that keeps so many messages."""
        return LiveFeed(self.events, self.logs, self.deltas, Hub(Ring(most)))

    def store(self, recorded: Recorded) -> int:
        """Store a commit; ``stir`` tells it."""
        subject = commit_subject(recorded.key, recorded.route)
        return self.events.add(subject, recorded.body)

    async def stir(self) -> None:
        """Let be heard what was stored."""
        await self.events.stir()
        await self.logs.stir()


@asynccontextmanager
async def running(feed: LiveFeed) -> AsyncIterator[LiveFeed]:
    """Run a feed; ready when the block begins."""
    task = asyncio.create_task(feed.run())
    try:
        async with asyncio.timeout(60):
            await feed.ready.wait()
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def everything(streams: Streams, topic: Topic) -> list[Any]:
    """What somebody gets who begins at the beginning and reads the log alone."""
    viewer = Viewer()
    async with running(streams.feed(most=1)) as feed:
        await feed.join(topic, BEGINNING, viewer)
        feed.hub.detach(topic, viewer)
    return viewer.heard


def bare(messages: Sequence[Any]) -> list[Any]:
    """Messages without their cursors: the same for whoever reads them."""
    return [{k: v for k, v in m.items() if k != "cursor"} for m in messages]


def kind_of(messages: Sequence[Any], kind: str) -> list[Any]:
    """Messages of one kind."""
    return [message for message in messages if message["type"] == kind]


def executions(messages: Sequence[Any]) -> set[Key]:
    """Whose they are."""
    return {Key(m["user"], m["execution"]) for m in messages}

"""kill -9 of the reactor at every append about subagents: the next one goes on."""

import asyncio
import json
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import waking
from nats_server import NatsServer
from running import finished

from events import catalog as e
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.names import Key
from events.spec import AgentSpec
from events.wire import Wire
from services.handler import Handler

if TYPE_CHECKING:
    import subprocess

HELP = json.dumps({"agent": "explorer", "prompt": "script:\nsay helped"})
PROMPT = f"script:\nspawn_agent {HELP} && spawn_agent {HELP}\nsay All is done."
BOSS = AgentSpec(name="boss", tools=("spawn_agent",), subagents=("explorer",))
APPENDS = 4
"""Of a reactor for two subagents: two begin, of two ends it tells."""


class Place(NamedTuple):
    """A server with a runner, and where a reactor can be started."""

    url: str
    cwd: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server of its own, and a runner that is never killed."""
    cwd = tmp_path_factory.mktemp("family")
    server = NatsServer(cwd)
    server.start()
    there = Place(server.url, cwd)
    process = service(there, "runner")
    yield there
    end(process)
    server.stop()


def service(place: Place, name: str, **environment: str) -> "subprocess.Popen[str]":
    """Start a service, and wait until it serves."""
    process = waking.start(
        place.cwd, "service", name, "--json", "--nats", place.url, **environment
    )
    if not environment:
        waking.until(process, "listening")
    return process


def end(process: "subprocess.Popen[str]") -> None:
    """End a service in order."""
    process.send_signal(signal.SIGTERM)
    assert waking.end(process).code == 0


async def begin(place: Place, key: Key) -> None:
    """Start a parent."""
    wire = await Wire.connect(place.url)
    try:
        handler = Handler(await JetStreamJournal.open(wire), "tester")
        created = e.Created(agent=BOSS, input=PROMPT)
        await handler.handle(key, partial(Execution.create, created=created))
    finally:
        await wire.close()


async def told(place: Place, key: Key) -> list[list[str]]:
    """Wait for the end; returns the events of the parent and of its subagents."""
    wire = await Wire.connect(place.url)
    try:
        journal = await JetStreamJournal.open(wire)
        async with asyncio.timeout(waking.LIMIT):
            state = await finished(journal, key)
        keys = [key, *(Key(key.user, child) for child in state.children)]
        histories = [await journal.read(one) for one in keys]
        assert (state.status, state.output) == ("completed", "All is done.")
    finally:
        await wire.close()
    return [[type(f).__name__ for r in h for f in r.commit.events] for h in histories]


@pytest.mark.parametrize("point", ["append.before", "append.after"])
@pytest.mark.parametrize("number", range(1, APPENDS + 1))
async def test_whatever_append_it_dies_at_nothing_is_lost_or_done_twice(
    number: int, point: str, place: Place
) -> None:
    """Each subagent begins once, and its parent hears of it once."""
    key = Key("ada", uuid.uuid4().hex)
    await begin(place, key)
    armed = service(place, "reactor", WAKE_CRASH=f"{point}:{number}")
    assert await asyncio.to_thread(waking.end, armed)
    assert armed.returncode == -signal.SIGKILL
    reactor = await asyncio.to_thread(service, place, "reactor")
    parent, *children = await told(place, key)
    await asyncio.to_thread(end, reactor)
    assert Counter(parent)["ChildFinished"] == len(children) == 2
    for child in children:
        assert Counter(child)["Created"] == Counter(child)["Completed"] == 1

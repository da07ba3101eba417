"""Runners at work on executions, and waiting for what comes of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fake_model import FakeModel
from fake_tools import World, agent

from events.catalog import Created, Event
from events.commands import AnyCommand
from events.commit import Recorded
from events.execution import Execution
from events.journal import Journal
from events.names import Key
from events.spec import AgentSpec
from events.state import State
from services.agents.loop import Means
from services.handler import Handler
from services.runner import Runner

KEY = Key("ada", "run-1")


def means(model: FakeModel, world: World, workspaces: Path, **more: Any) -> Means:
    """What a runner works with."""
    return Means(
        open_model=lambda _: model,
        tools=world.tools(),
        workspaces=workspaces,
        **more,
    )


async def start(
    journal: Journal,
    key: Key = KEY,
    spec: AgentSpec | None = None,
    **created: Any,
) -> None:
    """Create an execution."""
    new = Created(agent=spec or agent(), input="Do it.", **created)
    create = partial(Execution.create, created=new)
    await Handler(journal, "tester").handle(key, create)


async def order(journal: Journal, command: AnyCommand, key: Key = KEY) -> None:
    """Ask something of an execution, as the lifecycle does."""
    await Handler(journal, "tester").handle(key, command.decide)


@asynccontextmanager
async def runner(
    journal: Journal, means: Means, name: str = "r1", *, grace: float = 0.0, **more: Any
) -> AsyncIterator[Runner]:
    """Run a runner; drain it in the end."""
    one = Runner(journal, means, name=name, **more)
    running = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        await one.drain(grace)
        await running


async def commits(journal: Journal, key: Key = KEY) -> AsyncGenerator[Recorded]:
    """Every commit of an execution, live."""
    async with aclosing(journal.follow(key=key)) as runs:
        async for run in runs:
            for recorded in run:
                yield recorded


async def until(
    journal: Journal, there: Callable[[State], object], key: Key = KEY
) -> State:
    """Wait for a state; returns it."""
    execution = Execution(key)
    async with aclosing(commits(journal, key)) as recorded:
        async for one in recorded:
            execution.follow(one)
            if there(execution.state):
                return execution.state
    raise AssertionError


async def finished(journal: Journal, key: Key = KEY) -> State:
    """Wait for the end; returns the last state."""
    return await until(journal, lambda state: state.final, key)


async def happened(journal: Journal, kind: type[Event], key: Key = KEY) -> Recorded:
    """Wait for an event; returns its commit."""
    async with aclosing(commits(journal, key)) as recorded:
        async for one in recorded:
            if any(isinstance(fact, kind) for fact in one.commit.events):
                return one
    raise AssertionError


async def story(journal: Journal, key: Key = KEY) -> list[list[str]]:
    """The names of the events, commit by commit."""
    history = await journal.read(key)
    return [[type(fact).__name__ for fact in r.commit.events] for r in history]

"""The subagents of an execution as they are now, for ``wake show``."""

import asyncio
from collections.abc import Iterator, Sequence

import msgspec

from events import catalog as e
from events.commit import Recorded
from events.errors import Corrupt, Deleted
from events.execution import Execution
from events.journal import Journal
from events.names import Key
from gateway.progress import waits_for
from gateway.wording import one_line, short


class Below(msgspec.Struct, frozen=True, kw_only=True):
    """A subagent; ``waits_for`` says what for, if it waits for something."""

    id: str
    agent: str
    status: str
    waits_for: str | None = None


async def subagents(
    journal: Journal, key: Key, history: Sequence[Recorded]
) -> list[Below]:
    """Look how each stands that was asked for in a history, in that order."""
    asked = {
        fact.child: fact
        for recorded in history
        for fact in recorded.commit.events
        if isinstance(fact, e.ChildSpawned)
    }
    return await asyncio.gather(*(_look(journal, key, x) for x in asked.values()))


async def _look(journal: Journal, parent: Key, asked: e.ChildSpawned) -> Below:
    key = Key(parent.user, asked.child)
    try:
        state = Execution.fold(key, await journal.read(key)).state
    except Deleted:
        return Below(id=asked.child, agent=asked.agent, status="deleted")
    except Corrupt:
        return Below(id=asked.child, agent=asked.agent, status="corrupt")
    return Below(
        id=asked.child,
        agent=asked.agent,
        status=state.status if state.version else "not there",
        waits_for=waits_for(state),
    )


def listed(below: Sequence[Below]) -> Iterator[str]:
    """A line for each."""
    if below:
        yield "\nsubagents"
    for one in below:
        waits = f": {short(one.waits_for, 120)}" if one.waits_for else ""
        yield f"  {one_line(one.id)}  {one_line(one.agent):14} {one.status}{waits}"

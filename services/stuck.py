"""Histories that say running and that nobody holds: found, and put back if asked.

In a healthy system there are none: the reactor sees to dead runners, leases to
the rest. This is for whoever does not want to believe that.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial

import msgspec

from events.commit import Recorded
from events.errors import Corrupt, Deleted
from events.execution import Execution
from events.journal import Journal
from events.names import LANES, Key
from services.handler import Handler
from services.reactor import TELLING


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """An execution that nothing will bring on; ``since`` is its last commit's time."""

    user: str
    execution: str
    status: str
    runner: str | None
    attempt: int
    since: datetime

    @property
    def key(self) -> Key:
        """Whose execution, and which."""
        return Key(self.user, self.execution)


async def find_stuck(
    handler: Handler, held: set[Key], older_than: float, *, leases: bool = False
) -> AsyncIterator[Stuck]:
    """Yield what is stuck for ``older_than`` seconds; ``held`` is in good hands.

    A work that waits in its lane is not stuck, however long: it was never handed
    out; nor, if ``leases`` are left to run out, one that comes again because it
    was given back, before it was begun or in the middle of it. Damaged histories
    are left out, whoever asks for them is told.
    """
    journal = handler.journal
    reached = journal.settled if leases else journal.handed_out
    gone = {lane: await reached(lane) for lane in LANES}
    newest = handler.clock() - timedelta(seconds=older_than)
    for last in await unfinished(journal):
        if last.key in held:
            continue
        try:
            state = (await handler.load(last.key)).state
        except (Corrupt, Deleted):
            continue
        # What is begun waits, too, once it was given back: it says running meanwhile.
        waits = (state.runnable or leases) and last.position > gone[state.lane]
        since = state.updated_at or newest
        if waits or since > newest or not (state.runnable or state.status == "running"):
            continue
        yield Stuck(
            user=state.user,
            execution=state.id,
            status=state.status,
            runner=state.runner,
            attempt=state.attempt,
            since=since,
        )


async def put_back(handler: Handler, stuck: Stuck, reason: str) -> bool:
    """Make it work again; False if it went on meanwhile."""
    recover = partial(Execution.recover, attempt=stuck.attempt, reason=reason)
    execution = await handler.handle(stuck.key, recover)
    return execution.state.attempt == stuck.attempt and execution.state.runnable


async def unfinished(journal: Journal) -> list[Recorded]:
    """Find the executions that were not parked or finished when last heard of."""
    last: dict[Key, Recorded] = {}
    followed = journal.follow(routes=TELLING, live=False, whole=False)
    async with aclosing(followed) as runs:
        async for run in runs:
            for recorded in run:
                if recorded.route in ("finished", "parked"):
                    last.pop(recorded.key, None)
                else:
                    last[recorded.key] = recorded
    return list(last.values())

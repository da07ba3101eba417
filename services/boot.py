"""What a dead process held, put back when everything starts together.

Only for an embedded server: whoever holds the data folder knows that nobody
else works on what is in it. Everywhere else leases run out by themselves.
"""

from contextlib import aclosing
from functools import partial

from events.commit import Recorded
from events.errors import Corrupt
from events.execution import Execution
from events.journal import Journal
from events.names import LANES, ROUTES, Key, Route
from services.handler import Handler

REASON = "its process was gone"

_TELLING: tuple[Route, ...] = tuple(route for route in ROUTES if route != "log")


async def recover_all(handler: Handler) -> list[Key]:
    """Put back every execution that was held or handed out; returns them.

    Asked twice, it finds again what nobody has started since. Damaged histories
    are left as they are: whoever asks for them is told.
    """
    handed_out = {lane: await handler.journal.handed_out(lane) for lane in LANES}
    recovered = []
    for last in await _unfinished(handler.journal):
        try:
            execution = await handler.load(last.key)
        except Corrupt:
            continue
        state = execution.state
        waiting = state.runnable and last.position > handed_out[state.lane]
        if waiting or not (state.runnable or state.status == "running"):
            continue
        recover = partial(Execution.recover, attempt=state.attempt, reason=REASON)
        await handler.handle(last.key, recover, known=execution)
        recovered.append(last.key)
    return recovered


async def _unfinished(journal: Journal) -> list[Recorded]:
    """Find the executions that were not parked or finished when last heard of."""
    last: dict[Key, Recorded] = {}
    async with aclosing(journal.follow(routes=_TELLING, live=False)) as runs:
        async for run in runs:
            for recorded in run:
                if recorded.route in ("finished", "parked"):
                    last.pop(recorded.key, None)
                else:
                    last[recorded.key] = recorded
    return list(last.values())

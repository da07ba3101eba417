"""``wake watch``: an execution that others work on, seen live."""

import asyncio
from contextlib import aclosing

import uvloop

from events.catalog import InputRequested
from events.errors import Unavailable
from events.names import check_id
from gateway import question
from gateway.composition import BRIEFLY, Held, Log, Place, hold, open_log, reach
from gateway.exits import Exit
from gateway.orders import find
from gateway.output import put_json
from gateway.progress import Progress
from gateway.running import BACK, LOST, Display
from gateway.summary import as_object, exit_of, hints

GLANCE = 0.5
"""Seconds between two looks whether the server is still there."""


def watch(place: Place, execution: str, display: Display, *, as_json: bool) -> Exit:
    """Show an execution until it ends; returns its exit code. Raises WakeError.

    On a folder that nobody serves, it is shown as it stands.
    """
    check_id(execution)
    place.check()
    with hold(place, wait=BRIEFLY) as held, display:
        progress = uvloop.run(_watched(held, place, execution, display))
    if as_json:
        put_json(as_object(progress.state))
    return exit_of(progress.state)


async def _watched(
    held: Held, place: Place, execution: str, display: Display
) -> Progress:
    async with open_log(held) as log:
        key = await find(log.journal, execution)
        progress = Progress.of(key, await log.journal.read(key))
        display.begin(progress)
        _tell(place, progress, display)
        if log.server is None:
            async with asyncio.TaskGroup() as group:
                guarding = group.create_task(_guard(held, log, place, display))
                await _follow(log, place, progress, display)
                guarding.cancel()
        display.end(progress, hints(key, progress.state, place))
    return progress


async def _follow(log: Log, place: Place, progress: Progress, display: Display) -> None:
    """Show each commit until the last."""
    followed = log.journal.follow(after=progress.position, key=progress.key)
    async with aclosing(followed) as runs:
        while not progress.state.final:
            for recorded in await anext(runs):
                progress.take(recorded)
                display.update(progress, recorded)
                if any(isinstance(f, InputRequested) for f in recorded.commit.events):
                    _tell(place, progress, display)


async def _guard(held: Held, log: Log, place: Place, display: Display) -> None:
    """Tell of a connection lost or back; raises Unavailable once there is no hope.

    A server of one's own listens elsewhere after each start.
    """
    connected = True
    while True:
        await asyncio.sleep(GLANCE)
        if log.connected != connected:
            connected = log.connected
            display.notice(BACK if connected else LOST)
        if not connected and place.nats is None and reach(place) != held:
            raise Unavailable(
                f"the service on {place.data} has ended; what is recorded is not lost: "
                "start it again with wake up, then watch again"
            )


def _tell(place: Place, progress: Progress, display: Display) -> None:
    """Say how what is asked is answered."""
    for line in question.answers(progress.key, progress.state, place):
        display.notice(line)

"""``wake run``: one execution, from the order to its end, watched in the log.

What is shown is driven by the log alone, so it is the same whoever does the
work: the runner in this process, or another one on the same server.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Protocol, Self

import uvloop

from events.commit import Recorded
from events.errors import WakeError
from events.logstream import JetStreamLogbook
from events.names import Key
from events.triggerstream import JetStreamTriggers
from gateway.composition import (
    PATIENCE,
    Bench,
    Held,
    Log,
    Place,
    hold,
    open_log,
    runner,
)
from gateway.exits import Exit, Interrupted, cause_of
from gateway.interrupts import Interrupts
from gateway.orders import Order, Plan
from gateway.output import put_json
from gateway.progress import Progress
from gateway.summary import as_object, exit_of, hints, resume_hint
from services.agents.loop import Means
from services.agents.speech import Aloud, Speech
from services.handler import Handler
from services.logwriter import LogWriter

GRACE = 5.0
"""Seconds that what is in flight may take when the process is told to end."""

FRAME = 0.125
"""Seconds between two looks of the display at the clock."""

LOST = "the connection to nats-server is lost; waiting for it to come back"
BACK = "connected to nats-server again"


class Display(Protocol):
    """Shows a run to a person; entered once, left whatever happens."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, progress: Progress) -> None:
        """Show what is about to run, and what of it is recorded."""

    def update(self, progress: Progress, recorded: Recorded) -> None:
        """Show what a commit brought."""

    def text(self, piece: str) -> None:
        """Show tokens that the model just said."""

    def refresh(self) -> None:
        """Let time be seen to pass."""

    def notice(self, line: str) -> None:
        """Say something that is no part of the history."""

    def end(self, progress: Progress, hints: list[str]) -> None:
        """Show what came of it."""


def run(order: Order, place: Place, display: Display, *, as_json: bool) -> Exit:
    """Do what was ordered; returns the exit code. Raises WakeError, Interrupted."""
    with (
        hold(place, wait=PATIENCE, say=display.notice) as held,
        display,
        _heard(display),
    ):
        progress, code = uvloop.run(_Run(order, place, display).main(held))
    if as_json:
        put_json(as_object(progress.state))
    return code


class _Run:
    """One order on its way; ``key`` is set once it may be in the log."""

    def __init__(self, order: Order, place: Place, display: Display) -> None:
        self._order, self._place, self._display = order, place, display
        self._key: Key | None = None

    async def main(self, held: Held) -> tuple[Progress, Exit]:
        """From the first look at the log to the last word about it."""
        interrupts = Interrupts(self._display.notice)
        with interrupts.caught():
            try:
                async with open_log(held) as log:
                    progress = await self._on(log, interrupts)
            except asyncio.CancelledError as error:
                raise Interrupted(interrupts.code) from error
            except Exception as error:
                self._explain(error)
                raise
        left = interrupts.leave.is_set() and exit_of(progress.state) is Exit.WAITING
        return progress, interrupts.code if left else exit_of(progress.state)

    def _explain(self, error: Exception) -> None:
        """Let a failure say how to go on: what was recorded is not lost."""
        cause = cause_of(error)
        if self._key is not None and isinstance(cause, WakeError):
            hint = resume_hint(self._key, self._place)
            cause.add_note(f"what is recorded is not lost; {hint}")

    async def _on(self, log: Log, interrupts: Interrupts) -> Progress:
        """Check the order, append what begins it, and see it to its end."""
        bench, data = await Bench.find(), self._place.data
        logbook = await JetStreamLogbook.open(log.wire)
        async with (
            LogWriter(logbook, "runner") as lines,
            bench.means(
                data,
                data / "workspaces",
                self._speak,
                lines.log,
                JetStreamTriggers(log.wire).last,
            ) as means,
        ):
            plan = await self._order.plan(log, bench, means)
            for line in plan.said:
                self._display.notice(line)
            interrupts.engage()
            self._key = plan.key
            return await self._execute(log, means, plan, interrupts)

    def _speak(self, _key: Key, _step: int, _attempt: int) -> Speech:
        return Aloud(self._display.text)

    async def _execute(
        self, log: Log, means: Means, plan: Plan, interrupts: Interrupts
    ) -> Progress:
        handler = Handler(log.journal, f"user:{self._order.user}")
        if plan.decide is not None:
            await handler.handle(plan.key, plan.decide)
        progress = Progress.of(plan.key, await log.journal.read(plan.key))
        self._display.begin(progress)
        if progress.state.status == "running" or progress.state.runnable:
            watched = _Watched(log, progress, self._display, interrupts)
            await watched.work(means, handler)
        self._display.end(progress, hints(plan.key, progress.state, self._place))
        return progress


class _Watched:
    """An execution while it is worked on."""

    def __init__(
        self, log: Log, progress: Progress, display: Display, interrupts: Interrupts
    ) -> None:
        self._log, self._progress = log, progress
        self._display, self._interrupts = display, interrupts

    async def work(self, means: Means, handler: Handler) -> None:
        """Run it, and show it, until it ends or parks or is to be left."""
        progress = self._progress
        lane = progress.state.lane
        runs = runner(self._log, means, progress.key, lane)
        async with asyncio.TaskGroup() as group:
            about = [
                group.create_task(self._beat()),
                group.create_task(self._interrupts.obey(handler, progress.key)),
            ]
            working = group.create_task(runs.run())
            following = group.create_task(self._follow())
            leaving = group.create_task(self._interrupts.leave.wait())
            await asyncio.wait(
                {following, leaving}, return_when=asyncio.FIRST_COMPLETED
            )
            await runs.drain(GRACE)
            await working
            for task in (*about, following, leaving):
                task.cancel()
        if progress.state.final:
            await self._log.forget(progress.key, lane)

    async def _follow(self) -> None:
        """Show each commit; return after the one that ended or parked it."""
        progress = self._progress
        followed = self._log.journal.follow(after=progress.position, key=progress.key)
        async with aclosing(followed) as runs:
            async for commits in runs:
                for recorded in commits:
                    progress.take(recorded)
                    self._display.update(progress, recorded)
                if commits[-1].route in ("finished", "parked"):
                    return

    async def _beat(self) -> None:
        """Let the display see time pass, and tell of a connection lost or back."""
        connected = True
        while True:
            self._display.refresh()
            await asyncio.sleep(FRAME)
            if self._log.connected != connected:
                connected = self._log.connected
                self._display.notice(BACK if connected else LOST)


@contextmanager
def _heard(display: Display) -> Iterator[None]:
    """Show what the runner warns of; what it met in an agent is in the log."""
    logger = logging.getLogger("services")
    handler = _Notices(display)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Notices(logging.Handler):
    """Log records as notes in the display, without their tracebacks."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display
        self.addFilter(lambda record: not record.name.startswith(_AGENTS))

    def emit(self, record: logging.LogRecord) -> None:
        """Show the message, and the error that goes with it."""
        error = record.exc_info[1] if record.exc_info else None
        self._display.notice(record.getMessage() + (f": {error}" if error else ""))


_AGENTS = ("services.agents", "services.tools")

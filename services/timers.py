"""Timers: starts at a time and deadlines, armed as they are seen, acted on when due.

Whatever is due is decided like everything else, so that a deadline which lost its
race changes nothing. A timer's id is the cause of what it brings about: however
often it goes off, and however many reactors there are, it has one effect.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import TypeVar

from events import catalog as e
from events.commit import Recorded
from events.errors import Retryable, WakeError
from events.execution import Execution
from events.names import Key
from events.timers import Alarm, Kind, Timer, Timers
from services.handler import Decision, Handler

logger = logging.getLogger(__name__)

ARMING = 32
"""Timers armed at once: one at a time waits for the disk each time."""

AT_ONCE = 64
"""Alarms acted on at once."""

TAKE = 5.0
"""Seconds one look for alarms lasts."""

RETRY = 0.5
"""Seconds until what could not be done is tried again."""

EARLY = 60.0
"""Seconds at most for which a timer of a server whose clock is ahead is put off."""

T = TypeVar("T")

Ring = Callable[[Timer], Awaitable[None]]
"""Acts on a timer of what recurs; what it raises says whether to try again."""


async def nothing_recurs(timer: Timer) -> None:
    """Ignore it: nobody here looks after what recurs."""
    logger.warning("%s is ignored", timer)


class Timekeeper:
    """Arms and acts; a part of the reactor."""

    def __init__(
        self,
        handler: Handler,
        timers: Timers,
        ring: Ring = nothing_recurs,
        housekeeping: Ring = nothing_recurs,
    ) -> None:
        self._handler, self._timers = handler, timers
        self._rings: dict[Kind, Ring] = {
            "recurring": ring,
            "housekeeping": housekeeping,
        }
        self._found: dict[Key, dict[Kind, Timer]] | None = {}
        self._new: asyncio.Queue[Timer] = asyncio.Queue()
        self._free = asyncio.Semaphore(AT_ONCE)

    def see(self, recorded: Recorded) -> None:
        """Note what is wanted; once acting, nothing is kept of it."""
        if self._found is None:
            for timer in _asked(recorded):
                self._new.put_nowait(timer)
            return
        wanted = _after(self._found.pop(recorded.key, {}), recorded)
        if wanted:
            self._found[recorded.key] = wanted

    async def run(self) -> None:
        """Arm what the log asks for, and act on what is due."""
        found, self._found = self._found or {}, None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(ARMING):
                    group.create_task(self._arm_new())
                group.create_task(self._catch_up(found))
                await self._act(group)
        finally:
            await self._timers.close()

    # ── arming ───────────────────────────────────────────────────────────────

    async def _catch_up(self, found: dict[Key, dict[Kind, Timer]]) -> None:
        """Arm what no reactor armed: none was there, or it ended too soon."""
        if not found:
            return
        armed = await _seen_to("timers that are armed", self._timers.armed)
        wanted = [timer for each in found.values() for timer in each.values()]
        missing = [timer for timer in wanted if (timer.user, timer.id) not in armed]
        logger.info("%d timers wanted, %d to arm", len(wanted), len(missing))
        for timer in missing:
            self._new.put_nowait(timer)

    async def _arm_new(self) -> None:
        while True:
            timer = await self._new.get()
            try:
                await _seen_to(str(timer), partial(self._timers.arm, timer))
            except WakeError as error:  # what fits nowhere must not hold up the others
                logger.error("%s cannot be armed: %s", timer, error)  # noqa: TRY400

    # ── acting ───────────────────────────────────────────────────────────────

    async def _act(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._free.acquire()  # there is room for one at least
            self._free.release()
            for alarm in await self._take():
                await self._free.acquire()
                group.create_task(self._see_to(alarm))

    async def _take(self) -> list[Alarm]:
        try:
            return await self._timers.take(AT_ONCE, TAKE)
        except WakeError as error:
            logger.warning("cannot take what is due: %s", error)
            await asyncio.sleep(RETRY)
        return []

    async def _see_to(self, alarm: Alarm) -> None:
        """Act on one; not settled, it comes again."""
        try:
            await self._settle(alarm)
        except WakeError as error:
            logger.warning("%s is not settled: %s", alarm.timer, error)
        finally:
            self._free.release()

    async def _settle(self, alarm: Alarm) -> None:
        timer = alarm.timer
        early = (timer.due - self._handler.clock()).total_seconds()
        if early > 0:
            await alarm.give_back(min(early, EARLY))
            return
        try:
            await self._do(timer)
        except Retryable as error:
            logger.warning("%s is put off: %s", timer, error)
            await alarm.give_back(RETRY)
            return
        except WakeError as error:
            logger.error("%s cannot be done: %s", timer, error)  # noqa: TRY400
        await alarm.done()

    async def _do(self, timer: Timer) -> None:
        decide = decision(timer)
        if decide is None:
            await self._rings[timer.kind](timer)
            return
        key = Key(timer.user, timer.about)
        await self._handler.handle(key, decide, cause=f"due-{timer.id}")


def decision(timer: Timer) -> Decision | None:
    """What a timer means for its execution; None if it is about none."""
    match timer.kind:
        case "start":
            return Execution.come_due
        case "wait":
            return partial(Execution.expire_wait, deadline=timer.due)
        case "request":
            return partial(Execution.expire_request, request=timer.detail)
        case "recurring" | "housekeeping":
            return None


def _asked(recorded: Recorded) -> Iterator[Timer]:
    """What a commit asks to be done later."""
    for fact in recorded.commit.events:
        match fact.upcast():
            case e.Created(scheduled_for=at, awaited=awaited):
                yield from _timer(recorded.key, "start", at)
                deadline = awaited.deadline if awaited else None
                yield from _timer(recorded.key, "wait", deadline)
            case e.EventAwaited(awaited=awaited):
                yield from _timer(recorded.key, "wait", awaited.deadline)
            case e.InputRequested(request=request, deadline=at):
                yield from _timer(recorded.key, "request", at, request)


def _timer(
    key: Key, kind: Kind, due: datetime | None, detail: str = ""
) -> Iterator[Timer]:
    if due is not None:
        yield Timer(
            user=key.user, about=key.execution, kind=kind, due=due, detail=detail
        )


def _after(wanted: dict[Kind, Timer], recorded: Recorded) -> dict[Kind, Timer]:
    """What is wanted after a commit, if ``wanted`` was before it."""
    if recorded.route == "finished":
        return {}
    over = set(_over(fact.upcast() for fact in recorded.commit.events))
    left = {kind: timer for kind, timer in wanted.items() if kind not in over}
    return left | {timer.kind: timer for timer in _asked(recorded)}


def _over(facts: Iterable[e.Event]) -> Iterator[Kind]:
    """What nobody waits for any more."""
    for fact in facts:
        match fact:
            case e.EventReceived(trigger=None, timed_out=False):
                yield "start"
            case e.EventReceived():
                yield "wait"
            case e.InputReceived():
                yield "request"
            case e.Forked():
                yield from ("start", "wait", "request")


async def _seen_to(what: str, do: Callable[[], Awaitable[T]]) -> T:
    """Try until it is done; raises what no other try can help."""
    while True:
        try:
            return await do()
        except Retryable as error:
            logger.warning("%s: %s", what, error)
            await asyncio.sleep(RETRY)

"""Triggers: whoever waits for what happened outside is woken by it, once.

Every reactor follows all triggers in their order, beside the log, and wakes those
of its index that want one. Who parked while a trigger was under way is looked up
in TRIGGERS when its commit is seen. The cause of a wake-up follows from the
trigger, so what two reactors do, or one does again, is done once; and each of
them goes through the triggers in the same order, so it is the first that wakes
(``docs/adr/0014``).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec

from events import catalog as e
from events.cloudevents import Trigger, read, wants_answer
from events.commit import Recorded
from events.errors import InvalidInput, Retryable, Unavailable, WakeError
from events.execution import Execution
from events.names import EVERYBODY, LANES, Key, check_id
from events.spec import Lane
from events.triggers import Posted, Triggers
from services.handler import Handler
from services.reactor import TELLING
from services.recent import Recent
from services.waits import Waiting, Waits, subjects_of
from services.woken import TriggerAnswer, Woken, refusal

logger = logging.getLogger(__name__)

AT_ONCE = 256
"""Executions in hand: what else a trigger wants to wake waits for a free one."""

ANSWERING = 1_000
"""Answers being worked out; who asks for more gets none."""

PATIENCE = 8.0
"""Seconds in which an answer is worked out: whoever asked waits no longer."""

RETRY = 0.5
"""Seconds until what could not be done is tried again."""

Answering = Callable[[str, str, bytes], Awaitable[None]]
"""Sends an answer: to which user, under which id, what."""


@dataclass(eq=False)
class _Hand:
    """An execution that is being seen to; ``again``: there may be more for it."""

    task: "asyncio.Task[None] | None" = None
    again: bool = False


class _Head(NamedTuple):
    """The next trigger of one user and type that a wait has not been offered yet."""

    posted: Posted
    user: str


class Waker:
    """Wakes whoever waits for an event; see the top."""

    def __init__(self, handler: Handler, triggers: Triggers, answer: Answering) -> None:
        self._handler, self._triggers, self._answer = handler, triggers, answer
        self.waits = Waits()
        self.ready = asyncio.Event()
        self._lanes: dict[Key, Lane] = {}
        self._woken = Woken()
        self._recent: Recent | None = None
        self._group = asyncio.TaskGroup()
        self._busy: dict[Key, _Hand] = {}
        self._freed = asyncio.Event()
        self._answering = 0

    # ── the log ──────────────────────────────────────────────────────────────

    def see(self, recorded: Recorded) -> None:
        """Note who waits for what, and who does no more."""
        for fact in recorded.commit.events:
            self._take(fact.upcast(), recorded)
        if recorded.route in LANES:
            self._lanes[recorded.key] = recorded.route
        elif recorded.route in ("parked", "finished"):
            self._lanes.pop(recorded.key, None)
        if recorded.route == "finished":
            self.waits.drop(recorded.key)
        self._woken.see(recorded.position)

    def _take(self, fact: e.Event, recorded: Recorded) -> None:
        match fact:
            case e.Created(awaited=e.Awaited() as awaited):
                # One that is for a time as well does not go to a lane at once.
                lane = fact.lane if fact.scheduled_for is None else None
                self._begin(recorded, awaited, lane)
            case e.EventAwaited(awaited=awaited):
                self._begin(recorded, awaited, self._lanes.get(recorded.key))
            case e.EventReceived(trigger=None, timed_out=False):
                return  # a start came due; it may wait for an event as well
            case e.EventReceived(trigger=trigger):
                self.waits.drop(recorded.key)
                if trigger is not None:
                    self._woken.count(trigger)
            case e.Forked():
                self.waits.drop(recorded.key)
            case _:
                return

    def _begin(self, recorded: Recorded, awaited: e.Awaited, lane: Lane | None) -> None:
        commit, key = recorded.commit, recorded.key
        waiting = Waiting(
            key, awaited, recorded.position, commit.version, commit.chain, lane
        )
        self.waits.add(waiting)
        if self._recent is not None:
            subjects = subjects_of(key.user, awaited.event_type)
            if self._recent.may_have(subjects, awaited.after_trigger):
                self._see_to(waiting)

    # ── the triggers ─────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Wake, for ever."""
        async with self._group:
            start, there = await self._beginning()
            self._recent = Recent(start)
            if start >= there:
                self.ready.set()
            async with aclosing(self._triggers.follow(after=start)) as runs:
                async for run in runs:
                    for posted in run:
                        await self._offer(posted)
                    if run[-1].position >= there:
                        self.ready.set()
                    await asyncio.sleep(0)  # others have their turn, in any storm

    async def _beginning(self) -> tuple[int, int]:
        """Say where to begin to follow, and how far is what is there already.

        Behind the last trigger, unless somebody who waits has missed one: while no
        reactor was there, or as this one read the log.
        """
        while True:
            try:
                last = await self._triggers.last()
                latest = await self._triggers.latest()
            except Unavailable as error:
                logger.warning("cannot begin with the triggers: %s", error)
                await asyncio.sleep(RETRY)
            else:
                there = min(last, max(latest.values(), default=0))
                return min(self.waits.missed(latest), default=last), there

    async def _offer(self, posted: Posted) -> None:
        """Wake all that want a trigger, as many at once as there may be in hand."""
        if self._recent is not None:
            self._recent.note(posted.subject, posted.position)
        try:
            trigger = read(posted)
        except InvalidInput as error:
            logger.warning(
                "trigger %d on %.80s refused: %s",
                posted.position,
                posted.subject,
                error,
            )
            await self._tell_refused(posted, error)
            return
        for waiting in self.waits.wanting(trigger):
            self._see_to(waiting, trigger)
            while len(self._busy) >= AT_ONCE:
                self._freed.clear()
                await self._freed.wait()
        if trigger.answer is not None:
            self._tell_soon(trigger, trigger.answer)

    def _see_to(self, waiting: Waiting, trigger: Trigger | None = None) -> None:
        """Wake it by this trigger, or by whichever it has missed; one at a time."""
        hand = self._busy.get(waiting.key)
        if hand is not None:
            hand.again = True
            return
        hand = self._busy[waiting.key] = _Hand()
        hand.task = self._group.create_task(self._work_off(waiting, trigger, hand))

    async def _work_off(
        self, waiting: Waiting, trigger: Trigger | None, hand: _Hand
    ) -> None:
        """Offer it triggers in their order until one wakes it, or there are no more."""
        try:
            now: Waiting | None = waiting
            while now is not None:
                hand.again = False
                offered = await self._wake_by_first(now, trigger)
                # What came meanwhile may be for a wait that has begun since.
                now, trigger = self.waits.get(waiting.key) if hand.again else None, None
                if now is not None and now.position == offered.position:
                    now = offered  # what it cannot receive is not offered again
        finally:
            del self._busy[waiting.key]
            self._freed.set()

    async def _wake_by_first(
        self, waiting: Waiting, trigger: Trigger | None
    ) -> Waiting:
        """Offer it what it wants; returns it as waiting for what comes after that."""
        trigger = trigger or await self._first(waiting)
        while trigger is not None:
            if await self._wake(waiting, trigger):
                self.waits.drop(waiting.key, waiting.position)
                break
            waiting = waiting.beyond(trigger.position)
            trigger = await self._first(waiting)
        return waiting

    async def _first(self, waiting: Waiting) -> Trigger | None:
        """Return the first trigger that a wait wants, of those that are there."""
        awaited = waiting.awaited
        users = (waiting.key.user, EVERYBODY)
        heads = [await self._next(u, awaited, awaited.after_trigger) for u in users]
        while there := [head for head in heads if head is not None]:
            head = min(there)
            position = head.posted.position
            trigger = _readable(head.posted)
            if trigger and awaited.wants(trigger.event_type, trigger.payload, position):
                return trigger
            heads[heads.index(head)] = await self._next(head.user, awaited, position)
        return None

    async def _next(self, user: str, awaited: e.Awaited, after: int) -> _Head | None:
        while True:
            try:
                posted = await self._triggers.beyond(user, awaited.event_type, after)
            except Unavailable as error:
                logger.warning("cannot look for what was missed: %s", error)
                await asyncio.sleep(RETRY)
            else:
                return None if posted is None else _Head(posted, user)

    async def _wake(self, waiting: Waiting, trigger: Trigger) -> bool:
        """Let it receive a trigger, however long it takes; False if it still waits."""
        receive = partial(
            Execution.receive,
            event_type=trigger.event_type,
            payload=trigger.payload,
            trigger=trigger.id,
            position=trigger.position,
        )
        cause, known = f"trigger:{trigger.id}", _known(waiting, trigger)
        while True:
            try:
                execution = await self._handler.handle(
                    waiting.key, receive, cause=cause, known=known
                )
            except Retryable as error:
                logger.warning("%s is not woken yet: %s", waiting.key, error)
                known = None
                await asyncio.sleep(RETRY)
            except WakeError as error:
                logger.error("%s cannot be woken: %s", waiting.key, error)  # noqa: TRY400
                return False
            else:
                return execution.state.awaited is None

    # ── answers ──────────────────────────────────────────────────────────────

    def _tell_soon(self, trigger: Trigger, answer: str) -> None:
        if self._answering >= ANSWERING:
            logger.warning("trigger %d is not answered: too many are", trigger.position)
            return
        self._answering += 1
        self._group.create_task(self._tell_woken(trigger, answer))

    async def _tell_woken(self, trigger: Trigger, answer: str) -> None:
        """Answer how many it woke, once all that can be known of it is seen."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._known_to_the_end(trigger)
            await self._send(trigger.user, answer, self._woken.answer(trigger))
        except (TimeoutError, WakeError) as error:
            logger.warning("trigger %d is not answered: %s", trigger.position, error)
        finally:
            self._answering -= 1

    async def _known_to_the_end(self, trigger: Trigger) -> None:
        journal = self._handler.journal
        await self._woken.until(await journal.end(("parked",)))
        hands = [self._busy.get(one.key) for one in self.waits.wanting(trigger)]
        if tasks := [hand.task for hand in hands if hand and hand.task]:
            await asyncio.wait(tasks)
        await self._woken.until(await journal.end(TELLING))

    async def _tell_refused(self, posted: Posted, error: WakeError) -> None:
        try:
            answer = wants_answer(posted)
            user = check_id(posted.subject.split(".")[1])  # or all: it may hear, too
        except InvalidInput:
            return
        if answer is not None:
            await self._send(user, answer, refusal(posted.position, error))

    async def _send(self, user: str, answer: str, said: TriggerAnswer) -> None:
        try:
            await self._answer(user, answer, msgspec.json.encode(said))
        except Unavailable as error:
            logger.warning("trigger %d is not answered: %s", said.position, error)


def _readable(posted: Posted) -> Trigger | None:
    """Read one that was offered before, when it was refused if it had to be."""
    try:
        return read(posted)
    except InvalidInput:
        return None


def _known(waiting: Waiting, trigger: Trigger) -> Execution | None:
    """Return the execution as its wait shows it; None if that does not do.

    An event that has an id of its own may come a second time, and only the whole
    history tells whether it woke this execution before.
    """
    if waiting.wait is None or trigger.id != f"seq-{trigger.position}":
        return None
    return Execution.parked(waiting.key, waiting.wait)

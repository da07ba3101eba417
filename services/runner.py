"""The runner: takes work, does what ``next_action`` says, appends what came of it.

It holds no rule of its own. It acknowledges work only after the commit that
parked, yielded or ended the execution; what it could not append, it drops.
"""

import asyncio
import logging
from collections import OrderedDict
from functools import partial

from events.errors import (
    Conflict,
    Deleted,
    Obsolete,
    OutcomeUnknown,
    Stale,
    Unavailable,
    WakeError,
)
from events.execution import Execution
from events.journal import Journal, Work, WorkQueue
from events.names import LANES, Key
from events.presence import Presences
from events.spec import Lane
from services import metrics
from services.agents.loop import Drive, Means, Released
from services.handler import CHANCE, Chance, Clock, Handler, utc_now
from services.lease import Holding, Holdings
from services.presence import Announcer, Unheard
from services.sharing import SKIM, Crowd, Slots, pause
from services.telemetry import bound, failed, note, span

logger = logging.getLogger(__name__)

CACHED = 1_000
"""Executions kept in memory after they were parked, to be woken without a load."""

LOADS = 8
"""Histories read side by side: of many that come at once the first goes on at once."""

IDLE = 5.0
"""Seconds one fetch waits; what arrives in between is not missed."""

GRACE = 10.0
"""Seconds that a cancel waits for the model call or the tools in flight."""

SUSPECT = 2
"""Starts in a row of which nothing came, after which one is begun by itself.

It may be what took its runners down, or may only have shared them with that. Of
those only one at a time is under way, until something comes of it: so whoever
takes the next runner down takes none of the others' attempts with it.
"""

UNREACHABLE = 0.2
"""Seconds to wait before asking again a server that did not answer."""


class Runner:
    """Works on executions of some lanes, ``concurrency`` at once in all.

    ``only`` restricts it to one execution (``wake run``). ``lease`` is in
    seconds; every runner of a lane uses the same. ``cancel_grace`` is how long a
    cancel waits for what is in flight, in seconds. Where there are ``presences``, it
    says what it holds. Who gets the next slot stands in ``sharing.py``.
    """

    def __init__(
        self,
        journal: Journal,
        means: Means,
        *,
        name: str,
        lanes: tuple[Lane, ...] = LANES,
        concurrency: int = 64,
        lease: float = 30.0,
        cancel_grace: float = GRACE,
        only: Key | None = None,
        presences: Presences | None = None,
        clock: Clock = utc_now,
        chance: Chance = CHANCE,
    ) -> None:
        self.name, self._chance = name, chance
        self._journal, self._means = journal, means
        self._handler = Handler(journal, f"runner:{name}", clock, chance)
        self._lanes, self._only = lanes, only
        self._slots, self._crowd = Slots(concurrency, lanes), Crowd()
        self._holdings = Holdings(lease, cancel_grace)
        self._announcer = Announcer(
            presences or Unheard(),
            self._holdings,
            runner=name,
            lanes=lanes,
            concurrency=concurrency,
        )
        self._parked: OrderedDict[Key, Execution] = OrderedDict()
        self._loads = asyncio.Semaphore(LOADS)
        self._takers: list[asyncio.Task[None]] = []
        self._draining = False
        self._suspects = asyncio.Lock()

    async def run(self) -> None:
        """Work until ``drain`` was asked for and everything in hand is settled."""
        holdings, journal = self._holdings, self._journal
        heard = partial(holdings.hear, me=self._handler.by)
        async with (
            asyncio.TaskGroup() as works,
            journal.hear(heard, partial(self._look_again, works)),
            journal.hear_work(self._lanes, self._crowd.hear),
        ):
            keepers = [
                works.create_task(holdings.keep()),
                works.create_task(self._announcer.beat()),
            ]
            async with asyncio.TaskGroup() as takers:
                self._takers = [
                    takers.create_task(self._take_from(lane, works))
                    for lane in self._lanes
                ]
            await holdings.none.wait()
            for keeper in keepers:
                keeper.cancel()
            await self._announcer.leave()

    def _look_again(self, works: asyncio.TaskGroup) -> None:
        """See whether what is held was signalled while nothing could be heard."""
        for holding in self._holdings.all():
            works.create_task(self._look_at(holding))

    async def _look_at(self, holding: Holding) -> None:
        """Look until it could be seen: what is in flight may go on for long."""
        while holding in self._holdings.all():
            try:
                execution = await self._handler.load_newest(holding.key)
            except WakeError as error:
                logger.warning("%s: not looked at yet: %s", holding.key, error)
                await asyncio.sleep(UNREACHABLE)
            else:
                holding.notice(execution.state)
                return

    async def drain(self, grace: float = 0.0) -> None:
        """Take nothing new; what is not at a stop after ``grace`` s is given back.

        Asked again, a shorter grace counts.
        """
        if not self._draining:  # a second cancellation would break a queue's closing
            self._draining = True
            self._announcer.drain()
            for taker in self._takers:
                taker.cancel()
        try:
            async with asyncio.timeout(grace):
                await self._holdings.none.wait()
        except TimeoutError:
            self._holdings.release()

    async def _take_from(self, lane: Lane, works: asyncio.TaskGroup) -> None:
        """Start what a lane has to do, as long as there are slots for it."""
        queue = await self._opened(lane)
        try:
            while not self._draining:
                room = await self._slots.some(lane)
                skims = self._slots.scarce and self._crowd.waits(lane)
                taken = await self._fetch(queue, max(room, SKIM) if skims else room)
                # From here to the last of them nothing may wait: a cancellation
                # would leave the others to their lease.
                refused = [w for w in taken if not self._begins(w, lane, works)]
                for work in refused:
                    works.create_task(self._return(work))
                if refused:
                    await self._slots.turn()
        finally:
            await queue.close()

    async def _opened(self, lane: Lane) -> WorkQueue:
        """Open a lane, however long the server needs to answer."""
        while True:
            try:
                return await self._journal.work(
                    lane, lease=self._holdings.lease, key=self._only
                )
            except Unavailable as error:
                logger.warning("%s", error)
                await asyncio.sleep(UNREACHABLE)

    def _begins(self, work: Work, lane: Lane, works: asyncio.TaskGroup) -> bool:
        """Begin a work if it is its turn; what is held already its holder settles."""
        if self._holdings.has(work):
            return True
        user, crowd, chance = work.recorded.key.user, self._crowd, self._chance
        crowd.reached(lane, work.recorded.position, work.behind)
        if self._slots.scarce and crowd.steps_back(lane, user):
            works.create_task(self._return(work, pause(work.deliveries, chance)))
            return True
        if not self._slots.enter(lane, work.behind):
            crowd.refused(lane, user)
            return False
        crowd.enter(lane, user)
        works.create_task(self._serve(work, lane))
        return True

    async def _return(self, work: Work, delay: float = 0.0) -> None:
        """Let another runner, or a later moment, have it."""
        try:
            await work.give_back(delay)
        except Unavailable as error:
            logger.warning("%s: not given back: %s", work.recorded.key, error)

    async def _fetch(self, queue: WorkQueue, limit: int) -> list[Work]:
        try:
            return await queue.fetch(limit, IDLE)
        except (OutcomeUnknown, Unavailable) as error:
            logger.warning("cannot fetch work: %s", error)
            await asyncio.sleep(UNREACHABLE)
            return []

    async def _serve(self, work: Work, lane: Lane) -> None:
        """Work on one execution; logs and traces tell that it was in hand."""
        user, execution = work.recorded.key
        about = {"wake.user": user, "wake.execution": execution}
        with (
            bound(user=user, execution=execution, runner=self.name),
            span("wake.attempt", about, parent=work.recorded.trace, kind="consumer"),
        ):
            await self._attempt(work, lane)

    async def _attempt(self, work: Work, lane: Lane) -> None:
        """Work on it to its next stop, and settle the work message once."""
        holding = self._holdings.take(work)
        try:
            await self._announcer.took(holding)
            settled = await self._work(holding)
        except asyncio.CancelledError:
            # One cancellation is our own, see Holding.stop; another is meant.
            if holding.stopped is None or holding.task.uncancel():
                raise
            settled = holding.stopped == "ended"
        except Released:
            holding.stopped = "released"
            settled = False
        except (Conflict, OutcomeUnknown, Stale, Unavailable) as error:
            logger.warning("%s: dropped: %s", holding.key, error)
            self._means.tell(holding.key, "warning", "execution.dropped", str(error))
            failed(type(error).__name__)
            metrics.dropped(error.code)
            settled = False
        except Exception as error:  # the one place that settles: the others must go on
            logger.exception("%s: cannot be worked on", holding.key)
            failed(type(error).__name__)
            metrics.dropped("mistake")
            settled = False
        finally:
            self._holdings.drop(holding)
            self._slots.leave(lane)
            self._crowd.leave(holding.key.user)
        await self._settle(holding, done=settled)
        await self._announcer.dropped(holding)

    async def _settle(self, holding: Holding, *, done: bool) -> None:
        """Acknowledge or give back; a drop does neither: it may be another's now."""
        try:
            if done:
                await holding.work.done()
            elif holding.stopped == "released":
                await holding.work.give_back()
        except Unavailable as error:
            logger.warning("%s: %s", holding.key, error)

    async def _work(self, holding: Holding) -> bool:
        """Begin and drive; True once the work message has served its purpose."""
        handler = self._handler.steady()
        execution = await self._begin(handler, holding)
        if execution is None:
            return True
        state, tell = execution.state, self._means.tell
        tell(
            holding.key,
            "info",
            "execution.started",
            f"attempt {state.attempt} by {self.name}",
            attempt=state.attempt,
        )
        drive = Drive(self._means, handler, execution, holding)
        execution = await drive.run(lambda: self._draining)
        state = execution.state
        logger.info("attempt %d: %s", state.attempt, state.status)
        note({"wake.status": state.status})
        metrics.attempted(state.status)
        said = f"after {state.steps} steps"
        tell(holding.key, "info", f"execution.{state.status}", said, steps=state.steps)
        if not execution.state.final:
            self._keep(execution)
        return True

    async def _begin(self, handler: Handler, holding: Holding) -> Execution | None:
        """Take the lease in the log; None if the work is no longer there to do.

        Raises Stale if another has it: its message is that one's to acknowledge.
        """
        work = holding.work
        recorded = work.recorded

        def begin(execution: Execution) -> None:
            execution.begin(
                self.name,
                recorded.commit.version,
                delivery=work.deliveries,
                own=self._only is not None,
            )

        try:
            known = await self._up_to_date(work)
            begun = known.state.status == "running"
            if known.state.idle_attempts >= SUSPECT:
                await holding.wait_for(self._suspects)
            execution = await handler.handle(
                recorded.key, self._means.informed(begin), known=known
            )
        except (Obsolete, Deleted) as error:
            logger.debug("%s: %s", recorded.key, error)
            return None
        if begun:
            metrics.recovered("redelivery")
        return execution

    async def _up_to_date(self, work: Work) -> Execution:
        """Get the execution as of this work; most cheaply from memory."""
        recorded = work.recorded
        known = self._parked.pop(recorded.key, None)
        if known is None and recorded.commit.version == 1:
            known = Execution(recorded.key)
        whole = not recorded.commit.blobs  # else only a load puts the texts in
        if whole and known and known.state.version == recorded.commit.version - 1:
            known.follow(recorded)
            return known
        async with self._loads:
            return await self._handler.load(recorded.key, at_least=recorded.position)

    def _keep(self, execution: Execution) -> None:
        self._parked[execution.key] = execution
        if len(self._parked) > CACHED:
            self._parked.popitem(last=False)

"""The runner: takes work, does what ``next_action`` says, appends what came of it.

It holds no rule of its own. It acknowledges work only after the commit that
parked, yielded or ended the execution; what it could not append, it drops.
"""

import asyncio
import logging
from collections import OrderedDict
from functools import partial

from events.errors import Conflict, OutcomeUnknown, Stale, Unavailable
from events.execution import Execution
from events.journal import Journal, Work, WorkQueue
from events.names import LANES, Key
from events.spec import Lane
from services.agents.loop import Drive, Means, Released
from services.handler import Clock, Handler, utc_now
from services.lease import Holding, Holdings, Slots
from services.telemetry import bound, failed, note, span

logger = logging.getLogger(__name__)

CACHED = 1_000
"""Executions kept in memory after they were parked, to be woken without a load."""

IDLE = 5.0
"""Seconds one fetch waits; what arrives in between is not missed."""

UNREACHABLE = 0.2
"""Seconds to wait before asking again a server that did not answer."""


class Runner:
    """Works on executions of some lanes, ``concurrency`` at once in each.

    ``only`` restricts it to one execution (``wake run``). ``lease`` is in
    seconds; every runner of a lane uses the same.
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
        only: Key | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.name = name
        self._journal, self._means = journal, means
        self._handler = Handler(journal, f"runner:{name}", clock)
        self._lanes, self._concurrency, self._only = lanes, concurrency, only
        self._holdings = Holdings(lease)
        self._parked: OrderedDict[Key, Execution] = OrderedDict()
        self._takers: list[asyncio.Task[None]] = []
        self._draining = False

    async def run(self) -> None:
        """Work until ``drain`` was asked for and everything in hand is settled."""
        holdings, me = self._holdings, self._handler.by
        async with (
            self._journal.hear(partial(holdings.hear, me=me)),
            asyncio.TaskGroup() as works,
        ):
            keeper = works.create_task(holdings.keep())
            async with asyncio.TaskGroup() as takers:
                self._takers = [
                    takers.create_task(self._take_from(lane, works))
                    for lane in self._lanes
                ]
            await holdings.none.wait()
            keeper.cancel()

    async def drain(self, grace: float = 0.0) -> None:
        """Take nothing new; what is not at a stop after ``grace`` s is given back.

        Asked again, a shorter grace counts.
        """
        if not self._draining:  # a second cancellation would break a queue's closing
            self._draining = True
            for taker in self._takers:
                taker.cancel()
        try:
            async with asyncio.timeout(grace):
                await self._holdings.none.wait()
        except TimeoutError:
            self._holdings.release()

    async def _take_from(self, lane: Lane, works: asyncio.TaskGroup) -> None:
        """Start what a lane has to do, as long as there are free slots."""
        queue = await self._journal.work(
            lane, lease=self._holdings.lease, key=self._only
        )
        slots = Slots(self._concurrency)
        try:
            while not self._draining:
                for work in await self._fetch(queue, await slots.some()):
                    if self._holdings.has(work):
                        continue  # its holder settles it
                    slots.free -= 1
                    works.create_task(self._serve(work, slots))
        finally:
            await queue.close()

    async def _fetch(self, queue: WorkQueue, limit: int) -> list[Work]:
        try:
            return await queue.fetch(limit, IDLE)
        except (OutcomeUnknown, Unavailable) as error:
            logger.warning("cannot fetch work: %s", error)
            await asyncio.sleep(UNREACHABLE)
            return []

    async def _serve(self, work: Work, slots: Slots) -> None:
        """Work on one execution; logs and traces tell that it was in hand."""
        user, execution = work.recorded.key
        about = {"wake.user": user, "wake.execution": execution}
        with (
            bound(user=user, execution=execution, runner=self.name),
            span("wake.attempt", about, parent=work.recorded.trace, kind="consumer"),
        ):
            await self._attempt(work, slots)

    async def _attempt(self, work: Work, slots: Slots) -> None:
        """Work on it to its next stop, and settle the work message once."""
        holding = self._holdings.take(work)
        try:
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
            settled = False
        except Exception as error:  # the one place that settles: the others must go on
            logger.exception("%s: cannot be worked on", holding.key)
            failed(type(error).__name__)
            settled = False
        finally:
            self._holdings.drop(holding)
            slots.release()
        await self._settle(holding, done=settled)

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
        execution = await self._begin(holding.work)
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
        drive = Drive(self._means, self._handler, execution, holding)
        execution = await drive.run(lambda: self._draining)
        state = execution.state
        logger.info("attempt %d: %s", state.attempt, state.status)
        note({"wake.status": state.status})
        said = f"after {state.steps} steps"
        tell(holding.key, "info", f"execution.{state.status}", said, steps=state.steps)
        if not execution.state.final:
            self._keep(execution)
        return True

    async def _begin(self, work: Work) -> Execution | None:
        """Take the lease in the log; None if the work is no longer there to do."""
        recorded = work.recorded

        def begin(execution: Execution) -> None:
            execution.begin(
                self.name, recorded.commit.version, again=work.deliveries > 1
            )

        known = await self._up_to_date(work)
        try:
            return await self._handler.handle(recorded.key, begin, known=known)
        except Stale as error:
            logger.debug("%s: %s", recorded.key, error)
            return None

    async def _up_to_date(self, work: Work) -> Execution:
        """Get the execution as of this work; most cheaply from memory."""
        recorded = work.recorded
        known = self._parked.pop(recorded.key, None)
        if known is None and recorded.commit.version == 1:
            known = Execution(recorded.key)
        if known and known.state.version == recorded.commit.version - 1:
            known.follow(recorded)
            return known
        return await self._handler.load(recorded.key, at_least=recorded.position)

    def _keep(self, execution: Execution) -> None:
        self._parked[execution.key] = execution
        if len(self._parked) > CACHED:
            self._parked.popitem(last=False)

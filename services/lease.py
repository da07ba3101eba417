"""What a runner holds, and for how long it may.

One task renews everything that one runner holds. A lease counts from the last
renewal that the server confirmed, by the runner's own monotonic clock; once it
ran out the work is stopped, whatever the server says (it confirms a zombie's
renewal too; only the expected position of an append is the truth).
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Literal

from events.catalog import CancelRequested
from events.commit import Recorded
from events.errors import Unavailable
from events.journal import Work
from events.names import Key
from events.state import State
from services import metrics

logger = logging.getLogger(__name__)

Stop = Literal["ended", "lost", "released"]
"""Why work is stopped: the execution ended, the lease ran out, the runner drains."""


def now() -> float:
    """Return the event loop's time in seconds: monotonic, and a simulation's own."""
    return asyncio.get_running_loop().time()


@dataclass(eq=False)
class Holding:
    """One execution that this runner works on."""

    work: Work
    task: "asyncio.Task[None]"
    lease: float
    grace: float
    since: float = field(default_factory=now)
    stopped: Stop | None = None
    signalled: bool = False
    flight: asyncio.Timeout | None = None
    """What is in flight: a model call, tools; a cancel lets it take its grace."""
    turn: asyncio.Lock | None = None
    """The runner's only one for suspects, as long as this is the suspect."""

    @property
    def key(self) -> Key:
        """Whose execution, and which."""
        return self.work.recorded.key

    @property
    def over(self) -> bool:
        """The lease ran out: the execution may be another's by now."""
        return now() - self.since >= self.lease

    async def wait_for(self, turn: asyncio.Lock) -> None:
        """Wait until no other suspect of this runner is under way."""
        await turn.acquire()
        self.turn = turn

    def clear(self) -> None:
        """Be no suspect any more; asking twice is fine."""
        if self.turn is not None:
            self.turn.release()
            self.turn = None

    def hasten(self) -> None:
        """Give what is in flight its grace; asked again: what is left of it."""
        if self.flight is not None and self.flight.when() is None:
            self.flight.reschedule(now() + self.grace)

    def notice(self, state: State) -> None:
        """Act on whatever was signalled until then."""
        self.signalled = True
        if state.final:
            self.stop("ended")
        elif state.cancel_requested:
            self.hasten()

    def stop(self, why: Stop) -> None:
        """End what is in flight, now; the first reason stands."""
        if self.stopped is None:
            self.stopped = why
            self.task.cancel()

    async def renew(self) -> None:
        """Renew if a third of the lease is over; stop if all of it is.

        Takes a ninth of the lease at most, so that it never hides its end.
        """
        asked = now()
        if self.over:
            logger.warning("%s: the lease ran out, dropping it", self.key)
            self.stop("lost")
            metrics.dropped("lease")
        elif asked - self.since >= self.lease / 3:
            try:
                async with asyncio.timeout(self.lease / 9):
                    await self.work.renew()
            except (Unavailable, TimeoutError) as error:
                logger.warning("%s: lease not renewed: %s", self.key, error)
            else:
                self.since = asked


class Holdings:
    """All that one runner works on.

    One execution may be held twice for a moment: a work message of its past
    comes again, or this runner's own lease ran out and it was handed out anew.
    """

    def __init__(self, lease: float, grace: float) -> None:
        self.lease, self.grace = lease, grace
        self.none = asyncio.Event()
        self.none.set()
        self._by_key: dict[Key, list[Holding]] = {}

    def take(self, work: Work) -> Holding:
        """Hold a work in the current task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only coroutines call this
        holding = Holding(work, task, self.lease, self.grace)
        self._by_key.setdefault(holding.key, []).append(holding)
        self.none.clear()
        metrics.held(+1)
        return holding

    def has(self, work: Work) -> bool:
        """Whether it is held: a killed server may forget that it handed it out."""
        position = work.recorded.position
        return any(
            held.work.recorded.position == position
            and held.work.deliveries >= work.deliveries
            for held in self._by_key.get(work.recorded.key, ())
        )

    def drop(self, holding: Holding) -> None:
        """Hold it no more."""
        holding.clear()
        held = self._by_key[holding.key]
        held.remove(holding)
        metrics.held(-1)
        if not held:
            del self._by_key[holding.key]
        if not self._by_key:
            self.none.set()

    def hear(self, recorded: Recorded, me: str) -> None:
        """Let a signal reach the one it is for, and the end stop it at once.

        What is heard late may be older than the work: the end that a retry undid.
        """
        if recorded.commit.by == me:
            return
        for holding in self._by_key.get(recorded.key, ()):
            if recorded.commit.version < holding.work.recorded.commit.version:
                continue
            if recorded.route == "finished":
                holding.stop("ended")
                continue
            holding.signalled = True
            if any(isinstance(f, CancelRequested) for f in recorded.commit.events):
                holding.hasten()

    def release(self) -> None:
        """Stop all of it, to be given back."""
        for holding in self.all():
            holding.stop("released")

    def all(self) -> list[Holding]:
        """Everything that is held."""
        return [holding for held in self._by_key.values() for holding in held]

    async def keep(self) -> None:
        """Renew for ever."""
        while True:
            await asyncio.sleep(self.lease / 9)
            await asyncio.gather(*(holding.renew() for holding in self.all()))

"""Who gets a runner's next slot: the policy between lanes, and between users.

All lanes of a runner share its slots. Each lane has a few that only it may use,
so none waits for another's work to end. For the others the priority lane goes
first, then the default one; a lane that was passed over ``TURNS`` times gets the
next slot.

Within a lane work comes in order. When slots are scarce, a user who has more of
them than somebody who waits behind steps back: its work is given back for a
moment, so that whoever waits is reached. (Long executions share by themselves
too: after each chunk they go to the back of their lane.)
"""

import asyncio
import random
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from itertools import chain, islice
from typing import NamedTuple

from events.spec import Lane

ORDER: tuple[Lane, ...] = ("agents_priority", "agents", "agents_long")
"""Who goes first."""

SHARE = 16
"""Each lane has one slot in so many for itself, at least one."""

TURNS = 4
"""Slots that others may be given while a lane has work in vain."""

COMING = 0.02
"""Seconds that a slot is kept for a lane whose work should be on its way."""

BACK, LONGEST_BACK = 0.5, 4.0
"""Seconds that work is given back for when its user steps back; doubled each time."""

LATE = 0.25
"""Seconds that what was handed out may lie before it is looked at."""

AGAIN = 2.0
"""Seconds in which work that found no slot comes again, unless another took it."""

SKIM = 64
"""Works to look at at a time while somebody behind them is to be reached."""


class Slots:
    """The slots of one runner, shared by its lanes."""

    def __init__(self, total: int, lanes: Sequence[Lane]) -> None:
        self.total = total
        self._lanes = [lane for lane in ORDER if lane in lanes]
        several = len(self._lanes) > 1 and total >= 2 * len(self._lanes)
        self._own = max(1, total // SHARE) if several else 0
        self._used: Counter[Lane] = Counter()
        self._waiting: set[Lane] = set()
        self._passed_over: Counter[Lane] = Counter()
        self._changed = asyncio.Event()

    @property
    def free(self) -> int:
        """Slots that nobody uses."""
        return self.total - self._used.total()

    @property
    def scarce(self) -> bool:
        """Whether at least half of the slots are in use."""
        return self.free <= self.total // 2

    def room(self, lane: Lane) -> int:
        """How many works a lane may begin now."""
        others = (other for other in self._lanes if other != lane)
        kept = sum(max(0, self._own - self._used[other]) for other in others)
        return max(0, self.free - kept)

    async def some(self, lane: Lane) -> int:
        """Wait until a lane may begin something; returns how much."""
        while not self.room(lane):
            await self._change()
        return self.room(lane)

    def enter(self, lane: Lane, behind: int) -> bool:
        """Take a slot for a work with so many ``behind`` it in its lane.

        False if there is none, or if it is another lane's turn.
        """
        room = self.room(lane)
        if room == 0 or (room == 1 and self._goes_after(lane)):
            self._waiting.add(lane)
            return False
        self._used[lane] += 1
        self._waiting.discard(lane)
        self._passed_over.update(self._waiting)
        self._passed_over[lane] = 0
        if behind:
            self._waiting.add(lane)
        self._stir()
        return True

    def leave(self, lane: Lane) -> None:
        """Free a slot."""
        self._used[lane] -= 1
        self._stir()

    async def turn(self) -> None:
        """Let whoever goes first come; if nobody does, its work went elsewhere."""
        try:
            async with asyncio.timeout(COMING):
                await self._change()
        except TimeoutError:
            self._waiting.clear()

    def _goes_after(self, lane: Lane) -> bool:
        """Whether another lane that has work, and may have the slot, is to have it."""
        mine = self._rank(lane)
        return any(self._rank(o) < mine and self.room(o) for o in self._waiting)

    def _rank(self, lane: Lane) -> tuple[int, int]:
        """Whoever was passed over too often goes first, then the order of the lanes."""
        times = self._passed_over[lane]
        return -times if times >= TURNS else 0, self._lanes.index(lane)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _stir(self) -> None:
        self._changed.set()


class Work(NamedTuple):
    """A work that was heard of: where it stands, and when that was (loop time)."""

    position: int
    heard: float


class Crowd:
    """Who has how much of a runner, and who is known to wait in its lanes."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._served: dict[str, int] = defaultdict(int)
        self._newest: dict[Lane, OrderedDict[str, Work]] = defaultdict(OrderedDict)
        self._refused: dict[Lane, dict[str, float]] = defaultdict(dict)
        self._count = 0

    def hear(self, lane: Lane, user: str, position: int) -> None:
        """Note that a work of a user was put into a lane."""
        waiting = self._newest[lane]
        waiting[user] = Work(position, asyncio.get_running_loop().time())
        waiting.move_to_end(user)

    def reached(self, lane: Lane, position: int, behind: int) -> None:
        """Note how far the lane was handed out: who was before that waits no more.

        Nor does who was heard of a while ago when there is nothing ``behind``: it
        went to another runner. (What was sent to us before may arrive later.)
        """
        waiting, since = self._newest[lane], asyncio.get_running_loop().time() - LATE
        while waiting:
            first = next(iter(waiting.values()))
            if first.position > position and (behind or first.heard > since):
                return
            waiting.popitem(last=False)

    def refused(self, lane: Lane, user: str) -> None:
        """Note that there was no slot: it comes again, before or after others."""
        self._refused[lane][user] = asyncio.get_running_loop().time() + AGAIN

    def waits(self, lane: Lane) -> bool:
        """Whether anybody is known to wait."""
        self._forget_refused(lane)
        return bool(self._newest[lane] or self._refused[lane])

    def _forget_refused(self, lane: Lane) -> None:
        refused, now = self._refused[lane], asyncio.get_running_loop().time()
        for user in [user for user, until in refused.items() if until < now]:
            del refused[user]

    def steps_back(self, lane: Lane, user: str) -> bool:
        """Whether somebody who waits has less than ``user``, or had it longer ago."""
        mine = self._claim(user)
        others = islice(chain(self._refused[lane], self._newest[lane]), SKIM)
        return any(self._claim(other) < mine for other in others if other != user)

    def _claim(self, user: str) -> tuple[int, int]:
        return self._held[user], self._served[user]

    def enter(self, lane: Lane, user: str) -> None:
        """Note that a user got a slot."""
        self._refused[lane].pop(user, None)
        self._count += 1
        self._held[user] += 1
        self._served[user] = self._count

    def leave(self, user: str) -> None:
        """Note that a slot was freed; who has none left is forgotten in time."""
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]
        if len(self._served) > 2 * SKIM + len(self._held):
            self._served = defaultdict(
                int, {u: n for u, n in self._served.items() if u in self._held}
            )


def pause(deliveries: int, chance: random.Random) -> float:
    """Seconds to give work back for, the longer the more often it was handed out."""
    longest = min(LONGEST_BACK, BACK * 2.0 ** min(deliveries - 1, 10))
    return longest * chance.uniform(0.5, 1.0)

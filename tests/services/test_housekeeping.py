import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from bells import Bell
from logs import Log

from events.errors import Unavailable
from events.timers import Timer, Timers
from services.handler import Handler
from services.housekeeping import NAME, Housekeeping
from services.reactor import Reactor
from services.timers import Timekeeper

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Broom:
    """Cleans, and remembers how often; ``trouble`` are the first times that fail."""

    def __init__(self, *, trouble: int = 0) -> None:
        self.times, self.trouble = 0, trouble
        self.swept = asyncio.Event()

    async def clean(self) -> None:
        """Clean, or fail."""
        self.times += 1
        if self.times <= self.trouble:
            raise Unavailable("the log is out of reach, on purpose")
        self.swept.set()


def housekeeping(timers: Timers, broom: Broom, now: datetime) -> Housekeeping:
    """At three in the morning, by a clock that stands."""
    return Housekeeping(timers, broom.clean, hour=3, minute=0, clock=lambda: now)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (NOON, datetime(2026, 3, 2, 3, tzinfo=UTC)),
        (NOON.replace(hour=2), datetime(2026, 3, 1, 3, tzinfo=UTC)),
        (NOON.replace(hour=3), datetime(2026, 3, 2, 3, tzinfo=UTC)),
        (NOON.replace(month=12, day=31), datetime(2027, 1, 1, 3, tzinfo=UTC)),
    ],
)
async def test_the_next_time_is_the_first_to_come(
    bell: Bell, now: datetime, due: datetime
) -> None:
    """Today if it is still to come, else tomorrow; the same timer for every reactor."""
    keeping = housekeeping(bell.timers, Broom(), now)
    timer = keeping.following(now)
    assert (timer.about, timer.kind, timer.due) == (NAME, "housekeeping", due)
    again = housekeeping(bell.timers, Broom(), now + timedelta(seconds=0))
    assert again.following(now) == timer


async def test_it_cleans_when_its_time_comes_and_the_day_after(
    log: Log, bell: Bell
) -> None:
    """Whatever went wrong the day before; the times are past, so they come at once."""
    broom = Broom(trouble=1)
    keeping = housekeeping(bell.timers, broom, NOON)
    keeper = Timekeeper(
        Handler(log.journal, "reactor"), bell.timers, housekeeping=keeping.ring
    )
    reactor = Reactor(log.journal, [keeper, keeping])
    async with asyncio.TaskGroup() as group:
        group.create_task(reactor.run())
        await broom.swept.wait()
        await reactor.stop()
    assert broom.times >= 2


async def test_a_timer_of_yesterday_arms_tomorrow(bell: Bell) -> None:
    """Nobody was there when it went off: one clean-up is enough."""
    broom = Broom()
    keeping = housekeeping(bell.timers, broom, datetime.now(UTC))
    old = datetime.now(UTC) - timedelta(days=40)
    late = Timer(user="all", about=NAME, kind="housekeeping", due=old)
    await keeping.ring(late)
    assert len(await bell.timers.armed()) == 1
    assert await bell.silent()

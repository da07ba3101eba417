import asyncio

import pytest
from commits import KEY, OTHER, commit

from events.catalog import AnyEvent, CancelRequested
from events.commit import Recorded
from events.errors import Unavailable
from events.journal import Work
from events.names import Key, Route
from services.lease import Holding, Holdings


class FakeWork(Work):
    """Work that remembers how it was treated; ``broken`` refuses, ``silent`` hangs."""

    def __init__(self, key: Key = KEY, deliveries: int = 1) -> None:
        self.recorded = commit(key)._replace(position=7)
        self.deliveries, self.behind = deliveries, 0
        self.broken = self.silent = False
        self.renewed = 0

    async def renew(self) -> None:
        """Confirm, refuse or hang."""
        self.renewed += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.broken:
            raise Unavailable

    async def done(self) -> None:
        """Not used here."""

    async def give_back(self, delay: float = 0.0) -> None:
        """Not used here."""


def hold(
    work: Work, holdings: Holdings, end: asyncio.Event
) -> "tuple[asyncio.Task[None], asyncio.Future[Holding]]":
    """Hold a work in a task of its own until ``end``."""
    held: asyncio.Future[Holding] = asyncio.get_running_loop().create_future()

    async def holding() -> None:
        mine = holdings.take(work)
        held.set_result(mine)
        try:
            await end.wait()
        finally:
            holdings.drop(mine)

    return asyncio.create_task(holding()), held


def told(
    key: Key, route: Route, by: str = "somebody", facts: tuple[AnyEvent, ...] = ()
) -> Recorded:
    """Make a commit as it is heard."""
    return commit(key, route=route, by=by, facts=facts)


async def test_a_lease_is_renewed_when_a_third_is_over() -> None:
    """Not before, and again a third after the renewal was asked for."""
    work, end, holdings = FakeWork(), asyncio.Event(), Holdings(300.0, 10.0)
    task, held = hold(work, holdings, end)
    holding = await held
    for passed, renewed in ((90.0, 0), (15.0, 1), (80.0, 1), (25.0, 2)):
        holding.since -= passed
        await holding.renew()
        assert work.renewed == renewed
    end.set()
    await task


@pytest.mark.parametrize("how", ["broken", "silent"])
async def test_a_lease_that_ran_out_stops_the_work(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from the last confirmed renewal, whatever was asked since."""
    work, end, holdings = FakeWork(), asyncio.Event(), Holdings(300.0, 10.0)
    task, held = hold(work, holdings, end)
    holding = await held
    setattr(work, how, True)
    holding.lease = 0.09  # so long is waited for an answer: a ninth of it
    clock = holding.since + 0.04
    monkeypatch.setattr("services.lease.now", lambda: clock)
    await holding.renew()
    assert (work.renewed, holding.stopped) == (1, None)
    clock += 0.05
    await holding.renew()
    assert (work.renewed, holding.stopped) == (1, "lost")
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_end_stops_and_a_signal_is_noted() -> None:
    """Of the execution they are about, and only what others appended."""
    end, holdings = asyncio.Event(), Holdings(30.0, 10.0)
    task, held = hold(FakeWork(), holdings, end)
    other, held_other = hold(FakeWork(OTHER), holdings, end)
    mine, its = await held, await held_other
    holdings.hear(told(KEY, "signal", by="me"), "me")
    holdings.hear(told(Key("eve", KEY.execution), "finished"), "me")
    assert not mine.signalled
    holdings.hear(told(KEY, "signal"), "me")
    assert (mine.signalled, its.signalled) == (True, False)
    holdings.hear(told(KEY, "finished"), "me")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (mine.stopped, its.stopped) == ("ended", None)
    end.set()
    await other


async def test_an_end_from_before_the_work_does_not_stop_it() -> None:
    """Heard late: a retry has undone it, and this is the work that follows."""
    end, holdings, work = asyncio.Event(), Holdings(30.0, 10.0), FakeWork()
    failed = told(KEY, "finished")
    work.recorded = commit(KEY, failed, route="agents")
    task, held = hold(work, holdings, end)
    holding = await held
    holdings.hear(failed, "me")
    assert holding.stopped is None
    holdings.hear(commit(KEY, work.recorded, route="finished"), "me")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert holding.stopped == "ended"


async def test_the_first_reason_to_stop_stands() -> None:
    """A task is cancelled once: a second cancellation would be somebody else's."""
    end, holdings = asyncio.Event(), Holdings(30.0, 10.0)
    task, held = hold(FakeWork(), holdings, end)
    holding = await held
    holding.stop("ended")
    holding.stop("lost")
    assert (holding.stopped, task.cancelling()) == ("ended", 1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_execution_may_be_held_twice_for_a_moment() -> None:
    """An old message of it that comes and goes does not take it out of sight."""
    ends = [asyncio.Event(), asyncio.Event()]
    holdings = Holdings(30.0, 10.0)
    long, held = hold(FakeWork(), holdings, ends[0])
    mine = await held
    brief, held_again = hold(FakeWork(), holdings, ends[1])
    await held_again
    ends[1].set()
    await brief
    assert not holdings.none.is_set()
    holdings.hear(told(KEY, "finished"), "me")
    with pytest.raises(asyncio.CancelledError):
        await long
    assert mine.stopped == "ended"
    assert holdings.none.is_set()


async def test_a_work_that_comes_again_while_it_is_held_is_known() -> None:
    """Unless its lease ran out: then it is a new delivery, and counts."""
    end, holdings = asyncio.Event(), Holdings(30.0, 10.0)
    task, held = hold(FakeWork(), holdings, end)
    await held
    assert holdings.has(FakeWork())
    assert not holdings.has(FakeWork(deliveries=2))
    assert not holdings.has(FakeWork(OTHER))
    end.set()
    await task
    assert not holdings.has(FakeWork())


async def test_releasing_stops_everything() -> None:
    """Each with the reason that it is to be given back."""
    end, holdings = asyncio.Event(), Holdings(30.0, 10.0)
    pairs = [hold(FakeWork(key), holdings, end) for key in (KEY, OTHER)]
    holding = [await held for _, held in pairs]
    holdings.release()
    await asyncio.wait([task for task, _ in pairs])
    assert [one.stopped for one in holding] == ["released", "released"]
    assert holdings.none.is_set()


async def test_a_cancel_gives_what_is_in_flight_its_grace() -> None:
    """Once, from the first time it is heard; nothing in flight, nothing to hasten."""
    end, holdings = asyncio.Event(), Holdings(30.0, 5.0)
    task, held = hold(FakeWork(), holdings, end)
    holding = await held
    asked = told(KEY, "signal", facts=(CancelRequested(),))
    holdings.hear(asked, "me")
    assert holding.signalled
    async with asyncio.timeout(None) as flight:
        holding.flight = flight
        await asyncio.sleep(0)
        holdings.hear(told(KEY, "signal"), "me")
        assert flight.when() is None
        holdings.hear(asked, "me")
        first = flight.when()
        assert first is not None
        holdings.hear(asked, "me")
        assert flight.when() == first
    end.set()
    await task

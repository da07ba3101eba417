"""When a process has served long enough."""

import asyncio
import mmap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from events.errors import Misconfigured
from services import bounds
from services.bounds import Bounds, resident


def measured(*mebibytes: float) -> Callable[[], float]:
    """Memory as it is measured at each look; the last stays."""
    looks = iter(mebibytes)
    last = mebibytes[-1]
    return lambda: next(looks, last)


def test_the_memory_of_this_process() -> None:
    """What is measured grows by what is taken, and is what the kernel says."""
    before = resident()
    with mmap.mmap(-1, 64 * 1024 * 1024) as taken:  # memory that was not there
        taken.write(bytes(64 * 1024 * 1024))
        assert resident() - before > 60
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    assert resident() == pytest.approx(int(line.split()[1]) / 1024, rel=0.05)


async def test_without_limits_nothing_is_reached() -> None:
    """It waits until it is told to stop waiting."""
    task = asyncio.create_task(Bounds(None, None).reached())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 1.0), (1.0, 0.9), (0.5, 0.95)])
async def test_the_time_limit_is_spread(chance: float, seconds: float) -> None:
    """Chance takes off a tenth at most, and never adds."""
    limits = Bounds(1.0, None, chance=lambda: chance)
    assert limits._seconds == pytest.approx(seconds)
    began = asyncio.get_running_loop().time()
    reached = await limits.reached()
    took = asyncio.get_running_loop().time() - began
    assert reached.limit == "process.time_limit"
    assert took > seconds - 0.04


def test_a_fleet_does_not_end_at_once() -> None:
    """Of many with the same limit, the ends lie all over a tenth of it."""
    ends = sorted(Bounds(1000.0, None)._seconds or 0.0 for _ in range(500))
    assert 900 <= ends[0] < 920
    assert 980 < ends[-1] <= 1000
    assert max(b - a for a, b in pairwise(ends)) < 10


async def test_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reached at the first look that shows more, and says how much."""
    monkeypatch.setattr(bounds, "LOOK", 0.0)
    limits = Bounds(None, 100, measure=measured(60.0, 99.0, 100.0, 120.4))
    reached = await limits.reached()
    assert reached.limit == "process.memory_limit"
    assert reached.why == "120 MiB of memory in use, more than 100"


async def test_whichever_comes_first() -> None:
    """With both, the time ends it although the memory never grows."""
    reached = await Bounds(0.01, 100, measure=measured(60.0)).reached()
    assert reached.limit == "process.time_limit"


def test_a_limit_below_the_start_is_refused() -> None:
    """Each new process would end at once: that is said, with a figure."""
    with pytest.raises(Misconfigured, match="50 MiB, and the process takes 60"):
        Bounds(None, 50, measure=measured(60.0))


def test_without_proc_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the memory cannot be measured a limit of it is no silent nothing."""
    monkeypatch.setattr(bounds, "STATM", Path("/proc/self/nothing"))
    with pytest.raises(Misconfigured, match="cannot be watched here"):
        Bounds(None, 50)

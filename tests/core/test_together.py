"""Work side by side: the first failure is told, and a cancellation is never lost."""

import asyncio

import pytest

from events.errors import Corrupt, Unavailable
from events.together import alongside, together

PATIENCE = 60.0
"""Seconds after which a test gives up."""


class Broken:
    """Work that fails once it is told to; or ``unclean``, when it is cancelled."""

    def __init__(self) -> None:
        self.began, self.now = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Fail."""
        self.began.set()
        await self.now.wait()
        raise Unavailable("gone")

    async def unclean(self) -> int:
        """Wait for ever, and fail in the clean-up."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise Corrupt("in the clean-up")


async def bearing(broken: Broken, *, unclean: bool = False) -> None:
    """Try again and again, as services do."""
    while True:
        try:
            await together(broken.unclean() if unclean else broken.run())
        except Unavailable:
            continue


async def test_each_result_in_its_place() -> None:
    """In the order of the works; of none, none."""
    assert await together(*(asyncio.sleep(0.01 * (3 - n), n) for n in range(3))) == [
        0,
        1,
        2,
    ]
    assert await together() == []


async def test_the_first_failure_ends_the_others_and_is_raised_as_it_is() -> None:
    """Nothing is left running, and nothing is counted as a cancellation."""
    broken, other = Broken(), Broken()
    broken.now.set()
    with pytest.raises(Unavailable, match="gone"):
        await together(other.unclean(), broken.run())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert asyncio.all_tasks() == {task}


@pytest.mark.parametrize("unclean", [False, True])
async def test_who_is_cancelled_while_one_fails_is_cancelled(*, unclean: bool) -> None:
    """Whoever bears the failure and tries again would otherwise never end."""
    broken = Broken()
    task = asyncio.ensure_future(bearing(broken, unclean=unclean))
    await broken.began.wait()
    broken.now.set()
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.cancelled()


async def test_what_runs_beside_a_block_ends_with_it() -> None:
    """Its failure is its own: the block goes on."""
    broken = Broken()
    async with alongside(broken.unclean()) as (task,):
        await broken.began.wait()
    assert isinstance(task.exception(), Corrupt)

"""Work in threads, from an event loop that must not wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(
    executor: Executor,
    work: Callable[[], T],
    *,
    undo: Callable[[T], None] = lambda _: None,
) -> T:
    """Do work in a thread. Who is cancelled waits for its end: it is brief.

    So nothing of ours is still at work when whoever asked for it has gone; and
    what the work came to, which then nobody takes, is undone.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled() and future.exception() is None:
            undo(future.result())
        raise


async def stoppable(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Do long work in a thread of its own. Who is cancelled stops it, and waits."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([task])
        task.exception()  # nobody is left to hear it
        raise

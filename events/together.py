"""Work side by side, for those who bear its failures and go on.

A TaskGroup of which a task fails as it is cancelled raises that failure alone, until
Python 3.13; and it may leave a cancellation counted that nobody asked for (python/
cpython#116720). Who tries again after that is never ended, or ends for no reason.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def alongside(
    *works: Coroutine[Any, Any, T],
) -> AsyncIterator[list[asyncio.Task[T]]]:
    """Tasks that run no longer than the block, which sees what becomes of them."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def together(*works: Coroutine[Any, Any, T]) -> list[T]:
    """Return what each comes to; the first failure ends the others, and is raised."""
    if not works:
        return []
    async with alongside(*works) as tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        raise_failure(tasks)
        return [task.result() for task in tasks]


def raise_failure(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Raise what one of these has failed with, if one has."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            raise error

"""An event loop for simulations: virtual time, order by chance, processes that die.

Whatever is ready is run in an order that ``chance`` draws, so every await is a
place where anything else may come in between. Time goes on only when nothing is
ready: sleeping costs nothing. A *process* is all tasks begun below one
``spawn``, known by a context variable; it can be stopped (SIGSTOP) or killed at
any moment, and then not even a ``finally`` of it runs while the simulation lasts.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Literal

ROUNDS = 50
"""How often whatever is left is cancelled in the end, before it counts as stuck."""


class Stuck(Exception):
    """Nothing is ready, and nothing ever will be."""


class Process:
    """Tasks that live and die together; what it may not run now is ``withheld``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Literal["up", "stopped", "dead"] = "up"
        self.withheld: list[asyncio.Handle] = []
        self.main: asyncio.Task[Any] | None = None

    @property
    def up(self) -> bool:
        """It runs, as far as anybody knows."""
        return self.state == "up"


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)
"""The process that runs now; None: the world around the processes."""


class _Task(asyncio.Task[Any]):
    """A task with a number: sets of tasks have the same order in every run."""

    def __init__(self, number: int, coro: Any, **more: Any) -> None:
        self.number = number
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.BaseEventLoop):
    """Draws what runs next; ``strike`` is asked before a process runs anything."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._now = 0.0
        self._ready: list[asyncio.Handle] = []
        self._tasks = 0
        self.steps = 0
        self.processes: list[Process] = []
        self.troubles: list[str] = []
        self.strike: Callable[[Process], None] = lambda _process: None
        self.outside = Context()
        self.set_task_factory(self._number)
        self.set_exception_handler(self._note)

    def time(self) -> float:
        """Return the virtual time in seconds, from 0."""
        return self._now

    def _number(
        self, loop: asyncio.AbstractEventLoop, coro: Any, context: Any = None
    ) -> _Task:
        self._tasks += 1
        return _Task(self._tasks, coro, loop=loop, context=context)

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.troubles.append(f"{context['message']}: {context.get('exception')!r}")

    def _write_to_self(self) -> None:
        """Nobody waits in a selector."""

    # ── what runs next ───────────────────────────────────────────────────────

    def _run_once(self) -> None:
        while not self._ready:
            self._advance()
        handle = self._draw()
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None and process.up:
            self.steps += 1
            self.strike(process)
        if process is not None and not process.up:
            process.withheld.append(handle)
            return
        handle._run()

    def _draw(self) -> asyncio.Handle:
        ready = self._ready
        place = int(self._chance.random() * len(ready))
        ready[place], ready[-1] = ready[-1], ready[place]
        return ready.pop()

    def _advance(self) -> None:
        """Let time go on to whatever is due first."""
        if not self._scheduled:
            raise Stuck(f"nothing happens any more, at {self._now:.3f} s")
        self._now = max(self._now, self._scheduled[0]._when)
        while self._scheduled and self._scheduled[0]._when <= self._now:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                self._ready.append(timer)

    # ── processes ────────────────────────────────────────────────────────────

    def spawn(self, name: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Process:
        """Start a process."""
        process = Process(name)
        self.processes.append(process)
        context = copy_context()
        context.run(PROCESS.set, process)
        process.main = self.create_task(context.run(main), context=context)
        return process

    def kill(self, process: Process) -> None:
        """End it here and now, as kill -9 does."""
        process.state = "dead"

    def stop_process(self, process: Process) -> None:
        """Let it run nothing, as SIGSTOP does."""
        process.state = "stopped"

    def go_on(self, process: Process) -> None:
        """Let a stopped process run again."""
        if process.state == "stopped":
            self._thaw(process)

    def _thaw(self, process: Process) -> None:
        process.state = "up"
        self._ready.extend(process.withheld)
        process.withheld.clear()

    # ── the end ──────────────────────────────────────────────────────────────

    def clear_away(self) -> None:
        """Unwind all that is left, the dead too, and close; no warnings remain."""
        self.strike = lambda _process: None
        for process in self.processes:
            self._thaw(process)
        for _ in range(ROUNDS):
            left = sorted(asyncio.all_tasks(self), key=lambda task: task.number)  # type: ignore[attr-defined]
            if not left:
                break
            self.run_until_complete(_cancelled(left))
        assert not left, left
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


async def _cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.wait(tasks, timeout=60)
    for task in done:
        if not task.cancelled():
            task.exception()

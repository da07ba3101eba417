"""What Ctrl-C and SIGTERM mean while an execution runs.

The first Ctrl-C cancels it in order, the second kills it, the third leaves it
as it is; SIGTERM leaves it as it is, to be resumed. Before there is an
execution both simply end the process.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from events.commands import Cancel, Command, Kill
from events.errors import NotAllowedNow, Retryable
from events.names import Key
from gateway.exits import Exit
from services.handler import Handler

REASON = "Ctrl-C"


class Interrupts:
    """The signals of this process, from the start of its event loop on.

    ``leave`` is set when the execution is to be left as it is; ``code`` is then
    the exit code.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.leave = asyncio.Event()
        self.code = Exit.CANCELLED
        self._say = say
        self._arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._main: asyncio.Task[object] | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take the signals; until ``engage`` they cancel the current task."""
        loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, partial(self._on, number))
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def engage(self) -> None:
        """From now on signals are about the execution; ``obey`` acts on them."""
        self._main = None

    def _on(self, number: signal.Signals) -> None:
        if number == signal.SIGTERM:
            self.code = Exit.TOLD_TO_END
        if self._main is not None:
            self._main.cancel()
        else:
            self._arrived.put_nowait(number)

    async def obey(self, handler: Handler, key: Key) -> None:
        """Act on the signals, for ever; commands that take long run side by side."""
        asked = 0
        async with asyncio.TaskGroup() as group:
            while True:
                if await self._arrived.get() == signal.SIGTERM:
                    self._say("told to end: leaving the execution as it is")
                    self.leave.set()
                    continue
                asked += 1
                command = self._command(asked)
                if command is not None:
                    group.create_task(self._ask(handler, key, command))

    def _command(self, asked: int) -> Command | None:
        """What the n-th Ctrl-C asks for."""
        if asked == 1:
            self._say("cancelling after what runs now; press Ctrl-C again to kill it")
            return Cancel(reason=REASON)
        if asked == 2:  # noqa: PLR2004 - the second
            self._say("killing it; press Ctrl-C again to leave it as it is")
            return Kill(reason=REASON)
        self._say("leaving the execution as it is")
        self.leave.set()
        return None

    async def _ask(self, handler: Handler, key: Key, command: Command) -> None:
        try:
            await handler.handle(key, command.decide)
        except NotAllowedNow:
            return  # it ended by itself meanwhile, and that is shown
        except Retryable as error:
            self._say(f"it could not be told: {error}")

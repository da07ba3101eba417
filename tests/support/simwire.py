"""Between the processes of a simulation and what all of them share.

What a process asks takes its time there and back, arrives late, or not at all;
what arrives is done even if who asked has died meanwhile. The log behind it is
the one in memory; the commands lie on a desk that pins one client, as the
consumer of the real ones does.
"""

import asyncio
import random
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from events.commit import Recorded
from events.errors import OutcomeUnknown, Unavailable, WakeError
from events.inbox import Door, Inbox, Order
from events.journal import Journal, Work, WorkHeard, WorkQueue, unheeded
from events.memory import MemoryJournal
from events.names import Key, Route
from events.presence import Heard, MemoryPresences, Presence
from events.spec import Lane

T = TypeVar("T")

ANSWER = 0.5
"""Seconds to wait for one answer."""

PIN = 1.0
"""Seconds of silence after which another client gets the commands."""


@dataclass
class Weather:
    """How bad the network is; chances are per message, or per read."""

    lost: float = 0.0
    late: float = 0.0
    latest: float = 10.0
    behind: float = 0.0
    down: bool = False


class Net:
    """Carries requests; ``weather`` may change at any time."""

    def __init__(self, chance: random.Random, weather: Weather) -> None:
        self.chance, self.weather = chance, weather
        self._outside = Context()
        self._doing: set[asyncio.Task[None]] = set()

    def lost(self) -> bool:
        """Draw whether a message gets lost."""
        return self.weather.down or self.chance.random() < self.weather.lost

    def lag(self) -> int:
        """Draw how many commits the server that answers a read has not heard of."""
        behind = self.chance.random() < self.weather.behind
        return self.chance.randint(1, 3) if behind else 0

    def delay(self) -> float:
        """Draw how long a message takes, in seconds."""
        if self.chance.random() < self.weather.late:
            return self.chance.random() * self.weather.latest
        return self.chance.random() * 0.02

    async def ask(self, request: Callable[[], Awaitable[T]], wait: float = ANSWER) -> T:
        """Let it be done at the other side; raises what that raises.

        Raises OutcomeUnknown after ``wait`` seconds; it may still happen then.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T | WakeError] = loop.create_future()
        if not self.lost():
            loop.call_later(
                self.delay(), self._arrived, request, answer, context=self._outside
            )
        try:
            async with asyncio.timeout(wait):
                told = await answer
        except TimeoutError:
            raise OutcomeUnknown("no answer came") from None
        if isinstance(told, WakeError):
            raise told
        return told

    def _arrived(self, request: Callable[[], Awaitable[Any]], answer: Any) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._do(request, answer), context=self._outside)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard, context=self._outside)

    async def _do(self, request: Callable[[], Awaitable[Any]], answer: Any) -> None:
        try:
            told = await request()
        except WakeError as error:
            told = error
        if not self.lost():
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay(), _told, answer, told)


def _told(answer: "asyncio.Future[Any]", what: Any) -> None:
    if not answer.done():
        answer.set_result(what)


class Line(Journal):
    """A process's connection to the log."""

    def __init__(self, log: MemoryJournal, net: Net, patience: float) -> None:
        self.log, self.net, self.patience = log, net, patience

    async def _publish(self, new: Recorded, after: int) -> int:
        return await self.net.ask(lambda: self.log._publish(new, after))

    async def _following(self, key: Key, after: int) -> Recorded | None:
        return await self.net.ask(lambda: self.log._following(key, after))

    async def _read(self, key: Key) -> list[Recorded]:
        history = await self.net.ask(lambda: self.log._read(key))
        return history[: len(history) - self.net.lag()]

    async def tip(self, key: Key) -> int:
        """Ask for the last position of ``key``."""
        return await self.net.ask(lambda: self.log.tip(key))

    def _follow(
        self, *, after: int, key: Key | None, routes: Sequence[Route], live: bool
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        return self.log._follow(after=after, key=key, routes=routes, live=live)

    async def _store_blob(self, name: str, content: bytes) -> None:
        await self.net.ask(lambda: self.log._store_blob(name, content))

    async def _load_blob(self, name: str) -> bytes | None:
        return await self.net.ask(lambda: self.log._load_blob(name))

    async def blobs_of(self, key: Key) -> list[str]:
        """Ask for the blobs of ``key``."""
        return await self.net.ask(lambda: self.log.blobs_of(key))

    async def delete_blob(self, name: str) -> None:
        """Have a blob deleted."""
        await self.net.ask(lambda: self.log.delete_blob(name))

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        """Open the work of a lane."""
        return QueueLine(await self.log.work(lane, lease=lease, key=key), self.net)

    async def handed_out(self, lane: Lane, *, key: Key | None = None) -> int:
        """Ask for the newest work that was leased."""
        return await self.net.ask(lambda: self.log.handed_out(lane, key=key))

    def hear(
        self, heard: Callable[[Recorded], None], missed: Callable[[], None] = unheeded
    ) -> AbstractAsyncContextManager[None]:
        """Hear what gets through, some time later; nothing tells what does not."""
        del missed
        loop, mine = asyncio.get_running_loop(), copy_context()

        def send(recorded: Recorded) -> None:
            if not self.net.lost():
                loop.call_later(self.net.delay(), heard, recorded, context=mine)

        return self.log.hear(send)

    def hear_work(
        self, lanes: Sequence[Lane], heard: WorkHeard
    ) -> AbstractAsyncContextManager[None]:
        """Hear what gets through, some time later."""
        loop, mine = asyncio.get_running_loop(), copy_context()

        def send(*work: Any) -> None:
            if not self.net.lost():
                loop.call_later(self.net.delay(), heard, *work, context=mine)

        return self.log.hear_work(lanes, send)


class QueueLine(WorkQueue):
    """A process's connection to a lane."""

    def __init__(self, queue: WorkQueue, net: Net) -> None:
        self._queue, self._net, self.lease = queue, net, queue.lease

    async def fetch(self, limit: int, wait: float) -> list[Work]:
        """Lease works; if the answer is lost they are nobody's until that is over."""
        works = await self._net.ask(
            lambda: self._queue.fetch(limit, wait), wait + ANSWER
        )
        return [WorkLine(work, self._net) for work in works]

    async def close(self) -> None:
        """Nothing to let go."""


class WorkLine(Work):
    """A work that a process holds; whatever it says of it counts, however late."""

    def __init__(self, work: Work, net: Net) -> None:
        self.recorded, self.deliveries = work.recorded, work.deliveries
        self.behind = work.behind
        self._work, self._net = work, net

    async def _say(self, what: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._net.ask(what)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error

    async def renew(self) -> None:
        """Hold it for another term."""
        await self._say(self._work.renew)

    async def done(self) -> None:
        """Never hand it out again."""
        await self._say(self._work.done)

    async def give_back(self, delay: float = 0.0) -> None:
        """Let another have it."""
        await self._say(lambda: self._work.give_back(delay))


class Desk:
    """The commands that are not settled; one client is pinned.

    What a client had taken comes again, before all that is newer, once another
    is pinned or when it says that it lost an answer.
    """

    def __init__(self) -> None:
        self._orders: dict[int, Order] = {}
        self._taken: set[int] = set()
        self._last = 0
        self._pinned: DeskLine | None = None
        self._heard: dict[DeskLine, int] = {}
        self._seen = 0.0
        self._stirred = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Every command was settled."""
        return not self._orders

    async def publish(self, key: Key, verb: str, body: bytes, door: Door) -> int:
        """Store a command."""
        self._last += 1
        self._orders[self._last] = Order(
            door=door, key=key, verb=verb, body=body, position=self._last
        )
        self._stirred.set()
        return self._last

    async def take(
        self, client: "DeskLine", number: int, limit: int, wait: float, *, again: bool
    ) -> list[Order] | None:
        """Hand out commands; None if another client is the pinned one.

        ``number`` counts a client's requests: only the last one is answered.
        """
        now = asyncio.get_running_loop().time()
        if number <= self._heard.get(client, 0):
            return None
        self._heard[client] = number
        if self._pinned not in (None, client) and now < self._seen + PIN:
            return None
        if self._pinned is not client or again:
            self._taken.clear()
        self._pinned, self._seen = client, now
        if limit and not self._waiting():
            self._stirred.clear()
            await _within(min(wait, PIN / 2), self._stirred)
        if self._pinned is not client or self._heard[client] != number:
            return None  # who asked has asked again meanwhile, or lost the pin
        due = self._waiting()[:limit]
        self._taken.update(due)
        return [replace(self._orders[position]) for position in due]

    def _waiting(self) -> list[int]:
        return sorted(self._orders.keys() - self._taken)

    async def done(self, position: int) -> None:
        """Settle a command, whoever says so."""
        self._orders.pop(position, None)
        self._taken.discard(position)

    async def unpin(self, client: "DeskLine") -> None:
        """Let another client have the commands at once."""
        if self._pinned is client:
            self._pinned = None


class PresenceLine(MemoryPresences):
    """A process's ear and voice among the others; what it hears keeps its order."""

    def __init__(self, room: list[Heard], client: int, net: Net) -> None:
        super().__init__(room, client)
        self._net = net

    async def tell(self, presence: Presence) -> None:
        """Say it, if it gets through."""
        if not self._net.lost():
            await super().tell(presence)

    def hear(self, heard: Heard) -> AbstractAsyncContextManager[None]:
        """Hear it some time later."""
        loop, mine = asyncio.get_running_loop(), copy_context()
        coming: deque[Presence] = deque()

        def arrive() -> None:
            heard(coming.popleft())

        def send(presence: Presence) -> None:
            coming.append(presence)
            loop.call_later(self._net.delay(), arrive, context=mine)

        return super().hear(send)


Answered = Callable[[str, str, bytes], None]


class DeskLine(Inbox):
    """A process's connection to the desk; ``answered`` hears what it answers."""

    def __init__(self, desk: Desk, net: Net, answered: Answered) -> None:
        self._desk, self._net, self._answered = desk, net, answered
        self._handed: dict[int, Order] = {}
        self._asked_at = 0.0
        self._number = 0
        self._again = True

    async def publish(
        self,
        key: Key,
        verb: str,
        body: bytes,
        *,
        door: Door = "commands",
        headers: dict[str, str] | None = None,  # noqa: ARG002 - the port's
    ) -> int:
        """Store a command."""
        return await self._say(lambda: self._desk.publish(key, verb, body, door))

    async def take(self, limit: int, wait: float) -> list[Order]:
        """Take commands."""
        if self._silent:
            self._handed.clear()
            self._again = True
        self._asked_at = asyncio.get_running_loop().time()
        again, self._again = self._again, True
        self._number += 1
        number = self._number
        taken = await self._say(
            lambda: self._desk.take(self, number, limit, wait, again=again),
            wait + ANSWER,
        )
        self._again = taken is None
        if taken is None:
            self._handed.clear()
            await asyncio.sleep(wait)
            return []
        new = [order for order in taken if order.position not in self._handed]
        self._handed.update({order.position: order for order in new})
        return new

    @property
    def _silent(self) -> bool:
        return asyncio.get_running_loop().time() > self._asked_at + PIN

    def holds(self, order: Order) -> bool:
        """Whether this handing out of it still counts, as far as we know."""
        return self._handed.get(order.position) is order and not self._silent

    async def done(self, order: Order) -> None:
        """Settle a command."""
        if self._handed.get(order.position) is not order:
            return
        await self._say(lambda: self._desk.done(order.position))
        if self._handed.get(order.position) is order:
            del self._handed[order.position]

    async def answer(self, user: str, command_id: str, body: bytes) -> None:
        """Tell whoever listens."""
        self._answered(user, command_id, body)

    def answers(
        self, user: str, command_id: str
    ) -> AbstractAsyncContextManager["asyncio.Queue[bytes]"]:
        """Nobody listens here: the world hears all answers."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let another client have the commands."""
        with suppress(Unavailable):
            await self._say(lambda: self._desk.unpin(self))

    async def _say(self, what: Callable[[], Awaitable[T]], wait: float = ANSWER) -> T:
        try:
            return await self._net.ask(what, wait)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return

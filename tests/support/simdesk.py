"""The commands of a simulation: one client is pinned, as by the real consumer."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import TypeVar

from simnet import ANSWER, Net

from events.errors import OutcomeUnknown, Unavailable
from events.inbox import Door, Inbox, Order
from events.names import Key

T = TypeVar("T")

PIN = 1.0
"""Seconds of silence after which another client gets the commands."""


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

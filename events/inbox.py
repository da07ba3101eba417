"""The port of commands: publish, take in order, answer.

Commands of one execution are taken by one client at a time (it is pinned,
others stand by), so they are handled in the order in which they were stored.
"""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from events.errors import InvalidInput
from events.names import MAX_MESSAGE, Key

Door = Literal["commands", "gateway"]
"""Where a command came in: on ``gateway`` its sender vouches for who asks."""

MAX_BODY = MAX_MESSAGE // 2
"""Bytes of a command's body: headers have room, and the commit made of it too."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One command as it was stored; ``key`` and ``verb`` are not checked yet.

    ``at`` is when it was stored, by the clock of whoever stored it.
    """

    door: Door
    key: Key
    verb: str
    body: bytes
    position: int
    headers: dict[str, str] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Inbox(ABC):
    """The log of commands, and the way back for answers.

    What was taken is this client's until it is ``done``, or until another client
    takes over; then it is handed out again, before all that is newer.
    """

    @abstractmethod
    async def publish(
        self,
        key: Key,
        verb: str,
        body: bytes,
        *,
        door: Door = "commands",
        headers: dict[str, str] | None = None,
    ) -> int:
        """Store a command and return its position; raises Unavailable.

        Raises InvalidInput if it is too large, before anything is sent.
        """

    @abstractmethod
    async def take(self, limit: int, wait: float) -> list[Order]:
        """Take up to ``limit`` commands in order; none only after ``wait`` seconds.

        None also while another client is the one that takes. Whoever is too busy to
        take must say so, by a ``limit`` of 0: that gives none at once, and it stays
        the one that takes. Raises Unavailable.
        """

    @abstractmethod
    def holds(self, order: Order) -> bool:
        """Whether this handing out of it still counts: it is not done or another's."""

    @abstractmethod
    async def done(self, order: Order) -> None:
        """Never hand it out again; raises Unavailable if not confirmed.

        Done twice, or what is another's by now: nothing happens.
        """

    @abstractmethod
    async def answer(self, user: str, command_id: str, body: bytes) -> None:
        """Tell whoever listens; raises Unavailable."""

    @abstractmethod
    def answers(
        self, user: str, command_id: str
    ) -> AbstractAsyncContextManager["asyncio.Queue[bytes]"]:
        """Listen for the answers to one command (``*``: all of the user's)."""

    @abstractmethod
    async def close(self) -> None:
        """Stop taking; another client may."""


def check_body(body: bytes) -> None:
    """Raise InvalidInput for a command that is too large."""
    if len(body) > MAX_BODY:
        raise InvalidInput(f"a command may have {MAX_BODY:,} bytes, not {len(body):,}")


class MemoryInbox(Inbox):
    """All in one process: the same promises, nothing stored."""

    def __init__(self) -> None:
        self._positions = itertools.count(1)
        self._orders: list[Order] = []
        self._open: dict[int, Order] = {}
        self._stirred = asyncio.Event()
        self._listeners: list[tuple[str, str, asyncio.Queue[bytes]]] = []

    async def publish(
        self,
        key: Key,
        verb: str,
        body: bytes,
        *,
        door: Door = "commands",
        headers: dict[str, str] | None = None,
    ) -> int:
        """Keep a command and return its position."""
        check_body(body)
        position = next(self._positions)
        self._orders.append(
            Order(
                door=door,
                key=key,
                verb=verb,
                body=body,
                position=position,
                headers=headers or {},
            )
        )
        self._stirred.set()
        return position

    async def take(self, limit: int, wait: float) -> list[Order]:
        """Take up to ``limit`` commands in order."""
        if limit and not self._orders:
            self._stirred.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._stirred.wait()
            except TimeoutError:
                return []
        taken, self._orders = self._orders[:limit], self._orders[limit:]
        self._open.update({order.position: order for order in taken})
        return taken

    def redeliver(self) -> None:
        """Hand out again what was taken and not done, before all that is newer."""
        again = [replace(order) for order in self._open.values()]
        self._orders = sorted([*again, *self._orders], key=lambda o: o.position)
        self._open.clear()
        self._stirred.set()

    def holds(self, order: Order) -> bool:
        """Whether this handing out of it still counts."""
        return self._open.get(order.position) is order

    async def done(self, order: Order) -> None:
        """Never hand it out again."""
        if self.holds(order):
            del self._open[order.position]

    async def answer(self, user: str, command_id: str, body: bytes) -> None:
        """Tell whoever listens."""
        for who, what, queue in self._listeners:
            if who == user and what in ("*", command_id):
                queue.put_nowait(body)

    @asynccontextmanager
    async def answers(
        self, user: str, command_id: str
    ) -> AsyncIterator[asyncio.Queue[bytes]]:
        """Listen for the answers to one command."""
        listener = (user, command_id, asyncio.Queue[bytes]())
        self._listeners.append(listener)
        try:
            yield listener[2]
        finally:
            self._listeners.remove(listener)

    async def close(self) -> None:
        """Nothing to let go."""

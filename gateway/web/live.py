"""The live edge: who may watch what, and how many at a time.

``sessions.py`` serves websockets and ``streams.py`` server-sent events; both get
their subscriptions here, so that neither can show anybody what is not theirs.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

from events.errors import LimitReached, NotFound, Unavailable
from events.names import Key, check_id
from events.state import State
from gateway.web.guard import Guard
from gateway.web.identity import Identity
from gateway.web.problems import Forbidden
from projections.feedcursor import Cursor
from projections.livefeed import LiveFeed
from projections.notices import of_standing
from projections.ring import Topic
from projections.standing import of_state
from services import metrics

PER_USER: Final = 100
"""Connections that one user may watch with: a tab each, and some programs."""

STARTING: Final = 10.0
"""Seconds that the first watchers wait for a gateway that has just been started."""

GOING: Final = 1001
"""The close code of a gateway that ends (RFC 6455)."""


ENDS: Final = "the gateway ends: come back with your last cursor"


class Watcher(Protocol):
    """A connection that watches."""

    def end(self, code: int, reason: str) -> None:
        """End it, saying why; asking twice is fine."""
        ...


class Live:
    """``feed`` is what is watched, ``guard`` says who may come in."""

    def __init__(
        self, feed: LiveFeed, guard: Guard, *, per_user: int = PER_USER
    ) -> None:
        self.feed, self.guard = feed, guard
        self._per_user = per_user
        self._watchers: dict[Watcher, str] = {}
        self._counts: Counter[str] = Counter()
        self._leaving = False

    @property
    def watching(self) -> int:
        """How many connections watch."""
        return len(self._watchers)

    @asynccontextmanager
    async def running(self, leaving: asyncio.Event) -> AsyncIterator[None]:
        """Read the feed as long as the block lasts; ``leaving`` ends who watches."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.feed.run()),
                group.create_task(self._until_leaving(leaving)),
            ]
            yield
            for task in tasks:
                task.cancel()

    async def _until_leaving(self, leaving: asyncio.Event) -> None:
        """Wait until the gateway is to end, then end every connection."""
        await leaving.wait()
        self._leaving = True
        for watcher in tuple(self._watchers):
            watcher.end(GOING, ENDS)

    def admit(self, watcher: Watcher, user: str) -> None:
        """Let a connection watch until ``dismiss``.

        Raises LimitReached, and Unavailable once the gateway is to end.
        """
        if self._leaving:
            raise Unavailable(ENDS)
        if self._counts[user] >= self._per_user:
            raise LimitReached(
                f"{self._per_user} connections watch for this user already: close "
                "some, one websocket carries many subscriptions",
                limit="connections",
            )
        self._counts[user] += 1
        self._watchers[watcher] = user
        metrics.watched(1)

    def dismiss(self, watcher: Watcher) -> None:
        """Watch no more; asking twice, or for one that never did, is fine."""
        user = self._watchers.pop(watcher, None)
        if user is not None:
            metrics.watched(-1)
            self._counts[user] -= 1
            if not self._counts[user]:
                del self._counts[user]

    async def ready(self) -> None:
        """Wait until the feed is there; raises Unavailable."""
        try:
            async with asyncio.timeout(STARTING):
                await self.feed.ready.wait()
        except TimeoutError as error:
            raise Unavailable("the live feed is not there yet: try again") from error


def one(who: Identity, execution: str, user: str | None) -> Key:
    """The execution that somebody names, if they may see it.

    Raises NotFound, as for one that is not there, and InvalidInput.
    """
    key = Key(who.user if user is None else user, execution)
    check_id(key.user, "user")
    check_id(key.execution, "execution")
    if not who.may_see(key):
        raise missing(key)
    return key


def missing(key: Key) -> NotFound:
    """What is said of an execution that is not there, or not for who asks."""
    return NotFound(f"there is no execution {key.execution}")


def everything(who: Identity, user: str | None) -> Topic:
    """All executions of a user, if they may be watched; raises Forbidden."""
    if who.execution is not None:
        raise Forbidden(f"this token is for the execution {who.execution} only")
    if user is None or user == who.user:
        return who.user
    if not who.admin:
        raise Forbidden("all executions of another user are for admins")
    return check_id(user, "user")


def user_of(topic: Topic) -> str:
    """Whose a topic is."""
    return topic.user if isinstance(topic, Key) else topic


def standing_of(key: Key, cursor: Cursor, state: State) -> bytes:
    """The message that tells which status an execution has."""
    at = state.updated_at or datetime.now(UTC)
    return of_standing(key, at, of_state(state), cursor)

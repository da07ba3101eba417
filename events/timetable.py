"""The port of recurring starts: how they are defined, and what came of them.

Of each schedule there are two parts. Its definition is written by whoever takes
commands; its revision is the position at which it was stored. What came of it is
written by whoever starts runs. Both are written on the condition that nobody else
wrote since they were read.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from events.errors import Conflict

Overlap = Literal["skip", "queue", "parallel"]
"""What becomes of a run whose time comes while the one before is not over."""

Missed = Literal["once", "skip"]
"""What becomes of runs whose time passed while nobody was there to start them."""

Outcome = Literal["started", "skipped", "queued", "missed"]

Name = tuple[str, str]
"""Whose schedule, and what it is called."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A start that recurs: by ``cron`` in ``zone``, or ``every`` so many seconds.

    ``start`` is the body of a start command. ``since`` is when it was defined
    (intervals count from it), ``at`` when this revision was made, by whom and by
    which command; ``applied`` are the last commands that made one. ``digest`` is
    that of the request. ``revision`` is given when it is stored.
    """

    user: str
    name: str
    start: dict[str, Any]
    cron: str = ""
    every: int = 0
    zone: str = "UTC"
    overlap: Overlap = "skip"
    missed: Missed = "once"
    paused: bool = False
    since: datetime
    at: datetime
    by: str
    cause: str
    applied: tuple[str, ...] = ()
    digest: str
    revision: int = 0

    def __str__(self) -> str:
        return f"schedule {self.user}/{self.name}"


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """Who removed a schedule, when, by which command; and what it was."""

    at: datetime
    by: str
    cause: str
    definition: Definition


class Ran(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a schedule, up to the time ``due``; ``next`` comes after it.

    ``revision`` is that of the definition which ``next`` and ``waiting`` follow
    from. ``execution`` is the last run, started for the time ``run_for``;
    ``begun`` once its start was accepted, ``problem`` says why it was not.
    ``waiting`` is the time of a run that starts when that one ends. ``position``
    is given when it is stored.
    """

    revision: int = 0
    due: datetime | None = None
    outcome: Outcome | None = None
    next: datetime | None = None
    execution: str = ""
    run_for: datetime | None = None
    begun: bool = False
    problem: str = ""
    waiting: datetime | None = None
    started: int = 0
    skipped: int = 0
    missed: int = 0
    position: int = 0


class Entry(NamedTuple):
    """All that is known of a schedule."""

    definition: Definition
    ran: Ran

    @property
    def current(self) -> bool:
        """Whether what came of it follows from the definition as it is now."""
        return self.ran.revision == self.definition.revision


class Timetable(ABC):
    """The schedules of all users; every method raises Unavailable."""

    @abstractmethod
    async def define(self, definition: Definition) -> Definition:
        """Store a definition and return it with its new revision.

        Its ``revision`` is the one that it replaces (0: none). Raises Conflict.
        """

    @abstractmethod
    async def record(self, name: Name, ran: Ran) -> Ran:
        """Store what came of a schedule and return it with its new position.

        Its ``position`` is the one that it replaces (0: none). Raises Conflict.
        """

    @abstractmethod
    async def remove(self, name: Name, removal: Removal) -> None:
        """Forget a schedule; who did it is kept for a while."""

    @abstractmethod
    async def removed(self, name: Name) -> Removal | None:
        """Return who removed one of that name, if it was lately."""

    @abstractmethod
    async def find(self, name: Name) -> Entry | None:
        """Return what is known of a schedule, never a stale answer."""

    @abstractmethod
    async def names(self, user: str | None = None) -> list[Name]:
        """Return which there are, all or a user's."""

    @abstractmethod
    def follow(self) -> AsyncGenerator[Sequence[Name], None]:
        """Yield which were defined or changed: first those there are, then live."""

    async def all(self, user: str | None = None) -> list[Entry]:
        """Return what is known of all, or of a user's, by name."""
        names = sorted(await self.names(user))
        found = await asyncio.gather(*map(self.find, names))
        return [entry for entry in found if entry is not None]


class MemoryTimetable(Timetable):
    """All in one process: the same promises, nothing stored."""

    def __init__(self) -> None:
        self._position = 0
        self._defined: dict[Name, Definition] = {}
        self._ran: dict[Name, Ran] = {}
        self._removed: dict[Name, Removal] = {}
        self._changes: list[Name] = []
        self._changed = asyncio.Condition()

    def _next(self, held: int, expected: int) -> int:
        if held != expected:
            raise Conflict(f"expected {expected}, but {held} is the last")
        self._position += 1
        return self._position

    async def define(self, definition: Definition) -> Definition:
        """Store a definition and return it with its new revision."""
        name = definition.user, definition.name
        known = self._defined.get(name)
        revision = self._next(known.revision if known else 0, definition.revision)
        stored = msgspec.structs.replace(definition, revision=revision)
        self._defined[name] = stored
        self._changes.append(name)
        async with self._changed:
            self._changed.notify_all()
        return stored

    async def record(self, name: Name, ran: Ran) -> Ran:
        """Store what came of a schedule and return it with its new position."""
        known = self._ran.get(name)
        position = self._next(known.position if known else 0, ran.position)
        self._ran[name] = msgspec.structs.replace(ran, position=position)
        return self._ran[name]

    async def remove(self, name: Name, removal: Removal) -> None:
        """Forget a schedule."""
        self._removed[name] = removal
        self._defined.pop(name, None)
        self._ran.pop(name, None)

    async def removed(self, name: Name) -> Removal | None:
        """Return who removed one of that name."""
        return self._removed.get(name)

    async def find(self, name: Name) -> Entry | None:
        """Return what is known of a schedule."""
        definition = self._defined.get(name)
        if definition is None:
            return None
        return Entry(definition, self._ran.get(name, Ran()))

    async def names(self, user: str | None = None) -> list[Name]:
        """Return which there are."""
        return [name for name in self._defined if user in (None, name[0])]

    async def follow(self) -> AsyncGenerator[Sequence[Name], None]:
        """Yield which were defined or changed."""
        seen = 0
        while True:
            new = self._changes[seen:]
            seen += len(new)
            if new:
                yield list(dict.fromkeys(new))
            async with self._changed:
                if len(self._changes) == seen:
                    await self._changed.wait()

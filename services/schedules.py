"""Recurring starts, as people ask for them: defined, paused, resumed, removed.

Lifecycle hands these commands on to here; what is decided is in the timetable,
with who asked for it and when. Whoever starts the runs stands in ``recurring.py``.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import msgspec

from events.errors import AlreadyExists, InvalidInput, NotAllowedNow, NotFound, TooLarge
from events.names import Key, check_id
from events.timetable import Definition, Entry, Name, Ran, Removal, Timetable
from services import occurrences
from services.handler import Clock, utc_now
from services.requests import (
    AboutSchedule,
    Answer,
    PauseSchedule,
    ResumeSchedule,
    Schedule,
    Start,
    Unschedule,
)

MAX_DEFINITION = 64 * 1024
"""Bytes of a definition: each of its revisions is kept."""

LAST = 16
"""Commands that are known of each schedule: who sends again does so soon."""


class Allowance(NamedTuple):
    """How often a schedule of a user may recur, in seconds; how many there may be."""

    least_interval: float = 1.0
    most: int = 100


ANYTHING = Allowance(0.0, 10**9)
"""Of a user of whom nothing more is known than what holds for all."""


class Asked(NamedTuple):
    """The command that asks, and by whom, as it is written down."""

    cause: str
    by: str


def _stricter(one: Allowance, other: Allowance) -> Allowance:
    """What both allow."""
    return Allowance(
        max(one.least_interval, other.least_interval), min(one.most, other.most)
    )


Check = Callable[[Start], object]
"""Raises what a start would be refused for."""


class Schedules:
    """Decides about schedules; ``allowances`` gives those of a user."""

    def __init__(
        self,
        timetable: Timetable,
        allowances: Callable[[str], Allowance] = lambda _user: Allowance(),
        clock: Clock = utc_now,
    ) -> None:
        self._timetable, self._allowances, self._clock = timetable, allowances, clock
        self._adding = asyncio.Lock()

    async def decide(
        self,
        key: Key,
        request: AboutSchedule,
        cause: str,
        check: Check,
        *,
        by: str | None = None,
        allowed: Allowance = ANYTHING,
    ) -> Answer:
        """Do what is asked and answer; raises Refused, Retryable.

        Asked twice, the second time it is already so. ``by`` asks, if it is not the
        user; ``allowed`` is what the user may beside what all may.
        """
        name = key.user, check_id(key.execution, "schedule")
        asked = Asked(cause, f"user:{by or key.user}")
        match request:
            case Schedule():
                least = _stricter(self._allowances(key.user), allowed)
                return await self._add(name, request, asked, check, least)
            case Unschedule():
                return await self._remove(name, asked)
            case PauseSchedule():
                return await self._switch(name, asked, paused=True)
            case ResumeSchedule():
                return await self._switch(name, asked, paused=False)
        raise InvalidInput(f"{request!r:.80} is nothing that schedules know")

    async def _add(
        self,
        name: Name,
        request: Schedule,
        asked: Asked,
        check: Check,
        allowed: Allowance,
    ) -> Answer:
        definition = self._defined(name, request, asked)
        occurrences.check(definition, allowed.least_interval)
        check(request.start)
        async with self._adding:  # or two at once might both be the last allowed
            known = await self._timetable.find(name)
            if known is None:
                await self._check_room(name[0], allowed.most)
                definition = await self._timetable.define(definition)
                return _answer(Entry(definition, Ran()), asked.cause)
        if known.definition.digest != definition.digest:
            raise AlreadyExists(
                f"there is another schedule {name[0]}/{name[1]}: remove it first, or "
                "choose another name"
            )
        return _answer(known, asked.cause)

    def _defined(self, name: Name, request: Schedule, asked: Asked) -> Definition:
        now = self._clock()
        definition = Definition(
            user=name[0],
            name=name[1],
            start=_body(request.start),
            cron=request.cron,
            every=request.every or 0,
            zone=request.time_zone,
            overlap=request.overlap,
            missed=request.missed,
            since=now.replace(microsecond=0),
            at=now,
            by=asked.by,
            cause=asked.cause,
            applied=(asked.cause,),
            digest=request.digest,
        )
        size = len(msgspec.json.encode(definition))
        if size > MAX_DEFINITION:
            raise TooLarge(
                f"a schedule may have {MAX_DEFINITION:,} bytes, not {size:,}: put the "
                "text into a file of the workspace and name the file"
            )
        return definition

    async def _check_room(self, user: str, most: int) -> None:
        there = len(await self._timetable.names(user))
        if there >= most:
            raise NotAllowedNow(
                f"{user} has {there} schedules and may have {most}: remove one first"
            )

    async def _remove(self, name: Name, asked: Asked) -> Answer:
        known = await self._timetable.find(name)
        before = await self._timetable.removed(name)
        if known is None and before is None:
            raise _not_found(name)
        if known is not None:
            if before is not None and _removed_before(before, known, asked):
                return _answer(known, asked.cause)
            removal = Removal(
                at=self._clock(),
                by=asked.by,
                cause=asked.cause,
                definition=known.definition,
            )
            await self._timetable.remove(name, removal)
        return Answer(
            command_id=asked.cause,
            execution=name[1],
            accepted=True,
            status="removed",
        )

    async def _switch(self, name: Name, asked: Asked, *, paused: bool) -> Answer:
        known = await self._timetable.find(name)
        if known is None:
            raise _not_found(name)
        applied = known.definition.applied
        if known.definition.paused == paused or asked.cause in applied:
            return _answer(known, asked.cause)
        changed = msgspec.structs.replace(
            known.definition,
            paused=paused,
            at=self._clock(),
            by=asked.by,
            cause=asked.cause,
            applied=(*applied, asked.cause)[-LAST:],
        )
        stored = await self._timetable.define(changed)
        return _answer(Entry(stored, known.ran), asked.cause)


def next_time(entry: Entry) -> datetime | None:
    """When a schedule is due next; None: it is paused."""
    definition, ran = entry
    if definition.paused:
        return None
    return (
        ran.next if entry.current else occurrences.following(definition, definition.at)
    )


def foreseen(entry: Entry) -> datetime | None:
    """The same, for who only looks: None, too, if this machine knows no such zone."""
    with suppress(InvalidInput):
        return next_time(entry)
    return None


def status(definition: Definition) -> str:
    """How a schedule stands, in a word."""
    return "paused" if definition.paused else "active"


def _answer(entry: Entry, cause: str) -> Answer:
    return Answer(
        command_id=cause,
        execution=entry.definition.name,
        accepted=True,
        position=entry.definition.revision,
        status=status(entry.definition),
        next=foreseen(entry),
    )


def _removed_before(removal: Removal, known: Entry, asked: Asked) -> bool:
    """Whether this command removed another, and what is there was made since.

    If it is the same, its removal was written down and then cut off.
    """
    same = removal.definition.revision == known.definition.revision
    return removal.cause == asked.cause and not same


def _not_found(name: Name) -> NotFound:
    return NotFound(f"there is no schedule {name[0]}/{name[1]}")


def _body(start: Start) -> dict[str, object]:
    """The start as the body of a command; raises InvalidInput for what recurs not."""
    for field in ("command_id", "idempotency_key", "run_at"):
        if getattr(start, field):
            raise InvalidInput(
                f"start.{field}: each run of a schedule has its own; leave it out"
            )
    body: dict[str, object] = msgspec.to_builtins(start)
    left_out = ("command_id", "idempotency_key")
    return {k: v for k, v in body.items() if v is not None and k not in left_out}

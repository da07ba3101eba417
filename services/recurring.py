"""Recurring starts: a timer for the next time, a run when it comes, and again.

What becomes of a time is decided from the timetable and written down before the
run is started; the run's id follows from schedule and time. So whoever is handed
the same timer again, after a crash or beside another reactor, does no more than
what is missing. A run is started as anybody starts one: by a command.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from hashlib import blake2b

import msgspec

from events import catalog as e
from events.commit import Recorded
from events.errors import Conflict, InvalidInput, Unavailable, WakeError
from events.inbox import Inbox
from events.names import Key, check_id
from events.timers import Timer, Timers
from events.timetable import Definition, Entry, Name, Outcome, Ran, Timetable
from services.handler import Handler
from services.occurrences import following
from services.requests import Answer
from services.schedules import next_time

logger = logging.getLogger(__name__)

LATE = timedelta(seconds=60)
"""How late a run may be and not count as missed: a restart takes less."""

ANSWER = 10.0
"""Seconds to wait for what lifecycle says to a start; then it is asked again."""

RETRY = 0.5
"""Seconds until what could not be done is tried again."""

ROUNDS = 20
"""Times a decision is made anew before giving up: each means that somebody won."""

replace = msgspec.structs.replace


class Recurring:
    """Looks after schedules; a part of the reactor. ``ring`` is for the timekeeper."""

    def __init__(
        self, handler: Handler, timetable: Timetable, timers: Timers, inbox: Inbox
    ) -> None:
        self._handler, self._timetable = handler, timetable
        self._timers, self._inbox = timers, inbox
        self._runs: dict[Key, Name] = {}
        self._stirred: asyncio.Queue[Name] = asyncio.Queue()
        self._acting = False

    def see(self, recorded: Recorded) -> None:
        """Note which executions are runs, and when one is over."""
        key = recorded.key
        if recorded.route == "finished":
            name = self._runs.pop(key, None)
            if name and self._acting:
                self._stirred.put_nowait(name)
            return
        for fact in recorded.commit.events:
            if isinstance(fact, e.Created) and "schedule" in fact.metadata:
                with contextlib.suppress(InvalidInput):  # anybody may write that
                    schedule = check_id(str(fact.metadata["schedule"]))
                    self._runs[key] = key.user, schedule

    async def run(self) -> None:
        """Arm what is defined, and start what waits for the end of a run."""
        self._acting = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            while True:
                name = await self._stirred.get()
                group.create_task(_seen_to(name, self._catch_up))

    async def _watch(self) -> None:
        """Arm each schedule that there is, and each that changes."""
        async with aclosing(self._timetable.follow()) as runs:
            async for run in runs:
                for name in run:
                    await _seen_to(name, self._arm_next)
                    self._stirred.put_nowait(name)

    async def _arm_next(self, name: Name) -> None:
        entry = await self._timetable.find(name)
        if entry is not None:
            await self._arm(entry)

    async def _catch_up(self, name: Name) -> None:
        """Start what was decided and not begun, or waits for a run that is over."""
        entry = await self._timetable.find(name)
        if entry is not None and entry.current and not entry.definition.paused:
            await self._start_waiting(await self._begin(entry))

    # ── a time has come ──────────────────────────────────────────────────────

    async def ring(self, timer: Timer) -> None:
        """Do what is due, once; raises Retryable to be asked again."""
        name = timer.user, timer.about
        for _ in range(ROUNDS):
            entry = await self._timetable.find(name)
            if entry is None or _outdated(entry, timer):
                return
            try:
                await self._ring(entry, timer.due)
            except Conflict:
                continue  # another reactor was first: see what is left to do
            return
        raise Conflict(f"schedule {name[0]}/{name[1]} changes too fast")

    async def _ring(self, entry: Entry, due: datetime) -> None:
        if not _decided(entry, due):
            entry = await self._decide(entry, due)
        # The run before may be over by now, so what waits for that is looked at again.
        entry = await self._start_waiting(await self._begin(entry))
        await self._arm(entry)

    async def _decide(self, entry: Entry, due: datetime) -> Entry:
        if entry.current:
            entry = await self._start_waiting(await self._begin(entry))
        busy = await self._busy(entry)
        ran = decided(entry, due, self._handler.clock(), busy=busy)
        logger.info("%s at %s: %s", entry.definition, due, ran.outcome)
        return await self._record(entry, ran)

    async def _busy(self, entry: Entry) -> bool:
        """Say whether the last run is not over."""
        if not entry.ran.begun:
            return False
        key = Key(entry.definition.user, entry.ran.execution)
        # Not what it says but where it went: that is known of one that is damaged,
        # or deleted in part, and those must not end the schedule.
        last = await self._handler.journal.last(key)
        return last is not None and last.route != "finished"

    async def _start_waiting(self, entry: Entry) -> Entry:
        """Start the run that waits, if the one before is over."""
        due = entry.ran.waiting
        if due is None or await self._busy(entry):
            return entry
        ran = _started(replace(entry.ran, waiting=None), entry.definition, due)
        return await self._begin(await self._record(entry, ran))

    async def _begin(self, entry: Entry) -> Entry:
        """Start the run that was decided on, and note what lifecycle said."""
        definition, ran = entry
        if ran.begun or ran.problem or ran.run_for is None:
            return entry
        answer = await self._ask(definition, ran.execution, ran.run_for)
        if not answer.accepted:
            logger.warning("%s: a run was refused: %s", definition, answer.message)
            return await self._record(entry, replace(ran, problem=answer.message))
        return await self._record(entry, replace(ran, begun=True))

    async def _ask(self, definition: Definition, run: str, due: datetime) -> Answer:
        """Send the command that starts a run, and wait for its answer."""
        user, command = definition.user, f"run-{run}"
        metadata = definition.start.get("metadata", {})
        named = {"schedule": definition.name, "due": due.isoformat()}
        body = {
            **definition.start,
            "command_id": command,
            "metadata": {**metadata, **named},
        }
        async with self._inbox.answers(user, command) as answers:
            await self._inbox.publish(
                Key(user, run), "start", msgspec.json.encode(body)
            )
            try:
                async with asyncio.timeout(ANSWER):
                    return msgspec.json.decode(await answers.get(), type=Answer)
            except TimeoutError as error:
                raise Unavailable(f"no answer to the start of {run}") from error

    async def _record(self, entry: Entry, ran: Ran) -> Entry:
        name = entry.definition.user, entry.definition.name
        return Entry(entry.definition, await self._timetable.record(name, ran))

    async def _arm(self, entry: Entry) -> None:
        due = next_time(entry)
        if due is not None:
            definition = entry.definition
            timer = Timer(
                user=definition.user,
                about=definition.name,
                kind="recurring",
                due=due,
                detail=str(definition.revision),
            )
            await self._timers.arm(timer)


def decided(entry: Entry, due: datetime, now: datetime, *, busy: bool) -> Ran:
    """What becomes of a time: pure. ``busy``: the run before is not over."""
    definition, ran = entry
    later = following(definition, due)
    if later is not None and later < now - LATE:
        later = following(definition, now)
    outcome = _outcome(entry, due, now, busy=busy)
    ran = replace(
        ran,
        revision=definition.revision,
        due=due,
        next=later,
        outcome=outcome,
        waiting=ran.waiting if entry.current else None,
    )
    match outcome:
        case "started":
            return _started(ran, definition, due)
        case "skipped":
            return replace(ran, skipped=ran.skipped + 1)
        case "missed":
            return replace(ran, missed=ran.missed + 1)
        case "queued":
            return replace(ran, waiting=due)


def _outcome(entry: Entry, due: datetime, now: datetime, *, busy: bool) -> Outcome:
    definition = entry.definition
    if definition.missed == "skip" and due < now - LATE:
        return "missed"
    if not busy or definition.overlap == "parallel":
        return "started"
    waits = entry.current and entry.ran.waiting is not None
    return "queued" if definition.overlap == "queue" and not waits else "skipped"


def _started(ran: Ran, definition: Definition, due: datetime) -> Ran:
    return replace(
        ran,
        execution=run_id(definition, due),
        run_for=due,
        begun=False,
        problem="",
        started=ran.started + 1,
    )


def run_id(definition: Definition, due: datetime) -> str:
    """Name the run of a schedule for a time: the same, whoever starts it."""
    since = definition.since.isoformat()
    name = f"{definition.user}\n{definition.name}\n{since}\n{due.isoformat()}"
    return blake2b(name.encode(), digest_size=16).hexdigest()


def _outdated(entry: Entry, timer: Timer) -> bool:
    """The schedule was changed since that timer was armed."""
    definition = entry.definition
    return definition.paused or timer.detail != str(definition.revision)


def _decided(entry: Entry, due: datetime) -> bool:
    """What becomes of that time was decided before."""
    return entry.current and entry.ran.due is not None and entry.ran.due >= due


async def _seen_to(name: Name, do: Callable[[Name], Awaitable[None]]) -> None:
    """Try until it is done, or cannot be."""
    while True:
        try:
            await do(name)
        except WakeError as error:
            logger.warning("schedule %s/%s: %s", *name, error)
            if error.final:
                return
            await asyncio.sleep(RETRY)
        else:
            return

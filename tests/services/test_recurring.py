"""Recurring starts: each time one run, whatever is lost; and what becomes of others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from clerks import START, Clerk, begin, clerk
from running import happened, order, start

from events import catalog as e
from events.commands import Cancel, Kill
from events.errors import Unavailable
from events.execution import Execution
from events.inbox import MemoryInbox
from events.memory import MemoryJournal
from events.names import Key
from events.timers import MemoryTimers
from events.timetable import Definition, Entry, MemoryTimetable, Ran
from services import recurring as module
from services import timers as keeping
from services.handler import Handler
from services.reactor import Reactor
from services.recurring import Recurring, decided, run_id
from services.schedules import Schedules, next_time
from services.timers import Timekeeper

NAME = ("ada", "report")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Faulty(MemoryTimetable):
    """Stores, and at one time does not say so: number ``fails`` of what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fails, self.asked = 0, 0

    async def record(self, name: tuple[str, str], ran: Ran) -> Ran:
        """Store it."""
        stored = await super().record(name, ran)
        self.asked += 1
        if self.asked == self.fails:
            raise Unavailable("no answer, on purpose")
        return stored


class Office:
    """A service whose clock is the test's; ``reactors`` of it may be many or none."""

    def __init__(self) -> None:
        self.now = NOON
        self.journal, self.inbox = MemoryJournal(), MemoryInbox()
        self.timetable = Faulty()
        self.timers = MemoryTimers(clock=lambda: self.now)
        self.schedules = Schedules(self.timetable, clock=lambda: self.now)
        self.to: Clerk

    def reactor(self) -> Reactor:
        """Make a reactor."""
        handler = Handler(self.journal, "reactor", lambda: self.now)
        recurring = Recurring(handler, self.timetable, self.timers, self.inbox)
        keeper = Timekeeper(handler, self.timers, recurring.ring)
        return Reactor(self.journal, [keeper, recurring])

    @asynccontextmanager
    async def lifecycle(self) -> AsyncIterator[None]:
        """Let commands be taken."""
        async with clerk(self.inbox, self.journal, schedules=self.schedules) as to:
            self.to = to
            yield

    @asynccontextmanager
    async def serving(self, reactors: int = 1) -> AsyncIterator[None]:
        """Serve."""
        async with self.lifecycle(), acting(*(self.reactor() for _ in range(reactors))):
            yield

    async def add(self, **more: Any) -> None:
        """Define a schedule: every quarter of an hour, if nothing else is said."""
        given = {"start": START, **({} if "cron" in more else {"every": 900}), **more}
        await self.to.send("schedule", Key(*NAME), **given)
        await so(lambda: NAME in self.timetable._defined)

    async def ask(self, verb: str) -> None:
        """Pause, resume or remove it."""
        before = self.timetable._position
        await self.to.send(verb, Key(*NAME))
        await so(
            lambda: (
                self.timetable._position > before or NAME not in self.timetable._defined
            )
        )

    async def quiet(self) -> None:
        """Wait until all that went off was acted on, and the next is armed."""

        def done() -> bool:
            armed = {timer.due for timer in self.timers._armed.values()}
            wanted = next_time(self.entry) if NAME in self.timetable._defined else None
            acted = not self.timers._rung and all(due > self.now for due in armed)
            return acted and (wanted is None or wanted in armed)

        self.timers.touch()
        await so(done)

    async def after(self, **delta: float) -> None:
        """Let time go on, and what is due happen."""
        await self.quiet()
        self.now += timedelta(**delta)
        self.timers._ring()
        await self.quiet()

    @property
    def entry(self) -> Entry:
        """What is known of the schedule."""
        ran = self.timetable._ran.get(NAME, Ran())
        return Entry(self.timetable._defined[NAME], ran)

    def runs(self) -> list[str]:
        """For which times runs were started, as hours and minutes."""
        return [
            f"{datetime.fromisoformat(run.metadata['due']):%H:%M}"
            for run in self.created()
        ]

    def created(self) -> list[e.Created]:
        """The starts of all runs."""
        facts = [f for r in self.journal._log for f in r.commit.events]
        return [f for f in facts if isinstance(f, e.Created) and f.metadata]

    async def end(self, count: int = -1) -> None:
        """End a run, by default the last."""
        run = list(dict.fromkeys(r.key for r in self.journal._log))[count]
        await order(self.journal, Cancel(), run)


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    """A service in memory; what cannot be done now is tried again at once."""
    monkeypatch.setattr(module, "RETRY", 0.001)
    monkeypatch.setattr(module, "ANSWER", 0.2)
    monkeypatch.setattr(keeping, "RETRY", 0.0)
    return Office()


@asynccontextmanager
async def acting(*reactors: Reactor) -> AsyncIterator[None]:
    """Run reactors."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one.run()) for one in reactors]
        for one in reactors:
            await one.ready.wait()
        yield
        for one in reactors:
            await one.stop()
        await asyncio.wait(running)


async def so(condition: Callable[[], object]) -> None:
    """Wait for a condition that nobody announces."""
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.001)


async def test_each_time_has_its_run(office: Office) -> None:
    """A start like any other, whose metadata names the schedule and the time."""
    async with office.serving():
        await office.add(start={**START, "metadata": {"ticket": 7}})
        for _ in range(3):
            await office.after(minutes=15)
            await office.end()
    assert office.runs() == ["12:15", "12:30", "12:45"]
    first = office.created()[0]
    assert first.input == START["input"]
    assert first.metadata == {
        "ticket": 7,
        "schedule": "report",
        "due": "2026-11-01T12:15:00+00:00",
    }
    started = office.journal._log[0]
    assert started.commit.by == "user:ada"
    due = datetime.fromisoformat(first.metadata["due"])
    assert started.key.execution == run_id(office.entry.definition, due)
    ran = office.entry.ran
    assert (ran.started, ran.outcome, ran.begun, ran.problem) == (
        3,
        "started",
        True,
        "",
    )


async def test_by_the_clock_of_a_zone(office: Office) -> None:
    """Nine in Berlin is eight o'clock in winter."""
    async with office.serving():
        await office.add(cron="0 9 * * *", time_zone="Europe/Berlin")
        await office.after(days=1)
    assert office.runs() == ["08:00"]


# ── the run before is not over ───────────────────────────────────────────────


async def test_skipped_while_the_run_before_goes_on(office: Office) -> None:
    """Counted; the first time after its end has a run again."""
    async with office.serving():
        await office.add(overlap="skip")
        for _ in range(3):
            await office.after(minutes=15)
        await office.end()
        await office.after(minutes=15)
    assert office.runs() == ["12:15", "13:00"]
    assert office.entry.ran.skipped == 2


async def test_queued_until_the_run_before_is_over(office: Office) -> None:
    """One waits, the first; those that come meanwhile are skipped."""
    async with office.serving():
        await office.add(overlap="queue")
        for _ in range(4):
            await office.after(minutes=15)
        assert office.runs() == ["12:15"]
        assert office.entry.ran.outcome == "skipped"
        await office.end()
        await so(lambda: len(office.runs()) == 2)
        await so(lambda: office.entry.ran.begun)
        await office.after(minutes=15)
    assert office.runs() == ["12:15", "12:30"]
    ran = office.entry.ran
    assert (ran.outcome, f"{ran.waiting:%H:%M}", ran.skipped) == ("queued", "13:15", 2)


async def test_what_waits_is_started_by_whoever_is_there_then(office: Office) -> None:
    """The run before ended while no reactor was there."""
    async with office.lifecycle():
        async with acting(office.reactor()):
            await office.add(overlap="queue")
            for _ in range(2):
                await office.after(minutes=15)
        await office.end()
        async with acting(office.reactor(), office.reactor()):
            await so(lambda: len(office.runs()) == 2)
            await so(lambda: office.entry.ran.begun)
    assert office.runs() == ["12:15", "12:30"]


async def test_in_parallel_whatever_goes_on(office: Office) -> None:
    """Each time has its run."""
    async with office.serving():
        await office.add(overlap="parallel")
        for _ in range(3):
            await office.after(minutes=15)
    assert office.runs() == ["12:15", "12:30", "12:45"]


async def test_a_run_that_was_deleted_is_over(office: Office) -> None:
    """Retention took it; it is not started again, and nothing waits for it."""
    async with office.serving():
        await office.add()
        await office.after(minutes=15)
        office.journal._histories.clear()
        await office.after(minutes=15)
    assert office.runs() == ["12:15", "12:30"]


@pytest.mark.parametrize("overlap", ["skip", "queue", "parallel"])
@pytest.mark.parametrize("purged", [True, False])
async def test_a_run_that_cannot_be_read_does_not_end_its_schedule(
    office: Office, overlap: str, *, purged: bool
) -> None:
    """Deleted in part, or damaged: whether it is over, its last commit tells."""
    async with office.serving():
        await office.add(overlap=overlap)
        await office.after(minutes=15)
        await office.end()
        first = office.journal._log[0]
        assert first is not None
        if purged:
            janitor = Handler(office.journal, "janitor")
            await janitor.handle(first.key, lambda run: run.purge("retention"))
        await office.journal._delete(first.position)
        await office.after(minutes=15)
        assert office.entry.ran.started == 2


# ── nobody was there ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("missed", "runs"), [("once", ["12:15", "14:15"]), ("skip", ["14:15"])]
)
async def test_what_was_missed_is_run_once_or_not_at_all(
    office: Office, missed: str, runs: list[str]
) -> None:
    """Down from before 12:15 until after 14:00; then it goes on as ever."""
    async with office.lifecycle():
        async with acting(office.reactor()):
            await office.add(missed=missed, overlap="parallel")
            await office.quiet()
        office.now += timedelta(minutes=123)
        async with acting(office.reactor()):
            await office.quiet()
            await office.after(minutes=12)
    assert office.runs() == runs
    assert office.entry.ran.missed == (missed == "skip")


@pytest.mark.parametrize("missed", ["once", "skip"])
async def test_less_than_a_minute_late_is_not_missed(
    office: Office, missed: str
) -> None:
    """A restart takes less; each of the times has its run."""
    async with office.lifecycle():
        async with acting(office.reactor()):
            await office.add(missed=missed, every=20, overlap="parallel")
            await office.quiet()
        office.now += timedelta(seconds=65)
        async with acting(office.reactor()):
            await office.quiet()
    assert len(office.runs()) == 3


async def test_defined_while_no_reactor_was_there(office: Office) -> None:
    """The next one arms it, also when its first time is past by then."""
    async with office.lifecycle():
        await office.add()
        office.now += timedelta(minutes=20)
        async with acting(office.reactor()):
            await office.quiet()
    assert office.runs() == ["12:15"]


async def test_a_lifecycle_that_is_away_is_waited_for(office: Office) -> None:
    """What is due stays due until it answers, and is started once."""
    async with acting(office.reactor()):
        async with office.lifecycle():
            await office.add()
            await office.quiet()
        office.now += timedelta(minutes=15)
        office.timers.touch()
        await so(lambda: len(office.inbox._orders) > 1)  # asked more than once
        async with office.lifecycle():
            await office.quiet()
    assert office.runs() == ["12:15"]


# ── once ─────────────────────────────────────────────────────────────────────


async def test_three_reactors_start_one_run_for_each_time(office: Office) -> None:
    """Also where one waits for the end of another."""
    async with office.serving(reactors=3):
        await office.add(overlap="queue")
        for number in range(1, 6):
            await office.after(minutes=15)
            await office.end()
            await so(lambda n=number: len(office.runs()) == n)
    assert office.runs() == ["12:15", "12:30", "12:45", "13:00", "13:15"]


@pytest.mark.parametrize("fails", range(1, 9))
@pytest.mark.parametrize("overlap", ["skip", "queue", "parallel"])
async def test_whatever_write_has_no_answer_each_time_has_one_run(
    office: Office, fails: int, overlap: str
) -> None:
    """It was stored; what follows from it is done by whoever is asked again."""
    office.timetable.fails = fails
    async with office.serving():
        await office.add(overlap=overlap)
        for number in range(1, 5):
            await office.after(minutes=15)
            await so(lambda n=number: len(office.runs()) == n)
            await so(lambda: office.entry.ran.begun)
            await office.end()
    assert office.runs() == ["12:15", "12:30", "12:45", "13:00"]
    assert office.entry.ran.started == 4


async def test_a_reactor_lost_before_it_started_what_it_wrote_down(
    office: Office,
) -> None:
    """The next one starts it."""
    async with office.lifecycle():
        async with acting(office.reactor()):
            await office.add()
            await office.quiet()
        due = NOON + timedelta(minutes=15)
        office.now = due + timedelta(seconds=1)
        lost = decided(office.entry, due, office.now, busy=False)
        await office.timetable.record(NAME, lost)
        office.timers._armed.clear()  # and with it the alarm that it had in hand
        async with acting(office.reactor()):
            await so(lambda: len(office.runs()) == 1)
            await office.after(minutes=15)
    assert office.runs() == ["12:15"]
    assert office.entry.ran.skipped == 1


# ── changed by people ────────────────────────────────────────────────────────


async def test_a_paused_schedule_starts_nothing(office: Office) -> None:
    """Not what its timer was armed for, and nothing is made up for later."""
    async with office.serving():
        await office.add()
        await office.after(minutes=15)
        await office.end()
        await office.ask("pause_schedule")
        await office.after(hours=2)
        assert office.runs() == ["12:15"]
        await office.ask("resume_schedule")
        await office.after(minutes=15)
    assert office.runs() == ["12:15", "14:30"]


async def test_paused_and_resumed_in_between_it_has_one_run(office: Office) -> None:
    """Two timers go off, and one of them is of another revision."""
    async with office.serving():
        await office.add()
        for verb in ("pause_schedule", "resume_schedule"):
            await office.after(minutes=5)
            await office.ask(verb)
        await office.after(minutes=5)
    assert office.runs() == ["12:15"]


async def test_a_pause_forgets_the_run_that_waits(office: Office) -> None:
    """What was started goes on."""
    async with office.serving():
        await office.add(overlap="queue")
        for _ in range(2):
            await office.after(minutes=15)
        await office.ask("pause_schedule")
        await office.end()
        await office.ask("resume_schedule")
        await office.after(minutes=15)
    assert office.runs() == ["12:15", "12:45"]


async def test_a_removed_schedule_starts_nothing(office: Office) -> None:
    """Its timer goes off and is ignored; one of that name is another one."""
    async with office.serving():
        await office.add()
        await office.after(minutes=5)
        await office.ask("unschedule")
        await office.after(minutes=10)
        assert office.runs() == []
        await office.add()
        await office.after(minutes=15)
    assert office.runs() == ["12:30"]


async def test_a_run_that_is_refused_is_told_and_the_next_is_tried(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent type was taken away, and comes back."""
    async with office.serving():
        await office.add()
        with changed_worker(monkeypatch):
            await office.after(minutes=15)
        assert office.entry.ran.problem == "no agent type 'worker'"
        await office.after(minutes=15)
    assert office.runs() == ["12:30"]
    assert office.entry.ran.problem == ""


@contextmanager
def changed_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the only agent type be unknown."""
    with monkeypatch.context() as patch:
        other = msgspec.structs.replace(clerks_worker(), name="other")
        patch.setattr("clerks.WORKER", other)
        yield


def clerks_worker() -> Any:
    """The only agent type."""
    from clerks import WORKER  # noqa: PLC0415 - as it is now

    return WORKER


@pytest.mark.parametrize("said", ["report", "nope", "a.b.>", "", 7, None, ["x"]])
async def test_who_says_to_be_a_run_and_is_none_changes_nothing(
    office: Office, said: Any
) -> None:
    """Anybody may write anything into metadata."""
    async with office.serving():
        await office.add(overlap="queue")
        for _ in range(2):
            await office.after(minutes=15)
        other = Key("ada", "impostor")
        await start(office.journal, other, metadata={"schedule": said})
        await Handler(office.journal, "r").handle(other, begin)
        await order(office.journal, Kill(), other)
        await happened(office.journal, e.Cancelled, other)
        await office.after(minutes=1)
    assert [r for r in office.entry.ran.execution if r] != []
    assert office.entry.ran.run_for == NOON + timedelta(minutes=15)


# ── the decision itself ──────────────────────────────────────────────────────


def entry(ran: Ran | None = None, **more: Any) -> Entry:
    """A schedule of every quarter of an hour."""
    given: dict[str, Any] = {
        "user": "ada", "name": "report", "start": {}, "every": 900, "since": NOON,
        "at": NOON, "by": "x", "cause": "c", "digest": "d", "revision": 1,
    }  # fmt: skip
    return Entry(Definition(**{**given, **more}), ran or Ran(revision=1))


def at(hour: int, minute: int) -> datetime:
    """A time of that day."""
    return NOON.replace(hour=hour, minute=minute)


def test_after_a_long_silence_it_goes_on_with_the_next_time_to_come() -> None:
    """Not with all those that passed."""
    ran = decided(entry(), at(12, 15), at(16, 20), busy=False)
    assert ran.next == at(16, 30)


def test_what_is_late_by_less_than_a_minute_keeps_the_next() -> None:
    """Even if that is due already."""
    ran = decided(entry(every=10), NOON, NOON + timedelta(seconds=45), busy=False)
    assert ran.next == NOON + timedelta(seconds=10)


def test_what_waits_is_of_this_revision_or_forgotten() -> None:
    """A pause lies between."""
    stale = Ran(revision=7, waiting=at(12, 0))
    ran = decided(entry(stale, overlap="queue"), at(12, 15), at(12, 15), busy=True)
    assert (ran.outcome, ran.waiting, ran.revision) == ("queued", at(12, 15), 1)


def test_runs_have_ids_of_their_own() -> None:
    """By user, schedule, when that was defined, and time."""
    one = entry().definition
    others = [
        entry(user="bob").definition,
        entry(name="other").definition,
        entry(since=at(12, 1)).definition,
    ]
    ids = {run_id(plan, at(12, 15)) for plan in (one, *others)}
    assert len(ids | {run_id(one, at(12, 30))}) == 5
    assert run_id(entry(paused=True).definition, at(12, 15)) in ids


async def test_a_run_is_an_execution_like_any_other(office: Office) -> None:
    """It can be paused, cancelled, and asked for."""
    async with office.serving():
        await office.add()
        await office.after(minutes=15)
        run = office.journal._log[0].key
        await order(office.journal, Cancel(), run)
        history = await office.journal.read(run)
    assert Execution.fold(run, history).state.status == "cancelled"

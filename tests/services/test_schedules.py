"""Schedules by command: defined, paused, resumed, removed; and what is refused."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clerks import START, Clerk, clerk
from inboxes import JetStreamBox
from msgspec.structs import replace
from nats_server import NatsServer
from timetables import JetStreamTable, Table

from events.errors import Unavailable
from events.inbox import MemoryInbox
from events.names import Key
from events.timetable import Definition, MemoryTimetable, Name, Removal
from services import lifecycle
from services.requests import Answer
from services.schedules import LAST, Allowance, Schedules

KEY = Key("ada", "report")
NINE = {"start": START, "cron": "0 9 * * 1-5", "time_zone": "Europe/Berlin"}


class Desk:
    """A clerk who speaks of schedules, and where they are kept."""

    def __init__(self, to: Clerk, table: Table) -> None:
        self.to, self.timetable = to, table.timetable

    async def ask(self, verb: str, name: str = KEY.execution, **body: Any) -> Answer:
        """Send a command about a schedule."""
        return await self.to.ask(verb, Key(KEY.user, name), **body)

    async def add(self, name: str = KEY.execution, **more: Any) -> Answer:
        """Define one: at nine on working days, unless something else is said."""
        return await self.ask("schedule", name, **{**NINE, **more})

    async def definition(self) -> Definition:
        """How it is kept."""
        entry = await self.timetable.find(KEY)
        assert entry is not None
        return entry.definition


def bounds(user: str) -> Allowance:
    """What each user may have."""
    return Allowance(60.0, 3) if user == "free" else Allowance(1.0, 5)


@pytest.fixture
async def desk(table: Table, nats_server: NatsServer) -> AsyncIterator[Desk]:
    """A lifecycle that keeps schedules, in memory and on a real server."""
    schedules = Schedules(table.timetable, bounds)
    if not isinstance(table, JetStreamTable):
        async with clerk(MemoryInbox(), schedules=schedules) as to:
            yield Desk(to, table)
        return
    async with JetStreamBox.empty(nats_server.url) as box:
        theirs = await box.client()
        async with clerk(theirs, to_inbox=box.inbox, schedules=schedules) as to:
            yield Desk(to, table)


async def test_a_schedule_is_answered_with_its_next_time(desk: Desk) -> None:
    """And kept with who asked for it, when, and by which command."""
    before = datetime.now(UTC)
    answer = await desk.add(command_id="cmd-x")
    assert (answer.accepted, answer.execution, answer.status) == (
        True,
        "report",
        "active",
    )
    assert answer.next is not None
    assert before < answer.next < before + timedelta(days=4)
    assert answer.next.minute == 0
    kept = await desk.definition()
    assert (kept.by, kept.cause, kept.revision) == (
        "user:ada",
        "cmd-x",
        answer.position,
    )
    assert before <= kept.at <= datetime.now(UTC)
    assert kept.start == {**START, "limits": kept.start["limits"], "metadata": {}}
    assert (kept.cron, kept.zone) == (NINE["cron"], NINE["time_zone"])


async def test_asked_for_twice_it_is_one(desk: Desk) -> None:
    """By the same command or by another; a different one is refused."""
    first = await desk.add()
    assert (await desk.add()).position == first.position
    assert (await desk.add(cron="0 10 * * 1-5")).code == "already_exists"
    assert (await desk.definition()).cron == "0 9 * * 1-5"


async def test_a_pause_and_a_resume(desk: Desk) -> None:
    """Each is a revision; what is so already changes nothing."""
    added = await desk.add()
    paused = await desk.ask("pause_schedule")
    assert (paused.status, paused.next) == ("paused", None)
    assert paused.position > added.position
    assert (await desk.ask("pause_schedule")).position == paused.position
    resumed = await desk.ask("resume_schedule", command_id="cmd-r")
    assert resumed.status == "active"
    assert resumed.next is not None
    assert (await desk.ask("resume_schedule")).position == resumed.position
    assert (await desk.definition()).cause == "cmd-r"


async def test_a_command_that_took_effect_has_none_when_it_comes_again(
    desk: Desk,
) -> None:
    """Whatever came between: a late repetition undoes nothing that followed it."""
    await desk.add()
    for verb in ("pause_schedule", "resume_schedule", "pause_schedule"):
        answer = await desk.ask(verb, command_id=f"cmd-{verb}")
        assert answer.accepted
    assert (answer.status, (await desk.definition()).paused) == ("active", False)
    await desk.ask("unschedule", command_id="cmd-u")
    await desk.add()
    assert (await desk.ask("unschedule", command_id="cmd-u")).status == "active"
    assert not (await desk.definition()).paused
    assert (await desk.ask("unschedule", command_id="cmd-v")).status == "removed"


async def test_of_the_commands_of_a_schedule_the_last_are_kept(desk: Desk) -> None:
    """However often it is paused and resumed, it stays small."""
    await desk.add(command_id="cmd-0")
    for number in range(1, 2 * LAST, 2):
        await desk.ask("pause_schedule", command_id=f"cmd-{number}")
        await desk.ask("resume_schedule", command_id=f"cmd-{number + 1}")
    kept = (await desk.definition()).applied
    assert kept == tuple(f"cmd-{n}" for n in range(LAST + 1, 2 * LAST + 1))


async def test_a_removed_schedule_is_gone(desk: Desk) -> None:
    """It may be removed twice, and defined anew."""
    await desk.add()
    for _ in range(2):
        assert (await desk.ask("unschedule", command_id="cmd-u")).status == "removed"
    removal = await desk.timetable.removed(KEY)
    assert removal is not None
    assert (removal.by, removal.cause) == ("user:ada", "cmd-u")
    assert (await desk.ask("pause_schedule")).code == "not_found"
    assert (await desk.add(cron="0 10 * * 1-5")).accepted


@pytest.mark.parametrize("verb", ["unschedule", "pause_schedule", "resume_schedule"])
async def test_what_is_not_there_is_not_found(desk: Desk, verb: str) -> None:
    """Nor is that of another user."""
    await desk.timetable.define(definition_of("bob"))
    answer = await desk.ask(verb)
    assert (answer.code, answer.message) == (
        "not_found",
        "there is no schedule ada/report",
    )


def definition_of(user: str) -> Definition:
    """One of somebody else."""
    now = datetime.now(UTC)
    return Definition(
        user=user, name="report", start={}, every=60, since=now, at=now,
        by="x", cause="c", digest="d",
    )  # fmt: skip


async def test_there_is_an_end_to_how_many_a_user_may_have(desk: Desk) -> None:
    """All asked for at once; one that is removed makes room."""
    sent = [
        await desk.to.send("schedule", Key("ada", f"s{n}"), **NINE) for n in range(8)
    ]
    answers = {(a := await desk.to.hear()).command_id: a for _ in sent}
    refused = [a for a in answers.values() if not a.accepted]
    assert len(refused) == 3
    assert refused[0].code == "not_allowed_now"
    assert refused[0].message == "ada has 5 schedules and may have 5: remove one first"
    there = await desk.timetable.names("ada")
    assert (await desk.add(there[0][1])).accepted  # which it is already
    await desk.ask("unschedule", there[0][1])
    assert (await desk.add("one-more")).accepted


REFUSED = [
    ({"cron": "nonsense"}, "write MINUTE HOUR DAY MONTH WEEKDAY"),
    ({"cron": "x" * 129}, "at `$.cron`"),
    ({"cron": None}, "at `$.cron`"),
    ({"cron": ""}, "either cron or every"),
    ({"every": 60}, "either cron or every"),
    ({"cron": "", "every": 60}, "an interval has no time zone"),
    ({"cron": "", "every": 0, "time_zone": "UTC"}, "at `$.every`"),
    ({"cron": "", "every": -5, "time_zone": "UTC"}, "at `$.every`"),
    ({"cron": "", "every": 0.5, "time_zone": "UTC"}, "at `$.every`"),
    ({"cron": "", "every": 10**12, "time_zone": "UTC"}, "at `$.every`"),
    ({"time_zone": "Europe/Berln"}, "did you mean Europe/Berlin?"),
    ({"time_zone": "x" * 65}, "at `$.time_zone`"),
    ({"time_zone": "../../etc/passwd"}, "no time zone '../../etc/passwd'"),
    ({"overlap": "maybe"}, "at `$.overlap`"),
    ({"missed": 1}, "at `$.missed`"),
    ({"start": None}, "at `$.start`"),
    ({"start": {}}, "missing required field `agent_type`"),
    ({"start": {**START, "agent_type": "nobody"}}, "no agent type 'nobody'"),
    ({"start": {**START, "workspace": "/etc"}}, "workspace"),
    ({"start": {**START, "limits": {"max_steps": 99}}}, "is more than this agent"),
    ({"start": {**START, "idempotency_key": "k"}}, "start.idempotency_key: each run"),
    ({"start": {**START, "command_id": "c"}}, "start.command_id: each run"),
    ({"start": {**START, "run_at": "2030-01-01T00:00:00Z"}}, "start.run_at: each run"),
    ({"start": {**START, "input": "x" * 70_000}}, "may have 65,536 bytes"),
    ({"start": {**START, "metadata": {"m": [[[[]]]] * 20_000}}}, "65,536 bytes"),
    ({"tz": "UTC"}, "unknown field `tz`"),
]


@pytest.mark.parametrize(("wrong", "said"), REFUSED)
async def test_what_makes_no_sense_is_refused_whole(
    desk: Desk, wrong: dict[str, Any], said: str
) -> None:
    """It says what to change, and nothing is kept."""
    answer = await desk.add(**wrong)
    assert not answer.accepted
    assert said in answer.message
    assert await desk.timetable.names() == []


async def test_metadata_has_an_end_to_its_depth(desk: Desk) -> None:
    """As that of a start."""
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    answer = await desk.add(start={**START, "metadata": {"m": deep}})
    assert answer.message == "schedule: start.metadata has more than 64 levels"


@pytest.mark.parametrize("name", ["a b", "ü", "x" * 65, "$x"])
async def test_a_name_that_is_none_is_refused(desk: Desk, name: str) -> None:
    """One with a dot has no subject at all."""
    if isinstance(desk.timetable, MemoryTimetable):  # a server would not take some
        answer = await desk.add(name)
        assert answer.message.startswith(
            f"schedule {name!r} is not allowed: use 1 to 64"
        )


async def test_a_user_of_a_tier_has_bounds_of_its_own() -> None:
    """No schedule per second for a user on the free tier."""
    schedules = Schedules(MemoryTimetable(), bounds)
    async with clerk(user="free", schedules=schedules) as to:
        key, every = Key("free", "fast"), {"start": START, "time_zone": "UTC"}
        answer = await to.ask("schedule", key, every=1, **every)
        assert answer.code == "invalid_input"
        assert "you may have one run every 60 s" in answer.message
        assert (await to.ask("schedule", key, every=60, **every)).accepted


class Reluctant(MemoryTimetable):
    """Stores, and does not say so the first time."""

    silent = True

    async def define(self, definition: Definition) -> Definition:
        """Store it; silent at first."""
        stored = await super().define(definition)
        if self.silent:
            self.silent = False
            raise Unavailable("no answer, on purpose")
        return stored


async def test_a_definition_of_unknown_outcome_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is there, and that is the answer."""
    monkeypatch.setattr(lifecycle, "PAUSES", (0.001,) * 100)
    async with clerk(schedules=Schedules(Reluctant())) as to:
        assert (await to.ask("schedule", KEY, **NINE)).accepted


class Halting(MemoryTimetable):
    """Writes down a removal, and is out of reach before it takes effect."""

    halts = True

    async def remove(self, name: Name, removal: Removal) -> None:
        """Remove it; not at first."""
        if self.halts:
            self.halts, self._removed[name] = False, removal
            raise Unavailable("no answer, on purpose")
        await super().remove(name, removal)


async def test_a_removal_that_was_cut_off_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command comes again, and the schedule that it is about is there still."""
    monkeypatch.setattr(lifecycle, "PAUSES", (0.001,) * 100)
    timetable = Halting()
    async with clerk(schedules=Schedules(timetable)) as to:
        assert (await to.ask("schedule", KEY, **NINE)).accepted
        assert (await to.ask("unschedule", KEY)).status == "removed"
    assert await timetable.names() == []


async def test_what_took_effect_is_not_said_to_be_refused() -> None:
    """Though this machine does not know the zone of the schedule."""
    timetable = MemoryTimetable()
    definition = definition_of(KEY.user)
    elsewhere = replace(definition, every=0, cron="0 9 * * *", zone="Mars/Base")
    await timetable.define(elsewhere)
    async with clerk(schedules=Schedules(timetable)) as to:
        for verb, status in (("pause", "paused"), ("resume", "active")):
            answer = await to.ask(f"{verb}_schedule", KEY)
            assert (answer.accepted, answer.status, answer.next) == (True, status, None)


async def test_without_a_timetable_it_is_refused() -> None:
    """With the reason."""
    async with clerk() as to:
        answer = await to.ask("schedule", KEY, **NINE)
    assert (answer.code, answer.accepted) == ("misconfigured", False)

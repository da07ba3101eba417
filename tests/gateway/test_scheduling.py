"""Starts at a time and schedules, as the commands that users type."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import waking
from serving import embedded
from timetables import definition
from waking import facts, wake

from events.names import EVENTS, Key, commit_subject
from events.state import Status
from events.tablestream import JetStreamTimetable
from events.wire import Wire
from gateway import address, timetable
from gateway.composition import connect

TICK = "script:\nsay tick\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which ``wake up`` serves; its data is in ``data``."""
    folder = tmp_path_factory.mktemp("served")
    with embedded(folder):
        yield folder


def there(cwd: Path, *arguments: str) -> waking.Ended:
    """Run ``wake`` on what is served there."""
    return wake(cwd, *arguments, "--data", "data")


def rows(cwd: Path) -> dict[str, Any]:
    """What ``wake schedule ls`` tells, by name."""
    ended = there(cwd, "schedule", "ls", "--json")
    assert ended.code == 0, ended.err
    found = [json.loads(line) for line in ended.out.splitlines()]
    return {row["name"]: row for row in found}


def runs(cwd: Path, name: str) -> list[str]:
    """The executions that a schedule started, in their order."""
    listed = there(cwd, "ls", "--meta", f"schedule={name}", "--asc", "--json")
    assert listed.code == 0, listed.err
    return [json.loads(line)["id"] for line in listed.out.splitlines()]


def test_a_start_in_a_moment_begins_then(served: Path) -> None:
    """When its time has come, and not before."""
    started = there(served, "start", TICK, "--in", "1s", "--workspace", ".")
    execution = started.out.strip()
    assert there(served, "watch", execution, "--json").last["status"] == "completed"
    history = waking.history(served, execution, "--data", "data")
    kinds = [fact["type"] for fact in facts(history)]
    assert kinds[:3] == ["created.v1", "event_received.v1", "started.v1"]
    created, due = history[0], history[1]
    at = datetime.fromisoformat(created["events"][0]["scheduled_for"])
    assert datetime.fromisoformat(due["at"]) >= at


def test_a_start_far_away_can_be_looked_at_and_cancelled(served: Path) -> None:
    """It says when it starts."""
    execution = there(served, "start", TICK, "--at", "2030-01-07T09:00+01:00").out
    shown = there(served, "show", execution.strip()).out
    assert "it starts at 2030-01-07 08:00:00 UTC" in shown
    assert there(served, "cancel", execution.strip(), "--json").last["accepted"]


def test_a_schedule_runs_again_and_again(served: Path) -> None:
    """Added, listed, paused, resumed, removed."""
    add = ("schedule", "add", "tick", TICK, "--every", "2s", "--workspace", ".")
    added = there(served, *add)
    assert added.code == 0, added.err
    assert "tick is active, next run 20" in added.out
    while rows(served)["tick"]["started"] < 2:
        pass
    paused = there(served, "schedule", "pause", "tick", "--json").last
    assert (paused["status"], "next" in paused) == ("paused", False)
    row = rows(served)["tick"]
    assert (row["status"], row["next"], row["when"]) == ("paused", None, "every 2 s")
    assert row["started"] >= 2
    assert there(served, "schedule", "resume", "tick", "--json").last["next"]
    assert there(served, "schedule", "rm", "tick").out == "tick is removed\n"
    assert "tick" not in rows(served)
    found = runs(served, "tick")
    assert len(found) >= row["started"]
    for execution in found[:2]:
        assert there(served, "watch", execution, "--json").last["output"] == "tick"


def test_a_run_that_is_damaged_hides_no_schedule(served: Path) -> None:
    """It is told of that one; the others are listed."""
    add = ("schedule", "add", "hurt", TICK, "--every", "1s", "--workspace", ".")
    assert there(served, *add).code == 0
    while not rows(served)["hurt"]["started"]:
        pass
    there(served, "schedule", "pause", "hurt")
    run = rows(served)["hurt"]["execution"]
    assert there(served, "watch", run).code == 0
    damage(served, run)
    assert rows(served)["hurt"]["run_status"] == "cannot be read"
    assert there(served, "schedule", "rm", "hurt").code == 0


@pytest.mark.parametrize("status", get_args(Status))
def test_the_columns_of_a_list_stand_under_each_other(status: Status) -> None:
    """However the last run stands."""
    row = timetable.Row(
        name="n",
        user="local",
        when="every 5 s",
        status="active",
        overlap="skip",
        missed="once",
        next=None,
        last=None,
        outcome="started",
        execution="e",
        run_status=status,
        started=1,
        skipped=0,
        times_missed=0,
        by="user:local",
        changed=datetime.now(UTC),
    )
    heads, line = timetable._table([row])
    assert heads.index("WHEN") == line.index("every 5 s")


def test_a_zone_that_is_unknown_here_hides_no_schedule(served: Path) -> None:
    """As on a machine with an older database: when it comes next is left open."""
    plan = definition("mars", "local", cron="0 9 * * *", zone="Mars/Olympus")

    async def store(wire: Wire) -> None:
        await JetStreamTimetable(wire).define(plan)

    on_the_wire(served, store)
    row = rows(served)["mars"]
    assert (row["next"], row["when"]) == (None, "0 9 * * * Mars/Olympus")
    assert there(served, "schedule", "rm", "mars").code == 0


def damage(cwd: Path, execution: str) -> None:
    """Lose the first commit of an execution."""

    async def lose(wire: Wire) -> None:
        subject = commit_subject(Key("local", execution), "agents")
        query = json.dumps({"last_by_subj": subject}).encode()
        found = await wire.request(f"$JS.API.STREAM.MSG.GET.{EVENTS}", query)
        lost = {"seq": json.loads(found.data)["message"]["seq"]}
        api = f"$JS.API.STREAM.MSG.DELETE.{EVENTS}"
        await wire.request(api, json.dumps(lost).encode())

    on_the_wire(cwd, lose)


def on_the_wire(cwd: Path, do: Callable[[Wire], Awaitable[None]]) -> None:
    """Do something on the server of a folder, past all commands."""

    async def main() -> None:
        login = address.read(cwd / "data")
        assert login is not None
        wire = await connect(login)
        try:
            await do(wire)
        finally:
            await wire.close()

    asyncio.run(main())


def test_a_schedule_by_the_clock_of_a_zone(served: Path) -> None:
    """As people read it, and as programs do."""
    add = ("schedule", "add", "nine", "Report.", "--cron", "0 9 * * *")
    assert there(served, *add, "--tz", "Asia/Tokyo").code == 0
    row = rows(served)["nine"]
    following = datetime.fromisoformat(row["next"])
    assert (following.hour, following.utcoffset()) == (0, UTC.utcoffset(None))
    assert row["when"] == "0 9 * * * Asia/Tokyo"
    assert (row["by"], row["last"], row["execution"]) == ("user:local", None, "")
    line = there(served, "schedule", "ls").out.splitlines()[1]
    assert line.startswith("nine ")
    assert line.endswith("0 9 * * * Asia/Tokyo")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bad", "x"), "either cron or every"),
        (
            ("bad", "x", "--cron", "0 9 * * 1-5", "--every", "5m"),
            "either cron or every",
        ),
        (("bad", "x", "--cron", "nonsense"), "has 1 fields, not 5"),
        (("bad", "x", "--cron", "61 * * * *"), "bad minute"),
        (("bad", "x", "--every", "0s"), "every"),
        (("bad", "x", "--every", "soon"), "write a time as 90s, 30m, 2h, 1d"),
        (("bad", "x", "--cron", "0 9 * * *", "--tz", "Mars"), "no time zone 'Mars'"),
        (("bad", "x", "--every", "5m", "--tz", "Europe/Rome"), "no time zone: leave"),
        (("bad", "x", "--every", "5m", "--overlap", "maybe"), "$.overlap"),
        (("bad", "x", "--every", "5m", "--missed", "twice"), "$.missed"),
        (("bad", "x", "--every", "5m", "--agent", "nobody"), "no agent type 'nobody'"),
        (("bad", "x", "--every", "5m", "--workspace", "/etc"), "workspace"),
        (("a.b", "x", "--every", "5m"), "schedule 'a.b' is not allowed"),
        (("", "x", "--every", "5m"), "schedule '' is not allowed"),
        (("bad", "", "--every", "5m"), "input"),
    ],
)
def test_what_makes_no_sense_is_refused(
    served: Path, arguments: tuple[str, ...], said: str
) -> None:
    """In a line, with the exit code of wrong input; nothing is added."""
    ended = there(served, "schedule", "add", *arguments)
    assert ended.code == 2, ended.err
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not {"bad", "a.b"} & rows(served).keys()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--at", "2020-01-01T00:00Z"), "is past, it was 20"),
        (("--at", "2030-01-01T00:00"), "has no zone: add it"),
        (("--at", "never"), "is no time"),
        (("--in", "2 hours"), "write a time as"),
        (("--in", "9999d"), "more than ten years away"),
        (("--in", "2h", "--at", "2030-01-01T00:00Z"), "say the same"),
    ],
)
def test_a_time_that_makes_no_sense_is_refused(
    served: Path, flags: tuple[str, ...], said: str
) -> None:
    """In a line that says what to change."""
    ended = there(served, "start", "x", *flags)
    assert ended.code == 2, ended.err
    assert said in ended.err


@pytest.mark.parametrize("verb", ["rm", "pause", "resume"])
def test_what_is_not_there_cannot_be_changed(served: Path, verb: str) -> None:
    """It says so."""
    ended = there(served, "schedule", verb, "nope")
    assert ended.code == 2
    assert "there is no schedule local/nope" in ended.err


def test_without_schedules_it_says_how_to_add_one(tmp_path: Path) -> None:
    """On a folder where nobody serves, and nobody ever served schedules."""
    assert wake(tmp_path, "run", TICK, "--json").code == 0
    ended = wake(tmp_path, "schedule", "ls")
    assert (ended.code, ended.err) == (0, "")
    assert "add one with wake schedule add NAME" in ended.out

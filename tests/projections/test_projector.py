"""The projector: what is appended can be asked for, exactly, whatever happens."""

import asyncio
import stat
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from histories import Story, call
from lifelike import interleaved
from readmodels import (
    PATIENCE,
    Logs,
    append,
    ask,
    drift,
    projecting,
    raws,
    settled,
    subject_of,
    verified,
)

from events import cloudevents
from events.commands import Retry
from events.errors import FolderInUse, NotAllowedNow, Unavailable
from events.messages import Usage
from events.names import EVENTS, Key
from events.rawlog import Raw
from events.timetable import Definition, Ran
from events.triggers import Posted
from projections import follower
from projections.fold import ENDED
from projections.projector import Projector


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where the read model is."""
    return tmp_path / "model" / "readmodel.duckdb"


def inode(path: Path) -> int:
    """Which file it is."""
    return path.stat().st_ino


def told(name: str, user: str = "ada") -> Story:
    """A history that ended well, with two steps and two calls."""
    story = Story(Key(user, name))
    story.running()
    story.wait(1)
    story.respond(call("a"), call("b"), usage=Usage(input=10, output=5), cost=0.25)
    story.finish("a", "b")
    story.respond(text="Done.")
    return story


async def test_what_was_appended_can_be_asked_for(model: Path) -> None:
    """Rows follow the log while it grows, and are what the execution says."""
    logs = Logs.empty()
    async with projecting(model, logs) as projector:
        story = Story(Key("ada", "one"))
        story.running()
        await append(logs, story)
        await settled(projector)
        found = await ask(projector, 'SELECT "user", status FROM executions')
        assert found == [("ada", "running")]
        story.respond(text="Done.")
        await append(logs, story)
        await settled(projector)
        found = await ask(projector, "SELECT status, output FROM executions")
        assert found == [("completed", "Done.")]
    assert drift(model, raws(logs.events)) == []


async def test_it_is_readable_by_its_owner_alone(model: Path) -> None:
    """It has what people asked and were told; so has the log of its changes."""
    logs = Logs.empty()
    async with projecting(model, logs) as projector:
        await append(logs, told("one"))
        await settled(projector)
        modes = {
            p.suffix: stat.S_IMODE(p.stat().st_mode) for p in model.parent.iterdir()
        }
    assert modes == {".duckdb": 0o600, ".wal": 0o600, ".lock": 0o600}


async def test_one_that_comes_alone_is_not_made_to_wait(model: Path) -> None:
    """Only what comes right after a transaction waits for others."""
    logs = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    patient = partial(Projector, interval=3_600)
    async with projecting(model, logs, patient) as projector:
        position = await append(logs, story)
        await projector.reached(position, seconds=PATIENCE)
        story.respond(text="Done.")
        position = await append(logs, story)
        with pytest.raises(Unavailable):
            await projector.reached(position, seconds=0.1)
    assert drift(model, raws(logs.events)) == [], "at the end it is written, too"


async def test_a_flood_is_written_in_few_pieces(model: Path) -> None:
    """Who is behind does not write each event by itself."""
    logs = Logs.empty()
    commits: list[int] = []

    class Counted(Projector):
        async def _tell(self, positions: Mapping[str, int]) -> None:
            await super()._tell(positions)
            commits.append(positions[EVENTS])

    async with projecting(model, logs, Counted) as projector:
        for subject, body in interleaved(3, 40):
            logs.events.add(subject, body)  # type: ignore[attr-defined]
        await logs.events.stir()  # type: ignore[attr-defined]
        await settled(projector)
    assert len(commits) < 5
    assert drift(model, raws(logs.events)) == []


async def test_a_restart_goes_on_where_it_ended(model: Path) -> None:
    """Whatever was open comes back as it was, also what waits and what was asked."""
    logs = Logs.empty()
    commits = interleaved(11, 30)
    for start in range(0, len(commits), 97):
        async with projecting(model, logs) as projector:
            for subject, body in commits[start : start + 97]:
                logs.events.add(subject, body)  # type: ignore[attr-defined]
            await logs.events.stir()  # type: ignore[attr-defined]
            await settled(projector)
        assert drift(model, raws(logs.events)) == []


async def test_who_comes_back_after_its_end_is_folded_anew(model: Path) -> None:
    """A retry of one that is held no more finds its rows, and makes them right."""
    logs = Logs.empty()
    failed = Story(Key("ada", "failed"))
    failed.running()
    failed.respond(call("a"))
    failed.finish("a")
    failed.do(lambda x: x.fail(1, "E", "broken", retryable=True))
    async with projecting(model, logs) as projector:
        await append(logs, failed)
        for number in range(ENDED):
            await append(logs, told(f"other-{number}"))
        await settled(projector)
        found = await ask(projector, "SELECT count(*) FROM executions_done")
        assert found[0][0] >= ENDED
        failed.command(Retry(reason="again"))
        failed.begin()
        failed.respond(text="Now it went well.")
        await append(logs, failed)
        await settled(projector)
        sql = "SELECT status, steps, output FROM executions WHERE execution = 'failed'"
        assert await ask(projector, sql) == [("completed", 2, "Now it went well.")]
    assert drift(model, raws(logs.events)) == []


async def test_a_history_is_read_up_to_what_was_seen_of_it(model: Path) -> None:
    """A replica that lags must not decide how far the rows go."""
    logs: Any = Logs.empty()
    asked: list[int] = []
    back = Story(Key("ada", "back"))
    back.running()
    back.do(lambda x: x.fail(1, "E", "broken", retryable=True))

    async def history(key: Key, *, at_least: int) -> list[Raw]:
        asked.append(at_least)
        return await type(logs.events).history(logs.events, key, at_least=at_least)

    logs.events.history = history
    async with projecting(model, logs) as projector:
        for recorded in back.log[1:]:  # its beginning is not there
            logs.events.add(subject_of(recorded), recorded.body)
        await logs.events.stir()
        await settled(projector)
    assert asked == [len(back.log) - 1]


async def test_what_is_deleted_has_no_rows(model: Path) -> None:
    """At ``purged`` every row of an execution goes, also those of its log lines."""
    logs = Logs.empty()
    gone, stays = told("gone"), told("stays")
    async with projecting(model, logs) as projector:
        for story in (gone, stays):
            await append(logs, story)
            logs.line(story.key, "model.responded", "it answered")
        await logs.logs.stir()  # type: ignore[attr-defined]
        gone.do(lambda x: x.purge("old"))
        await append(logs, gone)
        await settled(projector)
        counts = [
            await ask(projector, f"SELECT count(*), min(eid) FROM {table}")  # noqa: S608
            for table in ("executions", "steps", "tool_calls", "attempts")
        ]
        lines = await ask(projector, "SELECT execution FROM logs")
    assert [found[0][0] for found in counts] == [1, 2, 2, 1]
    assert {found[0][1] for found in counts} == {len(gone.log)}
    assert lines == [("stays",)]
    assert drift(model, raws(logs.events)) == []


async def test_log_lines_are_rows_as_long_as_the_stream_has_them(model: Path) -> None:
    """Lines come as they are; those that LOGS dropped go at the next start."""
    logs = Logs.empty()
    async with projecting(model, logs) as projector:
        for number in range(5):
            logs.line(Key("ada", "one"), "tool.completed", f"line {number}")
        await logs.logs.stir()  # type: ignore[attr-defined]
        await settled(projector)
        found = await ask(projector, "SELECT id, level, message, context FROM logs")
        assert found[1] == (2, "info", "line 1", '{"n":1}')
    for number in (1, 2, 3):
        logs.logs.delete(number)  # type: ignore[attr-defined]
    async with projecting(model, logs) as projector:
        sql = "SELECT id FROM logs ORDER BY id"
        while await ask(projector, sql) != [(4,), (5,)]:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


async def test_another_stream_or_a_shorter_one_is_folded_anew(model: Path) -> None:
    """A position that was kept means nothing there; the rows are the new log's."""
    logs = Logs.empty()
    async with projecting(model, logs) as projector:
        await append(logs, told("lost"))
        await projector.reached(await append(logs, told("kept")))
    logs.events.cut(3)  # type: ignore[attr-defined]
    async with projecting(model, logs) as projector:
        found = await ask(projector, "SELECT execution, version FROM executions")
        assert found == [("lost", 3)]
    other = Logs.empty(made="later")
    await append(other, told("other"))
    await append(other, told("longer"))
    async with projecting(model, other) as projector:
        found = await ask(projector, "SELECT execution FROM executions ORDER BY 1")
        assert found == [("longer",), ("other",)]
    assert drift(model, raws(other.events)) == []


async def test_a_rebuild_on_order_gives_the_same_rows(model: Path) -> None:
    """The old file answers meanwhile; what comes during the rebuild is in the new."""
    logs = Logs.empty()
    commits = interleaved(5, 40)
    half = len(commits) // 2
    async with projecting(model, logs) as projector:
        for subject, body in commits[:half]:
            logs.events.add(subject, body)  # type: ignore[attr-defined]
        await logs.events.stir()  # type: ignore[attr-defined]
        await settled(projector)
        before = inode(model)
        building = asyncio.create_task(projector.rebuild())
        for subject, body in commits[half:]:
            logs.events.add(subject, body)  # type: ignore[attr-defined]
        await logs.events.stir()  # type: ignore[attr-defined]
        done = await building
        await settled(projector)
        assert done.messages >= half
    assert inode(model) != before
    assert [p.name for p in model.parent.iterdir() if p.suffix == ".new"] == []
    assert drift(model, raws(logs.events)) == []


async def test_what_a_killed_rebuild_left_is_removed(model: Path) -> None:
    """Half a file, its log and its rows: nobody could use them."""
    model.parent.mkdir()
    left = [model.with_name(f"{model.name}.new{end}") for end in ("", ".wal", ".rows")]
    async with projecting(model, Logs.empty()):
        pass
    for file in left:
        file.write_bytes(b"half a file")
    async with projecting(model, Logs.empty()):
        assert not any(file.exists() for file in left)


async def test_a_rebuild_that_is_done_too_late(model: Path) -> None:
    """Whose projector has ended is told so, and does not wait for ever."""
    logs: Any = Logs.empty()
    for subject, body in interleaved(4, 10):
        logs.events.add(subject, body)
    async with projecting(model, logs) as projector:
        begun, goes_on = threading.Event(), threading.Event()

        def slow(after: int, upto: int) -> Iterator[list[Raw]]:
            begun.set()
            assert goes_on.wait(PATIENCE)
            yield from type(logs.events).bulk(logs.events, after, upto)

        logs.events.bulk = slow
        building = asyncio.create_task(projector.rebuild())
        await asyncio.to_thread(begun.wait)
    goes_on.set()
    with pytest.raises(Unavailable, match="ended before"):
        await building
    assert drift(model, raws(logs.events)) == []


async def test_one_process_owns_the_file(model: Path) -> None:
    """A second projector is refused, and told by whom."""
    logs = Logs.empty()
    async with projecting(model, logs):
        with pytest.raises(FolderInUse, match="is used by process"):
            await Projector(model, logs).run()


async def test_what_was_not_reached_in_time_is_said(model: Path) -> None:
    """Who waits for a position that does not come is told how far it is."""
    async with projecting(model, Logs.empty()) as projector:
        with pytest.raises(Unavailable, match="has not reached position 7 yet"):
            await projector.reached(7, seconds=0.05)


async def test_triggers_are_rows_as_long_as_the_stream_has_them(model: Path) -> None:
    """With the id that an execution names which was woken by it."""
    logs: Any = Logs.empty()
    event = b'{"specversion":"1.0","type":"ci.done","source":"/ci","id":"7","data":{}}'
    logs.triggers.add("triggers.ada.ci.done", b'{"ok": true}')
    logs.triggers.add("triggers.all.ci.done", event)
    logs.triggers.add("triggers.ada", b"nobody's")
    async with projecting(model, logs) as projector:
        found = await ask(
            projector, 'SELECT position, "user", event_type, id, body FROM triggers'
        )
        letters = await ask(projector, "SELECT stream, position FROM dead_letters")
    read = cloudevents.read(Posted(2, "triggers.all.ci.done", event)).id
    assert found == [
        (1, "ada", "ci.done", "seq-1", '{"ok": true}'),
        (2, "all", "ci.done", read, event.decode()),
    ]
    assert letters == [("TRIGGERS", 3)]
    assert (await verified(model, logs)).wrong == 0
    logs.triggers.delete(1)
    async with projecting(model, logs) as projector:
        sql = "SELECT position FROM triggers"
        while await ask(projector, sql) != [(2,)]:  # noqa: ASYNC110 - a test's wait
            await asyncio.sleep(0.005)


def defined(**more: Any) -> bytes:
    """Write a definition down."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    definition = Definition(
        user="ada",
        name="daily",
        start={"agent_type": "explorer", "input": "Look."},
        cron="0 9 * * *",
        since=moment,
        at=moment,
        by="ada",
        cause="c-1",
        digest="d",
    )
    return msgspec.json.encode(msgspec.structs.replace(definition, **more))


async def test_schedules_are_as_they_were_last_defined(model: Path) -> None:
    """What came of them too, in any order of the parts, across restarts."""
    logs: Any = Logs.empty()
    moment = datetime(2026, 1, 2, 9, tzinfo=UTC)
    ran = msgspec.json.encode(
        Ran(revision=1, next=moment, execution="run-1", outcome="started", started=1)
    )
    nine = moment.replace(tzinfo=None)
    columns = "cron, paused, next_at, execution, started"
    sql = f"SELECT {columns} FROM schedules"  # noqa: S608 - a test's
    parts = [
        ("defined", defined(), ("0 9 * * *", False, None, None, 0)),
        ("ran", ran, ("0 9 * * *", False, nine, "run-1", 1)),
        (
            "defined",
            defined(paused=True, cron="5 5 * * *"),
            ("5 5 * * *", True, nine, "run-1", 1),
        ),
        ("removed", b"{}", None),
        ("ran", ran, ("", False, nine, "run-1", 1)),
        (
            "defined",
            defined(),
            ("0 9 * * *", False, nine, "run-1", 1),
        ),
    ]
    for part, body, row in parts:
        async with projecting(model, logs) as projector:
            logs.recurring.add(f"recurring.ada.daily.{part}", body)
            await logs.recurring.stir()
            await settled(projector)
            assert await ask(projector, sql) == ([row] if row else [])
        assert (await verified(model, logs)).differences == []


async def test_what_is_no_schedule(model: Path) -> None:
    """It is put aside; the others are rows."""
    logs: Any = Logs.empty()
    for subject, body in (
        ("recurring.ada.daily.defined", b"?"),
        ("recurring.ada.daily", b"{}"),
        ("recurring.ada.daily.ran", b'{"started": "many"}'),
        ("recurring.ada.fine.defined", defined(name="fine")),
    ):
        logs.recurring.add(subject, body)
    async with projecting(model, logs) as projector:
        assert await ask(projector, "SELECT name FROM schedules") == [("fine",)]
        found = await ask(projector, "SELECT count(*) FROM dead_letters")
        assert found == [(3,)]


async def test_told_to_stop_it_does_not_build_on(model: Path) -> None:
    """A long rebuild is given up, and the next one begins anew."""
    logs: Any = Logs.empty()
    for subject, body in interleaved(4, 60):
        logs.events.add(subject, body)
    begun, goes_on = threading.Event(), threading.Event()

    def slow(after: int, upto: int) -> Iterator[list[Raw]]:
        begun.set()
        for run in type(logs.events).bulk(logs.events, after, upto):
            assert goes_on.wait(30)
            yield run

    logs.events.bulk = slow
    projector = Projector(model, logs)
    running = asyncio.create_task(projector.run())
    await asyncio.to_thread(begun.wait)
    await projector.stop()
    goes_on.set()
    await running
    assert [p.name for p in model.parent.iterdir() if p == model] == []
    del logs.events.bulk
    async with projecting(model, logs):
        pass
    assert drift(model, raws(logs.events)) == []


async def test_cancelled_while_the_log_gets_out_of_reach_it_ends(model: Path) -> None:
    """Also one that is patient, which bears what fails and begins again."""
    logs: Any = Logs.empty()
    begun = asyncio.Event()

    async def unreachable() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise Unavailable("no nats-server answers")

    logs.events.extent = unreachable
    running = asyncio.ensure_future(Projector(model, logs, patient=True).run())
    await begun.wait()
    running.cancel()
    await asyncio.wait([running], timeout=PATIENCE)
    assert running.cancelled()


async def test_two_rebuilds_at_once(tmp_path: Path) -> None:
    """The second is refused while the first goes on, and one where nothing runs."""
    async with projecting(tmp_path / "readmodel.duckdb", Logs.empty()) as projector:
        first = asyncio.create_task(projector.rebuild())
        await asyncio.sleep(0)
        with pytest.raises(NotAllowedNow, match="already"):
            await projector.rebuild()
        assert (await first).messages == 0
    with pytest.raises(FolderInUse):
        await projector.rebuild()


async def test_what_its_stream_has_no_more_goes_within_a_minute(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that ``wake cleanup --logs-days`` deletes are not found for long."""
    assert follower.EXPIRY <= 60
    monkeypatch.setattr(follower, "EXPIRY", 0.01)
    said = "SELECT message FROM logs"
    logs, key = Logs.empty(), Key("ada", "one")
    for n in range(3):
        logs.line(key, "start", f"line {n}")
    async with projecting(model, logs) as projector:
        await settled(projector)
        log: Any = logs.logs
        log.delete(1)
        log.delete(2)
        async with asyncio.timeout(PATIENCE):
            while await ask(projector, said) != [("line 2",)]:  # noqa: ASYNC110 - a test's wait
                await asyncio.sleep(0.005)

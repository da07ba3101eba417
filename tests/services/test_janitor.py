"""Housekeeping: what goes, what stays, and what a crash leaves."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lines import line
from logs import Log

from events import catalog as e
from events import commands as c
from events.commit import Recorded
from events.errors import Deleted, Misconfigured, NotFound, Unavailable
from events.execution import Execution
from events.faulty import FaultyJournal, Plan
from events.journal import Journal
from events.logbook import MemoryLogbook
from events.messages import Reply
from events.names import Key
from events.spec import AgentSpec
from gateway.listing import rows_of
from gateway.orders import find
from services import archive
from services.archive import Archive
from services.boot import recover_all
from services.handler import Decision, Handler
from services.janitor import Janitor, Swept

NOW = datetime(2026, 6, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(days=30)
AGENT = AgentSpec(name="worker", subagents=("worker",), tools=("spawn_agent",))


def finish(execution: Execution) -> None:
    """Begin it and answer."""
    execution.begin("r", execution.state.work_version)
    execution.respond(execution.state.attempt, Reply(model="m", text="done"))


def fail(execution: Execution) -> None:
    """Begin it and fail."""
    execution.begin("r", execution.state.work_version)
    execution.fail(execution.state.attempt, "error", "it broke", retryable=True)


class House:
    """A log with executions of different ages; ``days`` is how long ago."""

    def __init__(self, journal: Journal, folder: Path) -> None:
        self.journal, self.workspaces = journal, folder / "workspaces"
        self.archives = folder / "archive"

    async def made(
        self, name: str, *decisions: Decision, days: float = 40, **created: Any
    ) -> Key:
        """Create an execution, and decide about it, some time ago."""
        key = Key("ada", name)
        new = e.Created(agent=AGENT, input="x", **created)
        then = Handler(self.journal, "t", lambda: NOW - timedelta(days=days))
        for decision in (lambda x: x.create(new), *decisions):
            await then.handle(key, decision)
        return key

    async def family(self, *children: tuple[str, Decision | None]) -> Key:
        """A parent that ended long ago, and its subagents."""
        parent = await self.made("parent")
        for name, decision in children:
            await self.child(name, "parent", decision)

        def spawned(execution: Execution) -> None:
            for name, _ in children:
                execution.trigger_event(
                    e.ChildSpawned, call_id=name, child=name, agent="w", prompt=""
                )
            c.Cancel().decide(execution)

        then = Handler(self.journal, "t", lambda: NOW - timedelta(days=40))
        await then.handle(parent, spawned)
        return parent

    async def child(self, name: str, parent: str, decision: Decision | None) -> Key:
        """A subagent."""
        above = e.Parent(execution=parent, call_id=name, depth=1, root="parent")
        decisions = () if decision is None else (decision,)
        return await self.made(name, *decisions, parent=above)

    def janitor(self, journal: Journal | None = None, **more: Any) -> Janitor:
        """Make a janitor of today."""
        handler = Handler(journal or self.journal, "janitor", lambda: NOW)
        return Janitor(handler, workspaces=self.workspaces, **more)

    async def clean(self, janitor: Janitor | None = None, **how: Any) -> list[Swept]:
        """Clean up."""
        async with aclosing((janitor or self.janitor()).clean(BEFORE, **how)) as swept:
            return [one async for one in swept]

    async def there(self) -> set[str]:
        """The executions of which anything is left."""
        found: set[str] = set()
        async for run in self.journal.follow(live=False):
            found |= {r.key.execution for r in run}
        return found


@pytest.fixture
def house(log: Log, tmp_path: Path) -> House:
    """An empty log on each adapter."""
    return House(log.journal, tmp_path)


def names(swept: list[Swept]) -> list[str]:
    """Which executions were deleted, in that order."""
    return [one.execution for one in swept if one.deleted]


async def test_what_ended_long_ago_goes_and_the_rest_stays(house: House) -> None:
    """Completed, failed, cancelled; not what ended lately, nor what has not ended."""
    for number, end in enumerate((finish, fail, c.Cancel().decide)):
        await house.made(f"old-{number}", end)
    await house.made("young", finish, days=29)
    await house.made("pending", days=400)
    await house.made("paused", c.Pause().decide, days=400)
    await house.made("held", lambda x: x.begin("r", 1), days=400)
    before = {k: await house.journal.read(Key("ada", k)) for k in ("young", "held")}
    swept = await house.clean()
    assert sorted(names(swept)) == ["old-0", "old-1", "old-2"]
    assert await house.there() == {"young", "pending", "paused", "held"}
    for name, history in before.items():
        assert await house.journal.read(Key("ada", name)) == history
    assert await house.clean() == []


async def test_it_says_what_it_deleted(house: House) -> None:
    """With how it ended and how large it was; a dry run says it beforehand."""
    key = await house.made("old", finish)
    own = house.workspaces / "ada" / "old"
    own.mkdir(parents=True)
    (own / "file").write_bytes(b"x" * 100)
    history = await house.journal.read(key)
    size = sum(len(r.body) for r in history)
    [dry] = await house.clean(dry_run=True)
    assert (dry.status, dry.commits, dry.bytes) == ("completed", len(history), size)
    assert (dry.workspace, dry.deleted) == (True, False)
    assert await house.journal.read(key) == history
    assert own.exists()
    [swept] = await house.clean()
    assert (swept.bytes, swept.workspace_bytes, swept.deleted) == (size, 100, True)
    assert swept.ended == NOW - timedelta(days=40)
    assert not own.exists()


async def test_a_failed_one_that_is_tried_again_is_left(house: House) -> None:
    """Its end of before was none."""
    key = await house.made("old", fail)
    await Handler(house.journal, "t").handle(key, c.Retry().decide)
    assert await house.clean() == []
    assert await house.there() == {"old"}


async def test_one_that_goes_on_at_the_last_moment_is_left(house: House) -> None:
    """A retry between the look at it and the deletion."""
    key = await house.made("old", fail)

    async def retry(_key: Key) -> None:
        await Handler(house.journal, "t").handle(key, c.Retry().decide)

    plan = Plan({"publish": ["foreign"]})
    faulty = FaultyJournal(house.journal, plan, foreign=retry)
    [left] = await house.clean(house.janitor(faulty))
    assert not left.deleted
    assert "went on meanwhile" in str(left.problem)
    history = await house.journal.read(key)
    assert Execution.fold(key, history).state.status == "pending"


# ── what belongs to it ───────────────────────────────────────────────────────


async def test_only_its_own_directory_is_removed(house: House, tmp_path: Path) -> None:
    """Never one that was named, nor the one that a subagent shares."""
    named = tmp_path / "named"
    named.mkdir()
    await house.made("named", finish, workspace=str(named))
    await house.child("lost", "gone", finish)
    for name in ("named", "lost", "other"):
        (house.workspaces / "ada" / name).mkdir(parents=True)
    swept = await house.clean()
    assert sorted(names(swept)) == ["lost", "named"]
    assert not any(one.workspace for one in swept)
    assert named.exists()
    assert len(list((house.workspaces / "ada").iterdir())) == 3


async def test_a_directory_that_cannot_be_removed_keeps_the_history(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nobody would know of it any more; the next run tries again."""

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    key = await house.made("old", finish)
    (house.workspaces / "ada" / "old").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("services.janitor.remove", refuse)
        [left] = await house.clean()
    assert "workspace cannot be removed" in str(left.problem)
    assert Execution.fold(key, await house.journal.read(key)).state.purged
    assert names(await house.clean()) == ["old"]


async def test_its_log_lines_go_if_they_are_not_old_enough_to_go_alone(
    house: House,
) -> None:
    """Of nobody else."""
    book = MemoryLogbook()
    key = await house.made("old", finish)
    await book.write([line("a", key), line("b", key), line("c", Key("ada", "x"))])
    [swept] = await house.clean(house.janitor(logbook=book))
    assert swept.log_lines == 2
    assert await book.read(key) == []
    assert len(await book.read(Key("ada", "x"))) == 1


async def test_it_is_archived_before_it_is_deleted(house: House) -> None:
    """As it was stored, without the notice that it is to be deleted."""
    key = await house.made("old", finish)
    history = await house.journal.read(key)
    janitor = house.janitor(archive=Archive.open(house.archives))
    [swept] = await house.clean(janitor)
    assert swept.archive
    assert archive.read(Path(swept.archive)) == history


async def test_long_texts_are_archived_with_it(house: House) -> None:
    """They lie beside the log, and go with the history."""
    long = "ä long text " * 60_000

    def tell(execution: Execution) -> None:
        execution.begin("r", execution.state.work_version)
        execution.respond(execution.state.attempt, Reply(model="m", text=long))

    key = await house.made("old", tell)
    history = await house.journal.read(key)
    assert await house.journal.blobs_of(key)
    janitor = house.janitor(archive=Archive.open(house.archives))
    [swept] = await house.clean(janitor)
    assert await house.journal.blobs_of(key) == []
    assert swept.archive
    assert archive.read(Path(swept.archive)) == history
    assert swept.bytes > len(long)


async def test_without_an_archive_that_is_asked_for_nothing_is_deleted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends the run."""
    key = await house.made("old", finish)
    history = await house.journal.read(key)
    kept = Archive.open(house.archives)

    def full(*_: object) -> Path:
        raise Misconfigured("No space left on device")

    monkeypatch.setattr(Archive, "keep", full)
    with pytest.raises(Misconfigured):
        await house.clean(house.janitor(archive=kept))
    assert await house.journal.read(key) == history


# ── families ─────────────────────────────────────────────────────────────────


async def test_subagents_go_with_their_parent_and_after_it(house: House) -> None:
    """Never before it, whatever stands first in the log."""
    await house.family(("one", finish), ("two", fail))
    swept = await house.clean()
    assert names(swept) == ["parent", "one", "two"]
    assert await house.there() == set()


async def test_a_parent_with_a_subagent_that_has_not_ended_is_left(
    house: House,
) -> None:
    """With all the others."""
    await house.family(("one", finish), ("two", None))
    assert await house.clean() == []
    assert await house.there() == {"parent", "one", "two"}


async def test_what_only_has_a_subagents_id_is_left(house: House) -> None:
    """It is somebody's execution, and it may run."""
    await house.family(("one", finish))
    await house.made("stranger", days=1)

    def name_it(execution: Execution) -> None:
        execution.trigger_event(
            e.ChildSpawned, call_id="s", child="stranger", agent="w", prompt=""
        )
        c.Cancel().decide(execution)

    other = await house.made("other", name_it)
    assert sorted(names(await house.clean())) == ["one", "other", "parent"]
    assert await house.journal.read(other) == []
    assert await house.there() == {"stranger"}


async def test_a_parent_that_has_to_stay_keeps_its_subagents(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would speak of some that are not there."""

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    await house.family(("one", finish))
    monkeypatch.setattr("services.janitor.remove", refuse)
    [left] = await house.clean()
    assert (left.execution, left.deleted) == ("parent", False)
    assert await house.there() == {"parent", "one"}


# ── crashes ──────────────────────────────────────────────────────────────────


class Dying(FaultyJournal):
    """Its user dies after so many deletions."""

    def __init__(self, inner: Journal, passes: int) -> None:
        super().__init__(inner, Plan())
        self._left, self.patience = passes, 0.0

    async def _delete(self, position: int) -> None:
        if self._left == 0:
            raise Unavailable("it is dead, on purpose")
        self._left -= 1
        await super()._delete(position)


async def test_wherever_it_dies_the_next_one_goes_on(house: House) -> None:
    """Readers find it whole or deleted; what else there is goes on as ever."""
    await house.family(("one", finish))
    alive = await house.made("alive", days=40)
    deaths = 0
    while await house.there() != {"alive"}:
        try:
            await house.clean(house.janitor(Dying(house.journal, 1)))
        except Unavailable:
            deaths += 1
        await readers_cope(house, alive)
    assert deaths == 4  # at every commit of both but the last


async def readers_cope(house: House, alive: Key) -> None:
    """Nobody takes what is half deleted for damaged, nor brings it back."""
    handler = Handler(house.journal, "t")
    for name in ("parent", "one"):
        key = Key("ada", name)
        try:
            execution = await handler.load(key)
        except Deleted:
            with pytest.raises(NotFound):
                await handler.handle(key, c.Pause().decide)
        else:
            assert execution.state.final or execution.state.version == 0
    assert [key for key in await recover_all(handler) if key != alive] == []
    rows = await rows_of(FakeLog(house.journal))  # type: ignore[arg-type]
    assert not any(row.status == "corrupt" for row in rows)
    assert "alive" in {row.id for row in rows}
    assert await find(house.journal, "alive") == alive


class FakeLog:
    """What ``wake ls`` reads."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal


async def test_two_at_once_delete_everything_once(house: House) -> None:
    """Neither is in the other's way."""
    for number in range(8):
        await house.made(f"old-{number}", finish)
    await house.family(("one", finish))
    both = await asyncio.gather(house.clean(), house.clean())
    assert not [one.problem for swept in both for one in swept if one.problem]
    assert await house.there() == set()


async def test_what_another_deleted_meanwhile_is_not_damaged(house: House) -> None:
    """Nobody is told to restore a backup for what was to be deleted, and is."""

    class Overtaken(FaultyJournal):
        """Another one is done with everything before this one appends."""

        async def _publish(self, new: Recorded, after: int) -> int:
            await house.clean()
            return await super()._publish(new, after)

    await house.made("old", finish)
    late = house.janitor(Overtaken(house.journal, Plan()))
    assert await house.clean(late) == []
    assert await house.there() == set()


async def test_a_deleted_id_may_be_used_again(house: House) -> None:
    """The new history begins at version 1, and is as good as any."""
    await house.made("old", finish)
    await house.clean()
    key = await house.made("old", finish, days=1)
    assert [r.commit.version for r in await house.journal.read(key)] == [1, 2]
    assert await house.clean() == []


async def test_a_log_out_of_reach_ends_it(house: House) -> None:
    """It says so, and what it did not delete is there."""
    key = await house.made("old", finish)
    mute = FaultyJournal(house.journal, Plan({"delete": ["silence"] * 100_000}))
    mute.patience = 0.01
    with pytest.raises(Unavailable):
        await house.clean(house.janitor(mute))
    assert (await house.journal.read(key))[-1].commit.events == (
        e.Purged(reason="retention"),
    )

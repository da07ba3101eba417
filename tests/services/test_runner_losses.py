"""What happens to an execution whose runner, lease or server is lost."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import stamina
from dying import DyingJournal
from fake_model import FakeModel, Hang, says, use, wants
from fake_tools import World, agent
from logs import JetStreamLog, Log, MemoryLog, back
from nats_server import NatsServer
from running import (
    KEY,
    finished,
    happened,
    means,
    order,
    runner,
    start,
    story,
    until,
)

from events import catalog as e
from events.commands import AnyCommand, Cancel, Kill, Pause, Resume
from events.commit import Recorded
from events.errors import Stale, Unavailable
from events.execution import Execution
from events.faulty import FaultyJournal, Plan
from events.journal import Journal, Work, WorkQueue, unheeded
from events.messages import Reply
from events.names import EVENTS, Key, lane_consumer
from events.spec import Lane, Limits
from services.agents.loop import Drive, Means
from services.handler import Handler
from services.lease import Holding
from services.runner import Runner
from services.tools.base import ToolContext

APPENDS = 6
"""Commits that the run below has at least, its creation left out."""


@pytest.fixture
def world() -> World:
    """What the tools do."""
    return World()


def script() -> FakeModel:
    """Three steps, with tools of every effect."""
    return FakeModel(
        wants(use("look", "a"), use("write", "b")),
        wants(use("launch", "c"), use("note", "d")),
        says("found"),
    )


class Life:
    """A runner that can be ended as by kill -9: it settles nothing any more."""

    def __init__(
        self,
        journal: Journal,
        means: Means,
        name: str,
        lease: float,
        *,
        concurrency: int = 1,
    ) -> None:
        self.runner = Runner(
            journal, means, name=name, lease=lease, concurrency=concurrency
        )
        self._task = asyncio.create_task(self.runner.run())

    async def die(self) -> None:
        """End it, with all it has in hand."""
        self._task.cancel()
        await asyncio.wait([self._task])


async def so(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nobody announces."""
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.001)


async def expired(log: Log) -> None:
    """Let leases run out; on a real server they do so by themselves."""
    await log.tick(log.brief + 1)


class Deaf(FaultyJournal):
    """Hears no signal, as while it is not connected."""

    def hear(
        self, heard: Callable[[Recorded], None], missed: Callable[[], None] = unheeded
    ) -> AbstractAsyncContextManager[None]:
        """Hear nothing but that something was missed."""
        del heard
        return self.inner.hear(lambda _: None, missed)


@pytest.mark.parametrize("silent", [0, 2])
@pytest.mark.parametrize("command", [Kill(), Cancel()])
async def test_a_signal_that_was_missed_acts_after_the_reconnect(
    own_log: JetStreamLog,
    own_server: NatsServer,
    world: World,
    tmp_path: Path,
    command: AnyCommand,
    silent: int,
) -> None:
    """Nothing was heard of it: the runner looks when it is connected again.

    It looks again until the log, which may be silent then, has answered.
    """
    hang = Hang()
    work = means(FakeModel(hang), world, tmp_path)
    await start(own_log.journal)
    journal = Deaf(await own_log.again(), Plan({"tip": ["silence"] * silent}))
    async with runner(journal, work, cancel_grace=0.01):
        await hang.begun.wait()
        await order(own_log.journal, command)
        assert not hang.ended.is_set()
        own_server.kill()
        own_server.start()
        await hang.ended.wait()
        assert (await finished(own_log.journal)).status == "cancelled"


# ── a crash at every append ──────────────────────────────────────────────────


@pytest.mark.parametrize("stored", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("passes", range(APPENDS))
async def test_after_a_crash_nothing_that_was_recorded_is_done_again(
    memory_log: MemoryLog, world: World, tmp_path: Path, passes: int, *, stored: bool
) -> None:
    """Killed before or after any append, another runner brings it to the same end.

    A reply or a result that is in the log is not made again; what was in flight
    is, at most once, with the same idempotency key; an irreversible tool is not.
    """
    await the_end_is_the_same(memory_log, world, tmp_path, passes, stored=stored)


@pytest.mark.parametrize(
    ("passes", "stored"), [(1, False), (2, True), (5, False), (5, True)]
)
async def test_the_same_on_a_real_server(
    jetstream_log: JetStreamLog,
    world: World,
    tmp_path: Path,
    passes: int,
    *,
    stored: bool,
) -> None:
    """With leases that really run out."""
    await the_end_is_the_same(jetstream_log, world, tmp_path, passes, stored=stored)


async def the_end_is_the_same(
    log: Log, world: World, folder: Path, passes: int, *, stored: bool
) -> None:
    """Run until the crash, run on, and compare."""
    model = script()
    work = means(model, world, folder)
    dying = DyingJournal(log.journal, passes, stored=stored)
    await start(log.journal)
    first = Life(dying, work, "r1", log.brief)
    await dying.dead.wait()
    recorded = [r for r in await log.journal.read(KEY) if r.commit.by == "runner:r1"]
    await first.die()
    await expired(log)
    asked, ran = model.asked.copy(), len(world.ran)
    async with runner(await log.again(), work, "r2", lease=log.brief):
        state = await finished(log.journal)
    assert (state.status, state.output, state.steps) == ("completed", "found", 3)
    assert state.notes == {"d": True}
    facts = [fact for r in recorded for fact in r.commit.events]
    for fact in facts:
        if isinstance(fact, e.ModelResponded):
            assert model.asked[fact.step] == asked[fact.step] == 1
        if isinstance(fact, e.ToolCompleted) and fact.call_id != "note-d":
            again = [what for tool, what, _ in world.ran[ran:]]
            assert fact.call_id.partition("-")[2] not in again
    assert max(model.asked.values()) <= 2
    assert sum(model.asked.values()) <= 4
    assert world.count("launch") <= 1
    assert len({key for _, _, key in world.ran}) <= 3
    assert len(recorded) == passes + stored


async def test_a_tool_that_is_safe_to_repeat_runs_again_with_the_same_key(
    log: Log, world: World, tmp_path: Path
) -> None:
    """`read` and `idempotent` calls in flight at a crash; the model is not asked."""
    hang = Hang()
    world.behave = {"it": hang}
    model = FakeModel(wants(use("look", "it"), use("write", "it")), says())
    work = means(model, world, tmp_path)
    await start(log.journal)
    first = Life(log.journal, work, "r1", log.brief)
    await hang.begun.wait()
    await so(lambda: len(world.ran) == 2)
    await first.die()
    await expired(log)
    world.behave = {}
    async with runner(await log.again(), work, "r2", lease=log.brief):
        state = await finished(log.journal)
    assert (state.status, state.attempt) == ("completed", 2)
    assert sorted(world.ran[:2]) == sorted(world.ran[2:])
    assert model.asked == {1: 1, 2: 1}


async def test_an_irreversible_tool_is_not_run_again(
    log: Log, world: World, tmp_path: Path
) -> None:
    """The model is told that nobody knows whether it happened."""
    hang = Hang()
    world.behave = {"it": hang}
    model = FakeModel(wants(use("launch", "it")), says())
    work = means(model, world, tmp_path)
    await start(log.journal)
    first = Life(log.journal, work, "r1", log.brief)
    await hang.begun.wait()
    await first.die()
    await expired(log)
    async with runner(await log.again(), work, "r2", lease=log.brief):
        state = await finished(log.journal)
    assert state.status == "completed"
    assert world.count("launch") == 1
    assert ["Started", "ToolInDoubt"] in await story(log.journal)
    [told] = [m for m in model.requests[-1].messages if hasattr(m, "outcome")]
    assert told.outcome == "in_doubt"


async def test_an_execution_that_takes_every_runner_down_is_given_up(
    memory_log: MemoryLog, world: World, tmp_path: Path
) -> None:
    """After so many starts without progress it fails, with the reason."""
    hang = Hang()
    work = means(FakeModel(hang), world, tmp_path)
    await start(memory_log.journal, spec=agent(limits=Limits(max_attempts=3)))
    for number in range(3):
        hang.begun.clear()
        life = Life(memory_log.journal, work, f"r{number}", memory_log.brief)
        await hang.begun.wait()
        await life.die()
        await expired(memory_log)
    async with runner(memory_log.journal, work, lease=memory_log.brief):
        state = await finished(memory_log.journal)
    assert state.failure is not None
    assert state.failure.error == "too_many_attempts"


# ── zombies, leases, draining ────────────────────────────────────────────────


async def test_a_zombie_drops_what_it_has_and_acknowledges_nothing(
    log: Log, world: World, tmp_path: Path
) -> None:
    """Its paid reply comes after another attempt began: it is thrown away.

    That the other one still holds the work shows when that one dies, too.
    """
    gates = [asyncio.Event(), asyncio.Event()]
    asked: list[str] = []

    async def slow():  # noqa: ANN202 - a Reply
        number = len(asked)
        asked.append("")
        await gates[number].wait()
        return says(f"reply {number}")

    model = FakeModel([slow, slow, says("third")])
    work = means(model, world, tmp_path)
    await start(log.journal)
    zombie = Life(deaf(log.journal), work, "zombie", 1e6)
    await so(lambda: len(asked) == 1)
    await expired(log)
    other = Life(await log.again(), work, "other", log.brief)
    await so(lambda: len(asked) == 2)
    gates[0].set()
    await zombie.runner._holdings.none.wait()
    await other.die()
    await zombie.die()
    await expired(log)
    async with runner(await log.again(), work, "third", lease=log.brief):
        state = await finished(log.journal)
    assert (state.output, state.steps, state.attempt) == ("third", 1, 3)
    assert model.asked == {1: 3}


class _Frozen(FaultyJournal):
    """Hands out work only when it is let: ``taken`` tells that some was leased."""

    def __init__(self, inner: Journal) -> None:
        super().__init__(inner, Plan())
        self.taken, self.goes_on = asyncio.Event(), asyncio.Event()

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        queue = await self.inner.work(lane, lease=lease, key=key)
        fetch = queue.fetch

        async def slow(limit: int, wait: float) -> list[Work]:
            works = await fetch(limit, wait)
            if works:
                self.taken.set()
                await self.goes_on.wait()
            return works

        queue.fetch = slow  # type: ignore[method-assign]
        return queue


async def test_who_comes_late_to_a_work_leaves_it_to_who_began_it(
    log: Log, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped between taking and beginning, it acknowledges nothing either.

    That the other one still holds the work shows when that one dies.
    """
    hang = Hang()
    work = means(FakeModel([hang, says("third")]), world, tmp_path)
    await start(log.journal)
    frozen = _Frozen(log.journal)
    late = Life(frozen, work, "late", log.brief)
    await frozen.taken.wait()
    await expired(log)
    other = Life(await log.again(), work, "other", log.brief)
    await hang.begun.wait()
    frozen.goes_on.set()
    await so(lambda: "other has this work" in caplog.text)
    await late.die()
    await other.die()
    await expired(log)
    async with runner(await log.again(), work, "third", lease=log.brief):
        state = await finished(log.journal)
    assert (state.output, state.attempt) == ("third", 2)


class _Behind(FaultyJournal):
    """The first answer to every read is of long ago."""

    behind = True

    async def _read(self, key: Key) -> list[Recorded]:
        history = await super()._read(key)
        if len(history) <= 2:
            return history
        behind, self.behind = self.behind, not self.behind
        return history[:2] if behind else history


async def test_a_signal_does_not_take_a_runner_back_in_time(
    log: Log, world: World, tmp_path: Path
) -> None:
    """What it reads then may be behind, not what it knows: no reply is paid twice."""
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def wait(_: ToolContext) -> None:
        begun.set()
        await goes_on.wait()

    world.behave = {"it": wait}
    model = FakeModel(wants(use("look", "it")), says("found"))
    await start(log.journal)
    async with runner(
        _Behind(log.journal, Plan()), means(model, world, tmp_path), lease=log.brief
    ) as one:
        await begun.wait()
        await order(log.journal, Pause())
        await order(log.journal, Resume())
        await so(lambda: any(h.signalled for h in one._holdings.all()))
        goes_on.set()
        state = await finished(log.journal)
    assert (state.output, state.steps) == ("found", 2)
    assert model.asked == {1: 1, 2: 1}


async def test_what_another_attempt_does_is_not_done_by_an_older_one(
    memory_log: MemoryLog, world: World, tmp_path: Path
) -> None:
    """A signal makes it look; the irreversible call that it finds is not its own."""
    drive = await driven(memory_log, means(script(), world, tmp_path))
    handler = Handler(memory_log.journal, "runner:other")
    asked = Reply(model="m", tool_calls=(use("launch", "it"),))
    await handler.handle(KEY, lambda x: x.begin("other", 1, delivery=2))
    await handler.handle(KEY, lambda x: x.respond(2, asked))
    drive._holding.signalled = True
    with pytest.raises(Stale, match="attempt 2 has it"):
        await drive.run(lambda: False)
    assert world.ran == []


async def test_after_its_lease_nothing_more_is_begun(
    memory_log: MemoryLog, world: World, tmp_path: Path
) -> None:
    """Nobody has to tell it: a runner that was stopped looks at the clock."""
    model = script()
    drive = await driven(memory_log, means(model, world, tmp_path))
    drive._holding.since -= 31.0
    with pytest.raises(Stale, match="the lease ran out"):
        await drive.run(lambda: False)
    assert model.asked == {}


async def driven(log: MemoryLog, means: Means) -> Drive:
    """Begin an execution, with a lease of 30 s."""
    await start(log.journal)
    handler = Handler(log.journal, "runner:r1")
    execution = await handler.handle(KEY, lambda x: x.begin("r1", 1))
    [work] = await (await log.journal.work("agents")).fetch(1, 5.0)
    task = asyncio.current_task()
    assert task is not None
    return Drive(means, handler, execution, Holding(work, task, 30.0, 10.0))


class _Deaf(FaultyJournal):
    """Opens lanes with the short lease that the others have."""

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        brief = 1.0 if lease > 1e5 else lease
        return await self.inner.work(lane, lease=brief, key=key)


def deaf(journal: Journal) -> Journal:
    """A journal whose runner believes in its lease for ever."""
    return _Deaf(journal, Plan())


class _NeverRenewed(FaultyJournal):
    """Hands out work whose lease cannot be renewed."""

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        queue = await self.inner.work(lane, lease=lease, key=key)
        fetch = queue.fetch

        async def broken(limit: int, wait: float) -> list[Work]:
            works = await fetch(limit, wait)
            for work in works:
                work.renew = refuse  # type: ignore[method-assign]
            return works

        queue.fetch = broken  # type: ignore[method-assign]
        return queue


async def refuse() -> None:
    """Confirm nothing."""
    raise Unavailable("not confirmed, on purpose")


async def test_a_lost_lease_stops_the_work(
    log: Log, world: World, tmp_path: Path
) -> None:
    """By the runner's own clock; what hangs is ended, and nothing is settled."""
    hang = Hang()
    work = means(FakeModel([hang, says("other")]), world, tmp_path)
    await start(log.journal)
    journal = _NeverRenewed(log.journal, Plan())
    async with runner(journal, work, "r1", lease=1.5) as one:
        await hang.ended.wait()
        await one._holdings.none.wait()
        await one.drain()  # it would only take it again
        await log.tick(2.0)
        async with runner(await log.again(), work, "r2", lease=1.5):
            state = await finished(log.journal)
    assert (state.output, state.attempt) == ("other", 2)


async def test_renewed_work_is_not_taken_away(
    log: Log, world: World, tmp_path: Path
) -> None:
    """A reply that takes several leases: a second runner idles beside it."""
    hang, clock = Hang(), asyncio.get_running_loop().time
    model = FakeModel(hang)
    work = means(model, world, tmp_path)
    await start(log.journal)
    lease = 4.0  # no process stands still for two thirds of it
    async with (
        runner(log.journal, work, "r1", lease=lease),
        runner(await log.again(), work, "r2", lease=lease),
    ):
        await hang.begun.wait()
        later = clock() + 2.5 * lease
        while clock() < later:
            await log.tick(0.05)
            await asyncio.sleep(0.05)
        await order(log.journal, Kill())
        state = await finished(log.journal)
    assert (state.attempt, model.asked) == (1, {1: 1})


async def test_a_draining_runner_gives_back_and_another_goes_on(
    log: Log, world: World, tmp_path: Path
) -> None:
    """At once, long before the lease is over; what hung is ended."""
    hang = Hang()
    model = FakeModel(wants(use("look")), [hang, says("other")])
    work = means(model, world, tmp_path)
    await start(log.journal)
    async with runner(log.journal, work, "r1", lease=60.0):
        await hang.begun.wait()
    assert hang.ended.is_set()
    async with runner(await log.again(), work, "r2", lease=60.0):
        state = await finished(log.journal)
    assert (state.output, state.attempt) == ("other", 2)
    assert model.asked == {1: 1, 2: 2}
    assert world.count("look") == 1


async def test_within_its_grace_a_drained_runner_finishes_the_step(
    log: Log, world: World, tmp_path: Path
) -> None:
    """The reply in flight is recorded, and not asked for again."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():  # noqa: ANN202 - a Reply
        begun.set()
        await go_on.wait()
        return wants(use("look"))

    model = FakeModel(slow, says())
    work = means(model, world, tmp_path)
    await start(log.journal)
    async with runner(log.journal, work, "r1", grace=60.0) as one:
        await begun.wait()
        draining = asyncio.create_task(one.drain(60.0))
        await asyncio.sleep(0)
        go_on.set()
        await draining
    async with runner(await log.again(), work, "r2"):
        await finished(log.journal)
    assert model.asked == {1: 1, 2: 1}


async def test_a_runner_that_is_drained_before_it_runs_ends(
    log: Log, world: World, tmp_path: Path
) -> None:
    """It takes nothing."""
    await start(log.journal)
    one = Runner(log.journal, means(FakeModel(), world, tmp_path), name="r1")
    await one.drain()
    await one.run()
    assert await story(log.journal) == [["Created"]]


async def test_a_cancelled_runner_leaves_nothing_running(
    log: Log, world: World, tmp_path: Path
) -> None:
    """Model and tools in flight are ended; the fixture counts the tasks."""
    hangs = [Hang(), Hang()]
    world.behave = {"hang": hangs[1]}
    model = FakeModel([hangs[0], wants(use("look", "hang"))])
    await start(log.journal)
    await start(log.journal, Key("ada", "other"))
    work = means(model, world, tmp_path)
    life = Life(log.journal, work, "r1", 60.0, concurrency=2)
    for hang in hangs:
        await hang.begun.wait()
    await life.die()
    assert all(hang.ended.is_set() for hang in hangs)


# ── work that is no longer there to do ───────────────────────────────────────


async def test_work_of_an_execution_that_went_on_is_acknowledged_and_forgotten(
    log: Log, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A message of its past comes again: it starts nothing and does not come back."""
    caplog.set_level("DEBUG", "services.runner")
    work = means(FakeModel(), world, tmp_path)
    await start(log.journal)
    queue = await log.journal.work("agents", lease=log.brief)
    [old] = await queue.fetch(1, 5.0)
    recover = partial(Execution.recover, attempt=0, reason="put back")
    await Handler(log.journal, "tester").handle(KEY, recover)
    async with runner(log.journal, work, lease=log.brief):
        await finished(log.journal)
        await old.give_back()
        await so(lambda: "this work is done" in caplog.text)
    await expired(log)
    assert await queue.fetch(5, 0.1) == []
    await queue.close()
    assert [row for row in await story(log.journal) if "Started" in row] == [
        ["Started"]
    ]


async def test_an_old_message_does_not_hide_the_execution_from_its_runner(
    memory_log: MemoryLog, world: World, tmp_path: Path
) -> None:
    """While the old one is refused, the one at work is still held and can be killed."""
    hang = Hang()
    log = memory_log
    await start(log.journal)
    queue = await log.journal.work("agents", lease=60.0)
    [old] = await queue.fetch(1, 5.0)
    recover = partial(Execution.recover, attempt=0, reason="put back")
    await Handler(log.journal, "tester").handle(KEY, recover)
    async with runner(log.journal, means(FakeModel(hang), world, tmp_path)) as one:
        await hang.begun.wait()
        await old.give_back()
        await so(lambda: 1 not in log.journal._leases["agents", None].open)
        assert not one._holdings.none.is_set()
        await order(log.journal, Kill())
        await hang.ended.wait()


async def test_an_execution_that_ended_before_its_start_is_not_started(
    log: Log, world: World, tmp_path: Path
) -> None:
    """Cancelled while it waited for a runner."""
    await start(log.journal)
    await order(log.journal, Kill())
    other = Key("ada", "other")
    async with runner(log.journal, means(FakeModel(), world, tmp_path)):
        await start(log.journal, other)
        await finished(log.journal, other)
    assert await story(log.journal) == [["Created"], ["Cancelled"]]


# ── the log's bad days ───────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(3))
async def test_under_faults_executions_end_as_they_should(
    memory_log: MemoryLog, world: World, tmp_path: Path, seed: int
) -> None:
    """Lost acks, lost requests, silence, stale reads, gaps: no reply is paid twice."""
    log, model = memory_log, script()
    journal = FaultyJournal(log.journal, Plan(seed=seed, odds=0.1), pause=0.0)
    keys = [Key("ada", f"run-{n}") for n in range(5)]
    for key in keys:
        await start(log.journal, key)
    async with runner(journal, means(model, world, tmp_path), lease=log.brief):
        ends = asyncio.gather(*(finished(log.journal, key) for key in keys))
        while not ends.done():
            await asyncio.sleep(0.02)
            await log.tick(log.brief / 20)
    assert {state.output for state in await ends} == {"found"}
    for key in keys:
        history = await log.journal.read(key)
        ids = [r.commit.id for r in history]
        assert len(ids) == len(set(ids))
    assert model.asked[3] >= len(keys)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_runner_survives_the_server(
    own_log: JetStreamLog,
    own_server: NatsServer,
    world: World,
    tmp_path: Path,
    how: str,
) -> None:
    """While model and tool are in flight, twice: nothing is asked or run again."""
    gates = {name: asyncio.Event() for name in ("model", "tool")}
    begun = {name: asyncio.Event() for name in gates}

    async def slow_model():  # noqa: ANN202 - a Reply
        begun["model"].set()
        await gates["model"].wait()
        return wants(use("launch", "slow"))

    async def slow_tool(_: ToolContext) -> None:
        begun["tool"].set()
        await gates["tool"].wait()

    world.behave = {"slow": slow_tool}
    model = FakeModel(slow_model, says("found"))
    await start(own_log.journal)
    work = means(model, world, tmp_path)
    async with runner(own_log.journal, work, lease=30.0):
        for name, gate in gates.items():
            await begun[name].wait()
            getattr(own_server, how)()
            own_server.start()
            await back(own_log.journal)
            gate.set()
        state = await finished(own_log.journal)
        other = Key("ada", "other")
        await start(own_log.journal, other)
        await finished(own_log.journal, other)
    assert (state.output, state.attempt) == ("found", 1)
    assert world.count("launch") == 2
    info = await own_log.journal.wire.api(
        f"CONSUMER.INFO.{EVENTS}.{lane_consumer('agents')}"
    )
    assert b'"num_ack_pending":0' in info


class Late(FaultyJournal):
    """Cannot open a lane at first, as while its server starts again."""

    tries = 0

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        """Open it the second time."""
        self.tries += 1
        if self.tries == 1:
            raise Unavailable("no answer on a connection that was lost")
        return await self.inner.work(lane, lease=lease, key=key)


async def test_a_lane_that_cannot_be_opened_now_is_opened_later(
    memory_log: MemoryLog, world: World, tmp_path: Path
) -> None:
    """The server was killed while the runner began: it does not end for that."""
    journal = Late(memory_log.journal, Plan())
    await start(memory_log.journal)
    async with runner(
        journal, means(FakeModel(says()), world, tmp_path), lanes=("agents",)
    ):
        assert (await finished(memory_log.journal)).status == "completed"
    assert journal.tries == 2


async def test_work_that_a_killed_server_hands_out_again_is_left_to_its_holder(
    memory_log: MemoryLog, world: World, tmp_path: Path
) -> None:
    """It forgot that delivery; the runner did not, and does not acknowledge it."""
    log, hang = memory_log, Hang()
    await start(log.journal)
    async with runner(log.journal, means(FakeModel(hang), world, tmp_path)):
        await hang.begun.wait()
        [lease] = log.journal._leases["agents", None].open.values()
        lease.due, lease.deliveries = 0.0, 0  # what the server no longer knows
        await log.journal.touch()
        await so(lambda: lease.deliveries == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert lease in log.journal._leases["agents", None].open.values()
        assert (await story(log.journal))[-1] == ["Started"]


async def test_a_history_that_is_damaged_stops_itself_only(
    jetstream_log: JetStreamLog, world: World, tmp_path: Path
) -> None:
    """Work on it is logged and left; the runner goes on with the others."""
    log = jetstream_log
    wire = log.journal.wire
    await start(log.journal)
    recover = partial(Execution.recover, attempt=0, reason="so that it is loaded")
    await Handler(log.journal, "tester").handle(KEY, recover)
    await wire.request(f"events.{KEY.user}.{KEY.execution}.log", b"\x00 not a commit")
    other = Key("ada", "other")
    await start(log.journal, other)
    async with runner(log.journal, means(FakeModel(), world, tmp_path)):
        assert (await finished(log.journal, other)).status == "completed"


async def test_a_recovered_execution_is_taken_up_and_its_old_holder_stops(
    log: Log, world: World, tmp_path: Path
) -> None:
    """`recovered` is new work: fencing tells the old runner, who drops its reply."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def slow():  # noqa: ANN202 - a Reply
        begun.set()
        await gate.wait()
        return says("too late")

    model = FakeModel([slow, says("recovered")])
    work = means(model, world, tmp_path)
    await start(log.journal)
    async with runner(log.journal, work, "r1", lanes=("agents",), concurrency=1) as one:
        await begun.wait()
        recover = partial(Execution.recover, attempt=1, reason="its runner is gone")
        await Handler(log.journal, "tester").handle(KEY, recover)
        async with runner(await log.again(), work, "r2"):
            state = await finished(log.journal)
        gate.set()
        await one._holdings.none.wait()
    assert (state.output, state.attempt, state.runner) == ("recovered", 2, None)
    assert (await until(log.journal, lambda s: s.final)).output == "recovered"
    await happened(log.journal, e.Completed)


@pytest.fixture(autouse=True)
def _without_waiting() -> Iterator[None]:
    """Retries of the model wait for nothing."""
    with stamina.set_testing(True, attempts=3):
        yield

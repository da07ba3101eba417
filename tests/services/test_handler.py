import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from commits import KEY, write
from fake_tools import agent
from logs import Log

from events.catalog import Created, MetadataWritten
from events.commands import Cancel, Pause, Resume
from events.errors import (
    Conflict,
    NotAllowedNow,
    NotFound,
    OutcomeUnknown,
    TooLarge,
)
from events.execution import Execution
from events.faulty import FaultyJournal, Plan
from events.names import MAX_COMMIT, Key
from services.handler import ROUNDS, Decision, Handler


def create(text: str = "Do it.") -> Decision:
    """Decide to begin."""
    return partial(Execution.create, created=Created(agent=agent(), input=text))


def note(name: str, value: object = True) -> Decision:  # noqa: FBT002 - a note's value
    """Decide to write a note, and remember on which version."""

    def decide(execution: Execution) -> None:
        execution.trigger_event(
            MetadataWritten, notes={name: value, "seen": execution.state.version}
        )

    return decide


async def versions(log: Log, key: Key = KEY) -> list[int]:
    """What the log holds."""
    return [r.commit.version for r in await log.journal.read(key)]


async def test_a_decision_becomes_one_commit(log: Log) -> None:
    """Load, decide, append; what is returned is what the next load gives."""
    handler = Handler(log.journal, "tester")
    execution = await handler.handle(KEY, create(), cause="cmd-1")
    [stored] = await log.journal.read(KEY)
    assert stored.route == "agents"
    assert (stored.commit.by, stored.commit.cause) == ("tester", "cmd-1")
    loaded = await handler.load(KEY)
    assert loaded.state == execution.state
    assert loaded.position == execution.position == stored.position


async def test_a_decision_without_events_appends_nothing(log: Log) -> None:
    """To ask for what already is so changes nothing."""
    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    await handler.handle(KEY, Resume().decide)
    await handler.handle(KEY, create())
    assert await versions(log) == [1]


async def test_a_lost_race_is_decided_again_on_the_new_state(log: Log) -> None:
    """The old decision is not put behind what came first: it is made anew."""
    handler = Handler(log.journal, "tester")
    known = await handler.handle(KEY, create())
    await Handler(await log.again(), "other").handle(KEY, note("other"))
    execution = await handler.handle(KEY, note("mine"), known=known)
    assert execution.state.notes == {"other": True, "mine": True, "seen": 2}
    assert await versions(log) == [1, 2, 3]


async def test_every_one_of_many_racing_decisions_is_made(log: Log) -> None:
    """Eight at once over two connections: each is applied once, on what was before."""
    handlers = [Handler(log.journal, "a"), Handler(await log.again(), "b")]
    await handlers[0].handle(KEY, create())
    await asyncio.gather(
        *(handlers[n % 2].handle(KEY, note(f"n{n}")) for n in range(8))
    )
    execution = await handlers[0].load(KEY)
    assert await versions(log) == list(range(1, 10))
    assert {f"n{n}" for n in range(8)} < set(execution.state.notes)


async def test_a_cause_is_applied_once_however_often_it_comes(log: Log) -> None:
    """A redelivered pause does not pause again after a resume."""
    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    await handler.handle(KEY, Pause().decide, cause="pause-1")
    await handler.handle(KEY, Resume().decide, cause="resume-1")
    again = await handler.handle(KEY, Pause().decide, cause="pause-1")
    assert again.state.status == "pending"
    assert await versions(log) == [1, 2, 3]


async def test_a_cause_that_races_itself_is_applied_once(log: Log) -> None:
    """Two processes were given the same command at once."""
    handlers = [Handler(log.journal, "a"), Handler(await log.again(), "b")]
    await handlers[0].handle(KEY, create())
    await asyncio.gather(
        *(handler.handle(KEY, note("x"), cause="same") for handler in handlers)
    )
    assert await versions(log) == [1, 2]


async def test_a_refusal_is_checked_against_the_newest_state(log: Log) -> None:
    """What was refused on a state that is out of date is decided again."""
    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    stale = await handler.handle(KEY, Cancel().decide)
    await handler.handle(Key("ada", "other"), create())
    from_before = await handler.load(KEY)
    from_before.state.status = "completed"  # as if it had been read before a retry
    from_before.last_known_position = stale.position - 1
    execution = await handler.handle(KEY, Cancel().decide, known=from_before)
    assert execution.state.status == "cancelled"


async def test_a_stale_read_does_not_refuse(log: Log) -> None:
    """A follower that has not heard of the execution yet does not deny that it is."""
    await Handler(log.journal, "tester").handle(KEY, create())
    journal = FaultyJournal(log.journal, Plan({"read": ["stale"]}))
    execution = await Handler(journal, "tester").handle(KEY, Pause().decide)
    assert execution.state.status == "paused"


async def test_a_stale_read_does_not_say_that_it_is_so_already(log: Log) -> None:
    """Before the pause it was not paused: that does not answer a resume after it."""
    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    await handler.handle(KEY, Pause().decide)
    journal = FaultyJournal(log.journal, Plan({"read": ["stale"]}))
    execution = await Handler(journal, "tester").handle(KEY, Resume().decide)
    assert (execution.state.status, execution.state.version) == ("pending", 3)
    assert await versions(log) == [1, 2, 3]


async def test_a_refusal_that_stands_is_raised_and_leaves_nothing(log: Log) -> None:
    """Both for what is not there and for what does not allow it."""
    handler = Handler(log.journal, "tester")
    with pytest.raises(NotFound, match="there is no execution ada/run-1"):
        await handler.handle(KEY, Pause().decide)
    await handler.handle(KEY, create())
    await handler.handle(KEY, Cancel().decide)
    with pytest.raises(NotAllowedNow, match="is cancelled"):
        await handler.handle(KEY, Pause().decide)
    assert await versions(log) == [1, 2]


async def test_after_a_conflict_only_what_is_new_enough_is_read(log: Log) -> None:
    """A read that is behind the commit that won would lose the race again."""
    handler = Handler(log.journal, "tester")
    known = await handler.handle(KEY, create())
    await handler.handle(KEY, note("other"))
    journal = FaultyJournal(log.journal, Plan({"read": ["stale", "stale"]}))
    decided: list[int] = []

    def decide(execution: Execution) -> None:
        decided.append(execution.state.version)
        note("x")(execution)

    await Handler(journal, "tester").handle(KEY, decide, known=known)
    assert decided == [1, 2]


async def test_rounds_are_bounded(log: Log) -> None:
    """Who is overtaken every time gives up with a Conflict, having appended nothing."""

    async def overtake(key: Key) -> None:
        await Handler(log.journal, "stranger").handle(key, note("first"))

    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    plan = Plan({"publish": ["foreign"] * (ROUNDS + 5)})
    journal = FaultyJournal(log.journal, plan, foreign=overtake)
    with pytest.raises(Conflict, match=f"{ROUNDS} decisions were overtaken"):
        await Handler(journal, "tester").handle(KEY, note("never"))
    execution = await handler.load(KEY)
    assert "never" not in execution.state.notes
    assert len(plan.struck) == ROUNDS


async def test_what_is_too_large_is_refused_and_leaves_nothing(log: Log) -> None:
    """The next decision finds the execution as it was."""
    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    with pytest.raises(TooLarge, match="ada/run-1: a commit of"):
        await handler.handle(KEY, note("x", [0] * MAX_COMMIT))
    assert await log.journal.blobs_of(KEY) == []
    execution = await handler.handle(KEY, note("z"))
    assert execution.state.notes == {"z": True, "seen": 1}


async def test_a_decision_whose_outcome_is_unknown_leaves_no_trace_in_memory(
    log: Log,
) -> None:
    """The next one is made on what the log has, stored or not."""
    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    lossy = FaultyJournal(
        log.journal, Plan({"publish": ["lost_ack"] + ["lost_request"] * 9})
    )
    lossy.patience = 0.0
    with pytest.raises(OutcomeUnknown):
        await Handler(lossy, "tester").handle(KEY, note("maybe"))
    execution = await handler.handle(KEY, note("after"))
    assert execution.state.notes == {"maybe": True, "after": True, "seen": 2}


async def test_an_error_of_the_decision_leaves_nothing(log: Log) -> None:
    """Even one that was made half."""

    def half(execution: Execution) -> None:
        note("half")(execution)
        raise NotAllowedNow("after all")

    handler = Handler(log.journal, "tester")
    await handler.handle(KEY, create())
    with pytest.raises(NotAllowedNow, match="after all"):
        await handler.handle(KEY, half)
    assert await versions(log) == [1]


async def test_by_tells_who_asked(log: Log) -> None:
    """A service acts in its own name unless it speaks for somebody."""
    handler = Handler(log.journal, "service")
    await handler.handle(KEY, create(), by="user:ada")
    await handler.handle(KEY, note("x"))
    history = await log.journal.read(KEY)
    assert [r.commit.by for r in history] == ["user:ada", "service"]


@pytest.mark.parametrize("seed", range(3))
async def test_under_faults_every_decision_is_made_once(log: Log, seed: int) -> None:
    """Lost acks, lost requests, silence, stale reads and strangers in between."""

    async def stranger(key: Key) -> None:
        await Handler(log.journal, "stranger").handle(key, note("stranger"))

    await Handler(log.journal, "tester").handle(KEY, create())
    plan = Plan(seed=seed, odds=0.4)
    journal = FaultyJournal(log.journal, plan, foreign=stranger, pause=0.0)
    handler = Handler(journal, "tester")
    for number in range(10):
        while True:
            try:
                await handler.handle(KEY, note(f"n{number}"), cause=f"c{number}")
                break
            except OutcomeUnknown:
                continue  # a command comes again until it is answered
    mine = [r for r in await log.journal.read(KEY) if r.commit.cause]
    assert [r.commit.cause for r in mine] == [f"c{n}" for n in range(10)]
    assert plan.struck


async def test_a_history_that_does_not_start_with_a_creation_can_still_be_loaded(
    log: Log,
) -> None:
    """Folding cannot fail, whatever happened."""
    await write(log.journal, KEY, ["log"])
    execution = await Handler(log.journal, "tester").load(KEY)
    assert execution.state.version == 1


async def test_a_steady_handler_does_not_follow_a_clock_that_jumps(log: Log) -> None:
    """It begins at what the clock shows, and goes on by the event loop's time."""
    shown = [datetime(2026, 1, 1, tzinfo=UTC)]
    handler = Handler(log.journal, "tester", lambda: shown[0])
    began = asyncio.get_running_loop().time()
    steady = handler.steady()
    shown[0] += timedelta(hours=1)
    assert handler.clock() == shown[0]
    await steady.handle(KEY, create())
    [stored] = await log.journal.read(KEY)
    passed = (stored.commit.at - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds()
    assert 0 <= passed <= asyncio.get_running_loop().time() - began + 0.001
    assert handler.steady().clock() >= shown[0]


async def test_a_steady_handler_takes_no_id_twice(log: Log) -> None:
    """Or an append of the one would pass for the other's."""
    handler = Handler(log.journal, "tester")
    for number, one in enumerate((handler, handler.steady(), handler.steady())):
        await one.handle(Key("ada", f"run-{number}"), create())
    ids = [
        commit.commit.id
        for number in range(3)
        for commit in await log.journal.read(Key("ada", f"run-{number}"))
    ]
    assert len(set(ids)) == 3

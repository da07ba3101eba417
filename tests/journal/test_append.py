import asyncio
from typing import TYPE_CHECKING

import pytest
from commits import KEY, OTHER, commit, write
from logs import Log

from events.commit import Recorded
from events.errors import Conflict, Corrupt, OutcomeUnknown, TooLarge
from events.faulty import FaultyJournal, Foreign, Plan
from events.names import MAX_COMMIT, Key

if TYPE_CHECKING:
    from events.journal import Journal

ROUNDS = 25


async def test_the_first_commit_follows_position_0(log: Log) -> None:
    """What was appended is read again as it was, and its position is told."""
    stored = await log.journal.append(commit(), after=0)
    assert stored.position > 0
    assert await log.journal.read(KEY) == [stored]


async def test_each_commit_follows_the_last_of_its_own_history(log: Log) -> None:
    """Other histories in between do not disturb the expected position."""
    first = await log.journal.append(commit(), after=0)
    await write(log.journal, OTHER, ["agents", "log"])
    second = await log.journal.append(
        commit(previous=first, route="parked"), after=first.position
    )
    assert second.position > first.position
    assert await log.journal.read(KEY) == [first, second]


async def test_a_wrong_position_is_a_conflict_and_stores_nothing(log: Log) -> None:
    """Who decided on an older state is told who was first."""
    first = await log.journal.append(commit(), after=0)
    with pytest.raises(Conflict, match="version 1 was appended first, by tester"):
        await log.journal.append(commit(), after=0)
    assert await log.journal.read(KEY) == [first]


async def test_a_position_beyond_the_end_means_that_the_log_lost_something(
    log: Log,
) -> None:
    """Nothing is put in the place of commits that were acknowledged."""
    first = await log.journal.append(commit(), after=0)
    late = first.position + 100
    with pytest.raises(Corrupt, match=f"ends at position {first.position}, .*backup"):
        await log.journal.append(commit(previous=first), after=late)
    assert await log.journal.read(KEY) == [first]


async def test_of_two_racing_writers_exactly_one_wins_each_round(log: Log) -> None:
    """Two processes append at the same position; one is stored, one hears of it."""
    journals = [log.journal, await log.again()]
    last: Recorded | None = None
    for _ in range(ROUNDS):
        new = [commit(previous=last, by=f"writer {n}") for n in range(2)]
        after = last.position if last else 0
        results = await asyncio.gather(
            *(j.append(n, after=after) for j, n in zip(journals, new, strict=True)),
            return_exceptions=True,
        )
        won = [result for result in results if isinstance(result, Recorded)]
        lost = [result for result in results if isinstance(result, Conflict)]
        assert (len(won), len(lost)) == (1, 1)
        last = won[0]
    history = await log.journal.read(KEY)
    assert [r.commit.version for r in history] == list(range(1, ROUNDS + 1))


async def test_many_writers_of_many_histories_do_not_disturb_each_other(
    log: Log,
) -> None:
    """Each of 20 histories written at once is whole and in order."""
    keys = [Key("ada", f"many-{n}") for n in range(20)]
    await asyncio.gather(*(write(log.journal, key, ["log"] * 10) for key in keys))
    for key in keys:
        versions = [r.commit.version for r in await log.journal.read(key)]
        assert versions == list(range(1, 11))


# ── the outcome is unknown ───────────────────────────────────────────────────


async def test_a_lost_ack_is_found_out_and_stored_once(log: Log) -> None:
    """The retry meets its own commit, knows it by its id, and is done."""
    journal = FaultyJournal(log.journal, Plan({"publish": ["lost_ack"]}))
    stored = await journal.append(commit(), after=0)
    assert await log.journal.read(KEY) == [stored]


async def test_a_lost_request_is_tried_again(log: Log) -> None:
    """What never arrived is sent until it does, and stored once."""
    journal = FaultyJournal(log.journal, Plan({"publish": ["lost_request"] * 2}))
    stored = await journal.append(commit(), after=0)
    assert await log.journal.read(KEY) == [stored]


async def test_a_lost_ack_with_another_writer_behind_it_is_still_ours(
    log: Log,
) -> None:
    """Ours is recognised although it is not the last one any more."""

    class Overtaken(FaultyJournal):
        async def _publish(self, new: Recorded, after: int) -> int:
            try:
                return await super()._publish(new, after)
            except OutcomeUnknown:
                mine = (await self.inner.read(KEY))[-1]
                await write(self.inner, previous=mine)
                raise

    journal = Overtaken(log.journal, Plan({"publish": ["lost_ack"]}))
    stored = await journal.append(commit(), after=0)
    history = await log.journal.read(KEY)
    assert len(history) == 2
    assert history[0] == stored


async def test_a_lost_request_overtaken_by_another_writer_is_a_conflict(
    log: Log,
) -> None:
    """The old decision is never put behind the commit that came in between."""

    async def foreign(key: Key) -> None:
        await log.journal.append(commit(key, by="a stranger"), after=0)

    plan = Plan({"publish": ["lost_request", "foreign"]})
    journal = FaultyJournal(log.journal, plan, foreign=foreign)
    with pytest.raises(Conflict, match="by a stranger"):
        await journal.append(commit(), after=0)
    assert [r.commit.by for r in await log.journal.read(KEY)] == ["a stranger"]


async def test_a_look_without_an_answer_is_repeated(log: Log) -> None:
    """Neither the ack nor the look after it gets through at first."""
    plan = Plan({"publish": ["lost_ack"], "following": ["silence", "silence"]})
    stored = await FaultyJournal(log.journal, plan).append(commit(), after=0)
    assert await log.journal.read(KEY) == [stored]


async def test_silence_until_the_deadline_is_an_unknown_outcome(log: Log) -> None:
    """Who can't find out says so; it neither claims nor denies."""
    journal = FaultyJournal(log.journal, Plan({"publish": ["lost_request"] * 50}))
    journal.patience = 0.1
    with pytest.raises(OutcomeUnknown, match="lost, on purpose"):
        await journal.append(commit(), after=0)
    assert await log.journal.read(KEY) == []


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_nothing_is_stored_twice(log: Log, seed: int) -> None:
    """Under faults by chance every append ends once, and the history is whole."""
    plan = Plan(seed=seed, odds=0.4)
    journal = FaultyJournal(log.journal, plan, pause=0.0, foreign=intruder(log))
    mine: list[str] = []
    last: Recorded | None = None
    for _ in range(12):
        new = commit(previous=last)
        try:
            last = await journal.append(new, after=last.position if last else 0)
            mine.append(new.commit.id)
        except Conflict:
            last = (await log.journal.read(KEY))[-1]
    history = await log.journal.read(KEY)
    ids = [r.commit.id for r in history if r.commit.by == "tester"]
    assert ids == mine
    assert plan.struck


def intruder(log: Log) -> Foreign:
    """Somebody who appends in between."""

    async def intrude(key: Key) -> None:
        history = await log.journal.read(key)
        last = history[-1] if history else None
        new = commit(key, last, by="a stranger")
        await log.journal.append(new, after=last.position if last else 0)

    return intrude


def test_the_same_seed_strikes_in_the_same_way() -> None:
    """A simulation can be run again by its seed."""
    plans = [Plan(seed=7, odds=0.5) for _ in range(2)]
    drawn = [[plan.draw("publish") for _ in range(50)] for plan in plans]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 3


# ── size ─────────────────────────────────────────────────────────────────────


async def test_an_oversized_commit_is_refused_before_it_is_sent(log: Log) -> None:
    """The connection, which such a message would close for good, lives on."""
    journal: Journal = log.journal
    with pytest.raises(TooLarge, match=r"262,1\d\d bytes is larger than 262,144"):
        await journal.append(commit(size=MAX_COMMIT - 200), after=0)
    stored = await journal.append(commit(size=MAX_COMMIT - 500), after=0)
    assert await journal.read(KEY) == [stored]


async def test_a_cancelled_append_leaves_a_log_that_works(
    log: Log,
) -> None:
    """Stored or not, the next writer finds a history it can follow."""
    task = asyncio.create_task(log.journal.append(commit(), after=0))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    history = await log.journal.read(KEY)
    last = history[-1] if history else None
    try:
        await write(log.journal, previous=last)
    except Conflict:  # it was on its way and came in just now
        last = (await log.journal.read(KEY))[-1]
        await write(log.journal, previous=last)
    versions = [r.commit.version for r in await log.journal.read(KEY)]
    assert versions == list(range(1, len(versions) + 1))

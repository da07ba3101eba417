"""Blobs in the log: what was too long for a commit comes back with every read."""

import asyncio
import logging
from contextlib import aclosing
from functools import partial

import msgspec
import pytest
from commits import KEY, OTHER, commit
from histories import spec
from logs import Log

from events.blobs import pack
from events.catalog import Created, MetadataWritten
from events.commit import GENESIS, Recorded, seal
from events.errors import Corrupt, OutcomeUnknown
from events.execution import Execution
from events.faulty import FaultyJournal, Plan
from events.journal import Journal
from events.names import MAX_COMMIT, Key, blob_name
from services.handler import Decision, Handler

LONG = "0123456789" * 200_000
"""Two megabytes: sixteen pieces."""


def note(**notes: str) -> Decision:
    """Write something into an execution."""
    return lambda execution: execution.trigger_event(MetadataWritten, notes=notes)


async def create(journal: Journal, key: Key = KEY, **notes: str) -> Execution:
    """Create an execution, and write notes into it."""
    handler, new = Handler(journal, "tester"), Created(agent=spec(), input="Go")
    await handler.handle(key, partial(Execution.create, created=new))
    return await handler.handle(key, note(**notes))


def notes(recorded: Recorded) -> dict[str, str]:
    """The notes that a commit wrote."""
    [fact] = recorded.commit.events
    assert isinstance(fact, MetadataWritten)
    return fact.notes


async def followed(journal: Journal, *, whole: bool = True) -> list[Recorded]:
    """Every commit there is."""
    async with aclosing(journal.follow(live=False, whole=whole)) as runs:
        return [recorded async for run in runs for recorded in run]


async def names(journal: Journal) -> set[str]:
    """The blobs of the execution."""
    return set(await journal.blobs_of(KEY))


async def test_a_long_text_is_read_as_it_was_written(log: Log) -> None:
    """The chain is over what is stored, which has only its beginning."""
    written = await create(log.journal, text=LONG)
    assert written.state.notes == {"text": LONG}
    history = await (await log.again()).read(KEY)
    assert notes(history[1]) == {"text": LONG}
    assert len(history[1].body) < 2000
    assert b"2,000,000 bytes in BLOBS" in history[1].body
    assert history[1].commit.blobs == ()
    assert Execution.fold(KEY, history).state == written.state


async def test_a_long_text_is_followed_as_it_was_written(log: Log) -> None:
    """Between others, in order; or as it is stored, for who needs no texts."""
    await create(log.journal, text=LONG)
    await Handler(log.journal, "tester").handle(KEY, note(text="short"))
    history = await followed(log.journal)
    assert [r.commit.version for r in history] == [1, 2, 3]
    assert [notes(r)["text"] for r in history[1:]] == [LONG, "short"]
    stored = await followed(log.journal, whole=False)
    assert [len(r.commit.blobs) for r in stored] == [0, 1, 0]
    assert Execution.fold(KEY, stored).state.version == 3


async def test_a_text_is_there_before_the_commit_that_names_it(log: Log) -> None:
    """Whoever sees the commit can read it whole: a live follower, at once."""
    seen: asyncio.Queue[Recorded] = asyncio.Queue()

    async def follow() -> None:
        async with aclosing(log.journal.follow()) as runs:
            async for run in runs:
                for recorded in run:
                    seen.put_nowait(recorded)

    following = asyncio.create_task(follow())
    await create(log.journal, text=LONG)
    assert (await seen.get()).commit.version == 1
    assert notes(await seen.get()) == {"text": LONG}
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_the_same_text_is_kept_once_in_an_execution(log: Log) -> None:
    """However often it is written; another execution has its own."""
    await create(log.journal, text=LONG)
    await Handler(log.journal, "tester").handle(KEY, note(text=LONG, again=LONG))
    await create(log.journal, OTHER, text=LONG)
    [name] = await names(log.journal)
    assert await log.journal.blobs_of(OTHER) == [name.replace("ada/run-1", "bob/run-2")]


@pytest.mark.parametrize("fault", ["lost_ack", "lost_request", "delay"])
async def test_a_blob_whose_outcome_is_unknown_is_stored_once(
    log: Log, fault: str
) -> None:
    """It is asked for again until it is there."""
    plan = Plan({"store": [fault, fault]})  # type: ignore[list-item]  # they are faults
    journal = FaultyJournal(log.journal, plan)
    await create(journal, text=LONG)
    assert plan.struck == ([fault] * 2 if fault.startswith("lost") else [fault])
    assert len(await names(log.journal)) == 1
    assert notes((await log.journal.read(KEY))[1]) == {"text": LONG}


async def test_a_blob_that_is_never_confirmed_leaves_no_commit(log: Log) -> None:
    """Nothing in the log names what may not be there."""
    journal = FaultyJournal(log.journal, Plan({"store": ["lost_request"] * 9}))
    journal.patience = 0.0
    with pytest.raises(OutcomeUnknown):
        await create(journal, text=LONG)
    assert [r.commit.version for r in await log.journal.read(KEY)] == [1]


async def test_a_decision_made_again_stores_nothing_twice(log: Log) -> None:
    """Each round that was lost has the same text."""
    handler = Handler(log.journal, "other")

    async def overtake(key: Key) -> None:
        await handler.handle(key, note(other="x"))

    await create(log.journal)
    plan = Plan({"publish": ["foreign", "foreign", None]})
    journal = FaultyJournal(log.journal, plan, foreign=overtake)
    execution = await Handler(journal, "tester").handle(KEY, note(text=LONG))
    assert execution.state.version == 5
    assert len(await names(log.journal)) == 1


async def test_a_blob_that_is_missing_makes_its_history_corrupt(log: Log) -> None:
    """It says which; other histories are read."""
    await create(log.journal, text=LONG)
    await create(log.journal, OTHER, text=LONG)
    [name] = await names(log.journal)
    await log.journal.delete_blob(name)
    with pytest.raises(Corrupt, match=f"ada/run-1 is damaged .* {name} is missing"):
        await log.journal.read(KEY)
    assert notes((await log.journal.read(OTHER))[1]) == {"text": LONG}


async def test_a_blob_that_is_not_what_it_was_makes_its_history_corrupt(
    log: Log,
) -> None:
    """Its name is the digest of what it must be."""
    whole = msgspec.structs.replace(commit(size=MAX_COMMIT).commit, chain="")
    packed, [digest] = pack(whole, KEY)
    sealed, body = seal(packed, KEY, GENESIS)
    await log.journal.keep(KEY, {digest: b"y" * MAX_COMMIT})
    await log.journal.append(Recorded(0, KEY, "log", sealed, body), after=0)
    with pytest.raises(Corrupt, match="is not what was stored; restore BLOBS"):
        await log.journal.read(KEY)


async def test_who_follows_all_is_not_stopped_by_one_blob(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """He gets that commit as it is stored, and it says what it lacks."""
    await create(log.journal, text=LONG)
    await create(log.journal, OTHER, text=LONG)
    [name] = await names(log.journal)
    await log.journal.delete_blob(name)
    with caplog.at_level(logging.WARNING):
        history = await followed(log.journal)
    assert [bool(r.commit.blobs) for r in history] == [False, True, False, False]
    assert notes(history[1])["text"].endswith("[…: 2,000,000 bytes in BLOBS]")
    assert name in caplog.text


async def test_a_deleted_blob_is_gone_and_can_be_stored_again(log: Log) -> None:
    """Twice is fine, and what was never there too."""
    await create(log.journal, text=LONG)
    [name] = await names(log.journal)
    for gone in (name, name, blob_name(KEY, "0" * 64)):
        await log.journal.delete_blob(gone)
    assert await names(log.journal) == set()
    await log.journal.keep(KEY, {name.rpartition("/")[2]: LONG.encode()})
    assert notes((await log.journal.read(KEY))[1]) == {"text": LONG}


async def test_what_no_commit_came_to_name_is_found(log: Log) -> None:
    """It was stored, and the commit was refused: retention must find it."""
    await create(log.journal)
    await log.journal.keep(KEY, {"a" * 64: b"orphan"})
    await log.journal.keep(OTHER, {"b" * 64: b"not hers"})
    assert await names(log.journal) == {blob_name(KEY, "a" * 64)}

"""Deleting a history: whatever is left of it tells what it is."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256

import pytest
from commits import KEY, OTHER, commit, write
from logs import JetStreamLog, Log
from nats_server import NatsServer

from events.catalog import Purged
from events.commit import Recorded
from events.errors import Conflict, Deleted, NotAllowedNow, Unavailable
from events.faulty import FaultyJournal, Plan
from events.journal import Journal
from events.names import ROUTES

PURGED = (Purged(reason="old"),)


async def finished(journal: Journal) -> list[Recorded]:
    """Write a history over all routes that ends with ``purged``."""
    written = await write(journal, KEY, [*ROUTES, "log"])
    last = commit(KEY, written[-1], route="finished", facts=PURGED)
    return [*written, await journal.append(last, after=written[-1].position)]


async def all_of(journal: Journal) -> Sequence[Recorded]:
    """Everything that is in a log."""
    return [r async for run in journal.follow(live=False) for r in run]


async def test_nothing_is_left_and_nothing_else_is_gone(log: Log) -> None:
    """The bytes are told; asked again there are none; the id is free."""
    journal = log.journal
    before = await write(journal, OTHER, ["agents", "log"])
    written = await finished(journal)
    after = await write(journal, OTHER, ["log"], previous=before[-1])
    assert await journal.erase(KEY) == sum(len(r.body) for r in written)
    assert await journal.erase(KEY) == 0
    assert await journal.read(KEY) == []
    assert await journal.tip(KEY) == 0
    assert await journal.read(OTHER) == [*before, *after]
    assert await all_of(journal) == [*before, *after]
    again = await write(journal, KEY, ["agents"])
    assert again[0].position > after[-1].position
    assert await journal.read(KEY) == again


async def test_what_was_not_purged_is_not_deleted(log: Log) -> None:
    """However often somebody asks."""
    written = await write(log.journal, KEY, ["agents", "finished"])
    with pytest.raises(NotAllowedNow, match="not purged"):
        await log.journal.erase(KEY)
    assert await log.journal.read(KEY) == written


class Dying(FaultyJournal):
    """Dies at its n-th deletion."""

    def __init__(self, inner: Journal, passes: int) -> None:
        super().__init__(inner, Plan())
        self._left = passes

    async def _delete(self, position: int) -> None:
        if self._left == 0:
            raise asyncio.CancelledError
        self._left -= 1
        await super()._delete(position)


async def test_wherever_it_dies_a_reader_is_told_that_it_was_deleted(log: Log) -> None:
    """Whole or deleted, never damaged; whoever comes next goes on with it."""
    journal = log.journal
    written = await finished(journal)
    for gone in range(len(written)):
        with pytest.raises(asyncio.CancelledError):
            await Dying(journal, 1 if gone else 0).erase(KEY)
        if gone == 0:
            assert await journal.read(KEY) == written
            continue
        left = [r.commit.version for r in await all_of(journal)]
        assert left == list(range(gone + 1, len(written) + 1))
        with pytest.raises(Deleted, match="ada/run-1 was deleted"):
            await journal.read(KEY)
        with pytest.raises(Deleted):
            await journal.read(KEY, at_least=written[-1].position)
        with pytest.raises(Conflict):  # it is no free id yet
            await journal.append(commit(KEY), after=0)
    assert await journal.erase(KEY) == len(written[-1].body)
    assert await journal.read(KEY) == []


async def test_two_at_once_and_silence_do_no_harm(log: Log) -> None:
    """A deletion without an answer is asked for again; another's is as good."""
    journal = log.journal
    await finished(journal)
    plan = Plan({"delete": ["silence", "delay", "silence"]})
    other = await log.again()
    await asyncio.gather(FaultyJournal(journal, plan).erase(KEY), other.erase(KEY))
    assert plan.struck == ["silence", "delay", "silence"]
    assert await all_of(journal) == []


async def test_who_may_not_is_told_so(log: Log) -> None:
    """The server answers with silence where a permission is missing."""
    await finished(log.journal)
    mute = FaultyJournal(log.journal, Plan({"delete": ["silence"] * 10_000}))
    mute.patience = 0.01
    with pytest.raises(Unavailable, match=r"nats\.janitor_user"):
        await mute.erase(KEY)


async def test_who_is_behind_deletes_nothing(log: Log) -> None:
    """A read that has not seen the newest commits is no ground to delete on."""
    written = await finished(log.journal)
    behind = FaultyJournal(log.journal, Plan({"read": ["stale"]}))
    with pytest.raises(Unavailable):
        await behind.erase(KEY)
    assert await log.journal.read(KEY) == written


async def test_a_reader_beside_it_sees_all_or_nothing(log: Log) -> None:
    """While commits go, reads of several routes are merged."""
    reader = await log.again()
    written = await finished(log.journal)
    seen = []

    async def read() -> None:
        while True:
            try:
                history = await reader.read(KEY)
            except Deleted:
                seen.append("deleted")
            else:
                assert history in ([], written)
                seen.append("whole" if history else "gone")
                if not history:
                    return

    reading = asyncio.create_task(read())
    while not seen:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0)
    await log.journal.erase(KEY)
    await reading
    assert seen[0] == "whole"
    assert seen[-1] == "gone"


async def test_what_is_gone_stays_gone(
    own_log: JetStreamLog, own_server: NatsServer
) -> None:
    """A server that is killed remembers what it deleted, half-done too."""
    written = await finished(own_log.journal)
    with pytest.raises(asyncio.CancelledError):
        await Dying(own_log.journal, 4).erase(KEY)
    own_server.kill()
    own_server.forget_index()
    own_server.start()
    journal = await own_log.again()
    assert [r.commit.version for r in await all_of(journal)] == [
        r.commit.version for r in written[4:]
    ]
    with pytest.raises(Deleted):
        await journal.read(KEY)
    await journal.erase(KEY)
    assert await all_of(journal) == []


async def test_blobs_go_with_it_and_no_other(log: Log) -> None:
    """Before the last commit, so that none is left when nobody knows of it."""
    journal = log.journal
    written = await finished(journal)
    await write(journal, OTHER)
    for key in (KEY, OTHER):
        await journal.keep(key, {sha256(b"long").hexdigest(): b"long"})
    with pytest.raises(asyncio.CancelledError):
        await Dying(journal, len(written) - 1).erase(KEY)
    assert await journal.blobs_of(KEY) == []
    with pytest.raises(Deleted):
        await journal.read(KEY)
    await journal.erase(KEY)
    assert len(await journal.blobs_of(OTHER)) == 1

"""A byte flipped in a stored block: what is damaged is noticed, and left alone."""

from collections.abc import Awaitable, Callable

import pytest
from commits import KEY, OTHER, commit, write
from logs import JetStreamLog
from nats_server import NatsServer

from events.catalog import MetadataWritten
from events.commit import Recorded
from events.errors import Corrupt
from events.execution import Execution
from events.jetstream import JetStreamJournal
from services.handler import Handler

Damaged = Callable[..., Awaitable[JetStreamJournal]]


@pytest.fixture
def damaged(own_log: JetStreamLog, own_server: NatsServer) -> Damaged:
    """Restart the server with one byte of one commit flipped."""

    async def damage(victim: Recorded, *, index: bool) -> JetStreamJournal:
        await own_log.close()
        own_server.stop()
        [block] = own_server.blocks()
        raw = bytearray(block.read_bytes())
        raw[raw.index(victim.body) + len(victim.body) // 2] ^= 1
        block.write_bytes(raw)
        if not index:
            own_server.forget_index()
        own_server.start()
        return await own_log.again()

    return damage


def note(execution: Execution) -> None:
    """Decide something, whatever the state."""
    execution.trigger_event(MetadataWritten, notes={"decided": True})


async def stored(journal: JetStreamJournal) -> int:
    """How many commits the log has by now."""
    return sum([len(run) async for run in journal.follow(live=False)])


@pytest.mark.parametrize("at", [0, 1, 5], ids=["first", "second", "middle"])
async def test_a_damaged_commit_stops_its_execution_and_no_other(
    own_log: JetStreamLog, damaged: Damaged, at: int
) -> None:
    """Loading names the version and what to do; a decision appends nothing."""
    written = await write(own_log.journal, KEY, ["agents"] + ["log"] * 9)
    others = await write(own_log.journal, OTHER, ["agents", "log"])
    journal = await damaged(written[at], index=True)
    handler = Handler(journal, "tester")
    before = await stored(journal)
    message = f"history of ada/run-1 is incomplete: versions {at + 1} .*from a backup"
    with pytest.raises(Corrupt, match=message):
        await handler.load(KEY)
    with pytest.raises(Corrupt, match=message):
        await handler.handle(KEY, note)
    assert await stored(journal) == before
    assert await journal.read(OTHER) == others
    await write(journal, OTHER, ["log"], previous=others[-1])


@pytest.mark.parametrize("index", [True, False])
async def test_a_damaged_last_commit_is_noticed_by_who_appends_after_it(
    own_log: JetStreamLog, damaged: Damaged, *, index: bool
) -> None:
    """The rest looks whole, so it is the expected position that shows it."""
    written = await write(own_log.journal, KEY, ["agents"] + ["log"] * 9)
    journal = await damaged(written[-1], index=index)
    before = await stored(journal)
    with pytest.raises(Corrupt, match=r"restore EVENTS from a backup"):
        await journal.append(commit(KEY, written[-1]), after=written[-1].position)
    with pytest.raises(Corrupt, match=r"restore EVENTS from a backup"):
        await journal.read(KEY, at_least=written[-1].position)
    assert await stored(journal) == before


@pytest.mark.parametrize("at", [0, 5, 9])
async def test_after_a_crash_the_server_forgets_all_that_follows_the_damage(
    own_log: JetStreamLog, damaged: Damaged, at: int
) -> None:
    """Without its index it cuts the log there: whoever knows a later position sees it.

    What is left is whole, if short, and nothing is put in place of what was lost
    by those who knew it.
    """
    written = await write(own_log.journal, KEY, ["agents"] + ["log"] * 9)
    known = Execution.fold(KEY, written)
    journal = await damaged(written[at], index=False)
    handler = Handler(journal, "tester")
    assert await journal.read(KEY) == written[:at]
    with pytest.raises(Corrupt, match=f"versions {at + 1} are missing"):
        await handler.load(KEY, at_least=written[-1].position)
    with pytest.raises(Corrupt, match=f"it ends at position {at}, and position 10 was"):
        await handler.handle(KEY, note, known=known)
    assert await stored(journal) == at

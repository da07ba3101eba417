import asyncio
from typing import TYPE_CHECKING

import pytest
from commits import KEY, OTHER, commit, write
from logs import JetStreamLog, Log
from nats_server import NatsServer

from events.errors import Corrupt, OutcomeUnknown, Unavailable, UnknownEvent
from events.execution import Execution
from events.faulty import FaultyJournal, Plan
from events.names import ROUTES, Key, Route
from services.handler import Handler

if TYPE_CHECKING:
    from events.commit import Recorded


async def test_nothing_is_an_empty_history(log: Log) -> None:
    """An execution that nobody started has no commits and position 0."""
    await write(log.journal, OTHER)
    assert await log.journal.read(KEY) == []
    assert await log.journal.tip(KEY) == 0
    assert await log.journal.last(KEY) is None


async def test_a_history_over_all_routes_comes_in_order(log: Log) -> None:
    """Routes are read apart and merged by version; nothing else is in it."""
    routes = [*ROUTES, *reversed(ROUTES), *ROUTES]
    written = await write(log.journal, KEY, routes)
    await write(log.journal, Key(KEY.user, "run-10"))
    await write(log.journal, Key("eve", KEY.execution))
    assert await log.journal.read(KEY) == written
    assert await log.journal.tip(KEY) == written[-1].position


@pytest.mark.parametrize("route", ROUTES)
async def test_the_last_commit_says_who_acts_next(log: Log, route: Route) -> None:
    """Where it stands and its route, whatever came before; of this history alone."""
    written = await write(log.journal, KEY, ["agents", "log", route])
    await write(log.journal, OTHER, ["finished"])
    assert await log.journal.last(KEY) == (written[-1].position, route)


async def test_a_history_longer_than_a_batch_is_read_whole(log: Log) -> None:
    """2,150 commits, of which one route alone has more than two batches."""
    written = await write(log.journal, KEY, ["log"] * 1_050 + ["signal"])
    written += await write(log.journal, KEY, ["log"] * 1_099, previous=written[-1])
    history = await log.journal.read(KEY)
    assert [r.position for r in history] == [r.position for r in written]
    assert history == written


async def test_a_batch_that_ends_early_is_gone_on_with(log: Log) -> None:
    """A batch carries only so many bytes; the rest is asked for."""
    written = await write(log.journal, KEY, ["log"] * 50, size=200_000)
    assert await log.journal.read(KEY) == written


async def test_a_history_read_while_it_grows_has_no_gap(log: Log) -> None:
    """Commits land between the reads of the routes; what is returned is whole."""
    reader = await log.again()
    written: list[Recorded] = await write(log.journal, KEY, ["log"])

    async def grow() -> None:
        for n in range(150):
            route = ROUTES[n % len(ROUTES)]
            written.extend(await write(log.journal, KEY, [route], previous=written[-1]))

    writer = asyncio.create_task(grow())
    while not writer.done():
        history = await reader.read(KEY, at_least=written[-1].position)
        versions = [r.commit.version for r in history]
        assert versions == list(range(1, len(versions) + 1))
    await writer
    assert await reader.read(KEY) == written


# ── answers that are behind, gaps, damage ────────────────────────────────────


async def test_a_stale_answer_is_read_again(log: Log) -> None:
    """A follower that is behind does not know the position that we know."""
    written = await write(log.journal, KEY, ["agents", "log", "log"])
    journal = FaultyJournal(log.journal, Plan({"read": ["stale", "stale"]}))
    at_least = written[-1].position
    assert await journal.read(KEY, at_least=at_least) == written


async def test_a_gap_that_closes_is_no_corruption(log: Log) -> None:
    """A commit that landed between the reads is there the next time."""
    written = await write(log.journal, KEY, ["agents", "log", "log"])
    journal = FaultyJournal(log.journal, Plan({"read": ["missing"] * 3}))
    assert await journal.read(KEY) == written


async def test_a_gap_that_stays_is_corruption(log: Log) -> None:
    """The versions are named, and what to do about it."""
    await write(log.journal, KEY, ["agents", "log", "log", "log"])
    journal = FaultyJournal(log.journal, Plan({"read": ["missing"] * 9}))
    with pytest.raises(
        Corrupt, match=r"ada/run-1 is incomplete: versions 3 .* from a backup"
    ):
        await journal.read(KEY)


async def test_an_answer_that_stays_behind_is_no_corruption(log: Log) -> None:
    """The leader has the commit: to ask again later helps, a backup does not."""
    written = await write(log.journal, KEY, ["agents", "log"])
    journal = FaultyJournal(log.journal, Plan({"read": ["stale"] * 9}))
    with pytest.raises(Unavailable, match="cannot be read yet"):
        await journal.read(KEY, at_least=written[-1].position)


async def test_a_gap_after_answers_that_are_behind_is_no_corruption(log: Log) -> None:
    """It was seen once: nobody is told to restore a backup for that."""
    written = await write(log.journal, KEY, ["agents", "log", "log"])
    reads = ["stale"] * 4 + ["missing"]
    journal = FaultyJournal(log.journal, Plan({"read": reads}))
    with pytest.raises(Unavailable, match="cannot be read yet"):
        await journal.read(KEY, at_least=written[-1].position)
    assert journal.plan.struck == reads


async def test_an_end_that_is_gone_is_corruption(log: Log) -> None:
    """A position that we know of and that the log does not have was lost."""
    written = await write(log.journal, KEY, ["agents", "log"])
    with pytest.raises(Corrupt, match=r"versions 3 are missing; restore EVENTS"):
        await log.journal.read(KEY, at_least=written[-1].position + 1)


async def test_a_commit_that_does_not_follow_its_predecessor_is_corruption(
    log: Log,
) -> None:
    """A history with a foreign link in it is not folded, and says where it broke."""
    [first] = await write(log.journal, KEY, ["agents"])
    forged = commit(KEY, first._replace(commit=commit(size=3).commit))
    await log.journal.append(forged, after=first.position)
    with pytest.raises(Corrupt, match=r"broken at version 2 .* from a backup"):
        await Handler(log.journal, "tester").load(KEY)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"\x00\xff not json", Corrupt),
        (b'{"version":1}', Corrupt),
        (b'{"events":[{"type":"invented.v9"}]}', UnknownEvent),
    ],
)
async def test_bytes_that_are_no_commit_are_told_apart(
    jetstream_log: JetStreamLog, body: bytes, error: type[Exception]
) -> None:
    """Damage and a newer version's event are different errors, never a group."""
    await jetstream_log.journal.wire.request("events.ada.run-1.log", body)
    with pytest.raises(error, match="history of ada/run-1"):
        await jetstream_log.journal.read(KEY)


async def test_reading_without_a_server_is_unavailable(
    own_log: JetStreamLog, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One plain error that the callers know, although seven reads failed."""
    monkeypatch.setattr("events.direct.ANSWER", 0.05)
    own_server.freeze(frozen=True)
    with pytest.raises(Unavailable, match="cannot be read now"):
        await own_log.journal.read(KEY)
    own_server.freeze(frozen=False)


async def test_the_tip_is_never_a_stale_answer(log: Log) -> None:
    """Right after each append, another process sees its position."""
    other = await log.again()
    last: Recorded | None = None
    for _ in range(20):
        [last] = await write(log.journal, KEY, ["log"], previous=last)
        assert await other.tip(KEY) == last.position


async def test_a_tip_without_an_answer_is_unknown(log: Log) -> None:
    """Silence is not position 0."""
    journal = FaultyJournal(log.journal, Plan({"tip": ["silence"]}))
    with pytest.raises(OutcomeUnknown, match="on purpose"):
        await journal.tip(KEY)


async def test_what_is_read_folds(log: Log) -> None:
    """The log's bytes pass the chain check as they come."""
    written = await write(log.journal, KEY, ["agents", "log", "parked"])
    execution = Execution.fold(KEY, await log.journal.read(KEY))
    assert execution.position == written[-1].position

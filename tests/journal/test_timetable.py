"""The timetable, on both adapters; and what only a real server can do."""

import asyncio
from contextlib import aclosing

import msgspec
import pytest
from nats_server import take_away
from timetables import SINCE, JetStreamTable, Table, definition

from events.errors import Conflict, UnknownEvent
from events.names import RECURRING
from events.tablestream import KEPT, JetStreamTimetable
from events.timetable import Ran, Removal

NAME = ("ada", "report")
REMOVAL = Removal(at=SINCE, by="user:ada", cause="cmd-9", definition=definition())
replace = msgspec.structs.replace


async def test_what_is_defined_is_found(table: Table) -> None:
    """By whoever looks, with its revision; nothing came of it yet."""
    stored = await table.timetable.define(definition())
    assert stored.revision > 0
    assert replace(stored, revision=0) == definition()
    found = await (await table.again()).find(NAME)
    assert found == (stored, Ran())
    assert not found.current
    assert await table.timetable.find(("ada", "other")) is None


async def test_a_definition_replaces_the_one_that_was_read(table: Table) -> None:
    """And no other: who was second must read again."""
    first = await table.timetable.define(definition())
    second = await table.timetable.define(replace(first, paused=True))
    assert second.revision > first.revision
    for stale in (first, definition()):
        with pytest.raises(Conflict):
            await table.timetable.define(stale)
    assert (await table.timetable.find(NAME) or ())[0] == second


async def test_of_ten_who_define_at_once_one_does(table: Table) -> None:
    """The others hear that somebody was first."""
    tables = [await table.again() for _ in range(10)]
    tries = (t.define(definition(cause=f"c{n}")) for n, t in enumerate(tables))
    came = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in came) == 9


async def test_what_came_of_it_is_written_on_the_same_condition(table: Table) -> None:
    """And found beside the definition."""
    defined = await table.timetable.define(definition())
    ran = Ran(revision=defined.revision, due=SINCE, outcome="started", execution="x")
    first = await table.timetable.record(NAME, ran)
    second = await table.timetable.record(NAME, replace(first, begun=True))
    for stale in (ran, first):
        with pytest.raises(Conflict):
            await table.timetable.record(NAME, stale)
    found = await table.timetable.find(NAME)
    assert found == (defined, second)
    assert found.current


async def test_what_is_removed_is_gone_and_who_did_it_is_known(table: Table) -> None:
    """One of that name may be defined anew; nothing of the old one is left."""
    timetable = table.timetable
    defined = await timetable.define(definition())
    await timetable.record(NAME, Ran(execution="x"))
    assert await timetable.removed(NAME) is None
    for _ in range(2):  # twice is fine
        await timetable.remove(NAME, REMOVAL)
    assert await timetable.find(NAME) is None
    assert await timetable.names() == []
    assert await timetable.removed(NAME) == REMOVAL
    with pytest.raises(Conflict):
        await timetable.record(NAME, Ran(position=99))
    again = await timetable.define(definition())
    assert again.revision > defined.revision
    assert await timetable.find(NAME) == (again, Ran())


async def test_the_schedules_of_a_user_are_listed(table: Table) -> None:
    """Or all; by their names."""
    for user, name in (("bob", "b"), ("ada", "z"), ("ada", "a")):
        await table.timetable.define(definition(name, user))
    named = [("ada", "a"), ("ada", "z"), ("bob", "b")]
    assert sorted(await table.timetable.names()) == named
    assert sorted(await table.timetable.names("ada")) == named[:2]
    assert await table.timetable.names("eve") == []
    entries = await table.timetable.all()
    assert [(e.definition.user, e.definition.name) for e in entries] == named


async def test_changes_are_followed_from_the_first(table: Table) -> None:
    """Those that are there, then those to come; what came of them is no change."""
    timetable = table.timetable
    first = await timetable.define(definition("a"))
    await timetable.define(definition("b"))
    seen: list[tuple[str, str]] = []
    async with aclosing((await table.again()).follow()) as runs:
        async for run in runs:
            seen += run
            if len(seen) == 2:
                await timetable.record(("ada", "a"), Ran())
                await timetable.define(replace(first, paused=True))
            if len(seen) == 3:
                break
    assert [name for _, name in seen] == ["a", "b", "a"]


async def test_the_last_revisions_are_kept(jetstream_table: JetStreamTable) -> None:
    """Who changed it and when; not for ever, or a schedule could fill the disk."""
    timetable = jetstream_table.timetable
    defined = await timetable.define(definition())
    for number in range(KEPT + 5):
        defined = await timetable.define(replace(defined, cause=f"c{number}"))
    info = msgspec.json.decode(
        await timetable._wire.api(f"STREAM.INFO.{RECURRING}", {"subjects_filter": ">"})
    )
    assert info["state"]["subjects"] == {"recurring.ada.report.defined": KEPT}
    assert await timetable.find(NAME) == (defined, Ran())


async def test_what_cannot_be_read_is_said(jetstream_table: JetStreamTable) -> None:
    """Written by a newer version, say."""
    timetable = jetstream_table.timetable
    await timetable._wire.request("recurring.ada.report.defined", b"{}")
    with pytest.raises(UnknownEvent, match="a schedule cannot be read"):
        await timetable.find(NAME)


async def test_where_nobody_ever_served_there_are_none(
    jetstream_table: JetStreamTable,
) -> None:
    """The stream is not there yet: that is no error for who only looks."""
    wire = jetstream_table.wires[0]
    await take_away(wire, RECURRING)
    assert await JetStreamTimetable(wire).all() == []

"""What moves with every step is updated in place; anything else replaces the row."""

from pathlib import Path
from typing import Any

import pytest
from histories import Story, call
from readmodels import Logs, append, ask, drift, projecting, raws, settled

from events.messages import Usage
from events.names import Key
from projections.projector import Projector

ROW = "SELECT rowid, version, steps, input_tokens, status FROM executions_hot"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where the read model is."""
    return tmp_path / "readmodel.duckdb"


async def rows_after(projector: Projector, logs: Logs, story: Story) -> list[Any]:
    """The changing rows, once what is new of a story is in them."""
    await append(logs, story)
    await settled(projector)
    return await ask(projector, ROW)


async def test_a_step_leaves_the_row_where_it_is(model: Path) -> None:
    """Steps and results update it; a pause, and what comes after it, replaces it."""
    logs: Any = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    async with projecting(model, logs) as projector:

        async def row() -> tuple[Any, ...]:
            (found,) = await rows_after(projector, logs, story)
            return found

        where, *_ = await row()
        story.respond(call("a"), usage=Usage(input=10), cost=0.5)
        assert await row() == (where, 3, 1, 10, "running")
        story.finish("a")
        assert await row() == (where, 4, 1, 10, "running")
        story.respond(text="Done.", usage=Usage(input=1))
        replaced, *rest = await row()
        assert (replaced != where, rest) == (True, [5, 2, 11, "completed"])
    assert drift(model, raws(logs.events)) == []


async def test_a_step_after_a_restart(model: Path) -> None:
    """What a row was is known again: it is updated, and right."""
    logs: Any = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    async with projecting(model, logs) as projector:
        before = await rows_after(projector, logs, story)
    async with projecting(model, logs) as projector:
        story.respond(call("a"), usage=Usage(input=7))
        after = await rows_after(projector, logs, story)
    assert [row[0] for row in after] == [row[0] for row in before]
    assert drift(model, raws(logs.events)) == []


async def test_a_step_whose_numbers_fit_no_column(model: Path) -> None:
    """They are made to fit, in a row that is there already too; the next goes on."""
    logs: Any = Logs.empty()
    story = Story(Key("ada", "one"))
    story.running()
    async with projecting(model, logs) as projector:
        for tokens in (2**63 - 1, 2**63 - 1, 5):
            await rows_after(projector, logs, story)
            story.respond(call("a"), usage=Usage(cache_read=tokens))
            story.finish("a")
        await rows_after(projector, logs, story)
        found = await ask(projector, "SELECT steps, cache_read FROM executions")
    assert found == [(3, 2**63 - 1)]

"""Histories that earlier releases wrote are read for ever."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from golden import outcome, read, stored
from histories import Story, encoded
from stories import STORIES

from events.catalog import Event

HERE = Path(__file__).parents[1] / "golden"
RECORDED = sorted(HERE.glob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_history_comes_to_what_it_came_to(path: Path) -> None:
    """Every version of it, byte for byte with an unbroken chain."""
    assert outcome(read(path)) == json.loads(path.with_suffix(".json").read_text())


def test_every_event_has_been_recorded() -> None:
    """A new one needs a story, and a release that records it."""
    seen = {
        type(fact)
        for path in RECORDED
        for recorded in read(path)
        for fact in recorded.commit.events
    }
    ours = {k for k in Event.__subclasses__() if k.__module__ == Event.__module__}
    assert seen == ours


@pytest.mark.parametrize("tell", STORIES)
def test_a_story_that_is_told_twice_gives_the_same_bytes(
    tell: Callable[[], Story],
) -> None:
    """Times, ids and chance are arguments of the core."""
    first, second = tell(), tell()
    assert [stored(r) for r in first.log] == [stored(r) for r in second.log]
    assert encoded(first.load().state) == encoded(second.load().state)

"""The status that a commit is said to have decided is the one the fold has."""

from random import Random

import pytest
from histories import Story
from lifelike import lifelike

from events.commit import Recorded
from events.execution import Execution
from events.names import Key
from events.state import State, Status
from projections.notices import StatusChanged
from projections.standing import of_state, standing

KEY = Key("ada", "run-1")


def folded(story: Story, recorded: Recorded) -> State:
    """The execution as of a commit."""
    return Execution.fold(story.key, story.log[: recorded.commit.version]).state


async def told(story: Story) -> list[tuple[Status, StatusChanged | None]]:
    """For each commit the status that it led to, and what is said of it."""

    async def load(recorded: Recorded) -> State:
        return folded(story, recorded)

    return [(folded(story, r).status, await standing(r, load)) for r in story.log]


@pytest.mark.parametrize("seed", range(60))
async def test_what_is_said_is_what_the_history_says(seed: int) -> None:
    """Of anything that can happen; and no change is passed over in silence."""
    story = lifelike(Random(seed), KEY, 60)  # noqa: S311 - a schedule, no secret
    before: Status | None = None
    for version, (status, said) in enumerate(await told(story), 1):
        if said is None:
            assert status == before
        else:
            assert (said.status, said.version) == (status, version)
        before = status


async def test_a_commit_mostly_says_it_without_its_history() -> None:
    """Else a gateway would read a history for each message it sends."""
    asked = 0

    async def load(recorded: Recorded) -> State:
        nonlocal asked
        asked += 1
        return folded(story, recorded)

    commits = 0
    for seed in range(20):
        story = lifelike(Random(seed), KEY, 60)  # noqa: S311 - a schedule, no secret
        for recorded in story.log:
            await standing(recorded, load)
        commits += len(story.log)
    assert 0 < asked < commits / 10


async def test_nothing_is_said_where_nobody_knows() -> None:
    """The history of a commit may be deleted by the time it is told."""

    async def nothing(_recorded: Recorded) -> None:
        return None

    for seed in range(20):
        story = lifelike(Random(seed), KEY, 60)  # noqa: S311 - a schedule, no secret
        for status, recorded in zip(await told(story), story.log, strict=True):
            said = await standing(recorded, nothing)
            assert said is None or said == status[1]


@pytest.mark.parametrize("seed", range(20))
async def test_a_status_asked_for_tells_what_a_change_told(seed: int) -> None:
    """Whoever looks and whoever listened know the same of it."""
    story = lifelike(Random(seed), KEY, 60)  # noqa: S311 - a schedule, no secret
    for recorded, (_, said) in zip(story.log, await told(story), strict=True):
        now = of_state(folded(story, recorded))
        if said is None or said.status in {"pending", "cancelled"}:
            continue  # why it is work again, or was ended, only the change tells
        assert now.status == said.status
        assert now.request == said.request
        assert now.output == said.output
        assert (now.error, now.runner) == (said.error, said.runner)

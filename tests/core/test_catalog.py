"""The events: their names on the wire, their shapes, and what applies them."""

import re
from typing import get_args

import msgspec
import pytest
from anything import one_event
from eventsourcing.dcb.domain import decorated_funcs
from histories import BEGINNING, KEY, Story, call, encoded
from hypothesis import given
from hypothesis import strategies as st

from events import catalog as e
from events import commands as c
from events.commit import GENESIS, Commit, Recorded, seal, unseal
from events.execution import Execution
from events.messages import Usage

EVENTS: tuple[type[e.Event], ...] = get_args(e.AnyEvent)
WIRE_NAMES = [
    "created.v1",
    "start_abandoned.v1",
    "started.v1",
    "model_responded.v1",
    "tool_started.v1",
    "tool_completed.v1",
    "tool_in_doubt.v1",
    "tasks_planned.v1",
    "metadata_written.v1",
    "input_requested.v1",
    "input_received.v1",
    "event_awaited.v1",
    "event_received.v1",
    "pause_requested.v1",
    "paused.v1",
    "resumed.v1",
    "cancel_requested.v1",
    "cancelled.v1",
    "chunk_completed.v1",
    "child_spawned.v1",
    "child_finished.v1",
    "recovered.v1",
    "retried.v1",
    "forked.v1",
    "completed.v1",
    "failed.v1",
    "purged.v1",
]
"""Written out once more: histories hold these for ever; a new one is added here."""

ANY_EVENT = one_event()


def states() -> list[Story]:
    """An execution in each of its situations."""
    stories = [Story() for _ in range(8)]
    for story in stories[1:]:
        story.running()
    stories[2].respond(call("a", "launch"), call("b"))
    stories[3].respond(call("a", "ask_user", {"question": "?"}))
    stories[4].respond(call("a", "await_event", {"event_type": "x"}))
    stories[5].respond(call("a", "spawn_agent", {"agent": "helper", "prompt": "p"}))
    stories[6].respond(text="Done.")
    stories[7].command(c.Kill())
    return stories


STORIES = states()


def test_every_wire_name_is_written_out_versioned_and_unique() -> None:
    """And none has changed."""
    tags = [kind.__struct_config__.tag for kind in EVENTS]
    assert tags == WIRE_NAMES
    assert len(set(tags)) == len(tags)
    assert all(re.fullmatch(r"[a-z_]+\.v[0-9]+", str(tag)) for tag in tags)


def test_every_event_is_in_the_union() -> None:
    """A class that is left out could be written and not read."""
    ours = {k for k in e.Event.__subclasses__() if k.__module__ == e.__name__}
    assert ours == set(EVENTS)


@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_has_an_applier(kind: type[e.Event]) -> None:
    """It takes only fields that the event has."""
    assert kind in Execution.projected_types
    function = decorated_funcs[Execution, kind]
    code = function.__code__
    taken = code.co_varnames[1 : code.co_argcount]
    assert set(taken) <= set(kind.__struct_fields__)


def test_an_event_without_an_applier_is_an_error() -> None:
    """Never a silent nothing."""

    class Forgotten(  # type: ignore[misc]  # frozen on the library's own
        e.Event, frozen=True, kw_only=True, tag="forgotten.v1"
    ):
        """Somebody forgot to apply it."""

    with pytest.raises(KeyError):
        Story().load().trigger_event(Forgotten)


@given(ANY_EVENT)
def test_every_event_survives_the_wire(fact: e.Event) -> None:
    """In a commit, sealed and unsealed, it is the same."""
    commit = Commit(
        version=1,
        id="c",
        at=BEGINNING,
        by="t",
        events=(fact,),  # type: ignore[arg-type]  # it is one of AnyEvent
    )
    sealed, body = seal(commit, KEY, GENESIS)
    assert unseal(body, KEY) == sealed


@given(st.sampled_from(STORIES), ANY_EVENT)
def test_evolving_cannot_fail(story: Story, fact: e.Event) -> None:
    """What happened cannot be refused, wherever it is found; and it folds equally."""
    once, twice = story.load(), story.load()
    for execution in (once, twice):
        fact.mutate(execution)
        execution.route([fact])
    assert encoded(once.state) == encoded(twice.state)


class AnswerV0(  # type: ignore[misc]  # frozen on the library's own
    e.Event, frozen=True, kw_only=True, tag="model_responded.v0"
):
    """An older shape, as a later release would keep it: tokens were one number."""

    number: int
    text: str
    tokens: int

    def upcast(self) -> e.Event:
        """Return it in the shape of today."""
        usage = Usage(output=self.tokens)
        return e.ModelResponded(
            step=self.number, model="unknown", text=self.text, usage=usage
        )


class CommitV0(Commit, frozen=True, kw_only=True, omit_defaults=True):
    """A commit that may hold it."""

    events: tuple[e.AnyEvent | AnswerV0, ...]  # type: ignore[assignment]  # one more


def test_an_older_shape_is_read_as_todays() -> None:
    """The chain is over what was stored, the state from what it means today."""
    story = Story()
    story.running()
    old = CommitV0(
        version=3,
        id="c",
        at=BEGINNING,
        by="t",
        events=(AnswerV0(number=1, text="Hi", tokens=7),),
    )
    sealed, body = seal(old, KEY, story.log[-1].commit.chain)
    decoded = msgspec.json.decode(body, type=CommitV0)
    assert decoded == sealed
    story.log.append(Recorded(99, KEY, "log", decoded, body))
    state = story.load().state
    assert (state.steps, state.last_text, state.usage.total) == (1, "Hi", 7)

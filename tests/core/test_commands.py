"""Every command in every status gives a lawful answer."""

from collections.abc import Callable

import msgspec
import pytest
from histories import SPEC, Story, call
from lawful import ALL, TRANSITIONS, check_route, check_state

from events import catalog as e
from events import commands as c
from events.errors import InvalidInput, NotAllowedNow, NotFound, Refused

COMMANDS: dict[str, c.AnyCommand] = {
    "pause": c.Pause(),
    "resume": c.Resume(),
    "cancel": c.Cancel(),
    "kill": c.Kill(),
    "input": c.Input(request="1-question-a", answer="yes"),
    "input, another's": c.Input(request="nobody's", answer="yes"),
    "retry": c.Retry(),
}


def nothing(_story: Story) -> None:
    """No execution of that name."""


def pending(story: Story) -> None:
    """Waiting for a runner."""
    story.start()


def running(story: Story) -> None:
    """Held by a runner."""
    story.running()


def pausing(story: Story) -> None:
    """Held, and to be paused."""
    story.running()
    story.command(c.Pause())


def cancelling(story: Story) -> None:
    """Held, and to be cancelled."""
    story.running()
    story.command(c.Cancel())


def paused(story: Story) -> None:
    """At rest, with an open question."""
    awaiting_input(story)
    story.command(c.Pause())


def awaiting_input(story: Story) -> None:
    """A person was asked."""
    story.running()
    story.respond(call("a", "ask_user", {"question": "?"}))


def awaiting_event(story: Story) -> None:
    """Something outside has to happen."""
    story.running()
    story.respond(call("a", "await_event", {"event_type": "x"}))


def completed(story: Story) -> None:
    """It gave its answer."""
    story.running()
    story.respond(text="Done.")


def failed(story: Story) -> None:
    """It met an error."""
    story.running()
    story.do(lambda x: x.fail(1, "e", "m", retryable=True))


def cancelled(story: Story) -> None:
    """It was ended."""
    story.start()
    story.command(c.Kill())


A, N, M = "accepted, nothing to do", NotAllowedNow, NotFound
STATUSES: dict[
    Callable[[Story], None], tuple[type[Refused] | type[e.Event] | str, ...]
] = {
    # status: pause, resume, cancel, kill, input, input of another's request, retry
    nothing: (M, M, M, M, M, M, M),
    pending: (e.Paused, A, e.Cancelled, e.Cancelled, M, M, N),
    running: (e.PauseRequested, A, e.CancelRequested, e.Cancelled, M, M, N),
    pausing: (A, e.Resumed, e.CancelRequested, e.Cancelled, M, M, N),
    cancelling: (e.PauseRequested, A, A, e.Cancelled, M, M, N),
    paused: (A, e.Resumed, e.Cancelled, e.Cancelled, e.InputReceived, M, N),
    awaiting_input: (e.Paused, A, e.Cancelled, e.Cancelled, e.InputReceived, M, N),
    awaiting_event: (e.Paused, A, e.Cancelled, e.Cancelled, M, M, N),
    completed: (N, N, N, N, N, N, N),
    failed: (N, N, N, N, N, N, e.Retried),
    cancelled: (N, N, A, A, N, N, N),
}
MATRIX = [
    (reach, name, expected)
    for reach, row in STATUSES.items()
    for name, expected in zip(COMMANDS, row, strict=True)
]


@pytest.mark.parametrize(("reach", "name", "expected"), MATRIX)
def test_a_command_in_a_status(
    reach: Callable[[Story], None],
    name: str,
    expected: type[Refused] | type[e.Event] | str,
) -> None:
    """It is applied, already so, or refused without a trace."""
    story, command = Story(), COMMANDS[name]
    reach(story)
    before, status = len(story.log), story.load().state.status
    if isinstance(expected, type) and issubclass(expected, Refused):
        with pytest.raises(expected):
            story.command(command)
        assert len(story.log) == before
        return
    state = story.command(command)
    if expected == A:
        assert len(story.log) == before
        return
    assert [type(fact) for fact in story.facts] == [expected]
    assert (status, state.status) in TRANSITIONS[type(story.facts[0])]
    check_state(state)
    check_route(state, story.log[-1])


def test_the_matrix_has_every_status_and_every_command() -> None:
    """Or a new one would go untested."""
    reached = set()
    for reach in STATUSES:
        story = Story()
        reach(story)
        reached.add(story.load().state.status)
    assert reached == set(ALL)
    assert {type(command) for command in COMMANDS.values()} == set(
        c.AnyCommand.__args__
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_goes_over_the_wire(name: str) -> None:
    """Its tag names it, and what is not its field is refused."""
    body = msgspec.json.encode(COMMANDS[name])
    assert msgspec.json.decode(body, type=c.AnyCommand) == COMMANDS[name]
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body[:-1] + b',"more":1}', type=c.AnyCommand)


def test_an_answer_to_a_doubt_must_decide() -> None:
    """What an approval may say is no answer here."""
    story = Story()
    story.running(msgspec.structs.replace(SPEC, on_doubt="ask"))
    story.respond(call("a", "launch"))
    asked = story.begin(again=True).request
    assert asked
    with pytest.raises(InvalidInput, match="run_again, tell"):
        story.command(c.Input(request=asked.request, answer={"decision": "approve"}))

"""What is lawful for an execution, written from the rules and not from the code.

The tables stand beside DESIGN section 4; the state machine and the command
matrix hold every history against them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

from events import catalog as e
from events.commit import Recorded, check
from events.execution import Execution
from events.names import LANES
from events.next_action import CallModel, Nothing, next_action
from events.state import FINAL, State, Status

WAITING: tuple[Status, ...] = ("awaiting_event", "awaiting_input")
UNHELD: tuple[Status, ...] = ("pending", "paused", *WAITING)
ALL: tuple[Status, ...] = (*UNHELD, "running", *sorted(FINAL))
Pairs = frozenset[tuple[Status, Status]]


def _from(*before: Status, to: Sequence[Status] = ()) -> Pairs:
    """All pairs; without ``to`` the status stays."""
    return frozenset(product(before, to)) if to else frozenset((s, s) for s in before)


HELD = _from("running")
TRANSITIONS: dict[type[e.Event], Pairs] = {
    e.Created: _from("pending", to=["pending", "awaiting_event"]),
    e.StartAbandoned: _from("pending", to=["cancelled"]),
    e.Started: _from("pending", "running", to=["running"]),
    e.ModelResponded: HELD,
    e.ToolStarted: HELD,
    e.ToolCompleted: HELD,
    # its runner may be gone already, when a kill or a cancel finds the call open
    e.ToolInDoubt: _from("running", "pending", "paused"),
    e.TasksPlanned: HELD,
    e.MetadataWritten: HELD,
    e.InputRequested: _from("running", to=["awaiting_input"]),
    e.InputReceived: _from("awaiting_input", to=["pending"]) | _from("paused"),
    e.EventAwaited: _from("running", to=["awaiting_event"]),
    # a start that comes due leaves the rest as it is
    e.EventReceived: _from("awaiting_event", to=["pending"])
    | _from("paused", "pending", "awaiting_event"),
    e.PauseRequested: HELD,
    e.Paused: _from("running", "pending", *WAITING, to=["paused"]),
    e.Resumed: _from("paused", to=["pending", *WAITING]) | _from("running", "pending"),
    e.CancelRequested: HELD,
    e.Cancelled: _from(*UNHELD, "running", to=["cancelled"]),
    e.ChunkCompleted: _from("running", to=["pending"]),
    e.ChildSpawned: _from("running", "awaiting_event", to=["awaiting_event"]),
    e.ChildFinished: _from("awaiting_event", to=["pending"])
    | _from("awaiting_event", "paused", "running"),
    e.Recovered: _from("running", "pending", to=["pending"]),
    e.Retried: _from("failed", to=["pending"]),
    e.Forked: _from(*ALL, to=["pending"]),
    e.Completed: _from("running", to=["completed"]),
    e.Failed: _from("running", "pending", to=["failed"]),
    e.Purged: _from(*sorted(FINAL)),
}
"""Event → the statuses before and after it."""

_SIGNALS = (e.PauseRequested, e.CancelRequested, e.Resumed)
_PROGRESS = (
    e.ModelResponded,
    e.ToolCompleted,
    e.InputRequested,
    e.EventAwaited,
    e.Paused,
    e.ChunkCompleted,
    e.ChildSpawned,
    e.Completed,
    e.Failed,
    e.Cancelled,
    e.Retried,
    e.Forked,
)
"""What a runner achieved, or left in good order."""


class Watcher:
    """Folds a history event by event, and holds each against the table."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.seen = execution.state.version

    def follow(self, log: Sequence[Recorded]) -> None:
        """Take in what is new."""
        for recorded in log[self.seen :]:
            self.seen += 1
            self._follow(recorded)

    def _follow(self, recorded: Recorded) -> None:
        execution, commit = self.execution, recorded.commit
        assert commit.version == self.seen
        check(recorded, execution.state.chain)
        execution.now = commit.at
        for fact in commit.events:
            before = execution.state.status
            _after_the_end(execution.state, fact)
            fact.mutate(execution)
            after = execution.state.status
            assert (before, after) in TRANSITIONS[type(fact)], (fact, before, after)
        route = execution.route(commit.events)
        assert route == recorded.route
        execution.committed(recorded)


def _after_the_end(state: State, fact: e.Event) -> None:
    """Nothing but purged; a failure may be retried, a copy may part from its end."""
    if state.final and not isinstance(fact, e.Purged | e.Forked):
        assert isinstance(fact, e.Retried)
        assert state.status == "failed"
        assert not state.purged


def check_route(state: State, last: Recorded) -> None:
    """Whoever has to act next is told so."""
    if state.final:
        assert last.route == "finished"
    elif state.status == "running":
        signal = any(isinstance(fact, _SIGNALS) for fact in last.commit.events)
        assert last.route == ("signal" if signal else "log")
    elif state.runnable:
        assert last.route == state.lane
        assert state.work_version == state.version
    else:
        assert last.route == "parked"
    assert state.work_version == 0 or last.route not in LANES or state.runnable


def check_state(state: State) -> None:
    """The parts of a state agree with its status."""
    assert state.status in ALL
    held = state.status == "running"
    assert held == (state.runner is not None) == (state.running_since is not None)
    assert state.final == (state.completed_at is not None)
    assert (state.status == "failed") == (state.failure is not None)
    assert (state.status == "completed") == (state.finish_reason is not None)
    assert state.idle_attempts <= state.agent.limits.max_attempts
    if state.pause_requested:
        assert state.status in ("running", "pending")  # its runner may be gone
    if state.final or held:
        assert state.request is None
        assert state.awaited is None
    if state.final:
        calls = state.turn.calls if state.turn else []
        assert not any(call.phase == "started" for call in calls)


def check_progress(state: State, execution: Execution) -> None:
    """Nothing waits for ever: there is somebody to act, or something to wait for."""
    action = next_action(state, execution.now)
    assert (action == Nothing()) == (state.status != "running")
    if action == CallModel():
        assert state.turn is None or state.turn.done, "every call has its answer"
    if state.status == "pending":
        assert state.runnable or state.scheduled_for
    if state.status == "awaiting_input":
        assert state.request
    if state.status == "awaiting_event":
        assert state.awaited or state.child_running


def idle_attempts(facts: Iterable[e.Event]) -> int:
    """Count the starts since anything came of one."""
    idle = 0
    for fact in facts:
        if isinstance(fact, e.Started):
            idle += 1
        elif isinstance(fact, _PROGRESS):
            idle = 0
    return idle


def check_history(facts: Iterable[e.Event]) -> None:
    """Steps count up, no call ends twice, and none that was started is forgotten."""
    step, started = 0, set[tuple[int, str]]()
    ends: Counter[tuple[int, str]] = Counter()
    for fact in facts:
        match fact:
            case e.ModelResponded():
                assert fact.step == step + 1
                assert not started
                step = fact.step
            case e.ToolStarted(call_id=call):
                assert (step, call) not in started
                started.add((step, call))
            case e.ToolCompleted(call_id=call):
                ends[step, call] += 1
                started.discard((step, call))
            case e.ToolInDoubt(call_id=call):
                assert (step, call) in started
                started.remove((step, call))
            case e.Forked() if fact.input is not None:
                started.clear()  # the talk goes on without them, and says so
            case e.Completed() | e.Failed() | e.Cancelled():
                assert not started
            case _:
                pass
    assert all(count == 1 for count in ends.values())

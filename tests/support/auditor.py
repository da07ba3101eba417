"""Reads a whole log afterwards and says what must not be: every promise, held.

For any suite of faults: it wants the commits as the log holds them
(``read_all``), and what the world outside counted: effects of tools, commands
sent, answers heard. Each check returns its findings in words; none is good.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import NamedTuple

from lawful import Watcher, check_history, check_state

from events import catalog as e
from events.commit import GENESIS, Recorded, check
from events.errors import WakeError
from events.execution import Execution
from events.journal import Journal
from events.names import Key
from events.spec import AgentSpec, Effect
from events.state import State, Status
from services.requests import Answer

PARKED: frozenset[Status] = frozenset({"paused", "awaiting_input", "awaiting_event"})


async def read_all(journal: Journal) -> list[Recorded]:
    """Read every commit of every execution."""
    return [r async for run in journal.follow(live=False) for r in run]


class Fact(NamedTuple):
    """One event, and where its commit stands."""

    position: int
    event: e.Event


class Act(NamedTuple):
    """Something a process began to do: a call of the model (no ``call_id``) or a tool.

    ``step`` is the reply that it makes or follows from; ``by`` the runner's
    name, ``position`` the end of the log at that moment.
    """

    key: Key
    step: int
    by: str
    position: int
    call_id: str = ""

    @property
    def effect_key(self) -> str:
        """The idempotency key of a tool call."""
        return f"{self.key.execution}-{self.step}-{self.call_id}"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A command as it was sent; ``floor``: the newest version answered before."""

    command_id: str
    key: Key
    verb: str
    floor: int = 0


class History:
    """The commits of one execution."""

    def __init__(self, key: Key, commits: Sequence[Recorded]) -> None:
        self.key, self.commits = key, commits
        self.facts = [Fact(r.position, x) for r in commits for x in r.commit.events]

    @property
    def agent(self) -> AgentSpec:
        """The agent it was created with."""
        created = (f.event for f in self.facts if isinstance(f.event, e.Created))
        return next((c.agent for c in created), AgentSpec(name=""))

    @property
    def state(self) -> State:
        """What it is in the end; raises WakeError if it cannot be folded."""
        return Execution.fold(self.key, self.commits).state

    def calls(self) -> "Iterator[Call]":
        """Every tool call that was asked for, and what became of it."""
        step, open_calls = 0, _Calls()
        for position, event in self.facts:
            match event:
                case e.ModelResponded():
                    yield from open_calls.values()
                    step = event.step
                    open_calls = _Calls(
                        (c.id, Call(step, c.id, c.name, position))
                        for c in event.tool_calls
                    )
                case e.Started():
                    for call in open_calls.values():
                        call.attempts += call.ended is None
                case e.ToolStarted(call_id=i):
                    open_calls[i].started.append(position)
                case e.ToolCompleted(call_id=i):
                    open_calls[i].ended = position
                case e.ToolInDoubt(call_id=i) if self.agent.on_doubt == "tell":
                    open_calls[i].ended = position
                case e.InputReceived(request=request, answer=answer):
                    again = _says(answer, "run_again")
                    call_id = request.split("-", 2)[-1]
                    open_calls[call_id].again += again
                case _:
                    pass
        yield from open_calls.values()


@dataclass
class Call:
    """One tool call: where its events stand, and who may have run it how often."""

    step: int
    id: str
    name: str
    asked: int
    attempts: int = 1
    again: int = 0
    ended: int | None = None

    def __post_init__(self) -> None:
        self.started: list[int] = []


class _Calls(dict[str, Call]):
    """The calls of a reply; one that was not asked for (a finding) changes none."""

    def __missing__(self, call_id: str) -> Call:
        return Call(0, call_id, "", 0)


def _says(answer: object, decision: str) -> bool:
    return isinstance(answer, dict) and answer.get("decision") == decision


def histories(log: Iterable[Recorded]) -> list[History]:
    """Sort a log by executions."""
    sorted_: dict[Key, list[Recorded]] = defaultdict(list)
    for recorded in log:
        sorted_[recorded.key].append(recorded)
    return [History(key, commits) for key, commits in sorted_.items()]


# ── the log alone ────────────────────────────────────────────────────────────


def check_log(log: Iterable[Recorded]) -> list[str]:
    """Hold each history against what a history must be."""
    return [
        f"{history.key}: {finding}"
        for history in histories(log)
        for check_one in (_whole, _lawful, _answered, _once)
        for finding in check_one(history)
    ]


def _whole(history: History) -> Iterator[str]:
    """Versions without a gap, positions that grow, a chain unbroken."""
    chain, last = GENESIS, 0
    for number, recorded in enumerate(history.commits, 1):
        if recorded.commit.version != number:
            yield f"version {recorded.commit.version} stands where {number} should"
        if recorded.position <= last:
            yield f"version {number} stands before its predecessor"
        try:
            check(recorded, chain)
        except WakeError as error:
            yield str(error)
        chain, last = recorded.commit.chain, recorded.position


def _lawful(history: History) -> Iterator[str]:
    """Every event where the tables allow it, every route to whom it concerns."""
    try:
        Watcher(Execution(history.key)).follow(history.commits)
        check_history(event for _, event in history.facts)
        check_state(history.state)
    except (AssertionError, WakeError, LookupError) as error:
        yield f"not lawful: {type(error).__name__}: {error}"


def _answered(history: History) -> Iterator[str]:
    """The model is told of every call before it speaks again."""
    execution = Execution(history.key)
    for _, event in history.facts:
        turn = execution.state.turn
        if isinstance(event, e.ModelResponded) and turn and not turn.done:
            calls = [call.id for call in turn.calls if call.phase != "done"]
            yield f"reply {event.step} came while {calls} were open"
        event.mutate(execution)


def _once(history: History) -> Iterator[str]:
    """One start of each attempt, one reply of each step, one result of each call."""
    attempts = [
        f.event.attempt for f in history.facts if isinstance(f.event, e.Started)
    ]
    if attempts != list(range(1, len(attempts) + 1)):
        yield f"its attempts are numbered {attempts}"
    steps = [
        f.event.step for f in history.facts if isinstance(f.event, e.ModelResponded)
    ]
    if steps != list(range(1, len(steps) + 1)):
        yield f"its steps are numbered {steps}"
    yield from _twice("the result of call", _results(history))
    causes = [r.commit.cause for r in history.commits if r.commit.cause]
    yield from _twice("command", causes)
    yield from _twice("the answer to", _inputs(history))


def _results(history: History) -> Iterator[str]:
    step = 0
    for _, event in history.facts:
        if isinstance(event, e.ModelResponded):
            step = event.step
        elif isinstance(event, e.ToolCompleted):
            yield f"{step}-{event.call_id}"


def _inputs(history: History) -> Iterator[str]:
    for _, event in history.facts:
        if isinstance(event, e.InputReceived):
            yield event.request


def _twice(what: str, names: Iterable[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{what} {name} is recorded {times} times"


# ── the log and the world ────────────────────────────────────────────────────


def check_effects(log: Iterable[Recorded], ran: Mapping[str, int]) -> list[str]:
    """Hold how often each call ran, by idempotency key, against what it may.

    An irreversible one at most once, and once more for each time a person said
    so; any other once in each attempt that may have begun it.
    """
    findings, left = [], dict(ran)
    for history in histories(log):
        for call in history.calls():
            times = left.pop(f"{history.key.execution}-{call.step}-{call.id}", 0)
            effect = history.agent.effect(call.name)
            most = 1 + call.again if effect == "irreversible" else call.attempts
            if times > most:
                findings.append(f"{history.key}: {_ran(call, effect, times, most)}")
    findings += [
        f"{key} ran {n} times, and no reply asked for it" for key, n in left.items()
    ]
    return findings


def _ran(call: Call, effect: Effect, times: int, most: int) -> str:
    return f"{effect} call {call.step}-{call.id} ran {times} times, it may {most}"


def check_acts(log: Iterable[Recorded], acts: Iterable[Act]) -> list[str]:
    """Nothing recorded is done again by whoever knows; names are of one runner.

    A runner knows what was there when it appended last; not so if it took the
    execution twice, for it may be the first time that lingers.
    """
    known = {history.key: history for history in histories(log)}
    return [
        finding
        for act in acts
        if act.key in known
        for finding in _done_again(known[act.key], act)
    ]


def _done_again(history: History, act: Act) -> Iterator[str]:
    starts = [
        f.event.runner
        for f in history.facts
        if isinstance(f.event, e.Started) and f.position <= act.position
    ]
    calls = {(call.step, call.id): call for call in history.calls()}
    call = calls.get((act.step, act.call_id))
    careful = call and history.agent.effect(call.name) == "irreversible"
    if careful and not any(position <= act.position for position in call.started):
        yield f"{act.key}: {call.id} ran before its start was recorded"
    if starts.count(act.by) > 1:
        return
    known = _known(history, act)
    if call and call.ended is not None and call.ended <= known:
        yield f"{act.key}: {act.by} ran {call.id} again after its end was recorded"
    for position, event in history.facts:
        again = isinstance(event, e.ModelResponded) and event.step == act.step
        if again and not act.call_id and position <= known:
            yield f"{act.key}: {act.by} asked for the recorded reply {act.step} again"


def _known(history: History, act: Act) -> int:
    """How much of the history the runner knows that begins to act."""
    own = (
        recorded.position
        for recorded in history.commits
        if recorded.commit.by == f"runner:{act.by}"
        and recorded.position <= act.position
    )
    return max(own, default=0)


def check_answers(
    log: Iterable[Recorded], sent: Sequence[Sent], answers: Sequence[Answer]
) -> list[str]:
    """Every command is answered; what an answer says is so, and never goes back."""
    by_key = {history.key: history for history in histories(log)}
    heard = defaultdict(list)
    for answer in answers:
        heard[answer.command_id].append(answer)
    findings = []
    for command in sent:
        told = heard.get(command.command_id, [])
        if not told:
            findings.append(f"{command.key}: {command} was never answered")
        history = by_key.get(command.key, History(command.key, ()))
        found = [*_refused_in_vain(history, command, told)]
        for answer in told:
            found += _true(history, command, answer)
        findings += [f"{command.key}: {finding}" for finding in found]
    return findings


def _refused_in_vain(
    history: History, sent: Sent, told: Sequence[Answer]
) -> Iterator[str]:
    """What took effect is accepted, and from then on always.

    A copy that came earlier may have been refused, by the state that was then.
    """
    if not any(r.commit.cause == sent.command_id for r in history.commits):
        return
    after = list(dropwhile(lambda answer: not answer.accepted, told))
    if told and not all(answer.accepted for answer in after or told):
        yield f"{sent} took effect and was refused: {told[-1].message}"


def _true(history: History, sent: Sent, answer: Answer) -> Iterator[str]:
    if not answer.accepted:
        return
    if not 0 < answer.version <= len(history.commits):
        yield f"{sent} was accepted at version {answer.version}, which is not there"
        return
    if answer.version < sent.floor:
        yield f"{sent} was judged by version {answer.version}, which it is after"
    at = Execution.fold(history.key, history.commits[: answer.version]).state
    if at.status != answer.status:
        yield f"{sent} was answered {answer.status!r}, it was {at.status!r}"


def check_ended(log: Iterable[Recorded], may_park: Collection[Key] = ()) -> list[str]:
    """In the end everything has ended, or is parked where it may be."""
    findings = []
    for history in histories(log):
        status = history.state.status
        parked = status in PARKED and history.key in may_park
        if not (history.state.final or parked):
            findings.append(f"{history.key} is {status} in the end, nobody holds it")
    return findings

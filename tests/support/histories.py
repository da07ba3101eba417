"""Histories made by hand: a log of one execution, and the decisions on it.

``Story`` is what ``services/handler.py`` does, without a server and without
waiting: load, decide, append; on a conflict decide again. Ids and times are
counted, so the same story gives the same bytes.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from events import catalog as e
from events.commands import AnyCommand
from events.commit import GENESIS, Commit, Recorded, seal, unseal
from events.errors import Refused
from events.execution import Execution
from events.messages import Reply, ToolCall, ToolResult, Usage
from events.names import LANES, Key
from events.spec import AgentSpec
from events.state import State

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key("ada", "run-1")
SPEC = AgentSpec(
    name="tester",
    tools=("look", "write", "launch", "ask_user", "await_event", "spawn_agent"),
    effects={"look": "read", "write": "idempotent", "launch": "irreversible"},
    subagents=("helper",),
)

Decision = Callable[[Execution], None]


class Story:
    """One history as it grows; ``now`` is the time that decisions are given.

    So is ``last_trigger``, the last position of TRIGGERS.
    """

    def __init__(self, key: Key = KEY, now: datetime = BEGINNING) -> None:
        self.key, self.now = key, now
        self.last_trigger: int | None = 0
        self.log: list[Recorded] = []
        self._last = Execution(key)

    # ── the log ──────────────────────────────────────────────────────────────

    def load(self, version: int | None = None) -> Execution:
        """Fold a copy of the execution; as of ``version``, or the newest."""
        return Execution.fold(self.key, self.log[:version])

    @property
    def tip(self) -> int:
        """The position of the last commit; 0 before the first."""
        return self.log[-1].position if self.log else 0

    def decide(
        self,
        decision: Decision,
        *,
        cause: str | None = None,
        known: Execution | None = None,
        by: str = "test",
    ) -> Execution:
        """Make a decision durable; on a copy that is behind, it is made again."""
        execution = known or self.load()
        while cause is None or cause not in execution.state.applied:
            execution.now, execution.last_trigger = self.now, self.last_trigger
            try:
                decision(execution)
            except Refused:
                if execution.position == self.tip:
                    raise
                execution = self.load()
                continue
            if self._append(execution, cause, by):
                break
            execution = self.load()
        return execution

    def _append(self, execution: Execution, cause: str | None, by: str) -> bool:
        """Append what was decided; False if another commit was first."""
        facts = tuple(tagged.decision for tagged in execution.collect_events())
        if not facts:
            return True
        if execution.position != self.tip:
            return False
        commit = Commit(
            version=execution.state.version + 1,
            id=f"commit-{len(self.log) + 1}",
            at=self.now,
            by=by,
            cause=cause,
            events=facts,  # type: ignore[arg-type]  # every Event is in AnyEvent
        )
        sealed, body = seal(commit, self.key, execution.state.chain)
        route = execution.route(facts)
        new = Recorded(self.tip + 10, self.key, route, sealed, body)
        self.log.append(new._replace(commit=unseal(body, self.key)))
        execution.committed(new)
        return True

    # ── what tests say ───────────────────────────────────────────────────────

    def do(self, decision: Decision, **how: Any) -> State:
        """Decide on the newest state, and return the state after it."""
        self._last = self.decide(decision, **how)
        return self._last.state

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def start(self, agent: AgentSpec = SPEC, **created: Any) -> State:
        """Create the execution."""
        wanted = e.Created(agent=agent, input="Go", **created)
        return self.do(lambda x: x.create(wanted))

    def begin(self, *, again: bool = False, runner: str = "r1") -> State:
        """Let a runner take the newest work."""
        version = self.work.commit.version
        delivery = self.load().state.delivery + again
        return self.do(lambda x: x.begin(runner, version, delivery=delivery))

    def respond(self, *calls: ToolCall, text: str = "", **said: Any) -> State:
        """Let the model answer the attempt that is under way."""
        answer = reply(*calls, text=text, **said)
        return self.do(lambda x: x.respond(x.state.attempt, answer))

    def finish(self, *call_ids: str, attempt: int | None = None) -> State:
        """Let tool calls succeed."""
        results = [ToolResult(call_id=i, output=f"{i} done") for i in call_ids]
        return self.do(lambda x: x.finish_calls(attempt or x.state.attempt, results))

    def command(self, command: AnyCommand, cause: str | None = None) -> State:
        """Let a person ask for something."""
        return self.do(command.decide, cause=cause)

    def running(self, agent: AgentSpec = SPEC, **created: Any) -> State:
        """Create the execution and let a runner take it."""
        self.start(agent, **created)
        return self.begin()

    @property
    def work(self) -> Recorded:
        """The last commit that was work for a runner."""
        return next(r for r in reversed(self.log) if r.route in LANES)

    @property
    def facts(self) -> list[e.Event]:
        """The events of the last commit."""
        return list(self.log[-1].commit.events)

    @property
    def kinds(self) -> list[str]:
        """The names of the events of the last commit."""
        return [type(fact).__name__ for fact in self.facts]

    @property
    def all_facts(self) -> list[e.Event]:
        """The events of the whole history."""
        return [fact for recorded in self.log for fact in recorded.commit.events]

    def copy_to(self, key: Key, version: int) -> "Story":
        """Copy a prefix under another key, sealed anew, as a fork does."""
        story = Story(key, self.now)
        chain = GENESIS
        for recorded in self.log[:version]:
            bare = msgspec.structs.replace(recorded.commit, chain="")
            sealed, body = seal(bare, key, chain)
            chain = sealed.chain
            story.log.append(recorded._replace(key=key, commit=sealed, body=body))
        return story


def spec(**changes: Any) -> AgentSpec:
    """Change the usual agent."""
    return msgspec.structs.replace(SPEC, **changes)


def call(id: str, name: str = "look", arguments: Any = None) -> ToolCall:  # noqa: A002 - its field
    """Build a tool call; ``arguments`` are JSON values."""
    text = msgspec.json.encode(arguments or {}).decode()
    return ToolCall(id=id, name=name, arguments=text)


def reply(*calls: ToolCall, text: str = "", **said: Any) -> Reply:
    """Build a model's answer; it costs two tokens unless told otherwise."""
    said = {"model": "m", "usage": Usage(input=1, output=1), **said}
    return Reply(text=text, tool_calls=calls, **said)


def encoded(state: State) -> bytes:
    """Write a state down so that two of them can be compared."""
    return msgspec.json.encode(state, order="deterministic")


def kinds(facts: Iterable[e.Event]) -> list[str]:
    """Name events."""
    return [type(fact).__name__ for fact in facts]

"""A lifecycle at work, and somebody who sends it commands and hears its answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from events.errors import NotFound, Unavailable
from events.execution import Execution
from events.inbox import Inbox, MemoryInbox, Order
from events.journal import Journal
from events.memory import MemoryJournal
from events.messages import Reply, ToolCall
from events.names import Key
from events.spec import AgentSpec, Limits
from services.admission import Admission
from services.allowed import Allowed
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.requests import Answer
from services.schedules import Schedules

KEY = Key("ada", "run-1")
WORKER = AgentSpec(
    name="worker",
    tools=("ask_user",),
    limits=Limits(max_steps=10, max_tokens=1_000, timeout=60),
)
LAST_TRIGGER = 17
START = {"agent_type": "worker", "input": "Do it."}


def resolve(agent: str, model: str | None) -> AgentSpec:
    """Know one agent type."""
    if agent != WORKER.name:
        raise NotFound(f"no agent type {agent!r}")
    return msgspec.structs.replace(WORKER, model=model or WORKER.model)


class Clerk:
    """Sends commands and hears what is answered to ``user``; ``journal`` shows more."""

    def __init__(self, inbox: Inbox, journal: Journal, heard: Any) -> None:
        self.inbox, self.journal = inbox, journal
        self._heard: asyncio.Queue[bytes] = heard
        self._numbers = iter(range(1, 1_000_000))

    async def send(self, verb: str, key: Key = KEY, **body: Any) -> str:
        """Publish a command; returns its id."""
        command = body.setdefault("command_id", f"cmd-{next(self._numbers)}")
        await self.inbox.publish(key, verb, msgspec.json.encode(body))
        return str(command)

    async def hear(self) -> Answer:
        """Wait for the next answer."""
        return msgspec.json.decode(await self._heard.get(), type=Answer)

    async def ask(self, verb: str, key: Key = KEY, **body: Any) -> Answer:
        """Publish a command and wait for its answer."""
        command = await self.send(verb, key, **body)
        answer = await self.hear()
        assert answer.command_id == command, answer
        return answer

    async def start(self, key: Key = KEY, **body: Any) -> Answer:
        """Start an execution."""
        return await self.ask("start", key, **{**START, **body})

    async def load(self, key: Key = KEY) -> Execution:
        """Fold an execution."""
        return Execution.fold(key, await self.journal.read(key))

    async def story(self, key: Key = KEY) -> list[str]:
        """The names of its events."""
        history = await self.journal.read(key)
        return [type(fact).__name__ for r in history for fact in r.commit.events]

    async def decide(
        self, *decisions: Callable[[Execution], None], key: Key = KEY
    ) -> None:
        """Let a runner decide."""
        for decision in decisions:
            await Handler(self.journal, "runner:r1").handle(key, decision)


def begin(execution: Execution) -> None:
    """Let a runner take it."""
    execution.begin("r1", execution.state.work_version)


def ask_a_person(execution: Execution) -> None:
    """Let the model ask for input; the request is ``1-question-c1``."""
    call = ToolCall(id="c1", name="ask_user", arguments='{"question": "Which?"}')
    execution.respond(execution.state.attempt, Reply(model="m", tool_calls=(call,)))


def fail(execution: Execution) -> None:
    """Let it end by an error."""
    attempt = execution.state.attempt
    execution.fail(attempt, "model_unavailable", "503", retryable=True)


@asynccontextmanager
async def clerk(
    inbox: Inbox | None = None,
    journal: Journal | None = None,
    *,
    to_inbox: Inbox | None = None,
    to_journal: Journal | None = None,
    allowed: Allowed | None = None,
    user: str = KEY.user,
    schedules: Schedules | None = None,
    admission: Admission | None = None,
) -> AsyncIterator[Clerk]:
    """Run a lifecycle; the clerk has its own ways, by default the same."""
    taking, log = inbox or MemoryInbox(), journal or MemoryJournal()
    own = to_inbox or taking
    one = lifecycle(taking, log, allowed, schedules, admission)
    async with own.answers(user, "*") as heard, asyncio.TaskGroup() as group:
        group.create_task(one.run())
        yield Clerk(own, to_journal or log, heard)
        await one.stop()


def lifecycle(
    inbox: Inbox,
    journal: Journal,
    allowed: Allowed | None = None,
    schedules: Schedules | None = None,
    admission: Admission | None = None,
) -> Lifecycle:
    """Make a lifecycle that knows one agent type."""
    return Lifecycle(
        Handler(journal, "lifecycle"),
        inbox,
        resolve,
        allowed or Allowed([]),
        last_trigger=last_trigger,
        schedules=schedules,
        admission=admission,
    )


async def last_trigger() -> int:
    """Tell of triggers that were there before."""
    return LAST_TRIGGER


class Forgetful(MemoryInbox):
    """Forgets what was settled, as a killed server does; the first are not confirmed.

    ``taken`` counts how often each position was handed out.
    """

    def __init__(self, unconfirmed: int = 0) -> None:
        super().__init__()
        self.unconfirmed = unconfirmed
        self.settled: list[Order] = []

    async def done(self, order: Order) -> None:
        """Forget it, or do not say so."""
        if self.unconfirmed:
            self.unconfirmed -= 1
            raise Unavailable("no answer, on purpose")
        if self.holds(order):
            self.settled.append(order)

    def forget(self) -> None:
        """Hand out all again."""
        self.redeliver()

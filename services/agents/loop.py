"""Driving one execution: what ``next_action`` says is done, and recorded.

Everything that touches the world (the model, the tools, the workspace) is
reached from here; everything that is decided about it is decided by the core.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec

from events import control
from events.errors import (
    InvalidInput,
    Misconfigured,
    ModelRefused,
    ModelUnavailable,
    Stale,
    TooLarge,
    Unavailable,
    WakeError,
)
from events.execution import Execution
from events.messages import Message, Reply, Request, ToolCall, ToolResult
from events.next_action import Await, CallModel, RunTools, next_action
from events.spec import AgentSpec
from events.state import Call, State
from events.triggers import LastTrigger, none_sent
from services import metrics
from services.agents.model import Model
from services.agents.patience import Patience
from services.agents.speech import Speak, mute
from services.genai import answered, chat
from services.handler import Decision, Handler
from services.lease import Holding
from services.telling import Tell, silent
from services.tools.calls import Caller, Tools
from services.tools.workspace import Workspace

logger = logging.getLogger(__name__)


class Released(Exception):
    """The runner drains: the work is to be given back."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What executions are driven with; ``close`` it in the end.

    ``open_model`` gives the model of a name (Misconfigured, InvalidInput).
    ``workspaces`` is where those that name no directory get one of their own.
    Such a directory is given to ``adopt``, for the user that commands run as.
    What is in ``closed`` directories no tool may touch: the log itself.
    ``speak`` begins what a model says as it comes, ``tell`` hears the log lines.
    ``last_trigger`` tells behind what a wait for an event begins. ``stopwatch``
    times the tools, in seconds.
    """

    open_model: Callable[[str], Model]
    tools: Tools
    workspaces: Path
    closed: tuple[Path, ...] = ()
    adopt: Callable[[Path], None] = lambda _root: None
    speak: Speak = mute
    tell: Tell = silent
    last_trigger: LastTrigger = none_sent
    stopwatch: Callable[[], float] = time.perf_counter
    models: dict[str, Model] = field(default_factory=dict)

    async def model(self, name: str) -> Model:
        """Open a model once; executions share it."""
        if name not in self.models:  # in a thread: a provider's import takes seconds
            model = await asyncio.to_thread(self.open_model, name)
            if self.models.setdefault(name, model) is not model:
                await model.aclose()
        return self.models[name]

    def informed(self, decide: Decision) -> Decision:
        """Let a decision be made with the parameters of the tools at hand."""

        def informed(execution: Execution) -> None:
            execution.parameters = self.parameters
            decide(execution)

        return informed

    @cached_property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The schemas of the tools' arguments, by the tools' names."""
        return {name: tool.schema.parameters for name, tool in self.tools.items()}

    async def close(self) -> None:
        """Close the models."""
        while self.models:
            _, model = self.models.popitem()
            await model.aclose()

    def workspace(self, execution: Execution) -> Workspace:
        """Open the execution's directory; raises InvalidInput if there is none."""
        named = execution.state.workspace
        if named is not None:
            return self._named(Path(named))
        own = self.workspaces / execution.key.user / home(execution.state)
        try:
            own.mkdir(parents=True, exist_ok=True)
            self.adopt(own)
        except OSError as error:
            raise InvalidInput(
                f"the workspace {own} cannot be made ({error.strerror}): make "
                f"{self.workspaces} a directory that the runner may write"
            ) from error
        return Workspace(own, closed=self.closed)

    def _named(self, path: Path) -> Workspace:
        """Open the directory that was allowed, not what took its place since."""
        workspace = Workspace(path, closed=self.closed)
        if workspace.root == path:
            return workspace
        workspace.close()
        raise InvalidInput(f"the workspace {path} is a link now: it leads elsewhere")


def home(state: State) -> str:
    """The execution in whose own directory it works: a subagent in its parent's."""
    return state.parent.root if state.parent and state.parent.root else state.id


class Drive:
    """One attempt at one execution, from its start to the next stop."""

    def __init__(
        self, means: Means, handler: Handler, execution: Execution, holding: Holding
    ) -> None:
        self.execution = execution
        self._means, self._handler, self._holding = means, handler, holding
        self._attempt = execution.state.attempt
        self._messages: list[Message] = []
        self._said = 0
        self._caller = Caller(
            means.tools,
            partial(means.workspace, execution),
            means.tell,
            means.stopwatch,
        )

    async def run(self, draining: Callable[[], bool]) -> Execution:
        """Do what there is to do until it ends, parks or yields.

        Raises Released when the runner drains, and what an append raises.
        """
        try:
            while self.execution.state.status == "running":
                if draining():
                    raise Released
                await self._step()
        finally:
            self._caller.close()
        return self.execution

    async def _step(self) -> None:
        """Do the next thing; a cancel lets it take its grace, then it is cut short."""
        if self._holding.signalled:
            self._holding.signalled = False
            await self._reload()
        if self._holding.over:
            raise Stale(f"{self.execution.key}: the lease ran out")
        try:
            async with asyncio.timeout(None) as flight:
                self._holding.flight = flight
                if self.execution.state.cancel_requested:
                    self._holding.hasten()
                await self._act()
        except TimeoutError:
            if not flight.expired():
                raise
            # What was being appended may be stored: look before deciding.
            await self._reload()
            await self._decide(partial(Execution.cut, attempt=self._attempt))
        finally:
            self._holding.flight = None

    async def _act(self) -> None:
        state, now = self.execution.state, self._handler.clock()
        match self.execution.todo or next_action(state, now):
            case CallModel():
                await self._call_model()
            case RunTools(calls):
                await self._run_tools(calls)
            case Await():
                obey = partial(Execution.obey, attempt=self._attempt)
                position = await self._means.last_trigger()
                await self._decide(_knowing(position, obey))
            case _:
                await self._decide(partial(Execution.obey, attempt=self._attempt))

    async def _position_for(self, calls: Sequence[ToolCall]) -> int | None:
        """Ask behind what a wait would begin, if one is asked for.

        If that cannot be known now, the wait begins in a commit of its own: what was
        paid for is recorded first.
        """
        if not any(call.name == "await_event" for call in calls):
            return None
        try:
            return await self._means.last_trigger()
        except Unavailable:
            return None

    async def _reload(self) -> None:
        """Read what happened since; never less than what is known.

        Raises Stale if another attempt has begun: what it does is not ours to do.
        """
        known = self.execution.position
        self.execution = await self._handler.load(self.execution.key, at_least=known)
        attempt = self.execution.state.attempt
        if attempt != self._attempt:
            raise Stale(f"{self.execution.key}: attempt {attempt} has it")

    async def _decide(self, decide: Decision) -> None:
        """Make a decision durable; what no commit can hold ends the execution."""
        try:
            await self._record(decide)
        except TooLarge as error:
            await self._fail(error)

    async def _record(self, decide: Decision) -> None:
        """Make a decision durable; after TooLarge the execution is as it was."""
        try:
            self.execution = await self._handler.handle(
                self.execution.key, self._means.informed(decide), known=self.execution
            )
            if self.execution.state.idle_attempts == 0:
                self._holding.clear()
        except TooLarge:
            await self._reload()
            raise

    def _time_left(self) -> float:
        state = self.execution.state
        spent = state.running_time(self._handler.clock())
        return max(0.0, state.agent.limits.timeout - spent)

    # ── the model ────────────────────────────────────────────────────────────

    async def _call_model(self) -> None:
        try:
            model = await self._means.model(self._agent.model)
            reply = await self._in_time(model)
        except (ModelRefused, ModelUnavailable, Misconfigured, InvalidInput) as error:
            await self._fail(error)
            return
        if reply is None:
            await self._decide(partial(Execution.obey, attempt=self._attempt))
        else:
            await self._take(reply)

    async def _in_time(self, model: Model) -> Reply | None:
        """Ask within the time that is left; None once it is over."""
        limit = asyncio.timeout(self._time_left())
        try:
            async with limit:
                return await self._ask(model)
        except TimeoutError as error:
            if limit.expired():
                return None
            # The model's own: to go on asking would have no end.
            raise ModelUnavailable(f"the model timed out: {error}") from error

    @property
    def _agent(self) -> AgentSpec:
        return self.execution.state.agent

    async def _ask(self, model: Model) -> Reply:
        """Ask; to traces it is one call, however often it takes."""
        with chat(self.execution.state):
            reply = await self._patiently(model)
            answered(reply)
        return reply

    async def _patiently(self, model: Model) -> Reply:
        """Ask, and ask again while that can help."""
        agent = self._agent
        request = Request(
            system=agent.system_prompt,
            messages=self._conversation(),
            tools=self._caller.schemas(self.execution.state),
        )
        key, step = self.execution.key, self.execution.state.steps + 1
        speech = self._means.speak(key, step, self._attempt)

        def told(why: str) -> None:
            speech.again()
            self._means.tell(key, "warning", "model.unavailable", why)

        try:
            return await Patience(model, request, speech.say, told).reply()
        finally:
            speech.end()

    def _conversation(self) -> tuple[Message, ...]:
        """All that was said; turns that are done never change, so they are kept."""
        state = self.execution.state
        self._messages.extend(state.conversation(since=self._said))
        self._said = len(state.turns) + 1
        return tuple(self._messages)

    async def _take(self, reply: Reply) -> None:
        """Record a reply, and with it the results of calls that need no world."""
        calls = control.unique(reply.tool_calls)
        if calls is not reply.tool_calls:
            reply = msgspec.structs.replace(reply, tool_calls=calls)
        results = self._caller.at_once(self.execution.state, calls)
        respond = partial(Execution.respond, attempt=self._attempt, reply=reply)
        position = await self._position_for(calls)
        try:
            await self._record(_knowing(position, partial(respond, results=results)))
        except TooLarge:
            # Without them the calls are open, and made like any other.
            await self._decide(_knowing(position, respond))
        metrics.replied(reply)
        self._means.tell(
            self.execution.key,
            "debug",
            "model.responded",
            f"{reply.model} answered in {reply.latency_ms:.0f} ms",
            step=self.execution.state.steps,
            input_tokens=reply.usage.input,
            output_tokens=reply.usage.output,
            calls=[call.name for call in calls],
        )

    async def _fail(self, error: WakeError) -> None:
        logger.warning("%s failed: %s", self.execution.key, error)
        if isinstance(error, ModelRefused):
            metrics.model_failed(error.code)
        self._means.tell(
            self.execution.key, "error", f"failed.{error.code}", str(error)
        )
        await self._decide(
            partial(
                Execution.fail,
                attempt=self._attempt,
                error=error.code,
                message=str(error),
                retryable=not error.final,
            )
        )

    # ── the tools ────────────────────────────────────────────────────────────

    async def _run_tools(self, calls: Sequence[Call]) -> None:
        try:
            self._caller.open()
        except InvalidInput as error:
            await self._fail(error)
            return
        async with aclosing(self._results(calls)) as groups:
            async for results in groups:
                await self._finish(results)
                if self.execution.state.status != "running":
                    return

    async def _finish(self, results: Sequence[ToolResult]) -> None:
        """Record results; what is too large together one by one, or as a failure."""
        finish = partial(Execution.finish_calls, attempt=self._attempt)
        try:
            await self._record(partial(finish, results=results))
        except TooLarge as error:
            if len(results) == 1:
                failed = _without_effect(results[0], error)
                await self._decide(partial(finish, results=[failed]))
                return
            for result in results:
                if self.execution.state.status == "running":
                    await self._finish([result])

    async def _results(self, calls: Sequence[Call]) -> AsyncGenerator[list[ToolResult]]:
        """Run calls side by side; yield results as they come."""
        state, limit = self.execution.state, self._time_left()
        runs = {
            asyncio.create_task(self._caller.run(state, call, limit)) for call in calls
        }
        try:
            while runs:
                done, runs = await asyncio.wait(
                    runs, return_when=asyncio.FIRST_COMPLETED
                )
                yield [task.result() for task in done]
        finally:
            for task in runs:
                task.cancel()
            await asyncio.gather(*runs, return_exceptions=True)


def _without_effect(result: ToolResult, error: TooLarge) -> ToolResult:
    """Tell the model what a call gave, and that notes and tasks of it are not kept."""
    said = f"it ran, but what it noted is not kept: {error}\n{result.output}"
    return ToolResult(
        call_id=result.call_id,
        output=said,
        outcome="failed",
        latency_ms=result.latency_ms,
    )


def _knowing(last_trigger: int | None, decide: Decision) -> Decision:
    """Let a decision begin a wait: only what happens from now on can end it."""

    def knowing(execution: Execution) -> None:
        execution.last_trigger = last_trigger
        decide(execution)

    return knowing

"""What a runner decides: it took the lease, the model answered, calls ended.

Whatever follows from that without asking the world (a pause that was
requested, a limit, the end) is decided in the same breath, so it is part of
the same commit.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from events import answers, control, inheritance, next_action
from events import catalog as e
from events.deciding import Deciding
from events.errors import Obsolete, Stale, ToolFailed
from events.messages import Outcome, Reply, ToolResult
from events.state import Call


class Running(Deciding):
    """The decisions of whoever holds the lease."""

    def begin(
        self, runner: str, version: int, *, delivery: int = 1, own: bool = False
    ) -> None:
        """Take the lease on the work of commit ``version``.

        ``delivery`` is how often it was handed out. Whoever runs it is gone if it
        was handed out again since then; an older handing out may have lain on the
        way for any time, and says nothing. Nor does one by another queue: ``own``
        is that of this execution alone. Raises Stale when another runner has it,
        Obsolete when it is no longer there to do.
        """
        state = self.state
        held = state.status == "running"
        if state.work_version != version or not (state.runnable or held):
            raise Obsolete(f"{self.key} is {state.status}: this work is done")
        if held and own != state.own:
            raise Obsolete(f"{self.key} is running: {state.runner} leases it elsewhere")
        if held and delivery <= state.delivery:
            raise Stale(f"{self.key} is running: {state.runner} has this work")
        if state.idle_attempts >= state.agent.limits.max_attempts:
            self._give_up()
            return
        self.trigger_event(
            e.Started,
            runner=runner,
            attempt=state.attempt + 1,
            delivery=delivery,
            own=own,
        )
        self.note_doubts()
        self._answer_wrong_calls()  # an approval may have edited them
        self._proceed()

    def respond(
        self, attempt: int, reply: Reply, results: Sequence[ToolResult] = ()
    ) -> None:
        """Record the model's reply, and the results of calls that need no world."""
        self._hold(attempt)
        self.trigger_event(
            e.ModelResponded,
            step=self.state.steps + 1,
            model=reply.model,
            text=reply.text,
            tool_calls=control.unique(reply.tool_calls),
            usage=reply.usage,
            cost=reply.cost,
            latency_ms=reply.latency_ms,
            finish_reason=reply.finish_reason,
            opaque=reply.opaque,
        )
        self._answer_wrong_calls()
        self._complete(results)
        self._proceed()

    def finish_calls(self, attempt: int, results: Sequence[ToolResult]) -> None:
        """Record what tool calls came to; results already there change nothing."""
        self._hold(attempt)
        if self._complete(results):
            self._proceed()

    def obey(self, attempt: int) -> None:
        """Act on a signal, or on a limit that time alone has reached."""
        self._hold(attempt)
        self._proceed()

    def cut(self, attempt: int) -> None:
        """End what a cancel has waited for long enough; nobody knows what it did."""
        self._hold(attempt)
        if self.state.cancel_requested:
            self.note_doubts()
            self.trigger_event(e.Cancelled, reason=self.state.cancel_reason)

    def fail(self, attempt: int, error: str, message: str, *, retryable: bool) -> None:
        """End by an error that the runner met; cancelled if that was asked for."""
        self._hold(attempt)
        self.note_doubts()
        if self.state.cancel_requested:
            self.trigger_event(e.Cancelled, reason=self.state.cancel_reason)
            return
        self.trigger_event(e.Failed, error=error, message=message, retryable=retryable)

    def recover(self, attempt: int, reason: str) -> None:
        """Make it work again because the runner of ``attempt`` is gone.

        Also lawful before that runner started it (attempt of the last one): the
        work message may have been lost with its process.
        """
        state = self.state
        if state.attempt == attempt and (state.status == "running" or state.runnable):
            self.trigger_event(e.Recovered, reason=reason)

    def _hold(self, attempt: int) -> None:
        """Raise Stale unless ``attempt`` still holds the execution."""
        state = self.state
        if state.status != "running" or state.attempt != attempt:
            raise Stale(f"{self.key} is {state.status} in attempt {state.attempt}")

    def _calls(self, phase: str) -> list[Call]:
        turn = self.state.turn
        return [c for c in turn.calls if c.phase == phase] if turn else []

    def _give_up(self) -> None:
        self.note_doubts()
        attempts = self.state.idle_attempts
        self.trigger_event(
            e.Failed,
            error="too_many_attempts",
            message=f"{attempts} runners in a row were lost without any progress",
            retryable=True,
        )

    def _complete(self, results: Sequence[ToolResult]) -> bool:
        """Trigger what the results say; True if any was news."""
        news = False
        for result in results:
            call = self.state.call(result.call_id)
            if call is None or call.phase not in ("open", "started"):
                continue
            news = True
            if result.tasks is not None:
                self.trigger_event(e.TasksPlanned, tasks=result.tasks)
            if result.notes is not None:
                self.trigger_event(e.MetadataWritten, notes=result.notes)
            self._close(
                result.call_id, result.output, result.outcome, result.latency_ms
            )
        return news

    def _close(
        self, call_id: str, output: str, outcome: Outcome, latency_ms: float = 0.0
    ) -> None:
        self.trigger_event(
            e.ToolCompleted,
            call_id=call_id,
            output=output,
            outcome=outcome,
            latency_ms=latency_ms,
        )

    def _answer_wrong_calls(self) -> None:
        """Tell the model at once what is wrong with its calls of control tools."""
        for call in self._calls("open"):
            if call.name in control.CONTROL:
                try:
                    self._check_control(call)
                except ToolFailed as error:
                    self._close(call.id, str(error), "failed")

    def _check_control(self, call: Call) -> None:
        agent = self.state.agent
        if call.name not in agent.tools:
            there = ", ".join(agent.tools) or "none"
            raise ToolFailed(f"no tool {call.name!r}; there are: {there}")
        arguments = control.check(call.name, call.arguments)
        if not isinstance(arguments, control.SpawnAgent):
            return
        if arguments.agent not in agent.subagents:
            raise ToolFailed(
                f"no subagent {arguments.agent!r}; there are: "
                + (", ".join(agent.subagents) or "none")
            )
        if not self.state.may_spawn:
            raise ToolFailed(f"subagents may be {agent.max_depth} deep; do it yourself")
        self._check_room(call)

    def _check_room(self, call: Call) -> None:
        """Raise ToolFailed if there is no room for one more subagent."""
        spent = inheritance.spent(self.state, self.now)
        if spent:
            raise ToolFailed(f"nothing is left of your {spent} for a subagent")
        turn, children = self.state.turn, self.state.children
        asked = [c for c in turn.calls if c.name == call.name] if turn else []
        before = sum(c.phase != "done" for c in asked[: asked.index(call)])
        if before >= control.MOST_AT_ONCE:
            raise ToolFailed(
                f"at most {control.MOST_AT_ONCE} subagents start in one reply: ask for "
                "the others when these have ended"
            )
        if len(children) + before >= control.MOST_IN_ALL:
            raise ToolFailed(
                f"{control.MOST_IN_ALL} subagents are the most for one execution; do "
                "the rest yourself"
            )

    def _proceed(self) -> None:
        """Perform every action that needs no world, until one does: ``todo``."""
        while True:
            self.todo = next_action.next_action(self.state, self.now)
            match self.todo:
                case next_action.Cancel():
                    self.trigger_event(e.Cancelled, reason=self.state.cancel_reason)
                case next_action.Pause():
                    self.trigger_event(e.Paused)
                case next_action.Finish(reason):
                    output = self.state.last_text
                    self.trigger_event(e.Completed, output=output, finish_reason=reason)
                case next_action.Yield():
                    self.trigger_event(e.ChunkCompleted, chunk=self.state.chunk + 1)
                case next_action.Ask(kind, call):
                    self._ask(kind, call)
                case next_action.Await(call) if self.last_trigger is not None:
                    self._await(call, self.last_trigger)
                case next_action.Spawn(calls):
                    self._spawn(calls)
                case next_action.RunTools(calls):
                    self._mark_irreversible(calls)
                    return
                case _:
                    return

    def _mark_irreversible(self, calls: tuple[Call, ...]) -> None:
        """Write down that these are about to run, before they do."""
        state = self.state
        for call in calls:
            if call.phase == "open" and state.agent.effect(call.name) == "irreversible":
                self.trigger_event(
                    e.ToolStarted, call_id=call.id, attempt=state.attempt
                )

    def _ask(self, kind: e.AskKind, call: Call) -> None:
        asked = self._question(call) if kind == "question" else self._choice(kind, call)
        self.trigger_event(
            e.InputRequested,
            request=f"{self.state.attempt}-{kind}-{call.id}",  # one in an attempt
            kind=kind,
            call_id=call.id,
            **asked,
        )

    def _question(self, call: Call) -> dict[str, Any]:
        """What the model wants to know of a person."""
        asked = control.parse(call.name, call.arguments)
        assert isinstance(asked, control.AskUser)  # noqa: S101 - checked on arrival
        return {
            "question": asked.question,
            "schema": asked.schema,
            "deadline": self._after(asked.within),
        }

    def _choice(self, kind: e.AskKind, call: Call) -> dict[str, Any]:
        """What a person has to decide about a call."""
        bound = control.digest(call.name, call.arguments)
        return {
            "question": answers.question(kind, call),
            "schema": answers.form(kind, bound, self.parameters.get(call.name)),
            "digest": bound,
        }

    def _after(self, seconds: float | None) -> datetime | None:
        return None if seconds is None else self.now + timedelta(seconds=seconds)

    def _await(self, call: Call, last_trigger: int) -> None:
        asked = control.parse(call.name, call.arguments)
        assert isinstance(asked, control.AwaitEvent)  # noqa: S101 - checked on arrival
        awaited = e.Awaited(
            event_type=asked.event_type,
            where=asked.where,
            deadline=self._after(asked.within),
            after_trigger=last_trigger,
            call_id=call.id,
        )
        self.trigger_event(e.EventAwaited, awaited=awaited)

    def _spawn(self, calls: tuple[Call, ...]) -> None:
        for call in calls:
            asked = control.parse(call.name, call.arguments)
            assert isinstance(asked, control.SpawnAgent)  # noqa: S101 - see above
            self.trigger_event(
                e.ChildSpawned,
                call_id=call.id,
                child=control.child_id(*self.key, self.state.steps, call.id),
                agent=asked.agent,
                prompt=asked.prompt,
            )

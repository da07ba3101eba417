"""Lifecycle: takes commands, decides, answers.

Stateless. Any number may run; one is pinned and takes, the others stand by.
Commands of one execution are handled one after the other, those of different
executions side by side. One that cannot be seen to its end now (the log is out of
reach) is tried again in its place: none may overtake it.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, repeat
from typing import Any

import msgspec

from events.catalog import Awaited, Created
from events.commands import Retry
from events.errors import (
    Conflict,
    InvalidInput,
    Misconfigured,
    Retryable,
    Stale,
    Unavailable,
    WakeError,
)
from events.execution import Execution
from events.inbox import Inbox, Order
from events.names import Key, check_id
from events.spec import AgentSpec, Lane, Limits
from events.triggers import LastTrigger, none_sent
from services import metrics, requests
from services.admission import Admission
from services.allowed import Allowed
from services.handled import Handled
from services.handler import Handler
from services.schedules import ANYTHING, Schedules
from services.telemetry import bound, note, parent_in, span
from services.telling import Tell, silent
from services.tiers import Asker, asker_of

logger = logging.getLogger(__name__)

AT_ONCE = 256
"""Commands in hand: bounds memory, and the work that a takeover does again."""

BUSY = 0.5
"""Seconds after which one with all hands full says again that it is there."""

PAUSES = (0.05, 0.1, 0.2, 0.5)
"""Seconds between the tries of one command; from then on, one each second."""

ROUNDS = 20
"""Times a retry is admitted anew before giving up: each means that it went on."""

PRIORITY: Lane = "agents_priority"
"""Where the work of users goes whose tier has priority."""

MISTAKE = "this command cannot be handled: the log of lifecycle says why"

Resolve = Callable[[str, str | None], AgentSpec]
"""Gives the resolved spec of an agent type, with another model if one is named."""


class Lifecycle:
    """Handles commands from ``inbox``."""

    def __init__(
        self,
        handler: Handler,
        inbox: Inbox,
        resolve: Resolve,
        allowed: Allowed,
        tell: Tell = silent,
        schedules: Schedules | None = None,
        last_trigger: LastTrigger = none_sent,
        admission: Admission | None = None,
    ) -> None:
        self._tell, self._schedules = tell, schedules
        self._last_trigger, self._admission = last_trigger, admission
        self._handler, self._inbox = handler, inbox
        self._resolve, self._allowed = resolve, allowed
        self._waiting: dict[Key, deque[Order]] = defaultdict(deque)
        self._handled = Handled()
        self._in_hand = 0
        self._taking: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Handle commands until ``stop``; what was taken is seen to its end."""
        try:
            async with asyncio.TaskGroup() as group:
                self._taking = group.create_task(self._take_all(group))
        finally:
            await self._inbox.close()

    async def stop(self) -> None:
        """Take no more; ``run`` ends when what was taken is done."""
        self._stopping.set()
        if self._taking is not None:
            self._taking.cancel()  # what it was given is dispatched in the same step

    async def _take_all(self, group: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            for order in await self._take():
                self._dispatch(order, group)

    async def _take(self) -> list[Order]:
        try:
            if self._in_hand < AT_ONCE:
                return await self._inbox.take(AT_ONCE - self._in_hand, wait=1.0)
            await self._inbox.take(0, wait=0.0)
            self._freed.clear()
            await _within(BUSY, self._freed)
        except WakeError as error:
            logger.warning("cannot take commands: %s", error)
            await asyncio.sleep(0.2)
        return []

    def _dispatch(self, order: Order, group: asyncio.TaskGroup) -> None:
        """Queue behind the commands of the same execution."""
        self._in_hand += 1
        key = requests.target(order)
        waiting = self._waiting[key]
        waiting.append(order)
        if len(waiting) == 1:
            group.create_task(self._work_off(key))

    async def _work_off(self, key: Key) -> None:
        waiting = self._waiting[key]
        while waiting:
            # If not even the first can be settled before we end, the others must
            # not be handled before it: all of them are left to whoever is next.
            left = 1 if await self._see_to(waiting[0]) else len(waiting)
            for _ in range(left):
                waiting.popleft()
            self._in_hand -= left
            self._freed.set()
        del self._waiting[key]

    async def _see_to(self, order: Order) -> bool:
        """Handle a command until it is settled; False if we are to end before."""
        for pause in chain(PAUSES, repeat(1.0)):
            if not self._inbox.holds(order) or await self._handle(order):
                return True
            await _within(pause, self._stopping)
            if self._stopping.is_set():
                return False
        raise AssertionError

    async def _handle(self, order: Order) -> bool:
        """Handle one command; logs and traces tell that it was in hand."""
        command = requests.command_id(order.body, order.position)
        user, execution = order.key
        about = {"wake.user": user, "wake.verb": order.verb, "wake.command": command}
        with (
            bound(user=user, execution=execution, command_id=command),
            span(
                "wake.command", about, parent=parent_in(order.headers), kind="consumer"
            ),
        ):
            return await self._answer(order, command)

    async def _answer(self, order: Order, command: str) -> bool:
        """Decide, answer, settle; False if the log or the inbox is out of reach."""
        answer = self._handled.get(order)
        if answer is None:
            try:
                answer = await self._decide(order, command)
            except Retryable as error:
                logger.warning("%s on %s: %s", order.verb, order.key, error)
                return False
            except WakeError as error:
                logger.info("%s on %s refused: %s", order.verb, order.key, error)
                note({"wake.refused": error.code})
                answer = requests.refusal(command, order.key, error)
            except Exception:  # the one place that settles: the others must go on
                logger.exception("%s on %s cannot be handled", order.verb, order.key)
                answer = requests.refusal(command, order.key, WakeError(MISTAKE))
            self._handled.keep(order, answer)
            self._log(order, answer)
            metrics.answered(order.verb, answer.code)
        return await self._settle(order, answer)

    def _log(self, order: Order, answer: requests.Answer) -> None:
        """Tell it in the execution's log; that of a refused start has nobody."""
        done = "accepted" if answer.accepted else "refused"
        if answer.accepted:
            logger.info("%s accepted: %s", order.verb, answer.status)
        self._tell(
            Key(order.key.user, answer.execution),
            "info" if answer.accepted else "warning",
            f"command.{done}",
            f"{order.verb} {done}" + f": {answer.message}" * bool(answer.message),
            command_id=answer.command_id,
        )

    async def _settle(self, order: Order, answer: requests.Answer) -> bool:
        """Answer, and see that it does not come again; False if it may."""
        try:
            if requests.answerable(order.key.user):
                body = msgspec.json.encode(answer)
                await self._inbox.answer(order.key.user, answer.command_id, body)
            await self._inbox.done(order)
        except Unavailable as error:
            logger.warning("%s: %s", order.key, error)
            return False
        return True

    async def _decide(self, order: Order, command: str) -> requests.Answer:
        check_id(order.key.user, "user")
        asker = asker_of(order)
        request = requests.parse(order.verb, order.body)
        if isinstance(request, requests.AboutSchedule):
            return await self._schedule(order, request, command, asker)
        check_id(order.key.execution, "execution")
        key = requests.execution_of(order.key, request, command)
        note({"wake.execution": key.execution})
        with bound(execution=key.execution):
            if isinstance(request, requests.Start):
                execution = await self._start(key, request, command, asker, order.at)
            elif isinstance(request, Retry) and self._admission is not None:
                execution = await self._retry(
                    key, request, command, asker, self._admission
                )
            else:
                execution = await self._handler.handle(
                    key, request.decide, cause=command, by=f"user:{asker.by}"
                )
        return requests.acceptance(command, execution)

    async def _schedule(
        self,
        order: Order,
        request: requests.AboutSchedule,
        command: str,
        asker: Asker,
    ) -> requests.Answer:
        if self._schedules is None:
            raise Misconfigured("this lifecycle keeps no schedules")
        user, sent = order.key.user, order.at
        check = partial(self._created, user=user, sent=sent)
        allowed = ANYTHING
        if self._admission is not None and isinstance(request, requests.Schedule):
            allowed = (await self._admission.tier(user, asker)).schedules
        return await self._schedules.decide(
            order.key, request, command, check, by=asker.by, allowed=allowed
        )

    async def _start(
        self,
        key: Key,
        start: requests.Start,
        cause: str,
        asker: Asker,
        sent: datetime,
    ) -> Execution:
        try:
            created = self._created(start, key.user, sent, await self._awaited(start))
        except WakeError:
            # What it names may be gone since it was started; asked again, it is
            # still the same start.
            execution = await self._handler.load_newest(key)
            if execution.state.version == 0 or execution.state.digest != start.digest:
                raise
            return execution
        if self._admission is not None:
            tier = await self._admission.start(key, asker)
            if tier.priority:
                created = msgspec.structs.replace(created, lane=PRIORITY)
        execution = await self._handler.handle(
            key,
            partial(Execution.create, created=created),
            cause=cause,
            known=Execution(key),  # most likely new; a conflict tells if it is not
            by=f"user:{asker.by}",
        )
        execution.create(created)  # refused, if the command id was another start's
        return execution

    async def _retry(
        self, key: Key, retry: Retry, cause: str, asker: Asker, admission: Admission
    ) -> Execution:
        """Let it go on if it may and is admitted: from the end that this was for."""
        by = f"user:{asker.by}"
        for _ in range(ROUNDS):
            known = await self._handler.load_newest(key)
            if cause in known.state.applied:
                return known
            after = known.position
            retry.decide(known)  # only to see whether it may: it is not kept
            await admission.retry(key, after, asker)
            decide = partial(_retried, retry=retry, after=after)
            try:
                return await self._handler.handle(key, decide, cause=cause, by=by)
            except Stale:
                continue
        raise Conflict(f"{key} changes too fast")

    async def _awaited(self, start: requests.Start) -> Awaited | None:
        """Say what a start waits for: something that happens from now on."""
        asked = start.await_event
        if asked is None:
            return None
        last, within = await self._last_trigger(), asked.within
        now = self._handler.clock()
        return Awaited(
            event_type=asked.event_type,
            where=dict(asked.where),
            deadline=now + timedelta(seconds=within) if within else None,
            after_trigger=last,
        )

    def _created(
        self,
        start: requests.Start,
        user: str,
        sent: datetime,
        awaited: Awaited | None = None,
    ) -> Created:
        """Resolve what was asked, at the time ``sent``; raises Refused."""
        allowed = self._allowed
        model = None if start.model is None else allowed.model(start.model, user)
        agent = self._resolve(start.agent_type, model)
        named = start.workspace
        workspace = None if named is None else allowed.workspace(named, user)
        return Created(
            agent=msgspec.structs.replace(
                agent, limits=tighten(agent.limits, start.limits)
            ),
            input=start.input,
            metadata=start.metadata,
            lane=agent.lane,
            workspace=workspace,
            awaited=awaited,
            scheduled_for=requests.check_time(start.run_at, sent),
            digest=start.digest,
        )


def _retried(execution: Execution, retry: Retry, after: int) -> None:
    """Decide on a retry, if nothing happened since it was admitted; raises Stale."""
    if execution.position != after:
        raise Stale(f"{execution.key} went on meanwhile")
    retry.decide(execution)


def tighten(limits: Limits, asked: requests.Tighter) -> Limits:
    """Lower the limits of an agent type as asked; raises InvalidInput if higher."""
    changes: dict[str, Any] = {}
    for name in ("max_steps", "max_tokens", "max_cost", "timeout"):
        wanted, allowed = getattr(asked, name), getattr(limits, name)
        if wanted is None:
            continue
        if allowed is not None and wanted > allowed:
            raise InvalidInput(
                f"limits.{name}: {wanted} is more than this agent type's {allowed}"
            )
        changes[name] = wanted
    return msgspec.structs.replace(limits, **changes)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but not for longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return

"""Lifecycle: takes commands, decides, answers.

Stateless. Any number may run; one is pinned and takes, the others stand by.
Commands of one execution are handled one after the other, those of different
executions side by side.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from events.catalog import Created
from events.errors import InvalidInput, Retryable, Unavailable, WakeError
from events.execution import Execution
from events.inbox import Inbox, Order
from events.names import Key, check_id
from events.spec import AgentSpec, Limits
from services import requests
from services.allowed import Allowed
from services.handler import Decision, Handler
from services.telemetry import bound, note, parent_in, span
from services.telling import Tell, silent

logger = logging.getLogger(__name__)

AT_ONCE = 256
"""Commands in hand: bounds memory, and the work that a takeover does again."""

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
    ) -> None:
        self._tell = tell
        self._handler, self._inbox = handler, inbox
        self._resolve, self._allowed = resolve, allowed
        self._waiting: dict[Key, deque[Order]] = defaultdict(deque)
        self._in_hand = 0
        self._stopping = asyncio.Event()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Handle commands until ``stop``; what was taken is seen to its end."""
        try:
            async with asyncio.TaskGroup() as group:
                while not self._stopping.is_set():
                    for order in await self._take():
                        self._dispatch(order, group)
        finally:
            await self._inbox.close()

    async def stop(self) -> None:
        """Take no more; ``run`` ends when what was taken is done."""
        self._stopping.set()

    async def _take(self) -> list[Order]:
        while self._in_hand >= AT_ONCE:
            self._freed.clear()
            await self._freed.wait()
        try:
            return await self._inbox.take(AT_ONCE - self._in_hand, wait=1.0)
        except WakeError as error:
            logger.warning("cannot take commands: %s", error)
            await asyncio.sleep(0.2)
            return []

    def _dispatch(self, order: Order, group: asyncio.TaskGroup) -> None:
        """Queue behind the commands of the same execution."""
        self._in_hand += 1
        waiting = self._waiting[order.key]
        waiting.append(order)
        if len(waiting) == 1:
            group.create_task(self._work_off(order.key))

    async def _work_off(self, key: Key) -> None:
        waiting = self._waiting[key]
        while waiting:
            await self._handle(waiting[0])
            waiting.popleft()
            self._in_hand -= 1
            self._freed.set()
        del self._waiting[key]

    async def _handle(self, order: Order) -> None:
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
            await self._answer(order, command)

    async def _answer(self, order: Order, command: str) -> None:
        """Decide and answer; left for redelivery if the log cannot be reached."""
        try:
            answer = await self._decide(order, command)
        except Retryable as error:
            logger.warning("%s on %s: %s; it comes again", order.verb, order.key, error)
            return
        except WakeError as error:
            logger.info("%s on %s refused: %s", order.verb, order.key, error)
            note({"wake.refused": error.code})
            answer = requests.refusal(command, order.key, error)
        self._log(order, answer)
        await self._settle(order, answer)

    def _log(self, order: Order, answer: requests.Answer) -> None:
        """Tell it in the execution's log; that of a refused start has nobody."""
        done = "accepted" if answer.accepted else "refused"
        self._tell(
            Key(order.key.user, answer.execution),
            "info" if answer.accepted else "warning",
            f"command.{done}",
            f"{order.verb} {done}" + f": {answer.message}" * bool(answer.message),
            command_id=answer.command_id,
        )

    async def _settle(self, order: Order, answer: requests.Answer) -> None:
        try:
            check_id(order.key.user, "user")
            body = msgspec.json.encode(answer)
            await self._inbox.answer(order.key.user, answer.command_id, body)
        except InvalidInput as error:
            logger.info("a command cannot be answered: %s", error)
        except Unavailable as error:
            logger.warning("%s: %s", order.key, error)
        try:
            await self._inbox.done(order)
        except Unavailable as error:
            logger.warning("%s: %s", order.key, error)

    async def _decide(self, order: Order, command: str) -> requests.Answer:
        check_id(order.key.user, "user")
        check_id(order.key.execution, "execution")
        request = requests.parse(order.verb, order.body)
        key = requests.execution_of(order.key, request, command)
        known = None
        if isinstance(request, requests.Start):
            decide: Decision = partial(Execution.create, created=self._created(request))
            known = Execution(key)  # most likely new; a conflict tells if it is not
        else:
            decide = request.decide
        note({"wake.execution": key.execution})
        with bound(execution=key.execution):
            execution = await self._handler.handle(
                key, decide, cause=command, known=known, by=f"user:{key.user}"
            )
        return requests.Answer(
            command_id=command,
            execution=key.execution,
            accepted=True,
            version=execution.state.version,
            position=execution.position,
            status=execution.state.status,
        )

    def _created(self, start: requests.Start) -> Created:
        """Resolve what was asked; raises Refused."""
        model = None if start.model is None else self._allowed.model(start.model)
        agent = self._resolve(start.agent_type, model)
        named = start.workspace
        workspace = None if named is None else self._allowed.workspace(named)
        return Created(
            agent=msgspec.structs.replace(
                agent, limits=tighten(agent.limits, start.limits)
            ),
            input=start.input,
            metadata=start.metadata,
            lane=agent.lane,
            workspace=workspace,
            digest=start.digest,
        )


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

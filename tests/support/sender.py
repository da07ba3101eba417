"""Somebody who sends commands, hears answers, and asks again until there is one."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import msgspec
from auditor import Sent
from fleet import LIMIT, USER, Fleet
from ledger import LOOK
from plan import Plan

from events.errors import OutcomeUnknown, Unavailable
from events.names import Key
from events.pinned import JetStreamInbox
from services.requests import Answer

IMPATIENCE = 3.0
"""Seconds after which it is asked again; an answer is told once, and not stored."""


class Sender:
    """Sends to the lifecycles of a fleet; the fleet keeps what was sent and heard."""

    def __init__(self, fleet: Fleet, heard: "asyncio.Queue[bytes]") -> None:
        self._fleet, self._heard = fleet, heard
        self._inbox = JetStreamInbox(fleet.wire)
        self._numbers = itertools.count(1)
        self._bodies: dict[str, bytes] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, fleet: Fleet) -> AsyncIterator[Self]:
        """Listen for every answer to the user, as long as the block runs."""
        async with JetStreamInbox(fleet.wire).answers(USER, "*") as heard:
            yield cls(fleet, heard)

    async def start(self, plan: Plan, times: int = 1) -> Key:
        """Ask for an execution; returns once that is stored."""
        key = Key(USER, plan.name)
        await self.send("start", key, times, agent_type="tester", input=plan.text)
        return key

    async def send(self, verb: str, key: Key, times: int = 1, **body: Any) -> None:
        """Send a command, ``times`` times; returns once it is stored as often."""
        command = body.setdefault("command_id", f"cmd-{next(self._numbers)}")
        self._hear()
        told = [a.version for a in self._fleet.answers if a.execution == key.execution]
        sent = Sent(command_id=command, key=key, verb=verb, floor=max(told, default=0))
        self._fleet.sent.append(sent)
        self._bodies[command] = msgspec.json.encode(body)
        for _ in range(times):
            await self._publish(sent)

    async def _publish(self, sent: Sent) -> None:
        while True:
            with suppress(Unavailable, OutcomeUnknown):
                await self._inbox.publish(
                    sent.key, sent.verb, self._bodies[sent.command_id]
                )
                return
            await asyncio.sleep(LOOK)

    def _hear(self) -> None:
        while not self._heard.empty():
            answer = msgspec.json.decode(self._heard.get_nowait(), type=Answer)
            self._fleet.answers.append(answer)

    def _unanswered(self) -> list[Sent]:
        self._hear()
        heard = {answer.command_id for answer in self._fleet.answers}
        return [sent for sent in self._fleet.sent if sent.command_id not in heard]

    async def settled(self, *, again: bool = False) -> None:
        """Wait until every command is answered; ``again``: ask for lost answers."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with asyncio.timeout(LIMIT):
            while left := self._unanswered():
                if again and loop.time() > asked + IMPATIENCE:
                    asked = loop.time()
                    for sent in left:
                        await self._publish(sent)
                await asyncio.sleep(LOOK)

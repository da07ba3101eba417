"""Commands of the gateway: sent on behalf of who asks, and answered.

One subscription hears the answers to all commands that are under way. An answer
that was missed (the server was away) is found in the log.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from events.errors import Unavailable
from events.inbox import Inbox
from events.journal import Journal
from events.names import ANSWERS_ALL, Key
from events.wire import Wire
from gateway.asking import Vouched, as_answer, encoded, identity
from gateway.web.identity import Identity
from services.handler import Handler
from services.requests import NEW, Answer, acceptance
from services.tiers import FREE

WAIT: Final = 10.0
"""Seconds to wait for an answer; the command is stored all the same."""


class Unanswered(Unavailable):
    """The command is stored, and nobody has answered it yet."""

    def __init__(self, command: str, key: Key) -> None:
        super().__init__(
            f"no answer within {WAIT:.0f} s: is a lifecycle service running? The "
            "command is stored and takes effect when one is"
        )
        self.command, self.key = command, key


class Desk:
    """Sends commands through ``inbox`` and waits for what is answered."""

    def __init__(self, wire: Wire, inbox: Inbox, journal: Journal) -> None:
        self._wire, self._inbox = wire, inbox
        self._handler = Handler(journal, "gateway")
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, wire: Wire, inbox: Inbox, journal: Journal
    ) -> AsyncIterator[Self]:
        """Listen as long as the block lasts."""
        desk = cls(wire, inbox, journal)
        heard = await wire.subscribe(
            ANSWERS_ALL, lambda message: desk.hear(message.subject, message.data)
        )
        await wire.flush()
        try:
            yield desk
        finally:
            await wire.unsubscribe(heard)

    def hear(self, subject: str, body: bytes) -> None:
        """Take an answer; those to others' commands are none of ours."""
        waiting = self._waiting.get(subject.rpartition(".")[2])
        if waiting is not None and not waiting.done():
            waiting.set_result(body)

    async def ask(
        self, who: Identity, key: Key, verb: str, body: dict[str, Any]
    ) -> Answer:
        """Send a command and return its answer.

        Raises Refused, Declined, Unavailable; Unanswered once it is stored.
        """
        command = body.setdefault("command_id", f"gw-{secrets.token_hex(8)}")
        payload = encoded(body)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[command] = answer
        try:
            vouched = Vouched(who.user, who.tier or FREE)
            headers = identity(key, vouched)
            await self._inbox.publish(
                key, verb, payload, door="gateway", headers=headers
            )
            async with asyncio.timeout(WAIT):
                return as_answer(await answer)
        except TimeoutError:
            return await self._missed(key, command)
        finally:
            del self._waiting[command]

    async def _missed(self, key: Key, command: str) -> Answer:
        """Look whether it took effect; raises Unanswered."""
        if key.execution != NEW:
            execution = await self._handler.load_newest(key)
            if command in execution.state.applied:
                return acceptance(command, execution)
        raise Unanswered(command, key)

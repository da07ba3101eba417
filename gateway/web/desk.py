"""Commands of the gateway: sent on behalf of who asks, and answered.

One subscription hears the answers to all commands that are under way. An answer
that was missed (the server was away) is found in the log.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Self

from events.cloudevents import KIND
from events.errors import Unavailable
from events.inbox import Inbox
from events.journal import Journal
from events.names import ANSWERS_ALL, TRACE, WANTS_ANSWER, Key, answer_subject
from events.triggers import Triggers
from events.wire import Wire
from gateway.asking import Vouched, as_answer, encoded, identity
from gateway.web.identity import Identity
from services.handler import Handler
from services.requests import NEW, Answer, acceptance
from services.telemetry import current
from services.woken import TriggerAnswer, accepted

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

    def __init__(
        self, wire: Wire, inbox: Inbox, journal: Journal, triggers: Triggers
    ) -> None:
        self._wire, self._inbox, self._triggers = wire, inbox, triggers
        self._handler = Handler(journal, "gateway")
        self._waiting: dict[str, set[asyncio.Future[bytes]]] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, wire: Wire, inbox: Inbox, journal: Journal, triggers: Triggers
    ) -> AsyncIterator[Self]:
        """Listen as long as the block lasts."""
        desk = cls(wire, inbox, journal, triggers)
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
        for waiting in self._waiting.get(subject, ()):
            if not waiting.done():
                waiting.set_result(body)

    @contextmanager
    def _awaiting(self, user: str, asked: str) -> Iterator["asyncio.Future[bytes]"]:
        """Wait for what is answered to a user under an id; several may, for the same.

        Ids are whatever senders make up: the same one of another user is another.
        """
        subject = answer_subject(user, asked)
        answer = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(subject, set()).add(answer)
        try:
            yield answer
        finally:
            self._waiting[subject].discard(answer)
            if not self._waiting[subject]:
                del self._waiting[subject]

    async def ask(
        self, who: Identity, key: Key, verb: str, body: dict[str, Any]
    ) -> Answer:
        """Send a command and return its answer.

        Raises Refused, Declined, Unavailable; Unanswered once it is stored.
        """
        command = body.setdefault("command_id", f"gw-{secrets.token_hex(8)}")
        payload = encoded(body)
        headers = {**traced(), **identity(key, Vouched(who.user, who.tier))}
        with self._awaiting(key.user, command) as answer:
            await self._inbox.publish(
                key, verb, payload, door="gateway", headers=headers
            )
            try:
                async with asyncio.timeout(WAIT):
                    return as_answer(await answer)
            except TimeoutError:
                return await self._missed(key, command)

    async def _missed(self, key: Key, command: str) -> Answer:
        """Look whether it took effect; raises Unanswered."""
        if key.execution != NEW:
            execution = await self._handler.load_newest(key)
            if command in execution.state.applied:
                return acceptance(command, execution)
        raise Unanswered(command, key)

    async def tell(
        self, user: str, event_type: str, event: bytes, name: str, wait: float = WAIT
    ) -> TriggerAnswer | None:
        """Publish a CloudEvent once; returns what became of it, None if it was there.

        Raises InvalidInput and Unavailable. Without ``woken`` nobody said so in time.
        """
        asked = f"gw-{secrets.token_hex(8)}"
        headers = {WANTS_ANSWER: asked, "content-type": KIND, **traced()}
        with self._awaiting(user, asked) as answer:
            new = await self._triggers.publish_once(
                user, event_type, event, name=name, headers=headers
            )
            if not new:
                return None
            try:
                async with asyncio.timeout(wait):
                    return accepted(await answer)
            except TimeoutError:
                return TriggerAnswer(position=0, accepted=True)


def traced() -> dict[str, str]:
    """The header that carries the active span on, if there is one."""
    return {TRACE: span} if (span := current()) else {}

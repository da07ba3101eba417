"""How many a trigger woke: counted in the log, and told to whoever asked.

Each wake-up is one commit, whoever appended it, so every reactor counts the same
and any of them can answer. It answers once it has seen the log to where it was
after its own wake-ups; what wakes only later (somebody parked meanwhile) is not
in the answer.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from events.cloudevents import Trigger
from events.errors import InvalidInput, Unavailable, WakeError

REMEMBERED = 10_000
"""Triggers whose wake-ups are counted: an answer is given within seconds."""


class TriggerAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a trigger: how many it woke, or why it is none."""

    position: int
    accepted: bool
    trigger: str = ""
    woken: int | None = None
    code: str = ""
    message: str = ""


class Woken:
    """What the log says of wake-ups, up to ``position``."""

    def __init__(self) -> None:
        self.position = 0
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._waiting: set[asyncio.Event] = set()

    def see(self, position: int) -> None:
        """Note how far the log was seen."""
        self.position = position
        for grown in self._waiting:
            grown.set()

    def count(self, trigger: str) -> None:
        """Note that a trigger woke one more; the oldest are forgotten."""
        self._counts[trigger] = self._counts.pop(trigger, 0) + 1
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    async def until(self, position: int) -> None:
        """Return when the log was seen up to a position."""
        with self._listening() as grown:
            while self.position < position:
                grown.clear()
                await grown.wait()

    @contextmanager
    def _listening(self) -> Iterator[asyncio.Event]:
        grown = asyncio.Event()
        self._waiting.add(grown)
        try:
            yield grown
        finally:
            self._waiting.remove(grown)

    def answer(self, trigger: Trigger) -> TriggerAnswer:
        """Say how many a trigger woke, as far as the log was seen."""
        return TriggerAnswer(
            position=trigger.position,
            accepted=True,
            trigger=trigger.id,
            woken=self._counts.get(trigger.id, 0),
        )


def accepted(raw: bytes) -> TriggerAnswer:
    """Read an answer that says yes; raises InvalidInput with why one says no.

    Raises Unavailable for what is no answer.
    """
    try:
        answer = msgspec.json.decode(raw, type=TriggerAnswer)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Unavailable(f"the answer cannot be read: {error}") from error
    if not answer.accepted:
        raise InvalidInput(answer.message)
    return answer


def refusal(position: int, error: WakeError) -> TriggerAnswer:
    """Say why it wakes nobody."""
    return TriggerAnswer(
        position=position, accepted=False, code=error.code, message=str(error)
    )

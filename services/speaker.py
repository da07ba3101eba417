"""Sends what models say to whoever listens, a piece every 50 ms, best effort.

Whoever speaks only puts words down here; one task sends them. So a server that is
slow or away delays no step, and what could not be sent is left out.
"""

import asyncio
from typing import Never

from events.deltas import MAX_TEXT, Delta, Deltas
from events.names import Key
from services.agents.speech import Speech
from services.handler import Clock, utc_now

PAUSE = 0.05
"""Seconds for which words are gathered: the eye does not see it, and a message for
each token would cost more than all the rest of a step."""


class Speaker:
    """Begin speeches with ``speak``, and ``run`` it beside."""

    def __init__(self, deltas: Deltas, clock: Clock = utc_now) -> None:
        self._deltas, self._clock = deltas, clock
        self._waiting: dict[_Words, None] = {}
        self._stirred = asyncio.Event()

    def speak(self, key: Key, step: int, attempt: int) -> Speech:
        """Begin the speech of an execution at a step, in an attempt."""
        return _Words(self, key, step, attempt)

    def stir(self, words: "_Words") -> None:
        """Note who has something to say."""
        self._waiting[words] = None
        self._stirred.set()

    def forget(self, words: "_Words") -> None:
        """Note who has nothing to say any more."""
        self._waiting.pop(words, None)

    async def run(self) -> Never:
        """Send what there is, until cancelled."""
        while True:
            await self._stirred.wait()
            await asyncio.sleep(PAUSE)
            self._stirred.clear()
            waiting, self._waiting = self._waiting, {}
            for words in waiting:
                if words.pending:  # it may have begun anew, or ended, meanwhile
                    await self._deltas.publish(words.key, words.take(self._clock))


class _Words:
    """What was said and not sent yet."""

    def __init__(self, speaker: Speaker, key: Key, step: int, attempt: int) -> None:
        self.key = key
        self._speaker, self._step, self._attempt = speaker, step, attempt
        self._try, self._offset = 1, 0
        self._parts: list[str] = []

    @property
    def pending(self) -> bool:
        return bool(self._parts)

    def say(self, text: str) -> None:
        if not text:
            return
        self._parts.append(text)
        if len(self._parts) == 1:
            self._speaker.stir(self)

    def again(self) -> None:
        self._parts.clear()
        self._try, self._offset = self._try + 1, 0
        self._speaker.forget(self)

    def end(self) -> None:
        """What was not sent yet is in the reply."""
        self._parts.clear()
        self._speaker.forget(self)

    def take(self, clock: Clock) -> Delta:
        """Take what goes into one piece; what is more is left out."""
        text = "".join(self._parts)
        self._parts.clear()
        delta = Delta(
            at=clock(),
            step=self._step,
            attempt=self._attempt,
            try_=self._try,
            offset=self._offset,
            text=text[:MAX_TEXT],
        )
        self._offset += len(text)
        return delta

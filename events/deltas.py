"""The port of deltas: what models say, while they say it.

Best effort: they may be lost, and the recorded reply supersedes them. Two adapters
stand behind the port, ``MemoryDeltas`` here and ``deltastream.py``; one test suite
runs on both.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Never

import msgspec

from events.errors import InvalidInput
from events.names import Key

MAX_TEXT = 32 * 1024
"""Characters of one delta: in JSON each takes six bytes at most."""

MAX_DELTA = 256 * 1024
"""Bytes of a stored delta, headers included."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what the model says in one try at one step.

    ``offset`` counts the characters (Unicode code points) of the same try before
    it: one that is not where the last piece ended shows that some was lost, and 0
    that the model begins anew.
    """

    at: datetime
    step: int
    attempt: int
    try_: int = msgspec.field(name="try", default=1)
    offset: int = 0
    text: str = ""

    @property
    def place(self) -> tuple[int, int, int]:
        """Which saying it is a piece of: later ones are greater."""
        return self.step, self.attempt, self.try_


Heard = Callable[[Key, Delta], None]

_decoder = msgspec.json.Decoder(Delta)
encode_delta = msgspec.json.Encoder().encode


def decode_delta(subject: str, body: bytes) -> tuple[Key, Delta]:
    """Return whose delta it is, and the delta; raises InvalidInput if it is none."""
    _, user, execution = subject.split(".")
    try:
        return Key(user, execution), _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"no delta: {error}") from error


class Deltas(ABC):
    """The deltas of all executions."""

    @abstractmethod
    async def publish(self, key: Key, delta: Delta) -> None:
        """Send it; while there is no server it is lost, and nothing is raised."""

    @abstractmethod
    def hear(self, heard: Heard) -> AbstractAsyncContextManager[None]:
        """Call ``heard`` with each as it comes."""

    @abstractmethod
    async def kept(self, heard: Heard) -> None:
        """Call ``heard`` with those of the last minutes, oldest first.

        Raises Unavailable; then some may be missing.
        """

    @abstractmethod
    async def keep(self) -> Never:
        """See to it that they are kept, until cancelled; without it none may be."""


class MemoryDeltas(Deltas):
    """All in one process; nothing is lost or too old."""

    def __init__(self) -> None:
        self._kept: list[tuple[Key, Delta]] = []
        self._hearing: list[Heard] = []

    async def publish(self, key: Key, delta: Delta) -> None:
        """Pass it on."""
        self._kept.append((key, delta))
        for heard in self._hearing:
            heard(key, delta)

    @asynccontextmanager
    async def hear(self, heard: Heard) -> AsyncIterator[None]:
        """Call ``heard`` with each as it comes."""
        self._hearing.append(heard)
        try:
            yield
        finally:
            self._hearing.remove(heard)

    async def kept(self, heard: Heard) -> None:
        """Call ``heard`` with all of them."""
        for key, delta in self._kept:
            heard(key, delta)

    async def keep(self) -> Never:
        """They are."""
        while True:
            await asyncio.Event().wait()

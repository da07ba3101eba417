"""The port of a bucket: a value for each key, written if nobody wrote meanwhile.

Two adapters stand behind it, ``MemoryRegister`` here and ``kvstream.py``, a NATS
key-value bucket; one test suite runs on both.
"""

from abc import ABC, abstractmethod
from itertools import count
from typing import NamedTuple

from events.errors import Conflict


class Held(NamedTuple):
    """A value and its revision; revision 0: there never was one."""

    value: bytes = b""
    revision: int = 0


class Register(ABC):
    """The values of one bucket; every method raises Unavailable."""

    @abstractmethod
    async def read(self, key: str) -> Held:
        """Return the value of a key, never a stale one; empty if it has none."""

    @abstractmethod
    async def write(self, key: str, value: bytes, *, after: int) -> int:
        """Replace the value of revision ``after`` and return the new revision.

        Raises Conflict if that is not the last, TooLarge, and OutcomeUnknown if
        nobody knows whether it was stored.
        """

    @abstractmethod
    async def keys(self) -> list[str]:
        """Return the keys that have a value, sorted."""


class MemoryRegister(Register):
    """All in one process: the same promises, nothing stored."""

    def __init__(self) -> None:
        self._revisions = count(1)
        self._held: dict[str, Held] = {}

    async def read(self, key: str) -> Held:
        """Return the value of a key."""
        return self._held.get(key, Held())

    async def write(self, key: str, value: bytes, *, after: int) -> int:
        """Replace the value of a key, unless somebody did."""
        known = self._held.get(key, Held())
        if known.revision != after:
            raise Conflict(f"{key} has revision {known.revision}, not {after}")
        revision = next(self._revisions)
        self._held[key] = Held(value, revision)
        return revision

    async def keys(self) -> list[str]:
        """Return the keys that have a value."""
        return sorted(key for key, held in self._held.items() if held.value)

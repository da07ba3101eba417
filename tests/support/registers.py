"""Buckets under test, in memory or on a real server."""

from abc import ABC, abstractmethod

from nats_server import take_away

from events.kvstream import JetStreamRegister
from events.names import ACCOUNTS, QUOTAS, bucket_stream
from events.register import MemoryRegister, Register
from events.wire import Wire


class Buckets(ABC):
    """Nothing in them, at first."""

    quotas: Register
    accounts: Register

    @abstractmethod
    async def again(self) -> Register:
        """Open the quotas as another process would."""


class MemoryBuckets(Buckets):
    """In memory."""

    def __init__(self) -> None:
        self.quotas: MemoryRegister = MemoryRegister()
        self.accounts: MemoryRegister = MemoryRegister()

    async def again(self) -> Register:
        """Memory is shared."""
        return self.quotas


class JetStreamBuckets(Buckets):
    """On a real server, each process with its own connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.wires: list[Wire] = []

    async def open(self) -> None:
        """Begin with nothing, whatever an earlier test left."""
        wire = await self.wire()
        for bucket in (QUOTAS, ACCOUNTS):
            await take_away(wire, bucket_stream(bucket))
        self.quotas: JetStreamRegister = await opened(wire, QUOTAS)
        self.accounts: JetStreamRegister = await opened(wire, ACCOUNTS)

    async def wire(self) -> Wire:
        """Connect once more."""
        wire = await Wire.connect(self._url)
        self.wires.append(wire)
        return wire

    async def again(self) -> JetStreamRegister:
        """Connect as another process."""
        return await opened(await self.wire(), QUOTAS)

    async def close(self) -> None:
        """Close every connection."""
        for wire in self.wires:
            await wire.close()


async def opened(wire: Wire, bucket: str) -> JetStreamRegister:
    """Open a bucket."""
    return await JetStreamRegister.open(wire, bucket, "of a test")

"""A nats-server of its own for each measurement, in a folder that goes away."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from events.jetstream import JetStreamJournal
from events.wire import Wire
from services.embedded import EmbeddedServer
from services.folder import DataFolder


@asynccontextmanager
async def fresh_server(sync: str) -> AsyncIterator[EmbeddedServer]:
    """Start a server on an empty store; ``sync`` is nats-server's sync_interval."""
    with tempfile.TemporaryDirectory(prefix="wake-bench-") as name:
        folder = DataFolder.open(Path(name) / "data")
        with folder:
            async with EmbeddedServer.start(folder, sync=sync) as server:
                yield server


@asynccontextmanager
async def connected(server: EmbeddedServer) -> AsyncIterator[Wire]:
    """Connect as the service does."""
    wire = await Wire.connect(server.url, user=server.user, password=server.password)
    try:
        yield wire
    finally:
        await wire.close()


@asynccontextmanager
async def fresh_log(sync: str) -> AsyncIterator[JetStreamJournal]:
    """Provide an empty log."""
    async with fresh_server(sync) as server, connected(server) as wire:
        yield await JetStreamJournal.open(wire)

"""A network between a client and a server, that can be cut, clogged and slow.

TCP loses no bytes: what a hole swallows for a while arrives late, or is lost
together with its connection.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal, Self

Way = Literal["up", "down"]
"""From the client to the server, and back."""

BOTH: tuple[Way, Way] = ("up", "down")
CHUNK = 16 * 1024


class Proxy:
    """Listens on ``url``; connections go on to a port of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._through = {way: asyncio.Event() for way in BOTH}
        self._whole = asyncio.Event()
        self._delay = 0.0
        self._pace = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.mend()

    @classmethod
    @asynccontextmanager
    async def open(cls, target: int) -> AsyncIterator[Self]:
        """Listen until the block ends."""
        proxy = cls(target)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()
            await asyncio.gather(*proxy._pumps, return_exceptions=True)
            await server.wait_closed()

    url: str

    # ── what the network does ────────────────────────────────────────────────

    def cut(self) -> None:
        """Reset every connection, and refuse new ones until it is mended."""
        self._whole.clear()
        for writer in self._writers:
            writer.transport.abort()

    def hole(self, *ways: Way) -> None:
        """Let nothing through one way or both; nobody is told."""
        for way in ways:
            self._through[way].clear()

    def slow(self, delay: float, pace: float) -> None:
        """Let all take ``delay`` seconds, and at most ``pace`` bytes pass a second."""
        self._delay, self._pace = delay, 1 / pace

    def mend(self) -> None:
        """Be a good network; what a hole swallowed arrives now."""
        self._delay = self._pace = 0.0
        for event in (self._whole, *self._through.values()):
            event.set()

    # ── how ──────────────────────────────────────────────────────────────────

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not self._whole.is_set():
            writer.transport.abort()
            return
        try:
            far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        for source, sink, way in ((reader, far[1], "up"), (far[0], writer, "down")):
            task = asyncio.create_task(self._pump(source, sink, way))  # type: ignore[arg-type]
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)
            self._writers.add(sink)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Way
    ) -> None:
        """Pass on what comes one way; the end too."""
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await self._pass(sink, data, way)
        self._writers.discard(sink)
        sink.close()

    async def _pass(self, sink: asyncio.StreamWriter, data: bytes, way: Way) -> None:
        if self._delay:
            await asyncio.sleep(self._delay + len(data) * self._pace)
        await self._through[way].wait()
        sink.write(data)
        await sink.drain()

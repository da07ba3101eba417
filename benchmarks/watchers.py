"""A thousand websockets in a process of their own, for ``benchmarks/feed.py``.

They do no more than they must, so that what is measured is the gateway: the clock is
read once for each piece of network data, and the time of the append is found in a
message without decoding it. Told what to do by lines on stdin, answers on stdout.
"""

import asyncio
import sys
import time
from array import array
from typing import Any, cast

import msgspec
import uvloop

MARK = b'"output":"'
DIGITS = 19
"""How a time is written: nanoseconds of the machine's monotonic clock."""

PING, TEXT = 0x9, 0x1
SHORT, MEDIUM, LONG = 125, 126, 127
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="


class Target(msgspec.Struct):
    """Whose and which execution to watch, and as whom."""

    token: str
    user: str
    execution: str


class Job(msgspec.Struct):
    """Where to watch what."""

    host: str
    port: int
    targets: list[Target]


class Told(msgspec.Struct):
    """What came since the last ``go``: how many, over how long, and how late."""

    count: int
    seconds: float
    late_ms: list[float]
    closed: int


class Tally:
    """What all of them have seen."""

    def __init__(self) -> None:
        self.live = self.closed = 0
        self.stirred = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        """Count from now on."""
        self.late, self.began, self.last = array("q"), time.monotonic_ns(), 0

    def told(self) -> Told:
        """Sum it up."""
        seconds = (self.last - self.began) / 1e9
        late = sorted(ns / 1e6 for ns in self.late)
        return Told(len(late), seconds, late, self.closed)


class Watcher(asyncio.Protocol):
    """One websocket."""

    def __init__(self, tally: Tally, job: Job, target: Target) -> None:
        self._tally, self._job, self._target = tally, job, target
        self._buffer = b""
        self._open = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none
        self.transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._job.host}:{self._job.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
            f"Authorization: Bearer {self._target.token}\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it: none should be."""
        del exc
        self._tally.closed += 1
        self._tally.stirred.set()

    def data_received(self, data: bytes) -> None:
        """Take what is whole."""
        now = time.monotonic_ns()
        buffer = self._buffer + data if self._buffer else data
        if not self._open:
            head, end, buffer = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            self._begin(head)
        self._buffer = self._frames(buffer, now)

    def _begin(self, head: bytes) -> None:
        if b" 101 " not in head[:20]:
            raise SystemExit(head.decode())
        self._open = True
        order = {
            "type": "subscribe",
            "execution": self._target.execution,
            "user": self._target.user,
            "kinds": ["tool.completed", "status.changed", "step.completed"],
        }
        self._send(TEXT, msgspec.json.encode(order))

    def _frames(self, buffer: bytes, now: int) -> bytes:
        """Take whole frames; returns the rest."""
        place, size = 0, len(buffer)
        while size - place >= 2:  # noqa: PLR2004 - the shortest head
            length, start = buffer[place + 1], place + 2
            if length > SHORT:
                wide = 2 if length == MEDIUM else 8
                length = int.from_bytes(buffer[start : start + wide])
                start += wide
            if start + length > size:
                break
            self._take(buffer[place] & 0xF, buffer[start : start + length], now)
            place = start + length
        return buffer[place:]

    def _take(self, kind: int, payload: bytes, now: int) -> None:
        tally = self._tally
        if kind == PING:
            self._send(0xA, payload)
            return
        found = payload.find(MARK)
        if found >= 0:
            start = found + len(MARK)
            tally.late.append(now - int(payload[start : start + DIGITS]))
            tally.last = now
        elif payload.startswith(b'{"type":"live"'):
            tally.live += 1
            tally.stirred.set()

    def _send(self, kind: int, payload: bytes) -> None:
        """One frame, masked with zeros."""
        size = len(payload)
        head = bytes((0x80 | kind, 0x80 | size)) if size <= SHORT else b""
        head = head or bytes((0x80 | kind, 0xFE)) + size.to_bytes(2)
        self.transport.write(head + b"\0\0\0\0" + payload)


async def connect(tally: Tally, job: Job) -> None:
    """Connect all, a few at a time, and wait until they are live."""
    loop, room = asyncio.get_running_loop(), asyncio.Semaphore(32)

    async def one(target: Target) -> None:
        async with room:
            await loop.create_connection(
                lambda: Watcher(tally, job, target), job.host, job.port
            )

    already = tally.live
    await asyncio.gather(*map(one, job.targets))
    while tally.live < already + len(job.targets):
        tally.stirred.clear()
        await tally.stirred.wait()
        if tally.closed:
            raise SystemExit("a websocket was closed")


async def main() -> None:
    """Do what the lines on stdin say."""
    reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    tally = Tally()
    while line := await reader.readline():
        answer: Any = None
        if line == b"go\n":
            tally.reset()
        elif line == b"count\n":
            answer = len(tally.late)
        elif line == b"stop\n":
            answer = tally.told()
        else:
            await connect(tally, msgspec.json.decode(line, type=Job))
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())

"""A process that is bounded: in time, in output kept, and nothing of it remains."""

import asyncio
import os
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_AFTERMATH = 5.0
"""Seconds that what was killed may take to be gone."""
_ROUNDS = 50
"""Looks for marked processes: a new one may have been forked during a look."""


class Output:
    """The beginning and the end of what was written, ``keep`` bytes in all."""

    def __init__(self, keep: int) -> None:
        self._half = keep // 2
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take a piece; memory stays bounded."""
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        """What was kept, saying how much was not; invalid UTF-8 replaced."""
        tail = self._tail[-self._half :]
        lost = self.total - len(self._head) - len(tail)
        note = f"\n[cut: {lost:,} of {self.total:,} bytes left out]\n" if lost else ""
        if not note:
            return (self._head + tail).decode(errors="replace")
        return (
            self._head.decode(errors="replace") + note + tail.decode(errors="replace")
        )


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a process ended; ``late`` when its time was up and it was killed."""

    code: int
    output: Output
    late: bool


async def run_bounded(  # the parameters are those of a process
    argv: Sequence[str],
    *,
    seconds: float,
    keep: int,
    env: Mapping[str, str],
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    marker: str = "",
) -> Finished:
    """Run ``argv`` and drain its output; kills it after ``seconds`` or on cancellation.

    With ``marker``, every process whose environment holds it is killed as well
    at the end. Raises OSError when it cannot be started.
    """
    with _Drain(keep) as drain:
        late = False
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=DEVNULL,
            stdout=drain.writer,
            stderr=drain.writer,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        drain.start()
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            late = True
        finally:
            await _end(process, drain, marker)
        return Finished(code=process.returncode or 0, output=drain.output, late=late)


async def _end(process: Process, drain: "_Drain", marker: str) -> None:
    """Kill what is left and see it gone: the end of the output says so."""
    with suppress(ProcessLookupError):
        process.kill()
    if marker:
        _kill_marked(marker.encode())
    await process.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(_AFTERMATH):
            await drain.ended.wait()


class _Drain:
    """A pipe that is read as it fills.

    Not asyncio's own: its ``wait`` can wait for the pipe, which a child that
    was left behind keeps open.
    """

    def __init__(self, keep: int) -> None:
        self.output = Output(keep)
        self.ended = asyncio.Event()
        self._reader, self.writer = os.pipe()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        os.set_blocking(self._reader, False)
        return self

    def start(self) -> None:
        """Leave the writing end to the process, and read."""
        os.close(self.writer)
        self.writer = -1
        self._loop.add_reader(self._reader, self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._reader, _CHUNK)
            self.output.add(data)
            if not data:
                self._loop.remove_reader(self._reader)
                self.ended.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        if self.writer >= 0:
            os.close(self.writer)


def _kill_marked(marker: bytes) -> None:
    """Kill every process that carries ``marker``, wherever it went (setsid too)."""
    for _ in range(_ROUNDS):
        found = [pid for pid in _processes() if marker in _environment(pid)]
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, SIGKILL)
        if not found:
            return


def _processes() -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()
    ]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""

"""``wake`` as its users meet it: a process, a terminal, a data folder."""

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from events.execution import Execution
from events.names import Key
from gateway.composition import PATIENCE, Place, hold, open_log
from services.handler import Handler

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "gateway.cli")
LIMIT = 120.0
"""Seconds until a test gives up on a process."""

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What a terminal program may send: colours and moves of the cursor."""


def environment(**more: str) -> dict[str, str]:
    """An environment without what would change how ``wake`` behaves."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WAKE", "OPENAI"))}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}


def start(
    cwd: Path, *arguments: str, stdin: bytes | None = None, **more: str
) -> "subprocess.Popen[str]":
    """Start ``wake`` without a terminal; ``stdin`` is what it may read."""
    source = subprocess.DEVNULL
    if stdin is not None:
        source = os.memfd_create("stdin")
        os.write(source, stdin)
        os.lseek(source, 0, os.SEEK_SET)
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**more),
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Ended:
    """What a process left: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def last(self) -> Any:
        """The last line of stdout, as JSON; if it is none, it is said how it ended."""
        try:
            return json.loads(self.out.splitlines()[-1])
        except (IndexError, ValueError) as error:
            told = f"exit code {self.code}, {len(self.out):,} characters: {self.err}"
            raise AssertionError(told) from error

    @property
    def id(self) -> str:
        """The execution that was announced."""
        found = re.search(r"execution (\S+)", self.out + self.err)
        assert found, self.out + self.err
        return found[1]


def end(process: "subprocess.Popen[str]") -> Ended:
    """Wait for a process."""
    out, err = process.communicate(timeout=LIMIT)
    return Ended(process.returncode, out, err)


def wake(cwd: Path, *arguments: str, stdin: bytes | None = None, **more: str) -> Ended:
    """Run ``wake`` to its end."""
    return end(start(cwd, *arguments, stdin=stdin, **more))


def until(process: "subprocess.Popen[str]", what: str, stream: str = "stdout") -> str:
    """Read a process's lines up to one that has ``what`` in it."""
    lines = []
    source = getattr(process, stream)
    for line in source:
        lines.append(line)
        if what in line:
            return "".join(lines)
    process.kill()
    _, err = process.communicate(timeout=LIMIT)
    raise AssertionError(f"no {what!r} in {''.join(lines)}{err}")


def history(cwd: Path, execution: str, *options: str) -> list[Any]:
    """Every commit of an execution, as it is stored."""
    ended = wake(cwd, "events", execution, "--json", *options)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def facts(commits: list[Any]) -> list[Any]:
    """The events of commits."""
    return [fact for commit in commits for fact in commit["events"]]


def decide(data: Path, key: Key, *decisions: Callable[[Execution], None]) -> Execution:
    """Make decisions about an execution durable in a data folder."""
    place = Place(data)

    async def main() -> Execution:
        async with open_log(held) as log:
            handler = Handler(log.journal, "test")
            for decision in decisions:
                execution = await handler.handle(key, decision)
            return execution

    with hold(place, wait=PATIENCE) as held:
        return asyncio.run(main())


_IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "gateway.cli", *sys.argv[1:]])
"""


class Terminal:
    """``wake`` in a terminal of its own; ``raw`` is all that it wrote."""

    def __init__(
        self, cwd: Path, *arguments: str, size: tuple[int, int] = (80, 24), **more: str
    ) -> None:
        self.raw = ""
        self._master, slave = pty.openpty()
        columns, rows = size
        shape = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, shape)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *arguments],
            cwd=cwd,
            env=environment(**more),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind."""
        self.process.kill()
        self.process.wait(LIMIT)
        os.close(self._master)

    @property
    def text(self) -> str:
        """What was written, without colours and moves."""
        return ESCAPES.sub("", self.raw).replace("\r", "")

    def press(self, keys: str) -> None:
        """Type; the character with the code 3 is Ctrl-C."""
        os.write(self._master, keys.encode())

    def until(self, what: str) -> None:
        """Wait until something was written."""
        deadline = time.monotonic() + LIMIT
        while what not in self.text:
            assert self._read(deadline), f"no {what!r} in {self.text}"

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        deadline = time.monotonic() + LIMIT
        while self._read(deadline):
            pass
        return self.process.wait(LIMIT)

    def _read(self, deadline: float) -> bool:
        """Take what was written; False at the end."""
        left = deadline - time.monotonic()
        if not select.select([self._master], [], [], max(0.0, left))[0]:
            raise AssertionError(f"it hangs: {self.text}")
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux tells that the other side is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)

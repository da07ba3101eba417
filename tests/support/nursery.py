"""Processes that are there at once: forked from one that has imported everything.

Each is a real process, the real command; only its imports were done before, which
would take a second each time. Run as a script, this is the one that forks.
"""

import ctypes
import importlib
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

LATER = ("gateway.configuration", "services.loglines", "typer._adapters", "uvloop")
"""What a service imports only when it starts."""

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Who is to be born; ``out`` and ``err`` are files that it writes to."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    out: str
    err: str


class Child:
    """A process that runs ``wake``; ``out`` and ``err`` are what it wrote."""

    def __init__(self, pid: int, out: Path, err: Path) -> None:
        self.pid, self._out, self._err = pid, out, err
        self._end = os.pidfd_open(pid)

    @property
    def out(self) -> str:
        """What it printed until now."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it logged until now."""
        return self._err.read_text()

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return not select.select([self._end], [], [], 0)[0]

    def send(self, number: signal.Signals) -> None:
        """Send a signal; who has ended hears nothing."""
        if self.alive:
            signal.pidfd_send_signal(self._end, number)

    def kill(self) -> None:
        """End it by kill -9."""
        self.send(signal.SIGKILL)

    def close(self) -> None:
        """End it, and wait for that."""
        self.kill()
        select.select([self._end], [], [])
        os.close(self._end)


class Nursery:
    """Gives birth to processes until it is closed; they do not outlive it."""

    def __init__(self) -> None:
        paths = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def bear(
        self, *arguments: str, folder: Path, name: str, environment: dict[str, str]
    ) -> Child:
        """Run ``wake`` with these arguments; ``name`` is for the files it writes."""
        out, err = folder / f"{name}.out", folder / f"{name}.err"
        order = Order(
            arguments=arguments,
            environment=environment,
            folder=str(folder),
            out=str(out),
            err=str(err),
        )
        for file in (out, err):
            file.touch()
        return Child(int(self._ask(order)), out, err)

    def _ask(self, order: Order) -> bytes:
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        sink.write(msgspec.json.encode(order) + b"\n")
        sink.flush()
        return source.readline()

    def close(self) -> None:
        """End it, and whoever is left."""
        self._process.communicate()


# ── in the process that forks ────────────────────────────────────────────────


def _bear_all() -> None:
    """Fork for each line; whoever has ended is reaped by the kernel."""
    import private  # noqa: PLC0415 - everything, once

    for module in LATER:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        pid = os.fork()
        if pid == 0:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _live(order, private)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _live(order: Order, private: Any) -> None:
    """Be ``wake`` to the end of this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, name in enumerate((os.devnull, order.out, order.err)):
        os.dup2(os.open(name, os.O_RDWR | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    sys.argv = ["wake", *order.arguments]
    importlib.reload(importlib.import_module("events.faults"))  # arms the crash point
    code = 1
    try:
        private.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _bear_all()

"""A real nats-server for tests: one folder, one port, stopped and started at will."""

import asyncio
import ctypes
import itertools
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from events.wire import ApiError, Wire
from services.binary import find_server

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_NO_STREAM = 10059
_PORTS, _WORKERS = range(10_000, 32_000), 16

_folders: dict[int, Path] = {}
"""Where the servers of this process keep what they store, by their ports."""


class NatsServer:
    """``config`` is put into its configuration file."""

    def __init__(
        self, folder: Path, config: str = "", *, jetstream: bool = True
    ) -> None:
        self.port = _free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        store = 'jetstream { store_dir: "store", sync_interval: always }'
        text = f'host: 127.0.0.1\nport: {self.port}\nlog_file: "nats.log"\n{config}\n'
        (folder / "nats.conf").write_text(text + store * jetstream)
        _folders[self.port] = folder
        _keep_room(folder)

    def start(self) -> None:
        """Start it and return when it answers; the store is what it was."""
        self._process = subprocess.Popen(
            [find_server(), "-c", "nats.conf"],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_ending_with_us,  # noqa: PLW1509 - one call, looked up before
        )
        while not self._greets():
            if self._process.poll() is not None:
                raise RuntimeError((self.folder / "nats.log").read_text()[-2000:])
            time.sleep(0.005)

    def stop(self) -> None:
        """End it in order, so that it writes its indexes; twice is fine."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by kill -9."""
        self._end(signal.SIGKILL)

    def freeze(self, *, frozen: bool) -> None:
        """Let it hang, connections and all, or go on."""
        assert self._process
        os.kill(self._process.pid, signal.SIGSTOP if frozen else signal.SIGCONT)
        if frozen:
            os.waitpid(self._process.pid, os.WUNTRACED)

    def blocks(self) -> list[Path]:
        """The files that hold what EVENTS stores."""
        return sorted(self.folder.glob("store/jetstream/*/streams/EVENTS/msgs/*.blk"))

    def forget_index(self) -> None:
        """Take its indexes away, as a crash before they were written does."""
        for index in self.folder.glob("store/jetstream/*/streams/EVENTS/msgs/*.db"):
            index.unlink()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        self._process.wait()
        self._process = None

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False


async def take_away(wire: Wire, stream: str) -> None:
    """Delete a stream with all that it had, if it is there.

    Its server puts the files aside, as ``.<stream>``, and removes them later. Where
    others of that name lie there still it cannot, and says nothing: they stay, and
    who makes the stream anew has what was in the old one.
    """
    try:
        await wire.api(f"STREAM.DELETE.{stream}")
    except ApiError as error:
        if error.number != _NO_STREAM:
            raise
    folder = _folders[wire.client.connected_url.port]
    while [*folder.glob(f"store/jetstream/*/streams/.{stream}")]:  # noqa: ASYNC110 - the server's
        await asyncio.sleep(0.001)


def _keep_room(folder: Path) -> None:
    """Let the folder of streams never be empty.

    A server removes it after the last stream was deleted, maybe just when it is
    making the next one.
    """
    streams = folder / "store" / "jetstream" / "$G" / "streams"
    streams.mkdir(parents=True)
    (streams / "kept").touch()


def _ending_with_us() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _candidates() -> Iterator[int]:
    """Ports of which this process alone tries any, over and over.

    None that the system gives to whoever asks for any: while a server is down, or
    has only been thought of, nobody else may get its port.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(_PORTS.start + worker % _WORKERS, _PORTS.stop, _WORKERS)
    first = secrets.randbelow(len(own))  # another suite may be running
    return itertools.cycle((*own[first:], *own[:first]))


def _free_port() -> int:
    for port in _ports:
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError


_ports = _candidates()

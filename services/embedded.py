"""The nats-server that comes along: started, watched and ended by its owner."""

import asyncio
import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Never, Self

import msgspec

from events.errors import FolderInUse, Misconfigured, ServerUnsuitable, Unavailable
from services.binary import (
    check_server_version,
    environment,
    find_server,
    server_version,
)
from services.folder import DataFolder

START_LIMIT = 60.0
"""Seconds a server may take to be ready: ten million subjects take tens of them."""

STOP_LIMIT = 8.0
"""Seconds between SIGTERM and SIGKILL: less than a successor waits for the folder."""

KILL_LIMIT = 5.0
"""Seconds until a killed process must be gone; longer means that a disk hangs."""

POLL = 0.005
"""Seconds between two looks for the ports file; a start takes 15 ms."""

STDERR_LIMIT = 1 << 20
"""Bytes of stderr kept from earlier starts: what a crash printed outlives a restart."""

_SYNC = re.compile(r"always|[1-9][0-9]{0,5}(ms|s|m)")
_SKIPPED = re.compile(
    r"\[(?:WRN|ERR)\] +((?:Missing stream|Stream metafile|Bad stream encryption"
    r"|Error \w+ (?:our )?(?:metafile|[Ss]tream)\b)[^\n]*)"
)
"""How the server's log says that it goes on without a stream."""

"""The environment a server gets; the keys of model providers are not its business."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Info(msgspec.Struct, frozen=True):
    """What a server says of itself to whoever connects, as far as we need it."""

    jetstream: bool = False


class _Ports(msgspec.Struct, frozen=True):
    """The ports file: where the server listens."""

    nats: list[str]


class EmbeddedServer:
    """A nats-server on a data folder, on loopback, with credentials of its own.

    ``user`` has JetStream; ``system_user`` sees the system account. ``died`` is
    set when the server ends although nobody asked it to.
    """

    user = "wake"
    system_user = "system"

    def __init__(self, folder: DataFolder) -> None:
        self.password = secrets.token_urlsafe(32)
        self.system_password = secrets.token_urlsafe(32)
        self.url = ""
        self.died = asyncio.Event()
        self.log_path = folder.path / "nats.log"
        self._stderr_path = folder.path / "nats.stderr"
        self._config_path = folder.path / "nats.conf"
        self._folder = folder
        self._ended = asyncio.Event()
        self._stopping = False
        self._log_start = self._stderr_start = 0

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: DataFolder,
        *,
        sync: str = "always",
        binary: Path | None = None,
        wait: float = START_LIMIT,
    ) -> AsyncIterator[Self]:
        """Run a server while the block runs; it also ends with this process.

        ``sync`` is ``always`` or a duration (``100ms``): what a power cut may
        cost. Start it from the thread that lives longest, normally the main
        one: the kernel ends the server when the *thread* that started it ends.
        Raises Misconfigured (see the message) when the server cannot be run,
        and FolderInUse when the folder has a server already.
        """
        if not _SYNC.fullmatch(sync):
            raise Misconfigured(f"sync is {sync!r}: write 'always', or a time as 100ms")
        binary = binary or find_server()
        check_server_version(await asyncio.to_thread(server_version, binary))
        server = cls(folder)
        server._launch(binary, sync)
        try:
            await server._become_ready(wait)
            yield server
        finally:
            await server.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    async def stop(self) -> None:
        """End the server, by force if it takes too long; again: nothing."""
        self._stopping = True
        try:
            # The pid is safe to signal: only we reap it, and poll() says if we did.
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_LIMIT):
                    await self._ended.wait()
        finally:
            self._bury()

    async def watch(self) -> Never:
        """Wait until the server dies unasked, and raise Unavailable saying how."""
        await self.died.wait()
        raise Unavailable(f"nats-server {self.pid} died ({self._last_words()})")

    def _launch(self, binary: Path, sync: str) -> None:
        """Start the process and watch it; either both or neither."""
        folder = self._folder
        if folder.server is not None:
            raise FolderInUse(
                f"data folder {folder.path} already has nats-server {folder.server}:"
                " stop it first"
            )
        try:
            self._lay_out(sync)
            self._process = self._spawn(binary)
            self._pidfd = self._follow()
        except (OSError, subprocess.SubprocessError) as error:
            raise Misconfigured(
                f"nats-server cannot be started on {folder.path}: {error}"
            ) from error

    def _lay_out(self, sync: str) -> None:
        """Write what the server reads, and forget what an earlier one wrote."""
        path = self._folder.path
        for name in ("store", "ports"):
            (path / name).mkdir(mode=0o700, exist_ok=True)
        # An earlier server's file could name a port under a pid that came again.
        for stale in (path / "ports").glob("*.ports"):
            stale.unlink()
        self._config_path.unlink(missing_ok=True)
        text = _config(self, sync, _store_limit(path / "store"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(self._config_path, flags, 0o600), "w") as file:
            file.write(text)
        if _size(self._stderr_path) > STDERR_LIMIT:
            self._stderr_path.unlink()
        self._log_start = _size(self.log_path)
        self._stderr_start = _size(self._stderr_path)

    def _spawn(self, binary: Path) -> subprocess.Popen[bytes]:
        """Start the process, tied to us, out of reach of the terminal's Ctrl-C."""
        log = os.open(self._stderr_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(log, "ab") as stderr:
            # Paths in the configuration are relative to the folder, so that no
            # name of a folder can break its syntax. Between fork and exec only
            # two system calls are made, and both were prepared before.
            return subprocess.Popen(  # noqa: S603 - the binary is the operator's
                [binary, "-c", self._config_path],
                cwd=self._folder.path,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(self._folder.lock_fd,),
                start_new_session=True,
                umask=0o077,
                preexec_fn=_ending_with(os.getpid()),  # noqa: PLW1509 - see above
            )

    def _follow(self) -> int:
        """Note the process, and have the event loop tell its end; else end it now."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            undo.callback(self._folder.serve, None)
            self._folder.serve(self._process.pid)
            pidfd = os.pidfd_open(self._process.pid)
            asyncio.get_running_loop().add_reader(pidfd, self._on_exit)
            undo.pop_all()
        return pidfd

    def _on_exit(self) -> None:
        """Reap the process; the event loop calls this when it ended."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._process.wait()
        self._ended.set()
        if not self._stopping:
            self.died.set()

    def _bury(self) -> None:
        """See that the process is gone, and free what it had."""
        if self._folder.server is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        try:
            self._process.wait(KILL_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"nats-server {self.pid} cannot be killed: does its disk hang?"
            ) from error
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set()
        self._config_path.unlink(missing_ok=True)
        self._folder.serve(None)

    async def _become_ready(self, wait: float) -> None:
        """Return once clients are served; raises Misconfigured if that fails."""
        try:
            async with asyncio.timeout(wait):
                port = await self._port()
                info = await _greeting(port)
        except TimeoutError as error:
            late = f"nats-server is not ready after {wait:g} s"
            raise Misconfigured(f"{late} ({self._last_words()})") from error
        except (OSError, msgspec.DecodeError) as error:
            raise Misconfigured(f"nats-server fails ({self._last_words()})") from error
        if not info.jetstream:
            raise ServerUnsuitable("this nats-server was built without JetStream")
        self._check_streams()
        self.url = f"nats://127.0.0.1:{port}"

    async def _port(self) -> int:
        """Wait for the ports file, which is written when JetStream is up."""
        while not self._ended.is_set():
            for file in (self._folder.path / "ports").glob(f"*_{self.pid}.ports"):
                # Half a file is no JSON yet; the next look sees all of it.
                with contextlib.suppress(msgspec.DecodeError):
                    ports = msgspec.json.decode(file.read_bytes(), type=_Ports)
                    return int(ports.nats[0].rsplit(":", 1)[1])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._ended.wait()
        raise Misconfigured(f"nats-server did not start ({self._last_words()})")

    def _check_streams(self) -> None:
        """Raise Misconfigured if the server goes on without a stream that has data.

        It says so only in its log; provisioning would then begin an empty one.
        """
        for why in _SKIPPED.findall(_since(self.log_path, self._log_start)):
            quoted = re.search(r'"([^"\n]+)"', why)
            file = self._folder.path / (quoted[1] if quoted else "")
            if file.name.startswith("meta.") and not _has_data(file.parent):
                continue  # a creation that was never acknowledged
            raise Misconfigured(
                f"a stream in {self._folder.path / 'store'} is damaged: {why};"
                " restore the folder from a backup"
            )

    def _last_words(self) -> str:
        """How the server ended, its last lines, and where there are more."""
        crash = _since(self._stderr_path, self._stderr_start).split("\n")
        log = _since(self.log_path, self._log_start).split("\n")
        first = [line.strip()[:300] for line in crash if line.strip()][:1]
        last = [line.strip()[:300] for line in log if line.strip()][-3:]
        code = self._process.returncode
        how = "" if code is None else f"{_ending(code)}; "
        said = " | ".join(first or last) or "it said nothing"
        return f"{how}{said}; see {self.log_path}"


def _ending_with(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec so that it ends with ``parent``.

    SIGTERM, not SIGKILL: the server then writes its indexes, and a successor
    waits for the lock meanwhile. A parent that is gone already sends nothing,
    hence the second look.
    """
    prctl, getppid, leave = _LIBC.prctl, os.getppid, os._exit
    sigterm = int(signal.SIGTERM)

    def tie() -> None:
        if prctl(_PR_SET_PDEATHSIG, sigterm, 0, 0, 0) or getppid() != parent:
            leave(1)

    return tie


async def _greeting(port: int) -> _Info:
    """The INFO line with which a server greets whoever connects."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        line = await reader.readline()
    finally:
        writer.close()
    return msgspec.json.decode(line.removeprefix(b"INFO "), type=_Info)


def _config(server: EmbeddedServer, sync: str, store_limit: int) -> str:
    """What the server is told; secrets go through this file, never through flags."""
    return f"""\
server_name: wakestream
host: 127.0.0.1
port: -1
ports_file_dir: "ports"
log_file: "nats.log"
logfile_size_limit: 10MB
logfile_max_num: 3
max_payload: 1MB
ping_interval: "20s"
ping_max: 2
write_deadline: "5s"
jetstream {{
  store_dir: "store"
  sync_interval: "{sync}"
  max_file_store: {store_limit}
  max_memory_store: 256MB
}}
accounts {{
  WAKE {{
    jetstream: enabled
    users: [{{user: "{server.user}", password: "{server.password}"}}]
  }}
  SYS {{
    users: [{{user: "{server.system_user}", password: "{server.system_password}"}}]
  }}
}}
system_account: SYS
"""


def _store_limit(store: Path) -> int:
    """Bytes the store may have: what it has, and four fifths of what is free.

    A full disk is answered with silence and asks for a restart; a full store
    with an error at once.
    """
    sizes = (_size(Path(at, name)) for at, _, names in os.walk(store) for name in names)
    return max(sum(sizes) + shutil.disk_usage(store).free * 4 // 5, 1 << 20)


def _has_data(stream: Path) -> bool:
    """Whether a stream's directory holds messages."""
    return any(_size(block) for block in (stream / "msgs").glob("*.blk"))


def _size(file: Path) -> int:
    """Bytes of a file; none if there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _since(file: Path, start: int) -> str:
    """What was written to a log since it had ``start`` bytes."""
    try:
        with file.open("rb") as log:
            log.seek(start if start <= _size(file) else 0)
            return log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _ending(code: int) -> str:
    """A return code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"

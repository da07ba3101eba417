"""The data folder: everything that an embedded server keeps, with one user at a time.

``lock`` says who uses it, ``format.json`` which version laid it out.
"""

import fcntl
import os
import re
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from events.errors import FolderInUse, Misconfigured

FORMAT = 1
"""How this version lays a data folder out."""

POLL = 0.02
"""Seconds between two looks at a lock that somebody else holds."""

_LOCK = "lock"
_FORMAT = "format.json"
_NEW = "format.json.new"
_OURS = frozenset({_LOCK, _FORMAT, _NEW})
_MOUNTED = frozenset({"lost+found", "gateway.secret"})
"""What a freshly made file system holds, or a gateway that served elsewhere's log;
such a folder counts as empty."""


class Format(msgspec.Struct, frozen=True):
    """Which format a folder has, and which wakestream wrote it."""

    format: int
    wakestream: str


class DataFolder:
    """A data folder, held by this process and by the servers it starts.

    The lock belongs to the open file, so it stays held until this object is
    closed *and* every server that was given ``lock_fd`` is gone.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.lock_fd = lock_fd
        self.server: int | None = None

    @classmethod
    def open(cls, path: Path, *, wait: float = 10.0) -> Self:
        """Create the folder if need be, and become its one user.

        Blocks for up to ``wait`` seconds while somebody else holds it. Raises
        FolderInUse after that, and Misconfigured for a folder that cannot be
        written, is not ours, or was laid out by another version.
        """
        path = path.absolute()
        with ExitStack() as undo:
            try:
                _enter(path)
                lock = _lock(path, wait)
                undo.callback(os.close, lock)
                _check_format(path)
                folder = cls(path, lock)
                folder.serve(None)
            except (OSError, ValueError) as error:
                raise Misconfigured(_unusable(path, error)) from error
            undo.pop_all()
        return folder

    def serve(self, server: int | None) -> None:
        """Note the pid of the server on this folder; None: there is no server."""
        self.server = server
        if self.lock_fd < 0:
            return
        pids = f"{os.getpid()} {server or ''}\n".encode()
        os.pwrite(self.lock_fd, pids, 0)
        os.ftruncate(self.lock_fd, len(pids))

    def close(self) -> None:
        """Let go of the folder; a second time does nothing."""
        # Not LOCK_UN: that would also take the lock from a server still ending.
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def holder(path: Path) -> int | None:
    """The pid that holds a data folder right now; None if nobody does.

    A server may outlive the process that held the folder with it: then this is the
    pid of the dead.
    """
    try:
        lock = os.open(path / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        found = re.match(rb"\d{1,7}\b", os.pread(lock, 32, 0))
        return int(found[0]) if found else None
    finally:
        os.close(lock)
    return None


def _enter(path: Path) -> None:
    """Make the folder, or see that it is ours; raises Misconfigured."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The names come first: whoever lays the folder out right now writes the
    # format file before anything else, so what is foreign here stays foreign.
    names = {entry.name for entry in path.iterdir()} - _OURS - _MOUNTED
    if names and not (path / _FORMAT).exists():
        raise Misconfigured(
            f"{path} holds other files ({min(names)!r}) and no wakestream data:"
            " name an empty or a new folder"
        )


def _lock(path: Path, wait: float) -> int:
    """Open and lock the lock file within ``wait`` seconds; raises FolderInUse."""
    deadline = time.monotonic() + wait
    while (lock := _try_lock(path / _LOCK)) is None:
        if time.monotonic() >= deadline:
            raise FolderInUse(_in_use(path))
        time.sleep(POLL)
    return lock


def _try_lock(file: Path) -> int | None:
    """Lock the file, or None when another holds it."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with ExitStack() as undo:
        undo.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        # A lock on a file that was deleted meanwhile excludes nobody.
        if os.fstat(lock).st_nlink == 0:
            return None
        undo.pop_all()
    return lock


def _check_format(path: Path) -> None:
    """Write the format file of a new folder, or see that we can read it."""
    file = path / _FORMAT
    if not file.exists():
        _write_format(path)
        return
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Format)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Misconfigured(
            f"{file} is damaged ({error}): restore the folder from a backup"
        ) from error
    if found.format != FORMAT:
        raise Misconfigured(_other_format(path, found))


def _write_format(path: Path) -> None:
    """Lay the folder out; whoever is killed in between leaves it as it was."""
    ours = Format(format=FORMAT, wakestream=_version())
    new = os.open(path / _NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(new, "wb") as file:
        file.write(msgspec.json.encode(ours))
        file.flush()
        os.fsync(file.fileno())
    (path / _NEW).replace(path / _FORMAT)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _version() -> str:
    """This wakestream's version, as far as it is installed."""
    # Imported late: it costs 50 ms, which only a new or a refused folder needs.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("wakestream")
    except PackageNotFoundError:
        return "unknown"


def _other_format(path: Path, found: Format) -> str:
    return (
        f"data folder {path} has format {found.format}, written by wakestream"
        f" {found.wakestream[:40]!r}; this wakestream {_version()!r} reads format"
        f" {FORMAT}: pip install -U wakestream, or use another folder"
    )


def _unusable(path: Path, error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return (
        f"data folder {str(path)!r} cannot be used ({reason}):"
        " make it a directory that this user may write, or name another"
    )


def _in_use(path: Path) -> str:
    """Who holds the folder, as far as the lock file tells."""
    found = re.findall(r"\b\d{1,7}\b", (path / _LOCK).read_text(errors="replace"))
    owner, server = ([int(pid) for pid in found] + [0, 0])[:2]
    if owner and _alive(owner):
        return (
            f"data folder {path} is in use by process {owner}:"
            " end it first, or use another folder"
        )
    if server and _alive(server):
        return (
            f"data folder {path} is held by nats-server {server}, left by process"
            f" {owner} which is gone: wait for it, or kill {server}"
        )
    return f"data folder {path} is in use by another process: use another folder"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""The sole owner of a read model: one process at a time, whatever it does with it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from events.errors import FolderInUse, Misconfigured


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Own the read model at ``path``; a lock beside it ends with the process.

    Raises FolderInUse if another process owns it, and Misconfigured if the place
    cannot be written to.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"the read model cannot be kept: {error}") from error
    try:
        _take(file, path)
        yield
    finally:
        os.close(file)


def _take(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(file, 20, 0).decode(errors="replace").strip()
        raise FolderInUse(
            f"the read model {path} is used by process {holder or 'unknown'}"
        ) from error
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)

"""Opening a path so that it cannot leave a directory, whatever happens meanwhile.

A check of the resolved path loses the race against whoever swaps a symbolic
link; here the kernel resolves and opens in one step, or every component is
opened by itself and no link is followed.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import PurePosixPath

Opener = Callable[[int, str, int], int]
"""``(directory fd, relative path, flags) -> fd``; OSError EXDEV for an escape."""

_OPENAT2 = 437  # the same number on every architecture that Python runs on here
_BENEATH_WITHOUT_MAGIC_LINKS = 0x08 | 0x02
_RETRIES = 64
"""EAGAIN says that somebody renamed while ``..`` was resolved; it may last."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(root: int, path: str, flags: int) -> int:
    """Open an existing ``path``; links are followed as long as they stay beneath."""
    how = _How(flags | os.O_CLOEXEC, 0, _BENEATH_WITHOUT_MAGIC_LINKS)
    code = 0
    for _ in range(_RETRIES):
        fd: int = _LIBC.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_long(root),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR}:
            break
    raise OSError(code, os.strerror(code), path)


def walk(root: int, path: str, flags: int) -> int:
    """Open an existing ``path`` where openat2 is missing; follows no link at all."""
    *parents, last = _normal(path)
    here = os.dup(root)
    try:
        for name in parents:
            below = os.open(
                name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here
            )
            os.close(here)
            here = below
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


@cache
def best_opener() -> Opener:
    """``openat2``, or ``walk`` where the kernel or a seccomp filter refuses it."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(openat2(root, ".", os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return walk
    finally:
        os.close(root)
    return openat2


def _normal(path: str) -> list[str]:
    """Resolve ``..`` by the text: exact, as no component may be a link."""
    parts: list[str] = []
    for part in PurePosixPath(path).parts:
        if part == "/" or (part == ".." and not parts):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return parts or ["."]

"""Removing the directory that an agent worked in, whatever it left there.

No link is followed, no depth is too deep: directories are not walked down but
lifted up to the top, so that two are open at any time.
"""

import os
import secrets
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def has_remains(root: Path, user: str, execution: str) -> bool:
    """Whether there is something to remove."""
    return os.path.lexists(root / user / execution)


def remove(root: Path, user: str, execution: str) -> int:
    """Remove ``root/user/execution``; returns the bytes of the files in it.

    Asking twice is fine. Raises OSError, and then some of it may be gone.
    """
    try:
        above = os.open(root / user, _FOLDER)
    except FileNotFoundError:
        return 0
    try:
        return _remove(above, execution)
    except FileNotFoundError:
        return 0
    finally:
        os.close(above)


def _remove(above: int, name: str) -> int:
    found = os.stat(name, dir_fd=above, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=above)
        return _size(found)
    top = _enter(above, name)
    try:
        freed = 0
        while names := os.listdir(top):  # noqa: PTH208 - a descriptor is no path
            freed += sum(_flatten(top, below) for below in names)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=above)
    return freed


def _flatten(top: int, name: str) -> int:
    """Remove a file; of a directory its files, and lift what is below it."""
    found = os.stat(name, dir_fd=top, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=top)
        return _size(found)
    freed = 0
    folder = _enter(top, name)
    try:
        for below in os.listdir(folder):  # noqa: PTH208 - see above
            found = os.stat(below, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                os.close(_enter(folder, below))  # to be moved it must be writable
                lifted = f".wake-{secrets.token_hex(8)}"
                os.rename(below, lifted, src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(below, dir_fd=folder)
                freed += _size(found)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)
    return freed


def _enter(above: int, name: str) -> int:
    """Open a directory, even one that its owner has locked."""
    place = os.open(name, _PLACE, dir_fd=above)
    try:
        if os.fstat(place).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            Path(f"/proc/self/fd/{place}").chmod(stat.S_IRWXU)
        return os.open(".", _FOLDER, dir_fd=place)
    finally:
        os.close(place)


def _size(found: os.stat_result) -> int:
    """The bytes that are free once a file is gone."""
    alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return found.st_size if alone else 0

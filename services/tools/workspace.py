"""The directory that an execution works in, and that nothing it names can leave."""

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self

from events.errors import InvalidInput, ToolFailed
from services.tools.beneath import Opener, best_opener

MAX_DEPTH = 64
"""Components a written path may have: each may cost a directory."""

_FOLDER = os.O_PATH | os.O_DIRECTORY
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_REASONS = {
    errno.ENOENT: "there is no {path}",
    errno.ENOTDIR: "{path}: a part of it is not a directory, or is a link",
    errno.EISDIR: "{path} is a directory",
    errno.EXDEV: "{path} leads outside of the workspace",
    errno.ELOOP: "{path}: this symbolic link is not followed; use the file's own path",
    errno.EACCES: "{path}: permission denied",
    errno.EPERM: "{path}: not permitted",
    errno.EROFS: "{path}: the workspace is read-only",
    errno.ENAMETOOLONG: "{path}: the name is too long",
    errno.ENXIO: "{path} is a socket or a device, not a regular file",
    errno.ENOSPC: "{path}: the disk is full",
    errno.EDQUOT: "{path}: the disk quota is used up",
}


class Workspace:
    """Files beneath ``root``, by paths relative to it.

    Absolute paths count when they lie inside. What lies in a ``closed`` directory
    is not opened, whatever leads there: the log, when it is in the workspace.
    Methods block on the disk and are safe in threads. Raises InvalidInput when
    there is no such directory; methods raise ToolFailed.
    """

    def __init__(
        self,
        root: Path,
        opener: Opener | None = None,
        *,
        closed: Iterable[Path] = (),
    ) -> None:
        try:
            self.root = root.resolve(strict=True)
            self.fd = os.open(self.root, _FOLDER)
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidInput(
                f"the workspace {shown(str(root))} is not a directory that can be "
                "opened: create it first, or name another"
            ) from error
        self._opener = opener or best_opener()
        self.closed = tuple(_beneath(self.root, closed))
        self.changing = threading.Lock()
        """Held from reading to writing: the tools of one reply run side by side."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory back; asking twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def open(self, path: str, flags: int = _READ) -> int:
        """Open what exists at ``path``: the caller closes the descriptor."""
        with _told(path):
            fd = self._opener(self.fd, self._relative(path), flags)
        self._refuse_closed(fd, path)
        return fd

    def _refuse_closed(self, fd: int, path: str) -> None:
        """Close it again if it lies where nothing may be opened.

        Asked of what *is* open, so that no link and no rename can trick it.
        """
        if not self.closed:
            return
        real = Path(f"/proc/self/fd/{fd}").readlink()
        if any(real.is_relative_to(folder) for folder in self.closed):
            os.close(fd)
            raise ToolFailed(f"{shown(path)} belongs to wakestream: it is not yours")

    def folder(self, path: str) -> int:
        """Open a directory to list it: the caller closes the descriptor."""
        return self.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def file(self, path: str) -> BinaryIO:
        """Open a regular file for reading; nothing else blocks or is opened."""
        fd = self.open(path)
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(fd, "rb")
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise ToolFailed(f"{shown(path)} is a directory: use list_dir")
        raise ToolFailed(f"{shown(path)} is not a regular file")

    def write(self, path: str, data: bytes) -> None:
        """Put ``data`` at ``path`` in one step, creating directories on the way.

        A file that was there keeps its mode; a reader sees the old or the new.
        """
        relative = PurePosixPath(self._relative(path))
        if relative.name in {"", ".."}:
            raise ToolFailed(f"{shown(path)} is a directory")
        with _told(path):
            folder = self._folders(relative.parent)
            self._refuse_closed(folder, path)
            try:
                _replace(folder, relative.name, data)
            finally:
                os.close(folder)

    def _relative(self, path: str) -> str:
        """Check the text of ``path``; what it leads to is the kernel's to check."""
        if "\0" in path or not _encodes(path):
            raise ToolFailed(
                f"{shown(path)} is not a path: it has forbidden characters"
            )
        if not path.startswith("/"):
            return path or "."
        try:
            return str(PurePosixPath(path).relative_to(self.root))
        except ValueError:
            raise ToolFailed(
                f"{shown(path)} leads outside of the workspace: use relative paths"
            ) from None

    def _folders(self, path: PurePosixPath) -> int:
        """Open the directory ``path``, creating what is missing."""
        if len(path.parts) > MAX_DEPTH:
            raise ToolFailed(f"{shown(str(path))} has more than {MAX_DEPTH} parts")
        here = self._opener(self.fd, ".", _FOLDER)
        for depth in range(1, len(path.parts) + 1):
            prefix = str(PurePosixPath(*path.parts[:depth]))
            try:
                below = self._enter(here, prefix)
            finally:
                os.close(here)
            here = below
        return here

    def _enter(self, above: int, prefix: str) -> int:
        """Open the directory ``prefix``, whose parent is open as ``above``."""
        try:
            return self._opener(self.fd, prefix, _FOLDER)
        except FileNotFoundError:
            name = PurePosixPath(prefix).name
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=above)
                _inherit_owner(name, above)
            return self._opener(self.fd, prefix, _FOLDER)


def _beneath(root: Path, closed: Iterable[Path]) -> Iterator[Path]:
    """Give the real paths of those that lie in ``root``; the others need no care."""
    for folder in closed:
        real = folder.resolve()
        if real != root and real.is_relative_to(root):
            yield real


def shown(path: str) -> str:
    """``path`` as it can stand in a message: one short printable line."""
    text = printable(path)
    return repr(text if len(text) <= 200 else f"{text[:200]}…")  # noqa: PLR2004 - a line


def printable(name: str) -> str:
    """``name`` without control characters and without what UTF-8 cannot say."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Turn what the system says into what a model can act upon."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"{{path}}: {error.strerror}")
        raise ToolFailed(reason.format(path=shown(path))) from error


def _encodes(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _replace(folder: int, name: str, data: bytes) -> None:
    """Write beside ``name`` and rename over it: a crash leaves the old file."""
    mode = _mode_of(folder, name)
    draft = f".wake-{secrets.token_hex(8)}"
    try:
        _create(folder, draft, data, mode)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
        raise


def _mode_of(folder: int, name: str) -> int | None:
    """Permission bits of the file to replace, None when there is none."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        target = shown(os.readlink(name, dir_fd=folder))
        raise ToolFailed(f"{shown(name)} is a link to {target}: write to that path")
    if not stat.S_ISREG(mode):
        raise ToolFailed(f"{shown(name)} is there and is not a regular file")
    return mode & 0o777  # never a setuid bit: the new content is another program


def _create(folder: int, name: str, data: bytes, mode: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o666, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        _inherit_owner(name, folder)
        if mode is not None:
            os.fchmod(fd, mode)
        file.write(data)
        file.flush()
        os.fsync(fd)


def _inherit_owner(name: str, folder: int) -> None:
    """As root, what is new belongs to its directory's owner: commands run as that."""
    if os.geteuid() == 0:
        above = os.fstat(folder)
        os.chown(name, above.st_uid, above.st_gid, dir_fd=folder, follow_symlinks=False)

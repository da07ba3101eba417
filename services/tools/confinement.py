"""What a sandboxed command may see and use, as arguments of bubblewrap."""

import math
import resource
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NOBODY: Final = 65534
"""The user that commands run as when the runner is root."""

MAX_PROCESSES = 128
"""Of one sandbox: enough for a parallel build, and the end of a fork bomb."""
MAX_MEMORY = 4 * 1024**3
"""Bytes of address space of one process."""
MAX_FILE = 256 * 1024**2
"""Bytes of one file."""
MAX_OPEN = 1024
MAX_SCRATCH = 512 * 1024**2
"""Bytes of /tmp and of /dev/shm, each: they are memory."""

_ETC = (
    "ld.so.cache",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki",
    "alternatives",
    "localtime",
)
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SHELLS = ("/bin/bash", "/usr/bin/bash")
_LIMITS = """\
ulimit -c 0 && ulimit -n {open} && ulimit -f {blocks} && ulimit -v {kib} &&
ulimit -t {seconds} && {processes} || exit 125
exec "$@"
"""
_PROCESSES = "{{ ulimit -u {0} 2>/dev/null || ulimit -p {0}; }}"


@dataclass(frozen=True)
class Bubblewrap:
    """A ``bwrap``; ``tree`` is the folder that it and its libraries lie in."""

    path: Path
    tree: Path | None = None
    disables_userns: bool = True


def profile(
    bubblewrap: Bubblewrap,
    source: Path,
    root: Path,
    env: Mapping[str, str],
    closed: Sequence[Path],
) -> list[str]:
    """Everything is closed but what is listed; ``source`` is seen at ``root``.

    Directories in it that are ``closed`` are seen empty.
    """
    return [
        *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
        *(["--disable-userns"] if bubblewrap.disables_userns else []),
        *("--cap-drop", "ALL", "--clearenv"),
        *_flat(("--setenv", name, value) for name, value in env.items()),
        *_system(),
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"),
        *("--size", str(MAX_SCRATCH), "--tmpfs", "/dev/shm"),  # noqa: S108 - inside
        *("--remount-ro", "/dev", "--size", str(MAX_SCRATCH), "--tmpfs", "/tmp"),  # noqa: S108 - inside
        *("--bind", str(source), str(root)),
        *_flat(("--tmpfs", str(folder)) for folder in closed),
        *("--remount-ro", "/"),
        *("--chdir", str(root), "--"),
    ]


def staged(
    bubblewrap: Bubblewrap,
    root: Path,
    env: Mapping[str, str],
    closed: Sequence[Path],
    command: list[str],
) -> list[str]:
    """The same for a runner that is root: in two stages.

    The first, still root, brings the workspace (and bwrap) to where anybody can
    reach them, also from below a closed home, and is the root of a process tree
    that dies with it: losing the uid would clear the death signal. The second
    is an unprivileged user's: never the kernel's uid 0 inside.
    """
    outer = [
        *(str(bubblewrap.path), "--unshare-pid", "--die-with-parent"),
        *("--dev-bind", "/", "/", "--tmpfs", "/tmp"),  # noqa: S108 - private to this stage
        *("--bind", str(root), "/tmp/workspace"),  # noqa: S108 - on that tmpfs
    ]
    path = str(bubblewrap.path)
    if bubblewrap.tree is not None:
        outer += ["--ro-bind", str(bubblewrap.tree), "/tmp/tree"]  # noqa: S108 - see above
        path = f"/tmp/tree/{bubblewrap.path.relative_to(bubblewrap.tree)}"  # noqa: S108 - see above
    drop = [
        shutil.which("setpriv") or "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
    ]
    inner = profile(bubblewrap, Path("/tmp/workspace"), root, env, closed)  # noqa: S108 - see above
    return [
        *outer,
        "--",
        *drop,
        "--clear-groups",
        "--inh-caps=-all",
        path,
        *inner,
        *command,
    ]


def limited(script: str, seconds: float, *, confined: bool) -> list[str]:
    """The command line that sets limits and becomes the shell for ``script``.

    Set inside, where the number of processes counts in the sandbox's own user
    namespace; unconfined it would count all of the user's, so it is not set.
    """
    limits = _LIMITS.format(
        open=_at_most(resource.RLIMIT_NOFILE, MAX_OPEN),
        blocks=_at_most(resource.RLIMIT_FSIZE, MAX_FILE) // 512,
        kib=_at_most(resource.RLIMIT_AS, MAX_MEMORY) // 1024,
        seconds=_at_most(resource.RLIMIT_CPU, math.ceil(min(seconds, 86_400)) + 1),
        processes=_PROCESSES.format(_at_most(resource.RLIMIT_NPROC, MAX_PROCESSES))
        if confined
        else "true",
    )
    shell = next((name for name in _SHELLS if Path(name).exists()), "/bin/sh")
    return ["/bin/sh", "-c", limits, "sh", shell, "-c", script]


def _system() -> list[str]:
    """The system's programs and libraries, read-only, as they lie on this host."""
    shared = _flat(("--ro-bind-try", f"/etc/{name}", f"/etc/{name}") for name in _ETC)
    top = _flat(_top(Path("/") / name) for name in _TOP)
    return ["--ro-bind", "/usr", "/usr", *top, *shared]


def _top(path: Path) -> tuple[str, ...]:
    if path.is_symlink():
        return ("--symlink", str(path.readlink()), str(path))
    return ("--ro-bind-try", str(path), str(path))


def _at_most(kind: int, wanted: int) -> int:
    """``wanted``, or the hard limit that we have ourselves: nobody can raise that."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _flat(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [argument for group in groups for argument in group]

"""The program that search_files starts: a regular expression over a tree.

A process of its own, because a pattern can take for ever and holds the
interpreter's lock meanwhile: a process can be killed. It imports only the
standard library, never follows a link, and opens relative to the directory
descriptor that it is given, so it cannot leave the workspace.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from fnmatch import translate
from typing import Any

SKIPPED = frozenset({".git", ".hg", ".venv", "node_modules", "__pycache__"})
MAX_FILE = 4 * 1024 * 1024
MAX_MATCHES = 200
MAX_LINE = 300
BAD_PATTERN = 3
"""Exit code; the reason is what was printed."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def files(
    fd: int, base: str, fits: Any, closed: list[str]
) -> Iterator[tuple[str, int]]:
    """``(path to show, open descriptor)`` of every file below, in order of name."""
    real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - text
    for folder, folders, names, here in os.fwalk(".", dir_fd=fd):
        folders[:] = sorted(
            name
            for name in set(folders) - SKIPPED
            if os.path.normpath(f"{real}/{folder}/{name}") not in closed
        )
        for name in sorted(names):
            path = os.path.normpath(os.path.join(base, folder, name))  # noqa: PTH118 - text
            if fits(path, name):
                try:
                    yield path, os.open(name, _READ, dir_fd=here)
                except OSError:
                    continue  # a link, or gone, or not ours to read


def lines(fd: int) -> list[str]:
    """Lines of a text file; none of what is binary, huge or no file."""
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            return []
        data = file.read(MAX_FILE)
    return [] if b"\0" in data[:8192] else data.decode(errors="replace").splitlines()


def matcher(glob: str) -> Any:
    """Whether a path, or its last part, fits ``glob``; everything fits none."""
    if not glob:
        return lambda _path, _name: True
    whole = re.compile(translate(glob))
    inner = re.compile(translate(glob.removeprefix("**/")))
    return lambda path, name: (
        whole.match(path) or inner.match(name) or inner.match(path)
    )


def search(request: dict[str, Any]) -> Iterator[str]:
    """``path:line: text`` of every line that matches."""
    pattern, fd, base = re.compile(request["pattern"]), request["fd"], request["path"]
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        found = files(fd, base, matcher(request["glob"]), request["closed"])
    else:
        found = iter([(base, fd)])
    for path, file in found:
        for number, line in enumerate(lines(file), 1):
            if pattern.search(line):
                yield f"{path}:{number}: {line.strip()[:MAX_LINE]}"


def main() -> int:
    """Print matches as they are found, so that a kill loses none."""
    try:
        for count, match in enumerate(search(json.loads(sys.argv[1])), 1):
            if count > MAX_MATCHES:
                say(f"[more than {MAX_MATCHES} matches: narrow the search]")
                break
            say(match)
    except (re.error, RecursionError, OverflowError) as error:
        say(str(error))
        return BAD_PATTERN
    return 0


def say(line: str) -> None:
    """Print one printable line, at once."""
    text = "".join(c if c.isprintable() or c == "\t" else "�" for c in line)
    os.write(1, text.encode(errors="replace") + b"\n")


if __name__ == "__main__":
    sys.exit(main())

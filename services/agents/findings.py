"""What the scripted model's tool calls showed it: files, texts, hits and counts.

The outputs are read tolerantly: a line that is not understood is left out.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from services.agents.conversation import Turn

SKIPPED = (
    ".git",
    ".hg",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    ".venv",
    "__pycache__",
    "build",
    "dist",
    "node_modules",
    "target",
    "vendor",
    "venv",
)
"""Directories of generated or foreign files, which would drown the rest."""

LIST_COMMAND = "ls -1Ap"
"""Lists the directory when only a shell is offered; directories end in a slash."""

_PRUNED = " -o ".join(f"-name {name}" for name in SKIPPED)
_FIND = rf"find . -type d \( {_PRUNED} \) -prune -o -type f"
COUNT_COMMAND = (
    rf"{_FIND} -print | sed -e 's|.*/||' -e 's/^\.*//' -e '/\./!s/.*/(none)/'"
    r" -e 's/.*\.//' | sort | uniq -c | sort -rn | head -n 20"
)
"""Counts files by extension; prints a number and an extension per line."""

_MAX_LINES = 5_000
"""Lines of one output that are looked at: far more than an honest one has."""

_ENTRY = re.compile(
    r"(?P<kind>dir|directory|d|file|f|link|symlink|l|other)[\s:]+"
    r"(?:(?P<size>-|[\d,]+)(?:\s*(?:B|bytes))?\s+)?(?P<name>\S.*)"
)
_HIT = re.compile(r"(?P<path>[^:\n]{1,400}):(?P<line>\d{1,9})[:-] ?(?P<text>.*)")
_COUNT = re.compile(r"\s*(\d{1,9})\s+(\S{1,20})\s*")
_NUMBER = re.compile(r"\s*(\d{1,12})\s*")
_NOTE = re.compile(r"\n\[[^\n]{1,200}\]\s*\Z")


class Entry(NamedTuple):
    """A file or directory; ``size`` in bytes where it is known."""

    path: str
    folder: bool
    size: int | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def extension(self) -> str:
        """The extension without its dot, in lower case; empty when it has none."""
        return PurePosixPath(self.path).suffix.lstrip(".").lower()

    @property
    def parent(self) -> str:
        """The directory it is in; ``.`` for the root."""
        return str(PurePosixPath(self.path).parent)


class Hit(NamedTuple):
    """A line that a search found."""

    path: str
    line: int
    text: str


def line_command(extension: str) -> str:
    """Counts the lines of all files of that extension; prints the number."""
    return rf"{_FIND} -name '*.{extension}' -exec cat {{}} + | wc -l"


@dataclass
class Findings:
    """Everything that was found in a turn.

    Entries and texts by path, hits by pattern (those in ``cut`` are not all
    there are), ``counts`` of files and ``lines`` by extension.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    hits: dict[str, list[Hit]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    lines: dict[str, int] = field(default_factory=dict)

    def files(self) -> list[Entry]:
        """All files known by a listing, sorted by path."""
        return sorted(entry for entry in self.entries.values() if not entry.folder)

    def folders(self) -> list[Entry]:
        """All directories known by a listing, sorted by path."""
        return sorted(entry for entry in self.entries.values() if entry.folder)

    def inside(self, folder: str) -> list[Entry]:
        """What a listing showed of one directory."""
        return sorted(e for e in self.entries.values() if e.parent == folder)

    def hit_files(self) -> list[Entry]:
        """Files that only a search showed, sorted by path."""
        paths = {hit.path for hits in self.hits.values() for hit in hits}
        return [Entry(path, folder=False) for path in sorted(paths - {*self.entries})]

    def extensions(self) -> Counter[str]:
        """Files by extension as far as the listings show them."""
        return Counter(entry.extension or "(none)" for entry in self.files())


def collect(turn: Turn) -> Findings:
    """Read every successful answer of the turn."""
    found = Findings()
    for call, output in turn.successes("list_dir"):
        _add_listing(found, call.value("path") or ".", output, _entry)
    for call, output in turn.successes("read_file"):
        text = "" if output == "the file is empty" else _NOTE.sub("\n", output)
        found.texts[_normal(call.value("path"))] = text
    for call, output in turn.successes("search_files"):
        pattern = call.value("pattern")
        found.hits[pattern] = list(_hits(output))
        if _NOTE.search("\n" + output[-300:]):
            found.cut.add(pattern)
    for call, output in turn.successes("bash"):
        _add_command(found, call.value("command"), output)
    return found


def _add_command(found: Findings, command: str, output: str) -> None:
    if command == LIST_COMMAND:
        _add_listing(found, ".", output, _plain_entry)
    elif command == COUNT_COMMAND:
        matches = [_COUNT.fullmatch(line) for line in _lines(output)]
        found.counts = Counter({m[2].lower(): int(m[1]) for m in matches if m})
    else:
        match = re.search(r"-name '\*\.(\w+)' -exec cat", command)
        numbers = [m[1] for m in map(_NUMBER.fullmatch, _lines(output)) if m]
        if match and numbers:
            found.lines[match[1]] = int(numbers[0])


def _add_listing(
    found: Findings,
    folder: str,
    output: str,
    parse: Callable[[str], Entry | None],
) -> None:
    found.listed.add(_normal(folder))
    for line in _lines(output):
        entry = parse(line)
        if entry is not None:
            path = _normal(f"{folder}/{entry.path}")
            found.entries[path] = entry._replace(path=path)


def _entry(line: str) -> Entry | None:
    """A line of list_dir: kind, size and name, blanks between them."""
    match = _ENTRY.fullmatch(line.strip())
    if match is None:
        return None
    name = match["name"].rstrip("/")
    if match["kind"].startswith("l"):
        name = name.partition(" -> ")[0]
    size = (match["size"] or "-").replace(",", "")
    folder = match["kind"].startswith("d")
    return Entry(name, folder, int(size) if size.isdecimal() else None)


def _plain_entry(line: str) -> Entry | None:
    """A line of ``ls -1Ap``: a name, with a slash when it is a directory's."""
    name = line.strip()
    return Entry(name.rstrip("/"), name.endswith("/")) if name.strip("/") else None


def _hits(output: str) -> Iterator[Hit]:
    for match in map(_HIT.match, _lines(output)):
        if match and not {*match["path"].split("/")} & {*SKIPPED}:
            yield Hit(_normal(match["path"]), int(match["line"]), match["text"])


def _lines(output: str) -> list[str]:
    """The lines of an output, without the note that something was cut off."""
    lines = output.split("\n", _MAX_LINES)[:_MAX_LINES]
    return [line for line in lines if not line.startswith("[")]


def _normal(path: str) -> str:
    return str(PurePosixPath(path))

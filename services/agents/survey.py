"""How the scripted model goes about it: phases, each asking for some tool calls.

A phase says what it wants to know, given what was found so far; the first one
that wants something not yet answered is the one to act. So a conversation that
is taken up anywhere goes on as it would have.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from services.agents.conversation import Call, Offer, Turn
from services.agents.findings import (
    COUNT_COMMAND,
    LIST_COMMAND,
    SKIPPED,
    Entry,
    Findings,
    collect,
    line_command,
)
from services.agents.languages import LANGUAGES, MANIFESTS, MARKUP
from services.agents.wishes import MAX_WISH, names, quoted

BUDGET = 48_000
"""Characters of tool output (12,000 tokens by its own estimate) after which it
looks no further, so that an ordinary run stays within the default limits."""

MAX_LINES = 50
"""Lines that are read of a file: enough to say what it is."""

MAX_FOLDERS = 8
MAX_FILES = 5
"""Per reply: what a report can use."""

_MAX_SOURCE = 500_000
_MAX_OTHER = 60_000
"""Bytes; a larger file is generated, or data rather than something to read."""

TODO_PATTERN = r"(^|#|//|/\*|--|<!--|- \[ \])\s*(TODO|FIXME|XXX)\b"
DEFINITION_PATTERN = (
    r"^(export |pub |public |default |abstract |async )*"
    r"(class|def|enum|fn|func|function|interface|struct|trait) [A-Za-z]\w*"
)

_FIRST_FOLDERS = ("src", "lib", "app", "cmd", "pkg", "docs", "tests", ".github")
_MAIN = ("main", "__main__", "app", "index", "cli", "lib", "mod", "server", "core")


@dataclass(frozen=True)
class View:
    """What a phase decides on: the turn, what was found in it, what is offered."""

    turn: Turn
    found: Findings
    offer: Offer

    @property
    def wish(self) -> str:
        """What the user said, as far as rules can be made of it."""
        return f"{self.turn.prompt[:MAX_WISH]}\n{self.turn.remarks[:MAX_WISH]}"


class Phase(NamedTuple):
    """A part of the work: its line in the plan, what is said, what is wanted."""

    title: str
    saying: str
    tools: tuple[str, ...]
    wants: Callable[[View], tuple[Call, ...]]


def view_of(turn: Turn, offer: Offer) -> View:
    """Look at a turn."""
    return View(turn, collect(turn), offer)


def next_phase(view: View) -> tuple[Phase, tuple[Call, ...]] | None:
    """The phase to act and the calls it lacks; None when all that can be is known."""
    if view.turn.heard > BUDGET:
        return None
    for phase in PHASES:
        wanted = dict.fromkeys(phase.wants(view))
        lacking = tuple(call for call in wanted if not view.turn.settled(call))
        if lacking:
            return phase, lacking
    return None


def plan(view: View, now: Phase | None) -> list[dict[str, str]]:
    """The todo list while ``now`` is at work; None: all is done.

    At the end only what was really done is on it.
    """
    place = len(PHASES) if now is None else PHASES.index(now)
    tasks = []
    for number, phase in enumerate(PHASES):
        status = "done" if number < place else "pending"
        status = "in_progress" if number == place else status
        possible = any(map(view.offer.has, phase.tools))
        if possible and (status != "done" or _was_done(view, phase)):
            tasks.append({"title": phase.title, "status": status})
    return tasks


def _was_done(view: View, phase: Phase) -> bool:
    return any(call in view.turn.asked for call in phase.wants(view))


def _root(view: View) -> tuple[Call, ...]:
    listing = view.offer.calls("list_dir", path=".")
    return listing or view.offer.calls("bash", command=LIST_COMMAND)


def _overview(view: View) -> tuple[Call, ...]:
    """The sub-directories, the README and the manifests, in one reply."""
    folders = sorted(
        (e for e in view.found.inside(".") if e.folder and _interesting(e)),
        key=lambda entry: (not _mentioned(view, entry), _rank_folder(entry)),
    )
    calls: list[Call] = []
    for entry in folders[:MAX_FOLDERS]:
        calls += view.offer.calls("list_dir", path=entry.path)
    for path in islice(_introductions(view), MAX_FILES):
        calls += _read(view, path)
    return tuple(calls)


def _introductions(view: View) -> Iterator[str]:
    if not view.found.listed:
        yield "README.md"  # nothing can be listed: the likeliest guess
    files = [e for e in view.found.inside(".") if not e.folder and _readable(e)]
    yield from (e.path for e in files if e.name.lower().startswith("readme"))
    yield from (e.path for e in files if e.name in MANIFESTS)


def _deeper(view: View) -> tuple[Call, ...]:
    """Directories in the listed ones, first where no source was beside them."""
    top = [folder for folder in view.found.listed if "/" not in folder]
    below: list[tuple[bool, str]] = []
    for folder in sorted(set(top) - {"."}):
        inside = view.found.inside(folder)
        sources = any(map(_is_source, inside))
        folders = [e.path for e in inside if e.folder and _interesting(e)]
        below += [(sources, path) for path in folders[:3]]
    calls: list[Call] = []
    for _, path in sorted(below)[:MAX_FOLDERS]:
        calls += view.offer.calls("list_dir", path=path)
    return tuple(calls)


def _main_files(view: View) -> tuple[Call, ...]:
    introductions = set(islice(_introductions(view), MAX_FILES))
    files = [*filter(_readable, view.found.files())]
    files += filter(_is_source, view.found.hit_files())
    files = [e for e in files if e.path not in introductions and _worth_reading(e)]
    if any(map(_is_source, files)):
        files = [e for e in files if _is_source(e) or _mentioned(view, e)]
    files.sort(key=lambda entry: (not _mentioned(view, entry), _rank_file(entry)))
    calls: list[Call] = []
    for entry in files[:MAX_FILES]:
        calls += _read(view, entry.path)
    return tuple(calls)


def _searches(view: View) -> tuple[Call, ...]:
    if view.found.listed and not view.found.entries:
        return ()
    calls: list[Call] = []
    for pattern in (*quoted(view.wish), TODO_PATTERN):
        calls += view.offer.calls("search_files", pattern=pattern, path=".")
    sources = [e.extension for e in view.found.files() if _is_source(e)]
    if sources or view.found.folders():  # in notes it would find only prose
        glob = f"*.{Counter(sources).most_common(1)[0][0]}" if sources else ""
        calls += view.offer.calls(
            "search_files", pattern=DEFINITION_PATTERN, path=".", glob=glob
        )
    return tuple(calls)


def _commands(view: View) -> tuple[Call, ...]:
    if view.found.listed and not view.found.entries:
        return ()
    calls = list(view.offer.calls("bash", command=COUNT_COMMAND))
    files = filter(_is_source, (*view.found.files(), *view.found.hit_files()))
    for extension, _ in Counter(e.extension for e in files).most_common(1):
        calls += view.offer.calls("bash", command=line_command(extension))
    return tuple(calls)


def _read(view: View, path: str) -> tuple[Call, ...]:
    return view.offer.calls("read_file", path=path, limit=MAX_LINES)


def _interesting(entry: Entry) -> bool:
    hidden = entry.name.startswith(".") and entry.name != ".github"
    return entry.name not in SKIPPED and not hidden


def _readable(entry: Entry) -> bool:
    most = _MAX_SOURCE if _is_source(entry) else _MAX_OTHER
    return entry.size is None or 0 < entry.size <= most


def _is_source(entry: Entry) -> bool:
    generated = ".min." in entry.name
    return not entry.folder and entry.extension in LANGUAGES and not generated


def _worth_reading(entry: Entry) -> bool:
    return _is_source(entry) or entry.extension in MARKUP


def _mentioned(view: View, entry: Entry) -> bool:
    """Whether the user named it, or quoted something that stands in it."""
    searched = (view.found.hits.get(word, ()) for word in quoted(view.wish))
    hits = {hit.path for hits in searched for hit in hits}
    return entry.path in hits or not names(view.wish).isdisjoint(
        {entry.path, entry.name}
    )


def _rank_folder(entry: Entry) -> tuple[int, str]:
    known = entry.name in _FIRST_FOLDERS
    return (_FIRST_FOLDERS.index(entry.name) if known else 2, entry.name)


def _rank_file(entry: Entry) -> tuple[Any, ...]:
    """Main files first, tests last, then the larger ones."""
    test = "test" in entry.path.lower()
    main = entry.name.partition(".")[0] in _MAIN
    return (test, not main, -(entry.size or 0), entry.path)


PHASES = (
    Phase(
        "List the directory",
        "First I look at what is in the directory.",
        ("list_dir", "bash"),
        _root,
    ),
    Phase(
        "Read what introduces it and list its parts",
        "Now the sub-directories, and the files that introduce the whole.",
        ("list_dir", "read_file"),
        _overview,
    ),
    Phase(
        "Look one level deeper",
        "There are directories in directories; I look one level deeper.",
        ("list_dir",),
        _deeper,
    ),
    Phase(
        "Search for definitions and open ends",
        "Next I search across all files.",
        ("search_files",),
        _searches,
    ),
    Phase(
        "Count files and lines",
        "Then I count, with commands that only read.",
        ("bash",),
        _commands,
    ),
    Phase(
        "Read the main files",
        "These files seem to matter most; I read how they begin.",
        ("read_file",),
        _main_files,
    ),
)

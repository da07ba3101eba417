"""The report the scripted model writes: only what its tool calls showed."""

import re
from collections import Counter
from collections.abc import Iterator

from services.agents.conversation import Call, Turn
from services.agents.findings import Entry, Findings
from services.agents.languages import AUTOMATION, LANGUAGES, MANIFESTS, MARKUP
from services.agents.survey import (
    BUDGET,
    DEFINITION_PATTERN,
    TODO_PATTERN,
    View,
)

DISCLAIMER = (
    "*No language model was used: fixed rules wrote this from what the tools "
    "returned. Name a model for an answer that understands the question.*"
)

_LOOKING = ("list_dir", "read_file", "search_files", "bash")
_MAX_ROWS = 20
_FIELD = re.compile(
    r"(?:^|[{,])[ \t]*\"?(name|version|description)\"?[ \t]*[:=][ \t]*"
    r"[\"']([^\"'\n]{1,300})[\"']",
    re.MULTILINE,
)
_MODULE = re.compile(r"^module[ \t]+(\S+)", re.MULTILINE)
_DEFINED = re.compile(
    r"^(?:(?:export|pub|async|default)[ \t]+)*"
    r"(?:def|class|function|func|fn|struct|interface|trait|enum)[ \t]+(\w{1,60})",
    re.MULTILINE,
)
_COMMENT = re.compile(r"^\s*(?:\"\"\"|'''|//[/!]?|#+|/\*+|\*|--|;+|<!--)\s*")
_EXIT_CODE = re.compile(r"\[exit code (?!0\])(-?\d{1,5})\]\s*\Z")
_LICENCE = re.compile(
    r"copyright|licen[cs]e|SPDX|this file is part of|^!", re.IGNORECASE
)
_DOCSTRING = re.compile(r"^(?:\"\"\"|''')[ \t]*(\w.*)", re.MULTILINE)
_NO_PROSE = re.compile(r"\s*(?:#|\[!\[|!\[|<|---|===|\||```|:|\.\. )")


def report(view: View) -> str:
    """The report in Markdown; the same for the same tool results."""
    found = view.found
    sections = (
        ("What it is", _identity(found)),
        ("Structure", _structure(found)),
        ("Languages", _languages(found)),
        ("Files looked at", _looked_at(found)),
        ("Noteworthy", _noteworthy(found)),
        ("What did not work", _troubles(view.turn)),
    )
    parts = [f"# Report: {_title(found)}", DISCLAIMER, _asked(view.turn)]
    for title, lines in sections:
        body = "\n".join(lines).strip()
        if body:
            parts.append(f"## {title}\n\n{body}")
    return "\n\n".join(filter(None, parts)) + "\n"


def summary(found: Findings) -> dict[str, object]:
    """The findings in a few values, for the execution's metadata."""
    return {
        "title": _title(found),
        "files_seen": len(found.files()),
        "files_read": sorted(found.texts),
        "extensions": dict(_counts(found).most_common(5)),
    }


def _asked(turn: Turn) -> str:
    return f"Asked: {_code(turn.prompt, 200)}" if turn.prompt.strip() else ""


def _title(found: Findings) -> str:
    for path, text in sorted(found.texts.items()):
        heading = re.search(r"^#[ \t]+(\S.{0,99})$", text, re.MULTILINE)
        if "/" not in path and path.lower().startswith("readme") and heading:
            return _plain(heading[1])
    for path in _manifests(found):
        name = _fields(found.texts[path]).get("name")
        if name:
            return _plain(name)
    return "this directory"


def _identity(found: Findings) -> Iterator[str]:
    if found.listed and not found.entries:
        yield "The directory is empty."
        return
    for path in _manifests(found):
        yield _manifest_line(path, found.texts[path])
    for path, text in sorted(found.texts.items()):
        paragraph = _first_paragraph(text) if _is_readme(path) else ""
        if paragraph:
            yield f"\n{_code(path)} says:\n\n> {paragraph}"
    if not any(map(_is_readme, found.texts)) and found.entries:
        yield f"\nNo README was read; by its files it is {_guess(found)}."


def _manifest_line(path: str, text: str) -> str:
    fields = _fields(text)
    name = " ".join(fields[key] for key in ("name", "version") if key in fields)
    about = f" — {_plain(fields['description'])}" if "description" in fields else ""
    called = f": **{_plain(name)}**{about}" if name else ""
    return f"- {_code(path)} makes it {MANIFESTS[path]}{called}"


def _fields(text: str) -> dict[str, str]:
    """Name, version and description of a manifest; the first of each counts."""
    fields: dict[str, str] = {}
    for match in _FIELD.finditer(text):
        fields.setdefault(match[1], match[2])
    module = _MODULE.search(text)
    return {"name": module[1], **fields} if module else fields


def _manifests(found: Findings) -> list[str]:
    return [path for path in MANIFESTS if path in found.texts]


def _is_readme(path: str) -> bool:
    return "/" not in path and path.lower().startswith("readme")


def _first_paragraph(text: str) -> str:
    """The first lines of prose, up to an empty line or anything else."""
    lines: list[str] = []
    for line in text.splitlines():
        prose = line.strip() and not _NO_PROSE.match(line)
        if lines and not prose:
            break
        if prose:
            lines.append(line.strip())
    return _plain(" ".join(lines), 500)


def _guess(found: Findings) -> str:
    counts = _counts(found)
    total = counts.total()
    if not total:
        return f"a directory of {len(found.folders())} directories"
    extension, number = counts.most_common(1)[0]
    kind = _language(extension) or f"files of kind {_code(extension)}"
    return f"mostly {kind} ({number} of {total} files)"


def _structure(found: Findings) -> Iterator[str]:
    folders = [entry for entry in found.inside(".") if entry.folder]
    looked_into = [entry for entry in folders if entry.path in found.listed]
    for entry in looked_into:
        yield f"- {_code(entry.path + '/')} — {_contents(found, entry)}"
    others = [entry.path + "/" for entry in folders if entry not in looked_into]
    if others:
        yield f"- not looked into: {_some(others, _MAX_ROWS)}"
    files = [entry for entry in found.inside(".") if not entry.folder]
    for entry in files[:_MAX_ROWS]:
        size = "" if entry.size is None else f" — {entry.size:,} bytes"
        yield f"- {_code(entry.path)}{size}"
    if len(files) > _MAX_ROWS:
        yield f"- and {len(files) - _MAX_ROWS} more files"


def _contents(found: Findings, folder: Entry) -> str:
    names = [e.name + "/" * e.folder for e in found.inside(folder.path)]
    return _some(names) or "empty"


def _counts(found: Findings) -> Counter[str]:
    return found.counts or found.extensions()


def _languages(found: Findings) -> Iterator[str]:
    counts = _counts(found)
    if not counts:
        return
    source = "counted by a command" if found.counts else "as far as the listings show"
    yield f"Files by extension, {source}:\n"
    yield "| extension | kind | files | lines |\n|---|---|---|---|"
    for extension, number in counts.most_common(10):
        lines = f"{found.lines[extension]:,}" if extension in found.lines else ""
        kind = _language(extension)
        yield f"| {_code(extension, 20)} | {kind} | {number} | {lines} |"


def _language(extension: str) -> str:
    return LANGUAGES.get(extension) or MARKUP.get(extension, "")


def _looked_at(found: Findings) -> Iterator[str]:
    for path, text in sorted(found.texts.items()):
        yield f"- {_code(path)} — {_gist(path, text)}"


def _gist(path: str, text: str) -> str:
    """A line on a file: how it begins, and what it defines."""
    lines = [words for line in text.splitlines() if (words := _words(line))]
    docstring = _DOCSTRING.search(text)
    if docstring:
        lines.insert(0, _words(docstring[1]))
    first = next((line for line in lines if not _LICENCE.search(line)), "")
    if not first:
        return "nothing to read in it"
    begins = f"begins {_code(first, 90)}"
    names = _DEFINED.findall(text) if path.rpartition(".")[2] in LANGUAGES else []
    defines = ", ".join(_code(name) for name in dict.fromkeys(names[:6]))
    return f"{begins}; defines {defines}" if defines else begins


def _words(line: str) -> str:
    """A line without the signs of a comment or heading around it."""
    return _COMMENT.sub("", line).strip(" \t\"'*/-=#{}[]();,<>")


def _noteworthy(found: Findings) -> Iterator[str]:
    for pattern, hits in found.hits.items():
        yield f"- {_search_line(found, pattern)}"
        for hit in hits[:3] if pattern != DEFINITION_PATTERN else ():
            yield f"  - {_code(f'{hit.path}:{hit.line}')} {_code(hit.text, 100)}"
    tests = [e.path for e in found.entries.values() if _is_test(e)]
    if found.entries:
        yield f"- Tests: {_some(tests) or 'none seen'}"
        automation = [e.path for e in found.inside(".") if e.name in AUTOMATION]
        yield f"- Automation (builds, CI): {_some(automation) or 'none seen'}"
        licence = [e.path for e in found.inside(".") if e.name.startswith("LICEN")]
        yield f"- Licence file: {_some(licence) or 'none seen'}"


def _search_line(found: Findings, pattern: str) -> str:
    hits = found.hits[pattern]
    more = " or more" if pattern in found.cut else ""
    where = Counter(hit.path for hit in hits).most_common(4)
    files = ", ".join(f"{_code(path)} ({number})" for path, number in where)
    if pattern == TODO_PATTERN:
        return f"Open ends (TODO, FIXME, XXX): {len(hits)}{more}"
    if pattern == DEFINITION_PATTERN:
        return f"Definitions found: {len(hits)}{more}{', in ' * bool(files)}{files}"
    return f"Search for {_code(pattern)}: {len(hits)}{more}"


def _is_test(entry: Entry) -> bool:
    if entry.folder:
        return entry.name in {"test", "tests", "spec", "__tests__"}
    return bool(re.search(r"^test_|[_.](test|spec)\.|^tests?\.", entry.name))


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(_code(name, 60) for name in sorted(names)[:limit]) + more


def _troubles(turn: Turn) -> Iterator[str]:
    for call in turn.asked:
        if call.name in _LOOKING:
            what = trouble(turn, call)
            if what:
                yield f"- {what}"
    if turn.heard > BUDGET:
        yield "- The tools returned more than this model reads; it stopped looking."


def trouble(turn: Turn, call: Call) -> str:
    """What went wrong with a call, in a line; empty when nothing did."""
    answers = turn.answers.get(call, [])
    shown = f"{call.name} {_code(call.arguments, 100)}"
    doubts = sum(answer.outcome == "in_doubt" for answer in answers)
    if not answers:
        return f"{shown}: no result"
    if answers[-1].outcome == "in_doubt":
        return f"{shown}: in doubt, whether and how it ended is not known"
    if answers[-1].outcome != "success":
        reason = _code(answers[-1].output, 160)
        return f"{shown}: {answers[-1].outcome}: {reason}"
    code = _EXIT_CODE.search(answers[-1].output) if call.name == "bash" else None
    if code:
        return f"{shown}: ended with exit code {code[1]}"
    return f"{shown}: in doubt at first, asked again as it only reads" * bool(doubts)


def _code(text: str, limit: int = 120) -> str:
    """Foreign text as a code span: nothing in it is Markdown."""
    return f"`{_plain(text, limit).replace('`', chr(39)) or ' '}`"


def _plain(text: str, limit: int = 120) -> str:
    """Foreign text on one line, printable, cut to ``limit`` characters."""
    words = " ".join(text[: 4 * limit].split())
    shown = "".join(char if char.isprintable() else "�" for char in words)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"

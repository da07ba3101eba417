"""What rules can make of a prompt: names, quoted words, and a file to write."""

import re
from collections.abc import Container

MAX_WISH = 10_000
"""Characters of a prompt that are looked at."""

_WORD = re.compile(r"[\w./-]+")
_QUOTED = re.compile(r"`([^`\n]{2,60})`|\"([^\"\n]{2,60})\"")
_WRITE = re.compile(
    r"((^|[.,:;!?\n])[ \t]*|\b(and|then|please|also|you)\s+)(write|save)\b",
    re.IGNORECASE,
)
_NOT_WRITE = re.compile(
    r"(\b(not|never|without)|n't)\s+(\w+\s+)?(writ|sav)(e|ing)\b"
    r"|\b(write|save)\s+(nothing|no)\b",
    re.IGNORECASE,
)
_TARGET = re.compile(
    r"\b(?:write|save)\b[^.\n]{0,80}?\b(?:to|into|in|as|file)\s+[`\"']?"
    r"([\w-]{1,60}\.(?:md|txt))\b|\bwrite\s+[`\"']?([\w-]{1,60}\.(?:md|txt))\b",
    re.IGNORECASE,
)


def target(wish: str, taken: Container[str]) -> str | None:
    """The name of the file that is asked for, or None.

    Never one of those ``taken``: the next free name is chosen instead.
    """
    if not _WRITE.search(wish) or _NOT_WRITE.search(wish):
        return None
    match = _TARGET.search(wish)
    name = (match[1] or match[2]) if match else "REPORT.md"
    stem, _, extension = name.rpartition(".")
    choice = [name, *(f"{stem}-{number}.{extension}" for number in range(2, 100))]
    return next((name for name in choice if name not in taken), None)


def quoted(wish: str) -> list[str]:
    """What is put in quotes, as patterns: it is probably looked for."""
    words = [match[1] or match[2] for match in _QUOTED.finditer(wish)]
    return [re.escape(word) for word in dict.fromkeys(words)][:2]


def names(wish: str) -> set[str]:
    """Every word that may be the name or the path of a file."""
    return {word.strip("./") for word in _WORD.findall(wish)}

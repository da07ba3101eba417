"""On which line of a TOML text each key stands; tomllib does not tell."""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

Path = tuple[str, ...]

DEPTH = 3
"""Parts of a key that tell it from others: nothing of ours lies deeper."""

_WORD = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[A-Za-z0-9_-]+"
    r"|.",
    re.DOTALL,
)
"""Strings and comments are one word each, so that nothing in them counts."""


def lines_of(text: str) -> dict[Path, int]:
    """The line where each table and key first stands, down to DEPTH, of a valid text.

    Keys within an inline table are not among them.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    for line, words in _statements(text):
        if words[0] == "[":
            table = key = _key(words)
        else:
            key = table + _key(takewhile(lambda word: word != "=", words))
        for depth in range(1, min(len(key), DEPTH) + 1):
            found.setdefault(key[:depth], line)
    return found


def line_of(key: Path, lines: dict[Path, int]) -> int | None:
    """The line of ``key``, or else of the nearest table around it."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key)


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each header and each key with its value, and the line where it begins."""
    line, first, depth = 1, 1, 0
    words: list[str] = []
    for word in _WORD.findall(f"{text}\n"):
        depth += (word in ("[", "{")) - (word in ("]", "}"))
        if word == "\n" and depth == 0 and words:
            yield first, words
            words = []
        elif not word.isspace() and not word.startswith("#"):
            first = first if words else line
            words.append(word)
        line += word.count("\n")


def _key(words: Iterable[str]) -> Path:
    return tuple(word.strip("\"'") for word in words if word not in "[].")

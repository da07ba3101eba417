r"""A tiny language in which a prompt tells the scripted model exactly what to do.

::

    script:
    # each line is one reply; several calls run side by side
    list_dir {"path": "."} && read_file {"path": "README.md"}
    bash {"command": "ls && wc -l *"}
    say That is all.

A call is a tool's name and a JSON object, ``{}`` when left out. ``say`` is the
final answer and the last line; without one, the answer is that the script
ended. Empty lines and lines that begin with ``#`` are left out.
"""

import json
import re
from functools import lru_cache

import msgspec

HEADER = "script:"

_CALL = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*")
_AND = re.compile(r"\s+&&\s+")


class Step(msgspec.Struct, frozen=True):
    """One reply: a final answer, or calls as (tool, arguments as JSON)."""

    say: str | None = None
    calls: tuple[tuple[str, str], ...] = ()


class NotAScriptError(ValueError):
    """A line is not of the language; the message says which and why."""


def is_script(prompt: str) -> bool:
    """Whether the prompt's first line is ``script:``."""
    return prompt.lstrip().partition("\n")[0].strip() == HEADER


@lru_cache(maxsize=64)  # a long script is asked for again at each of its steps
def parse(prompt: str) -> tuple[Step, ...]:
    """The steps of a script, ``say`` last; raises NotAScriptError."""
    steps: list[Step] = []
    lines = prompt.lstrip().split("\n")
    for number, line in enumerate(lines[1:], 2):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if steps and steps[-1].say is not None:
            raise NotAScriptError(f"line {number} comes after `say`")
        try:
            steps.append(_step(text))
        except ValueError as error:
            raise NotAScriptError(f"line {number}: {error}: {text:.80}") from error
    return tuple(steps)


def _step(text: str) -> Step:
    if text == "say" or text.startswith("say "):
        return Step(say=text[4:].strip())
    calls = []
    place = 0
    while True:
        call, place = _call(text, place)
        calls.append(call)
        if place == len(text):
            return Step(calls=tuple(calls))
        separator = _AND.match(text, place)
        if separator is None:
            raise ValueError("expected ` && ` or the end of the line")
        place = separator.end()


def _call(text: str, place: int) -> tuple[tuple[str, str], int]:
    """The call that begins at ``place`` and where it ends.

    The JSON decides where it ends, so `` && `` may stand in its strings.
    """
    name = _CALL.match(text, place)
    if name is None:
        raise ValueError("expected a tool's name")
    start = name.end()
    if not text.startswith("{", start):
        return (name[1], "{}"), name.end(1)
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the arguments are no JSON object ({error})") from error
    return (name[1], text[start:end]), end

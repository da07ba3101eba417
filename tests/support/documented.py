"""What ``docs/subjects.md`` shows, so that tests can try it."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

TEXT = (Path(__file__).parents[2] / "docs/subjects.md").read_text()

_JSON = re.compile(r"<!-- (sent|heard|stored): (\S+) -->\n```json\n(.*?)```", re.DOTALL)
_CONFIG = re.compile(r"<!-- config -->\n```\n(.*?)```\n<!-- end -->", re.DOTALL)


class Example(NamedTuple):
    """A message: what happens to it, where, and its body."""

    what: str
    subject: str
    body: bytes

    @property
    def value(self) -> Any:
        """What the body says."""
        return json.loads(self.body)


def examples(what: str) -> list[Example]:
    """The messages that are ``sent``, ``heard`` or ``stored``, in order."""
    return [
        Example(kind, subject, body.encode())
        for kind, subject, body in _JSON.findall(TEXT)
        if kind == what
    ]


def config() -> str:
    """The configuration of a nats-server that lets one user in."""
    found = _CONFIG.search(TEXT)
    assert found, "docs/subjects.md has no <!-- config -->"
    return found[1]


def table(header: str) -> list[list[str]]:
    """The rows of the table whose first column is called that."""
    _, _, rest = TEXT.partition(f"\n| {header} |")
    lines = rest.split("\n\n", 1)[0].split("\n")[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]

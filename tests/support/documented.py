"""What ``docs/subjects.md`` shows, so that tests can try it."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

TEXT = (Path(__file__).parents[2] / "docs/subjects.md").read_text()

_JSON = re.compile(
    r"<!-- (sent|heard|stored|triggered|woken|delta): (\S+)((?: \S+=\S+)*) -->\n"
    r"```json\n(.*?)```",
    re.DOTALL,
)
_BLOCK = r"<!-- {} -->\n```\w*\n(.*?)```\n<!-- end -->"


class Example(NamedTuple):
    """A message: what happens to it, where, its body and its headers."""

    what: str
    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def value(self) -> Any:
        """What the body says."""
        return json.loads(self.body)


def examples(what: str) -> list[Example]:
    """The messages of one kind, such as ``sent`` or ``heard``, in order."""
    return [
        Example(kind, subject, body.encode(), _headers(headers))
        for kind, subject, headers, body in _JSON.findall(TEXT)
        if kind == what
    ]


def _headers(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split())


def config() -> str:
    """The configuration of a nats-server that lets one user in."""
    return block("config")


def with_reader() -> str:
    """The same, with an account for who reads everybody's long texts."""
    exports, accounts = "exports: [", "accounts {"
    text = config()
    assert text.count(exports) == text.count(accounts) == 1
    text = text.replace(exports, f"{exports}\n{block('reader export')}")
    return text.replace(accounts, f"{accounts}\n{block('reader account')}")


def block(name: str) -> str:
    """What stands between the comment of that name and the end."""
    found = re.search(_BLOCK.format(name), TEXT, re.DOTALL)
    assert found, f"docs/subjects.md has no <!-- {name} -->"
    return found[1]


def table(header: str) -> list[list[str]]:
    """The rows of the table whose first column is called that."""
    _, _, rest = TEXT.partition(f"\n| {header} |")
    lines = rest.split("\n\n", 1)[0].split("\n")[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]

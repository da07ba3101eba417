"""What docs/operations shows, so that tests can do it."""

import re
import shlex
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "operations"
SYSTEMD = FOLDER / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
SERVICES = [unit for unit in UNITS if unit.name.startswith("wake-")]
"""Units whose program is ``wake``."""

Settings = dict[str, list[str]]


def parsed(unit: Path) -> dict[str, Settings]:
    """Sections of a unit: each setting with its values in order."""
    sections: dict[str, Settings] = {}
    section: Settings = {}
    for line in unit.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if head := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(head[1], {})
            continue
        name, equals, value = line.partition("=")
        assert equals, f"{unit.name}: {line}"
        section.setdefault(name, []).append(value)
    return sections


def arguments(unit: Path) -> list[str]:
    """What a unit's program is told."""
    (command,) = parsed(unit)["Service"]["ExecStart"]
    return shlex.split(command)[1:]


def variables(unit: Path, credentials: Path) -> dict[str, str]:
    """The variables that a unit sets itself."""
    pairs = parsed(unit)["Service"].get("Environment", [])
    given = dict(pair.split("=", 1) for pair in pairs)
    return {name: text.replace("%d", str(credentials)) for name, text in given.items()}


def processes() -> dict[str, list[str]]:
    """The processes of the Procfile: what each becomes in the end, as words."""
    lines = (FOLDER / "Procfile").read_text("utf-8").splitlines()
    named = (line.partition(": ") for line in lines if not line.startswith("#"))
    return {name: shlex.split(text.rpartition("exec ")[2]) for name, _, text in named}

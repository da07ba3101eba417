import os
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from events.errors import Misconfigured
from gateway.configuration import describe, load
from gateway.options import OPTIONS, Option
from gateway.settings import Settings
from gateway.sources import ALIASES, FILE, OTHER_VARIABLES, VARIABLES
from services.runner import Runner
from services.tools.sandbox import Mode

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"
PASSWORD = "hunter2"  # noqa: S105 - it is looked for where it must not be


def test_the_same_defaults_as_the_runner() -> None:
    """Where a part has a default of its own, the settings have the same."""
    own = Runner.__init__.__kwdefaults__
    ours = Settings().runner
    assert (ours.lanes, ours.concurrency, ours.lease) == (
        own["lanes"],
        own["concurrency"],
        own["lease"],
    )
    mode = get_args(get_type_hints(type(Settings().sandbox))["mode"])
    assert set(mode) == set(get_args(Mode))


def test_every_variable_of_ours_is_known() -> None:
    """A variable that our files speak of is not refused."""
    files = [ROOT / "nats.conf", ROOT / "docker-compose.yml"]
    for package in ("events", "services", "projections", "gateway"):
        files += (ROOT / package).rglob("*.py")
    spoken = re.findall(
        r"\bWAKE_[A-Z_]*[A-Z]\b", "\n".join(f.read_text("utf-8") for f in files)
    )
    assert set(spoken) <= {*VARIABLES, *OTHER_VARIABLES}


def test_no_two_options_share_a_variable_or_a_flag() -> None:
    """Variables and flags follow from the names without two being the same."""
    assert len(VARIABLES) == len(OPTIONS) + len(ALIASES)
    assert not VARIABLES.keys() & OTHER_VARIABLES.keys()
    assert len({option.flag for option in OPTIONS.values()}) == len(OPTIONS)
    assert {OPTIONS[n].flag for n in ("data", "nats.url")} == {"--data", "--nats"}


def test_light_to_import() -> None:
    """Reading the configuration loads neither NATS nor the domain."""
    code = (
        "import sys, gateway.configuration; "
        "print([m for m in ('nats', 'eventsourcing', 'typer', 'rich', 'asyncio') "
        "if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


def shown(option: Option) -> str:
    """An option's default as the document has it."""
    match option.default:
        case None:
            return "none"
        case ():
            return "an empty list"
        case tuple() as items:
            return f"`{', '.join(items)}`"
        case float() as number:
            return f"`{number:g}`"
        case other:
            return f"`{other}`"


def listed() -> str:
    """The document's list of options, as it has to be."""
    lines = []
    for option in OPTIONS.values():
        if f"### {option.section}" not in lines and option.section:
            struct = type(attrgetter(option.section)(Settings()))
            lines += ["", f"### {option.section}", "", struct.__doc__ or "", ""]
        allowed = option.allowed[:1].upper() + option.allowed[1:]
        lines.append(f"- **`{option.name}`** · `{option.variable}`<br>")
        lines.append(f"  {option.about}<br>")
        lines.append(f"  {allowed}; default: {shown(option)}.")
    return "\n".join(lines)


def part(name: str) -> str:
    """What stands between two markers of the document."""
    text = DOCUMENT.read_text("utf-8")
    return text.split(f"<!-- {name} -->\n")[1].split("\n<!-- end -->")[0]


def block(name: str) -> str:
    """The code in a marked part of the document."""
    return part(name).split("\n", 1)[1].removesuffix("\n```")


def test_the_document_lists_the_options() -> None:
    """The document says of every option what the structs say; copy it from here."""
    assert part("options") == listed()
    others = [f"- `{name}`: {what}." for name, what in OTHER_VARIABLES.items()]
    aliases = [f"- `{name}`: the same as `{n}`." for name, n in ALIASES.items()]
    assert part("variables").split("\n") == others + aliases


def test_the_document_shows_what_happens(tmp_path: Path) -> None:
    """The example of the document is taken, and printed as the document shows it."""
    (tmp_path / FILE).write_text(block("example"))
    (tmp_path / "nats.secret").write_text(PASSWORD)
    command, *printed = block("printed").split("\n")
    environ = dict(re.findall(r"(WAKE_\w+)=(\S+)", command))
    described = describe(load({}, environ, tmp_path)).replace(f"{tmp_path}/", "")
    assert [" ".join(line.split()) for line in printed] == [
        " ".join(line.split()) for line in described.split("\n")
    ]


def test_the_document_shows_mistakes(tmp_path: Path) -> None:
    """The mistakes that the document shows are told in these words."""
    (tmp_path / FILE).write_text("[runner]\nconcurency = 16\nlease = 0.5\n")
    with pytest.raises(Misconfigured) as caught:
        load({}, {"WAKE_RUNER_NAME": "x"}, tmp_path)
    said = [f"wake: {line}" for line in str(caught.value).split("\n")]
    assert block("mistakes").split("\n")[1:] == said


def test_every_option_is_explained() -> None:
    """Each option says what it is for and what it may be."""
    for option in OPTIONS.values():
        assert option.about.endswith(".")
        assert option.allowed

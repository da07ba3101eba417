import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner
from waking import environment, wake

from gateway.cli import app

HEAVY = ("pydantic_ai", "duckdb", "nats", "rich", "eventsourcing", "uvloop", "aiohttp")


@pytest.mark.parametrize("arguments", ["", "--version", "--help", "run --help"])
def test_starting_is_light(arguments: str) -> None:
    """Neither the command line itself nor its help imports what it may not need."""
    code = (
        "import sys\nfrom gateway.cli import main\n"
        "try:\n"
        f"    {arguments.split()} and main({arguments.split()})\n"
        "except SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        check=True,
        text=True,
    )
    assert ended.stderr == "[]\n"


def test_reading_imports_no_provider(tmp_path: Path) -> None:
    """Pydantic-ai and duckdb stay out of what only reads or runs the scripted model."""
    (tmp_path / "ws").mkdir()
    code = (
        "import sys\nfrom gateway.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as ended:\n    assert ended.code == 0, ended.code\n"
        "print([n for n in ('pydantic_ai', 'duckdb') if n in sys.modules])"
    )
    for arguments in (("run", "Look.", "--workspace", "ws"), ("ls",)):
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            check=True,
            text=True,
        )
        assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["run", "ls", "show", "events"])
def test_help_names_its_flags_and_has_examples(tmp_path: Path, command: str) -> None:
    """Each command's help fits 80 columns and shows how it is typed."""
    out = wake(tmp_path, command, "--help").out
    assert f"  Examples:\n    wake {command}" in out
    for flag in ("--data", "--nats", "--json"):
        assert flag in out
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_every_help_is_for_reading(command: str) -> None:
    """A mark of how it is to be laid out is not shown, and examples stand apart."""
    out = CliRunner().invoke(app, [command, "--help"]).stdout
    assert "\\b" not in out
    assert "Example" not in out or re.search(r"^  Examples?:$", out, re.MULTILINE)


def test_exit_codes_are_documented(tmp_path: Path) -> None:
    """The help of run says what each exit code means."""
    out = " ".join(wake(tmp_path, "run", "--help").out.split())
    for code in ("0 completed", "1 failed", "2 wrong", "3 ended", "4 it", "5 the"):
        assert code in out
    assert "130 cancelled" in out
    assert "143 told to end" in out


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("run", "--nonsense"), ("show",), ("run", "a", "b")]
)
def test_wrong_usage_is_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """What the command line does not know is refused with how it is used."""
    ended = wake(tmp_path, *arguments)
    assert ended.code == 2
    assert "Usage: wake" in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_version(tmp_path: Path) -> None:
    """``wake --version`` is one line."""
    ended = wake(tmp_path, "--version")
    assert ended.code == 0
    assert ended.out.startswith("wake ")
    assert ended.out.count("\n") == 1

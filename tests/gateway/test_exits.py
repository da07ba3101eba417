import json
import subprocess
from pathlib import Path

import pytest
from waking import COMMAND, environment

from events import errors
from events.errors import Misconfigured, WakeError
from gateway.exits import CODES, Exit, Interrupted, exit_code, told


def every(kind: type[WakeError]) -> list[type[WakeError]]:
    """A class of errors and all that are derived from it in the tree."""
    below = [d for c in kind.__subclasses__() for d in every(c)]
    return [kind, *below]


def test_every_error_has_an_exit_code() -> None:
    """No error of the tree is missing in the table, and none is made up."""
    tree = {kind for kind in every(WakeError) if kind.__module__ == errors.__name__}
    assert set(CODES) == tree
    assert Exit.COMPLETED not in CODES.values()


def test_an_error_from_elsewhere_has_its_base_s_code() -> None:
    """A subclass that the table does not know exits as its base does."""

    class Odd(errors.FolderInUse):
        """A folder in use, oddly."""

    assert exit_code(Odd()) is Exit.ENVIRONMENT


@pytest.mark.parametrize("kind", list(CODES))
def test_a_failure_is_one_line(
    kind: type[WakeError], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every error ends the process with its code and one clean line on stderr.

    Only what is configured may be wrong in several ways, a line for each.
    """
    with pytest.raises(SystemExit) as ended, told(as_json=False):
        raise kind("bad\x1b[31m thing\nhappened")
    assert ended.value.code == CODES[kind]
    out, err = capsys.readouterr()
    between = "\nwake: " if kind is Misconfigured else " "
    assert err == f"wake: bad\N{REPLACEMENT CHARACTER}[31m thing{between}happened\n"
    assert out == ""


def test_with_json_the_last_line_of_stdout_says_it_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program reads code and message, with the notes that were added."""
    error = errors.NotFound("no such thing")
    error.add_note("try another")
    with pytest.raises(SystemExit), told(as_json=True):
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [error])])
    out, err = capsys.readouterr()
    assert err == "wake: no such thing\nwake: try another\n"
    expected = {"error": "not_found", "message": "no such thing; try another"}
    assert json.loads(out) == expected


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    """What is no failure of ours is not dressed up as one."""
    with pytest.raises(ZeroDivisionError), told(as_json=True):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), Exit.CANCELLED),
        (Interrupted(Exit.TOLD_TO_END), Exit.TOLD_TO_END),
    ],
)
def test_an_interrupt_is_no_traceback(
    error: BaseException, code: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C and SIGTERM before an execution exists end in one line."""
    with pytest.raises(SystemExit) as ended, told(as_json=True):
        raise error
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "interrupted"
    assert err.startswith("wake: interrupted")


@pytest.mark.parametrize(
    "command",
    ["config", "config --json", "ls", "show none --json", "run script:", "--version"],
)
def test_stdout_that_is_full_is_no_traceback(tmp_path: Path, command: str) -> None:
    """Whatever is printed there, and in however small pieces."""
    ended = _in_a_shell(tmp_path, 'exec "$@" > /dev/full', command)
    assert ended.returncode in {2, 5}
    said, *more = ended.stderr.splitlines()
    assert said.startswith("wake: ")
    assert all(line.startswith("wake: what is recorded is not lost") for line in more)


@pytest.mark.parametrize("command", ["config", "config --json", "ls"])
def test_stdout_that_is_closed_is_as_if_nobody_looked(
    tmp_path: Path, command: str
) -> None:
    """As for Python: what is printed goes nowhere, and that is no failure."""
    ended = _in_a_shell(tmp_path, 'exec "$@" >&-', command)
    assert (ended.returncode, ended.stderr) == (0, "")


def _in_a_shell(
    place: Path, script: str, command: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``wake`` as a shell's script says."""
    called = ("sh", "-c", script, "sh", *COMMAND, *command.split())
    return subprocess.run(
        called,
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

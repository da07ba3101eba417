"""What is written is run: every example ends well and says what it should."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SAYS = {
    "own_tool.py": "completed: Apples are there, pears must be ordered.",
    "approval.py": "completed: I am done.",
    "crash_and_resume.py": "completed in attempt 2: All three parts are done.",
}


@pytest.mark.parametrize("name", sorted(SAYS))
def test_the_example_runs(name: str) -> None:
    """An example ends by itself with exit code 0 and its last line."""
    ran = subprocess.run(
        [sys.executable, EXAMPLES / name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == SAYS[name]


def test_no_example_is_forgotten() -> None:
    """Every example has a line that it must say."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)

"""docs/rest.md: its commands are run in its order, and its answer is the answer."""

import os
import re
import subprocess
import sys
from pathlib import Path

import waking
from serving import serving

TEXT = (waking.ROOT / "docs" / "rest.md").read_text()
RUN = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
ANSWER = re.compile(r"<!-- answer: (.*?) -->\n```json\n(.*?)\n```", re.DOTALL)
PORT = "8787"


def shell(folder: Path, script: str) -> str:
    """Run a script as a person's shell does, but to its first error."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607 - whichever it is
        cwd=folder,
        env=waking.environment(PATH=path),
        capture_output=True,
        text=True,
        check=False,
        timeout=waking.LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_work(tmp_path: Path) -> None:
    """Every curl succeeds; only the port is another."""
    scripts = RUN.findall(TEXT)
    ((ask, answer),) = ANSWER.findall(TEXT)
    assert len(scripts) == 3
    with serving(tmp_path, "--port", "0") as told:
        port = told["http"].rpartition(":")[2]
        printed = shell(tmp_path, "\n".join(scripts).replace(PORT, port))
        assert '"status":"pending"' in printed
        assert '"woken":0' in printed
        assert shell(tmp_path, ask.replace(PORT, port)) == answer

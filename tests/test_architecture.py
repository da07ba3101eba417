"""The tree is the picture: who may import what, and what things are called."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "events": {"events"},
    "services": {"events", "services"},
    "projections": {"events", "projections"},
    "gateway": {"events", "services", "projections", "gateway"},
}
ADAPTERS = {
    "nats": {
        f"events/{name}.py"
        for name in (
            "natspy",
            "wire",
            "direct",
            "jetstream",
            "delivery",
            "feed",
            "pull",
            "pinned",
            "logstream",
            "triggerstream",
            "rawstream",
            "deltastream",
            "muster",
            "timerstream",
            "tablestream",
        )
    },
    "duckdb": {
        f"projections/{name}.py"
        for name in ("database", "cursor", "tables", "store", "sqltext", "parquet")
    },
    "opentelemetry": {"services/tracing.py"},
    "jsonschema": {"events/schemas.py"},
    "prometheus_client": {"services/instruments.py"},
    "jwt": {"gateway/web/tokens.py", "gateway/web/keys.py"},
    "structlog": {"services/loglines.py"},
    "pydantic_ai": {
        f"services/agents/{name}.py" for name in ("models", "providers", "dialect")
    },
}
"""Library → the only files that may import it."""

VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base_utils"}


def modules(package: str) -> list[Path]:
    """The source files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


ALL = [path for package in MAY_IMPORT for path in modules(package)]


def imported(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports out in full"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    """Events <- services | projections <- gateway."""
    assert modules(package)
    foreign = MAY_IMPORT.keys() - MAY_IMPORT[package]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        for name in imported(path)
        if name in foreign | {"tests", "benchmarks", "examples"}
    ]
    assert wrong == []


@pytest.mark.parametrize("library", ADAPTERS)
def test_only_adapters_import_a_library(library: str) -> None:
    """So that it can be exchanged, and is not loaded where it is not used."""
    users = {str(p.relative_to(ROOT)) for p in ALL if library in set(imported(p))}
    assert users <= ADAPTERS[library]


def test_the_core_loads_nothing_heavy() -> None:
    """Not the connection, nor the models, nor the database."""
    heavy = ["nats", "pydantic", "pydantic_ai", "duckdb", "aiohttp", "rich", "typer"]
    heavy += ["jsonschema", "referencing"]
    assert loaded("events.execution, events.commands, events.memory", heavy) == ""


def test_the_command_line_loads_no_http() -> None:
    """It is half of what a command takes to start; nor what only some commands need."""
    heavy = ["aiohttp", "duckdb", "pydantic_ai", "jwt", "jsonschema"]
    assert loaded("gateway.cli, gateway.reading, gateway.commanding", heavy) == ""


def loaded(modules: str, watched: list[str]) -> str:
    """Which of these libraries an import loads."""
    code = (
        f"import sys, {modules}; "
        f"print(*(name for name in {watched!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_no_module_has_a_vague_or_a_taken_name() -> None:
    """One noun per file, and none of the standard library's."""
    taken = sys.stdlib_module_names | VAGUE
    names = {str(p.relative_to(ROOT)): p.stem for p in ALL if p.name != "__init__.py"}
    assert [path for path, name in names.items() if name in taken] == []


def test_every_package_says_in_a_sentence_what_lives_there() -> None:
    """And holds nothing else: importing a package loads no module."""
    for path in (path for path in ALL if path.name == "__init__.py"):
        tree = ast.parse(path.read_text())
        says = ast.get_docstring(tree) or ""
        assert says.endswith("."), path
        assert "\n" not in says, path
        assert len(tree.body) == 1, path


def test_every_folder_with_modules_is_a_package() -> None:
    """Or it would be left out of the wheel's type information and of tests."""
    assert [
        p for p in {m.parent for m in ALL} if not (p / "__init__.py").exists()
    ] == []
    assert [
        name for name in MAY_IMPORT if not (ROOT / name / "py.typed").exists()
    ] == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_other_distribution_owns_our_names(package: str) -> None:
    """The four packages are top-level names: a second owner would overwrite files."""
    owners = packages_distributions().get(package, [])
    assert set(owners) <= {"wakestream"}


def test_tests_are_no_package() -> None:
    """They are imported by path."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []

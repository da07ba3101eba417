import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events.errors import ToolFailed
from services.tools.base import MAX_OUTPUT, ToolContext
from services.tools.search import SearchFiles, SearchFilesArguments
from services.tools.workspace import Workspace


@pytest.fixture
def context(tmp_path: Path) -> Iterator[ToolContext]:
    """A call in a small tree with all that must be passed over."""
    root = tmp_path / "workspace"
    for folder in ("src", ".git", "node_modules/x", "__pycache__", ".venv"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.py").write_text("one\nneedle here\n")
    (root / "b.txt").write_text("a needle\n")
    (root / "binary").write_bytes(b"\0needle\n")
    (root / "huge").write_bytes(b"needle\n" * 800_000)
    os.mkfifo(root / "pipe")
    (tmp_path / "outside").write_text("needle\n")
    (root / "link").symlink_to("../outside")
    (root / "up").symlink_to("..")
    with Workspace(root) as workspace:
        yield ToolContext(workspace=workspace, key="call-1")


async def search(context: ToolContext, **arguments: Any) -> str:
    """What a search tells, which is always bounded."""
    done = await SearchFiles().run(SearchFilesArguments(**arguments), context)
    assert len(done.text.encode()) <= MAX_OUTPUT
    return done.text


async def test_matches_are_given_by_path_and_line(context: ToolContext) -> None:
    """Text files only, in order; links, pipes, binary and skipped folders are not."""
    found = await search(context, pattern=r"n\w+le")
    assert found.splitlines() == ["b.txt:1: a needle", "src/a.py:2: needle here"]


@pytest.mark.parametrize("glob", ["*.py", "**/*.py", "src/*"])
async def test_a_glob_narrows(context: ToolContext, glob: str) -> None:
    """By name or by path, as people write it."""
    assert await search(context, pattern="needle", glob=glob) == (
        "src/a.py:2: needle here"
    )


async def test_a_path_narrows(context: ToolContext) -> None:
    """A folder or one file; what is missing or outside is told."""
    expected = "src/a.py:2: needle here"
    assert await search(context, pattern="needle", path="src") == expected
    assert await search(context, pattern="needle", path="src/a.py") == expected
    assert await search(context, pattern="nothing") == "no matches"
    for path in ("missing", "..", "/etc", "link", "up"):
        with pytest.raises(ToolFailed):
            await search(context, pattern="root", path=path)


@pytest.mark.parametrize("pattern", ["(", "*", "(?P<a", "[z-a]", "(" * 1900])
async def test_a_bad_pattern_is_told(context: ToolContext, pattern: str) -> None:
    """The model reads what is wrong with its pattern."""
    with pytest.raises(ToolFailed, match="invalid pattern"):
        await search(context, pattern=pattern)


async def test_a_catastrophic_pattern_is_stopped(context: ToolContext) -> None:
    """A pattern that would take for ever is killed, and what it found is kept."""
    root = context.workspace.root
    (root / "a").write_text("aaa\n" + "a" * 60 + "!\n")
    short = ToolContext(workspace=context.workspace, key="call-1", timeout=4.0)
    found = await search(short, pattern="(a+)+$")
    assert found.startswith("a:1: aaa\n[stopped after 4 s")


async def test_many_matches_are_bounded(context: ToolContext) -> None:
    """Neither many nor long lines flood the model."""
    root = context.workspace.root
    (root / "many").write_text(("x" * 5000 + "\n") * 500)
    found = await search(context, pattern="x+", path="many")
    assert "narrow the search" in found or "[cut:" in found


async def test_hostile_names_stay_one_line(context: ToolContext) -> None:
    """A name with a line break or invalid UTF-8 cannot break out of its line."""
    root = os.fsencode(context.workspace.root)
    for name in (b"/x\nfake:1: y", b"/\xff"):
        fd = os.open(root + name, os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"odd\n")
        os.close(fd)
    assert len((await search(context, pattern="odd")).splitlines()) == 2

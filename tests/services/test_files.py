import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import ToolFailed
from services.tools.base import MAX_OUTPUT, Tool, ToolContext
from services.tools.files import (
    EditFile,
    ListDir,
    ReadFile,
    WriteFile,
    off_loop,
    replaced,
)
from services.tools.workspace import Workspace


@pytest.fixture
def context(tmp_path: Path) -> Iterator[ToolContext]:
    """A call in an empty workspace."""
    with Workspace(tmp_path) as workspace:
        yield ToolContext(workspace=workspace, key="call-1")


async def call(tool: Tool[Any], context: ToolContext, **arguments: Any) -> str:
    """What a tool tells, which is always bounded."""
    done = await tool.run(tool.arguments(**arguments), context)
    assert len(done.text.encode()) <= MAX_OUTPUT
    return done.text


async def test_a_directory_is_listed_in_order(
    context: ToolContext, tmp_path: Path
) -> None:
    """Kind, size and name, sorted; a link is told as a link."""
    (tmp_path / "b").write_bytes(b"12345")
    (tmp_path / "a").mkdir()
    (tmp_path / "c").symlink_to("/etc/shadow")
    os.mkfifo(tmp_path / "d")
    lines = (await call(ListDir(), context)).splitlines()
    assert [line.split() for line in lines] == [
        ["dir", "-", "a"],
        ["file", "5", "b"],
        ["link", "-", "c"],
        ["special", "-", "d"],
    ]


async def test_hostile_names_stay_one_line(
    context: ToolContext, tmp_path: Path
) -> None:
    """A name with a line break or invalid UTF-8 cannot break out of its line."""
    (tmp_path / "x\nfile 1 fake").touch()
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff\xfe", os.O_CREAT))
    text = await call(ListDir(), context)
    assert len(text.splitlines()) == 2
    text.encode()


async def test_a_large_directory_is_bounded(
    context: ToolContext, tmp_path: Path
) -> None:
    """What does not fit is counted; an empty directory says so."""
    assert await call(ListDir(), context) == "the directory is empty"
    for number in range(1200):
        (tmp_path / f"{number:0200}").touch()
    text = await call(ListDir(), context)
    assert "of 1,200 entries left out]" in text


async def test_lines_are_read_in_parts(context: ToolContext, tmp_path: Path) -> None:
    """The note tells where to go on, and going on from there misses nothing."""
    lines = [f"line {number} {'x' * 90}\n" for number in range(1, 3001)]
    (tmp_path / "f").write_text("".join(lines))
    read, offset = "", 1
    while True:
        part = await call(ReadFile(), context, path="f", offset=offset)
        body, _, note = part.partition("\n[more lines follow: continue with offset=")
        read += body
        if not note:
            break
        offset = int(note.rstrip("]"))
    assert read == "".join(lines)


async def test_limit_and_end(context: ToolContext, tmp_path: Path) -> None:
    """Limits count lines; the end of the file has no note; beyond it is told."""
    (tmp_path / "f").write_text("1\n2\n3\n")
    (tmp_path / "empty").touch()
    assert (await call(ReadFile(), context, path="f", limit=1)).startswith("1\n\n[more")
    assert await call(ReadFile(), context, path="f", offset=2) == "2\n3\n"
    assert await call(ReadFile(), context, path="empty") == "the file is empty"
    with pytest.raises(ToolFailed, match="fewer lines"):
        await call(ReadFile(), context, path="f", offset=10)


async def test_binary_and_invalid_text(context: ToolContext, tmp_path: Path) -> None:
    """Binary is refused with its size; invalid UTF-8 is replaced."""
    (tmp_path / "bin").write_bytes(b"\x7fELF\0\0" + b"x" * 1000)
    (tmp_path / "latin").write_bytes(b"caf\xe9\r\n")
    with pytest.raises(ToolFailed, match="binary, 1,006 bytes"):
        await call(ReadFile(), context, path="bin")
    assert (
        await call(ReadFile(), context, path="latin")
        == "caf\N{REPLACEMENT CHARACTER}\r\n"
    )


async def test_an_endless_line_is_cut(context: ToolContext, tmp_path: Path) -> None:
    """One line of 5 MB, or of invalid bytes, is cut and said to be."""
    (tmp_path / "f").write_bytes(b"x" * 5_000_000 + b"\nlast\n")
    (tmp_path / "g").write_bytes(b"\xff" * 5_000_000)
    assert "rest is cut" in await call(ReadFile(), context, path="f")
    assert "rest is cut" in await call(ReadFile(), context, path="g")
    assert await call(ReadFile(), context, path="f", offset=2) == "last\n"


async def test_writing_twice_is_once(context: ToolContext, tmp_path: Path) -> None:
    """The same write again gives the same file and the same answer."""
    first = await call(WriteFile(), context, path="a/b.txt", content="héllo")
    again = await call(WriteFile(), context, path="a/b.txt", content="héllo")
    assert first == again == "wrote 6 bytes to 'a/b.txt'"
    assert (tmp_path / "a/b.txt").read_text() == "héllo"


async def test_what_is_no_text_is_not_written(
    context: ToolContext, tmp_path: Path
) -> None:
    """A lone surrogate is the model's mistake and leaves no file."""
    with pytest.raises(ToolFailed, match="Unicode"):
        await call(WriteFile(), context, path="x", content="\ud800")
    assert not (tmp_path / "x").exists()


async def test_an_edit_again_changes_nothing(
    context: ToolContext, tmp_path: Path
) -> None:
    """Run again after a crash, an edit finds itself done; also one that adds."""
    (tmp_path / "f").write_text("x = 1\ny = 2\n")
    for old, new in [("x = 1", "x = 3"), ("y = 2\n", "y = 2\nz = 4\n")]:
        assert "edited" in await call(EditFile(), context, path="f", old=old, new=new)
        again = await call(EditFile(), context, path="f", old=old, new=new)
        assert "already so" in again
    assert (tmp_path / "f").read_text() == "x = 3\ny = 2\nz = 4\n"


async def test_a_line_can_be_taken_out(context: ToolContext, tmp_path: Path) -> None:
    """What stays of the old text does not count as already so."""
    (tmp_path / "f").write_text("a\nb\nc\n")
    await call(EditFile(), context, path="f", old="a\nb\n", new="a\n")
    await call(EditFile(), context, path="f", old="c\n", new="")
    assert (tmp_path / "f").read_text() == "a\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("zzz", "q", "does not occur"),
        ("zzz", "", "does not occur"),
        ("aa", "q", "more than once"),
        ("b\nc", "q", "end in"),
        ("b", "b", "are the same"),
        ("\ud800", "b", "Unicode"),
    ],
)
async def test_an_edit_that_does_not_fit_is_told(
    context: ToolContext, tmp_path: Path, old: str, new: str, message: str
) -> None:
    """Absent, ambiguous (also overlapping) or senseless: the file stays."""
    (tmp_path / "f").write_bytes(b"aaa\r\nb\r\nc")
    with pytest.raises(ToolFailed, match=message):
        await call(EditFile(), context, path="f", old=old, new=new)
    assert (tmp_path / "f").read_bytes() == b"aaa\r\nb\r\nc"


async def test_bytes_that_are_no_text_survive_an_edit(
    context: ToolContext, tmp_path: Path
) -> None:
    """An edit changes its text and no other byte."""
    (tmp_path / "f").write_bytes(b"\xff\r\nold\0")
    await call(EditFile(), context, path="f", old="old", new="new")
    assert (tmp_path / "f").read_bytes() == b"\xff\r\nnew\0"


texts = st.text("ab\n", max_size=8).map(str.encode)


@given(text=texts, old=texts.filter(bool), new=texts)
def test_any_edit_is_safe_to_repeat(text: bytes, old: bytes, new: bytes) -> None:
    """Whatever an edit makes, the same edit leaves alone."""
    try:
        edited = replaced(text, old, new, "f")
    except ToolFailed:
        return
    if edited is None:
        return
    try:
        assert replaced(edited, old, new, "f") is None
    except ToolFailed:
        assert new == b""


async def test_edits_side_by_side_lose_nothing(
    context: ToolContext, tmp_path: Path
) -> None:
    """Twenty edits of one reply, at once, are all in the file."""
    (tmp_path / "f").write_text("".join(f"<{number}>" for number in range(20)))
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(
                call(
                    EditFile(), context, path="f", old=f"<{number}>", new=f"({number})"
                )
            )
    assert (tmp_path / "f").read_text() == "".join(f"({n})" for n in range(20))


async def test_a_cancelled_call_has_ended() -> None:
    """A cancellation waits for the thread: nothing is written after it."""
    started, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go.wait()
        ended.set()

    task = asyncio.create_task(off_loop(work))
    await asyncio.to_thread(started.wait)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_an_escape_is_told_to_the_model(context: ToolContext) -> None:
    """Every file tool refuses what lies outside, with a message."""
    calls: list[tuple[Tool[Any], dict[str, str]]] = [
        (ListDir(), {}),
        (ReadFile(), {}),
        (WriteFile(), {"content": "x"}),
        (EditFile(), {"old": "a", "new": "b"}),
    ]
    for tool, rest in calls:
        for path in ("/etc/passwd", "../x", "..", "a\0"):
            with pytest.raises(ToolFailed):
                asyncio.run(call(tool, context, path=path, **rest))

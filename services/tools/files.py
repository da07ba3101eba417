"""Tools on files: list, read, write and edit, all beneath the workspace."""

import asyncio
import heapq
import os
from collections.abc import Callable
from typing import Annotated, BinaryIO, ClassVar, TypeVar

import msgspec

from events.errors import ToolFailed
from events.spec import Effect
from services.tools.base import MAX_OUTPUT, Arguments, Tool, ToolContext, ToolOutput
from services.tools.workspace import Workspace, printable, shown

MAX_ENTRIES = 1000
"""Names of one directory that are told."""
MAX_EDIT = 16 * 1024 * 1024
"""Bytes of a file that edit_file takes: it is held in memory twice."""
MAX_SKIP = 256 * 1024 * 1024
"""Bytes read_file goes through to find a line."""
_PIECE = 64 * 1024
_ROOM = MAX_OUTPUT - 512
"""Bytes of text beside which the notes still fit."""

R = TypeVar("R")
PathArgument = Annotated[str, msgspec.Meta(description="Relative to the workspace")]


async def off_loop(work: Callable[[], R]) -> R:
    """Run ``work`` in a thread; a cancellation waits for it and then propagates.

    So nothing is written after the call has ended.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at: the cancellation is what is told
        raise


class ListDirArguments(Arguments, frozen=True, kw_only=True):
    """Which directory."""

    path: PathArgument = "."


class ListDir(Tool[ListDirArguments]):
    """Lists one directory."""

    name: ClassVar[str] = "list_dir"
    description: ClassVar[str] = "List a directory: kind, size in bytes and name."
    effect: ClassVar[Effect] = "read"
    arguments = ListDirArguments

    async def run(
        self, arguments: ListDirArguments, context: ToolContext
    ) -> ToolOutput:
        """Give the entries by name. Raises ToolFailed."""
        return ToolOutput(
            text=await off_loop(lambda: _list(context.workspace, arguments))
        )


class ReadFileArguments(Arguments, frozen=True, kw_only=True):
    """Which lines of which file."""

    path: PathArgument
    offset: Annotated[int, msgspec.Meta(ge=1, description="First line, from 1")] = 1
    limit: Annotated[int, msgspec.Meta(ge=1, description="Lines at most")] = 2000


class ReadFile(Tool[ReadFileArguments]):
    """Reads lines of a text file."""

    name: ClassVar[str] = "read_file"
    description: ClassVar[str] = "Read a text file, or lines of it."
    effect: ClassVar[Effect] = "read"
    arguments = ReadFileArguments

    async def run(
        self, arguments: ReadFileArguments, context: ToolContext
    ) -> ToolOutput:
        """Give the lines as they are; invalid UTF-8 is replaced. Raises ToolFailed."""
        return ToolOutput(
            text=await off_loop(lambda: _read(context.workspace, arguments))
        )


class WriteFileArguments(Arguments, frozen=True, kw_only=True):
    """What to write where."""

    path: PathArgument
    content: Annotated[str, msgspec.Meta(description="The whole content")]


class WriteFile(Tool[WriteFileArguments]):
    """Writes a whole file; twice is the same as once."""

    name: ClassVar[str] = "write_file"
    description: ClassVar[str] = (
        "Create or replace a file with the content given; creates directories."
    )
    effect: ClassVar[Effect] = "idempotent"
    arguments = WriteFileArguments

    async def run(
        self, arguments: WriteFileArguments, context: ToolContext
    ) -> ToolOutput:
        """Write it in one step. Raises ToolFailed."""
        data = _encoded(arguments.content)

        def write() -> None:
            with context.workspace.changing:
                context.workspace.write(arguments.path, data)

        await off_loop(write)
        return ToolOutput(text=f"wrote {len(data):,} bytes to {shown(arguments.path)}")


class EditFileArguments(Arguments, frozen=True, kw_only=True):
    """Which text to replace by which."""

    path: PathArgument
    old: Annotated[
        str,
        msgspec.Meta(min_length=1, description="Exact text that occurs once"),
    ]
    new: Annotated[str, msgspec.Meta(description="What stands there afterwards")]


class EditFile(Tool[EditFileArguments]):
    """Replaces one exact text; made again after a crash, it changes nothing more."""

    name: ClassVar[str] = "edit_file"
    description: ClassVar[str] = (
        "Replace a text in a file. `old` must match exactly, white space included, "
        "and occur once: give enough lines around it."
    )
    effect: ClassVar[Effect] = "idempotent"
    arguments = EditFileArguments

    async def run(
        self, arguments: EditFileArguments, context: ToolContext
    ) -> ToolOutput:
        """Edit in one step. Raises ToolFailed."""
        old, new = _encoded(arguments.old), _encoded(arguments.new)
        return ToolOutput(
            text=await off_loop(
                lambda: _edit(context.workspace, arguments.path, old, new)
            )
        )


def _list(workspace: Workspace, arguments: ListDirArguments) -> str:
    fd = workspace.folder(arguments.path)
    try:
        with os.scandir(fd) as entries:
            found = [entry.name for entry in entries]
        names = heapq.nsmallest(MAX_ENTRIES, found)
        lines = [_entry(fd, name) for name in names]
    finally:
        os.close(fd)
    return _bounded(lines, len(found)) if found else "the directory is empty"


def _entry(fd: int, name: str) -> str:
    """One line; what vanished meanwhile is told as such."""
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return f"gone              - {printable(name)}"
    kind = _KINDS.get(status.st_mode & 0o170000, "special")
    size = f"{status.st_size:,}" if kind == "file" else "-"
    return f"{kind:<7} {size:>11} {printable(name)}"


_KINDS = {0o100000: "file", 0o040000: "dir", 0o120000: "link"}


def _bounded(lines: list[str], total: int) -> str:
    """As many lines as fit, and how many did not."""
    kept: list[str] = []
    room = _ROOM
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.append(line)
    if len(kept) < total:
        kept.append(f"[{total - len(kept):,} of {total:,} entries left out]")
    return "\n".join(kept)


def _read(workspace: Workspace, arguments: ReadFileArguments) -> str:
    with workspace.file(arguments.path) as file:
        _refuse_binary(file, arguments.path)
        _skip(file, arguments.offset - 1, arguments.path)
        lines, cut = _lines(file, arguments.limit)
        more = bool(file.read(1))
    following = arguments.offset + len(lines)
    if cut:
        lines.append(f"\n[line {following - 1} is longer than fits: the rest is cut]")
    elif more:
        lines.append(f"\n[more lines follow: continue with offset={following}]")
    return "".join(lines) or "the file is empty"


def _refuse_binary(file: BinaryIO, path: str) -> None:
    start = file.read(8192)
    if b"\0" in start:
        size = os.fstat(file.fileno()).st_size
        raise ToolFailed(f"{shown(path)} is binary, {size:,} bytes: not shown")
    file.seek(0)


def _skip(file: BinaryIO, lines: int, path: str) -> None:
    """Go to the line after ``lines``; in pieces, as a line may be any length."""
    passed = 0
    while lines and (piece := file.readline(_PIECE)):
        passed += len(piece)
        lines -= piece.endswith(b"\n")
        if passed > MAX_SKIP:
            raise ToolFailed(
                f"that line is too far into {shown(path)}: use search_files"
            )
    if lines:
        raise ToolFailed(f"{shown(path)} has fewer lines than that: use a lower offset")


def _lines(file: BinaryIO, limit: int) -> tuple[list[str], bool]:
    """Whole lines that fit, at least one; True when that one had to be cut."""
    lines: list[str] = []
    room = _ROOM
    while len(lines) < limit:
        start = file.tell()
        text = file.readline(_ROOM + 1).decode(errors="replace")
        size = len(text.encode())
        if size > room and lines:
            file.seek(start)
            break
        if size > room:
            return [text.encode()[:room].decode(errors="ignore")], True
        if not text:
            break
        lines.append(text)
        room -= size
    return lines, False


def _edit(workspace: Workspace, path: str, old: bytes, new: bytes) -> str:
    with workspace.changing:
        with workspace.file(path) as file:
            text = file.read(MAX_EDIT + 1)
        if len(text) > MAX_EDIT:
            raise ToolFailed(f"{shown(path)} is larger than {MAX_EDIT:,} bytes")
        edited = replaced(text, old, new, shown(path))
        if edited is None:
            return f"already so: nothing changed in {shown(path)}"
        workspace.write(path, edited)
    return f"edited {shown(path)}"


def replaced(text: bytes, old: bytes, new: bytes, path: str) -> bytes | None:
    """``text`` with ``old`` replaced by ``new``; None when that is already so.

    What it makes, it takes for "already so" when asked again (or, for a
    deletion, refuses): that is what makes an edit safe to repeat after a
    crash. Raises ToolFailed.
    """
    if old == new:
        raise ToolFailed("`old` and `new` are the same: nothing to edit")
    if _is_so(text, old, new):
        return None
    first = text.find(old)
    if first < 0:
        raise ToolFailed(f"`old` does not occur in {path}{_hint(text, old)}")
    if text.find(old, first + 1) >= 0:
        raise ToolFailed(f"`old` occurs more than once in {path}: give more lines")
    edited = text[:first] + new + text[first + len(old) :]
    if not _is_so(edited, old, new) and (new or old in edited):
        raise ToolFailed(f"this edit of {path} would match again: give more lines")
    return edited


def _is_so(text: bytes, old: bytes, new: bytes) -> bool:
    """Whether ``new`` stands there, and ``old`` at most as a part of it."""
    if not new or new not in text:
        return False
    if old not in new:
        return old not in text
    return all(old not in part for part in text.split(new))


def _hint(text: bytes, old: bytes) -> str:
    if b"\r\n" in text and b"\n" in old and b"\r\n" not in old:
        return ": its lines end in \\r\\n"
    return ": read the file and copy the text exactly"


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ToolFailed(f"the text is not valid Unicode: {error.reason}") from error

"""A tool that searches files, in a process of its own with a time limit."""

import os
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from events.errors import ToolFailed
from events.spec import Effect
from services.tools import grep
from services.tools.base import (
    MAX_OUTPUT,
    Arguments,
    Tool,
    ToolContext,
    ToolOutput,
    clip,
)
from services.tools.files import PathArgument, off_loop
from services.tools.process import Finished, run_bounded

MAX_SECONDS = 10.0
"""A search that takes longer has a pattern that will not end, or too large a tree."""


class SearchFilesArguments(Arguments, frozen=True, kw_only=True):
    """What to look for, and where."""

    pattern: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=2000, description="A Python regular expression"
        ),
    ]
    path: PathArgument = "."
    glob: Annotated[
        str, msgspec.Meta(max_length=500, description="Only files like *.py")
    ] = ""


class SearchFiles(Tool[SearchFilesArguments]):
    """Searches text files line by line."""

    name: ClassVar[str] = "search_files"
    description: ClassVar[str] = (
        "Search text files for a regular expression, line by line. Gives path:line: "
        "text. Skips .git, .venv, node_modules, __pycache__, links, binary and "
        "large files."
    )
    effect: ClassVar[Effect] = "read"
    arguments = SearchFilesArguments

    async def run(
        self, arguments: SearchFilesArguments, context: ToolContext
    ) -> ToolOutput:
        """Give the matches found in time. Raises ToolFailed."""
        fd = await off_loop(lambda: context.workspace.open(arguments.path))
        try:
            seconds = min(MAX_SECONDS, context.timeout)
            closed = [str(folder) for folder in context.workspace.closed]
            finished = await _grep(arguments, fd, closed, seconds)
        finally:
            os.close(fd)
        return ToolOutput(text=_told(finished, seconds))


async def _grep(
    arguments: SearchFilesArguments, fd: int, closed: list[str], seconds: float
) -> Finished:
    asked = msgspec.to_builtins(arguments)
    request = msgspec.json.encode({"fd": fd, "closed": closed, **asked})
    program = str(Path(grep.__file__))
    return await run_bounded(
        [sys.executable, "-I", "-S", program, request.decode()],
        seconds=seconds,
        keep=4 * MAX_OUTPUT,
        env={},
        pass_fds=(fd,),
    )


def _told(finished: Finished, seconds: float) -> str:
    text = clip(finished.output.text().rstrip("\n"), MAX_OUTPUT - 512)
    if finished.late:
        return f"{text}\n[stopped after {seconds:g} s: use a simpler pattern or a path]"
    if finished.code == grep.BAD_PATTERN:
        raise ToolFailed(f"invalid pattern: {text}")
    if finished.code:
        raise ToolFailed(f"the search broke off: {text[-500:] or finished.code}")
    return text or "no matches"

"""A tool that runs a shell command in the sandbox."""

from typing import Annotated, ClassVar

import msgspec

from events.errors import ToolFailed
from events.spec import Effect
from services.tools.base import (
    MAX_OUTPUT,
    Arguments,
    Tool,
    ToolContext,
    ToolOutput,
    clip,
)
from services.tools.process import Finished
from services.tools.sandbox import Sandbox

MAX_COMMAND = 64 * 1024
"""Bytes of a command: the system takes 128 KiB as one argument."""

_CANNOT_START = ("bwrap: ", "setpriv: ")
_NO_WRITE = (
    "\n[commands cannot write here: the workspace belongs to another user; "
    "use write_file]"
)


class BashArguments(Arguments, frozen=True, kw_only=True):
    """What to run, and for how long."""

    command: Annotated[
        str, msgspec.Meta(min_length=1, description="A command line for bash")
    ]
    timeout: Annotated[float, msgspec.Meta(gt=0, description="Seconds at most")] = 60.0


class Bash(Tool[BashArguments]):
    """Runs a command; twice is twice."""

    name: ClassVar[str] = "bash"
    description: ClassVar[str] = (
        "Run a shell command in the workspace, confined: no network, only the "
        "workspace and /tmp can be written; /tmp and processes are gone when it "
        "ends. Gives output and exit code."
    )
    effect: ClassVar[Effect] = "irreversible"
    arguments = BashArguments

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def run(self, arguments: BashArguments, context: ToolContext) -> ToolOutput:
        """Give what it printed and its exit code. Raises ToolFailed if it cannot start.

        When the time is up, or on cancellation, nothing of it goes on running.
        """
        _check(arguments.command)
        root, seconds = context.workspace.root, min(arguments.timeout, context.timeout)
        try:
            finished = await self._sandbox.run(
                root,
                arguments.command,
                key=context.key,
                seconds=seconds,
                closed=context.workspace.closed,
            )
        except OSError as error:
            raise ToolFailed(f"bash cannot be started: {error.strerror}") from error
        context.tell("info", "bash.ran", arguments.command[:500], code=finished.code)
        note = "" if self._sandbox.may_write(root) else _NO_WRITE
        return ToolOutput(text=_told(finished, seconds) + note)


def _check(command: str) -> None:
    try:
        size = len(command.encode())
    except UnicodeEncodeError as error:
        raise ToolFailed("the command is not valid Unicode") from error
    if "\0" in command:
        raise ToolFailed("the command has a NUL character")
    if size > MAX_COMMAND:
        raise ToolFailed(
            f"the command has {size:,} bytes, at most {MAX_COMMAND:,} can be run: "
            "write a script with write_file and run that"
        )


def _told(finished: Finished, seconds: float) -> str:
    text = clip(finished.output.text(), MAX_OUTPUT - 512)
    if finished.code == 1 and text.startswith(_CANNOT_START):
        raise ToolFailed(f"the sandbox cannot be started: {text.splitlines()[0][:500]}")
    if text and not text.endswith("\n"):
        text += "\n"
    if finished.late:
        return f"{text}[killed after {seconds:g} s, with all that it had started]"
    return f"{text}[exit code {finished.code}]"

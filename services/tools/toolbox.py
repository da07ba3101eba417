"""The tools that come with wakestream."""

from typing import Any, Final

from events.spec import Effect
from services.tools.base import Tool
from services.tools.bash import Bash
from services.tools.files import EditFile, ListDir, ReadFile, WriteFile
from services.tools.metadata import MetadataRead, MetadataWrite
from services.tools.sandbox import Sandbox, Unavailable
from services.tools.search import SearchFiles
from services.tools.tasks import TodoWrite

_WITHOUT_SANDBOX: Final[tuple[type[Tool[Any]], ...]] = (
    ListDir,
    ReadFile,
    WriteFile,
    EditFile,
    SearchFiles,
    TodoWrite,
    MetadataWrite,
    MetadataRead,
)

TOOLS: Final[dict[str, Effect]] = {
    Bash.name: Bash.effect,
    **{tool.name: tool.effect for tool in _WITHOUT_SANDBOX},
}
"""Names of the tools, and what each does to the world."""


def all_tools(sandbox: Sandbox | Unavailable) -> dict[str, Tool[Any]]:
    """The tools by name; bash is among them only if there is a sandbox for it."""
    tools: dict[str, Tool[Any]] = {tool.name: tool() for tool in _WITHOUT_SANDBOX}
    if isinstance(sandbox, Sandbox):
        tools[Bash.name] = Bash(sandbox)
    return tools

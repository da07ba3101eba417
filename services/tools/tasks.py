"""The agent's todo list, kept in its history."""

from typing import Annotated, ClassVar, Final

import msgspec

from events.errors import ToolFailed
from events.messages import Task
from events.spec import Effect
from services.tools.base import Arguments, StateContext, StateTool, ToolOutput

MAX_TITLE = 500
"""Characters of a title: a line, not a document."""

_MARKS: Final = {"pending": "[ ]", "in_progress": "[~]", "done": "[x]"}


class TodoWriteArguments(Arguments, frozen=True, kw_only=True):
    """The whole list, as it shall be from now on."""

    tasks: Annotated[
        list[Task],
        msgspec.Meta(max_length=100, description="The whole list; it replaces the old"),
    ]


class TodoWrite(StateTool[TodoWriteArguments]):
    """Replaces the whole list; the same list twice is the same."""

    name: ClassVar[str] = "todo_write"
    description: ClassVar[str] = (
        "Plan your work: replace your todo list. Give every task each time, with its "
        "status: pending, in_progress or done."
    )
    effect: ClassVar[Effect] = "idempotent"
    arguments = TodoWriteArguments

    def apply(
        self,
        arguments: TodoWriteArguments,
        context: StateContext,  # noqa: ARG002 - the port's signature
    ) -> ToolOutput:
        """Decide the new list; raises ToolFailed for a title that is none."""
        for number, task in enumerate(arguments.tasks, 1):
            if not task.title.strip() or len(task.title) > MAX_TITLE:
                raise ToolFailed(
                    f"task {number} needs a title of 1 to {MAX_TITLE} characters"
                )
        return ToolOutput(text=_text(arguments.tasks), tasks=tuple(arguments.tasks))


def _text(tasks: list[Task]) -> str:
    lines = [f"{_MARKS[task.status]} {task.title}" for task in tasks]
    return "\n".join(lines) or "the list is empty now"

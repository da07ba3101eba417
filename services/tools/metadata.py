"""The agent's notes: small facts kept in its history, seen by whoever watches it."""

from typing import Annotated, Any, ClassVar

import msgspec

from events.errors import ToolFailed
from events.spec import Effect
from services.tools.base import Arguments, StateContext, StateTool, ToolOutput, clip

MAX_NOTES = 16 * 1024
"""Bytes of JSON that all notes may have: they travel with every reader."""


class MetadataWriteArguments(Arguments, frozen=True, kw_only=True):
    """The notes to add or to change."""

    notes: Annotated[
        dict[str, Any],
        msgspec.Meta(description="Merged into the notes; null removes a name"),
    ]


class MetadataWrite(StateTool[MetadataWriteArguments]):
    """Merges notes by name; the same notes twice are the same."""

    name: ClassVar[str] = "metadata_write"
    description: ClassVar[str] = (
        "Keep small facts (JSON) with this execution: merged by name into what is "
        "there, null removes. At most 16 KiB in all; use files for more."
    )
    effect: ClassVar[Effect] = "idempotent"
    arguments = MetadataWriteArguments

    def apply(
        self, arguments: MetadataWriteArguments, context: StateContext
    ) -> ToolOutput:
        """Decide the change alone, so that two in one reply both count."""
        merged = {**context.notes, **arguments.notes}
        kept = {name: value for name, value in merged.items() if value is not None}
        size = len(msgspec.json.encode(kept))
        if size > MAX_NOTES:
            raise ToolFailed(
                f"the notes would have {size:,} bytes, at most {MAX_NOTES:,} are kept: "
                "remove some with null, or write a file"
            )
        return ToolOutput(
            text=f"{len(kept)} notes, {size:,} bytes", notes=arguments.notes
        )


class MetadataReadArguments(Arguments, frozen=True, kw_only=True):
    """Which note, or all."""

    name: Annotated[str, msgspec.Meta(description="One note; empty means all")] = ""


class MetadataRead(StateTool[MetadataReadArguments]):
    """Reads the notes; changes nothing."""

    name: ClassVar[str] = "metadata_read"
    description: ClassVar[str] = "Read the notes kept with this execution, as JSON."
    effect: ClassVar[Effect] = "read"
    arguments = MetadataReadArguments

    def apply(
        self, arguments: MetadataReadArguments, context: StateContext
    ) -> ToolOutput:
        """Give the notes as JSON; raises ToolFailed for a name that is not there."""
        wanted = arguments.name
        if wanted and wanted not in context.notes:
            names = ", ".join(context.notes) or "none"
            raise ToolFailed(clip(f"there is no such note; there are: {names}", 2048))
        value = context.notes[wanted] if wanted else context.notes
        return ToolOutput(text=clip(msgspec.json.encode(value).decode()))

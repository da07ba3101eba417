import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.errors import ToolFailed
from events.messages import Task
from services.tools.base import StateTool, Tool, ToolContext
from services.tools.sandbox import Sandbox, Unavailable
from services.tools.toolbox import TOOLS, all_tools
from services.tools.workspace import Workspace

EVERY = all_tools(Sandbox(None))


@pytest.fixture
def context(tmp_path: Path) -> Iterator[ToolContext]:
    """A call of an execution that has a note."""
    with Workspace(tmp_path) as workspace:
        yield ToolContext(workspace=workspace, key="call-1", notes={"a": 1, "b": [2]})


def test_bash_needs_a_sandbox() -> None:
    """Without a sandbox bash is not offered; everything else is."""
    assert set(EVERY) == set(TOOLS)
    assert set(all_tools(Unavailable("none"))) == set(TOOLS) - {"bash"}


def test_effects_are_what_a_crash_needs() -> None:
    """Only what may run twice says so."""
    assert TOOLS["bash"] == "irreversible"
    assert {name for name, effect in TOOLS.items() if effect == "read"} == {
        "list_dir",
        "read_file",
        "search_files",
        "metadata_read",
    }


@pytest.mark.parametrize("name", TOOLS)
def test_a_schema_is_one_object(name: str) -> None:
    """A provider gets one flat object schema with a description."""
    schema = EVERY[name].schema
    assert schema.name == name
    assert schema.description
    assert schema.parameters["type"] == "object"
    assert "$ref" not in json.dumps(schema.parameters)


JUNK = [
    "{",
    "[]",
    '"text"',
    "null",
    "\x00",
    '{"path": 1, "command": 1, "tasks": 1, "notes": 1, "name": 1, "pattern": 1}',
    '{"command": "ls", "unknown": true}',
    '{"path": "\\ud800", "command": "\\ud800", "x": "\\ud800"}',
    '{"tasks": [{"title": "x", "status": "odd"}], "path": {}, "name": []}',
    "[" * 100_000,
    '{"' + "k" * 1_000_000 + '": 1}',
]


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("junk", range(len(JUNK)))
def test_junk_is_told_to_the_model(name: str, junk: int) -> None:
    """Broken JSON, wrong types, unknown and endless fields are the model's mistake."""
    with pytest.raises(ToolFailed, match=f"invalid arguments for {name}"):
        EVERY[name].parse(JUNK[junk])


@pytest.mark.parametrize("name", sorted(set(TOOLS) - {"bash"}))
async def test_a_megabyte_is_survived(name: str, context: ToolContext) -> None:
    """1 MB in every text is done or refused, with an answer that is bounded."""
    tool = EVERY[name]
    long = "x" * 1_000_000
    values: dict[str, Any] = {
        "path": long,
        "content": long,
        "old": long,
        "new": long,
        "pattern": long,
        "name": long,
        "tasks": [{"title": long}],
        "notes": {"a": long},
    }
    fields = {field: values[field] for field in _required(tool) or ["path", "name"]}
    known = {name: value for name, value in fields.items() if name in _fields(tool)}
    with pytest.raises(ToolFailed) as told:
        await tool.run(tool.parse(json.dumps(known)), context)
    assert len(str(told.value)) < 3000


def _fields(tool: Tool[Any]) -> set[str]:
    return set(tool.schema.parameters["properties"])


def _required(tool: Tool[Any]) -> list[str]:
    required: list[str] = tool.schema.parameters.get("required", [])
    return required


def apply(name: str, context: ToolContext, arguments: dict[str, Any]) -> Any:
    """What a state tool decides for what a model sent."""
    tool = EVERY[name]
    assert isinstance(tool, StateTool)
    return tool.apply(tool.parse(json.dumps(arguments)), context)


def test_the_list_is_replaced_whole(context: ToolContext) -> None:
    """todo_write gives the whole new list as its effect."""
    tasks = [{"title": "one", "status": "done"}, {"title": "two"}]
    done = apply("todo_write", context, {"tasks": tasks})
    assert done.tasks == (Task(title="one", status="done"), Task(title="two"))
    assert done.text == "[x] one\n[ ] two"
    assert apply("todo_write", context, {"tasks": []}).tasks == ()


def test_a_title_is_needed(context: ToolContext) -> None:
    """Blank titles and endless lists are refused."""
    for tasks in ([{"title": "  "}], [{"title": "x" * 501}]):
        with pytest.raises(ToolFailed, match="title"):
            apply("todo_write", context, {"tasks": tasks})
    with pytest.raises(ToolFailed, match="length"):
        apply("todo_write", context, {"tasks": [{"title": "x"}] * 101})


def test_notes_give_the_change_alone(context: ToolContext) -> None:
    """The effect is what was written, so that two of one reply both count."""
    done = apply("metadata_write", context, {"notes": {"b": None, "c": {"d": 1}}})
    assert done.notes == {"b": None, "c": {"d": 1}}
    assert done.text.startswith("2 notes")


def test_notes_are_bounded_together(context: ToolContext) -> None:
    """What is there counts; taking out makes room."""
    full = ToolContext(
        workspace=context.workspace, key="k", notes={"old": "x" * 16_000}
    )
    with pytest.raises(ToolFailed, match="16,384"):
        apply("metadata_write", full, {"notes": {"new": "y" * 1000}})
    apply("metadata_write", full, {"notes": {"new": "y" * 1000, "old": None}})


def test_notes_are_read(context: ToolContext) -> None:
    """All, or one by name; a missing name lists those that there are."""
    assert msgspec.json.decode(apply("metadata_read", context, {}).text) == {
        "a": 1,
        "b": [2],
    }
    assert apply("metadata_read", context, {"name": "b"}).text == "[2]"
    with pytest.raises(ToolFailed, match="a, b"):
        apply("metadata_read", context, {"name": "z"})

"""The log may lie in the workspace: no tool reads it, writes it or finds it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from events.errors import InvalidInput, ToolFailed
from events.execution import Execution
from events.names import Key
from services.agents.loop import Means
from services.agents.open import open_model
from services.tools.base import ToolContext
from services.tools.sandbox import Sandbox, find_sandbox
from services.tools.toolbox import all_tools
from services.tools.workspace import Workspace

SECRET = "the password of the server"  # noqa: S105 - what must not be found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a workspace with a data folder in it, and ways into that."""
    data = tmp_path / ".wake"
    (data / "store").mkdir(parents=True)
    (data / "nats.conf").write_text(SECRET)
    (tmp_path / "link").symlink_to(".wake")
    (tmp_path / "file").symlink_to(".wake/nats.conf")
    for path in (tmp_path, data, data / "store"):
        path.chmod(0o777)
    return tmp_path


async def run(place: Path, name: str, arguments: str) -> str:
    """Run one tool on the workspace with its data folder closed."""
    sandbox = await find_sandbox()
    assert isinstance(sandbox, Sandbox)
    tool: Any = all_tools(sandbox)[name]
    with Workspace(place, closed=[place / ".wake"]) as workspace:
        context = ToolContext(workspace=workspace, key="k")
        output = await tool.run(tool.parse(arguments), context)
    text: str = output.text
    return text


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_file", '{"path": ".wake/nats.conf"}'),
        ("read_file", '{"path": "link/nats.conf"}'),
        ("read_file", '{"path": "file"}'),
        ("read_file", '{"path": "./x/../.wake/./nats.conf"}'),
        ("list_dir", '{"path": ".wake"}'),
        ("list_dir", '{"path": "link/store"}'),
        ("search_files", '{"pattern": ".", "path": ".wake"}'),
        ("write_file", '{"path": ".wake/nats.conf", "content": "mine"}'),
        ("write_file", '{"path": "link/store/new", "content": "mine"}'),
        ("edit_file", '{"path": "file", "old": "password", "new": "mine"}'),
    ],
)
async def test_a_tool_is_refused(place: Path, name: str, arguments: str) -> None:
    """Whatever way leads into the data folder, nothing is opened or changed there."""
    (place / "x").mkdir()
    with pytest.raises(ToolFailed, match="belongs to wakestream"):
        await run(place, name, arguments)
    assert (place / ".wake" / "nats.conf").read_text() == SECRET
    assert list((place / ".wake" / "store").iterdir()) == []


async def test_a_search_passes_it_over(place: Path) -> None:
    """A search over everything finds nothing in it."""
    (place / "mine.txt").write_text("the password of mine")
    found = await run(place, "search_files", '{"pattern": "password"}')
    assert found == "mine.txt:1: the password of mine"


async def test_a_command_sees_it_empty(place: Path) -> None:
    """In the sandbox there is nothing to read, and what is written there is gone."""
    command = "cat .wake/nats.conf file; ls -A .wake; echo mine > .wake/store/new"
    told = await run(place, "bash", f'{{"command": "{command}"}}')
    assert SECRET not in told
    assert "store" not in told.replace(".wake/store/new", "")
    assert list((place / ".wake" / "store").iterdir()) == []


def test_a_workspace_below_the_data_folder_is_open(place: Path) -> None:
    """The workspaces that wakestream makes lie in its own folder."""
    own = place / ".wake" / "workspaces" / "ada"
    own.mkdir(parents=True)
    with Workspace(own, closed=[place / ".wake"]) as workspace:
        workspace.write("notes.txt", b"mine")
    assert asyncio.run(run(place, "list_dir", "{}"))
    assert (own / "notes.txt").read_bytes() == b"mine"


async def test_a_workspace_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    """What was allowed when it was asked for may lead elsewhere by now."""
    named = tmp_path / "named"
    named.symlink_to("/etc")
    execution = Execution(Key("ada", "run-1"))
    execution.state.workspace = str(named)
    means = Means(open_model=open_model, tools={}, workspaces=tmp_path)
    with pytest.raises(InvalidInput, match="is a link now"):
        means.workspace(execution)

"""The projector: what is appended can be asked for, exactly, whatever happens."""

from pathlib import Path

import pytest
from histories import Story, call
from readmodels import Logs, ask, drift, projecting, raws

from events.messages import Usage
from events.names import Key


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where the read model is."""
    return tmp_path / "model" / "readmodel.duckdb"


def story(name: str, user: str = "ada") -> Story:
    """A history that ended well, with two steps and two calls."""
    told = Story(Key(user, name))
    told.running()
    told.wait(1)
    told.respond(call("a"), call("b"), usage=Usage(input=10, output=5), cost=0.25)
    told.finish("a")
    told.finish("b")
    told.respond(text="Done.")
    return told


async def test_what_was_appended_can_be_asked_for(model: Path) -> None:
    """Rows follow the log while it grows, and are what the execution says."""
    logs = Logs.empty()
    async with projecting(model, logs) as projector:
        told = Story(Key("ada", "one"))
        told.running()
        position = logs.add(told)
        await logs.events.stir()  # type: ignore[attr-defined]
        await projector.reached(position)
        found = await ask(projector, 'SELECT "user", status FROM executions')
        assert found == [("ada", "running")]
        told.respond(text="Done.")
        position = logs.add(told)
        await logs.events.stir()  # type: ignore[attr-defined]
        await projector.reached(position)
        found = await ask(projector, "SELECT status, output FROM executions")
        assert found == [("completed", "Done.")]
    assert drift(model, raws(logs.events)) == []

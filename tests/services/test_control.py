"""Control tools as a model is offered them, and what it makes of that."""

from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from events import control
from events.catalog import Parent
from events.errors import ToolFailed
from events.spec import AgentSpec
from events.state import State
from services.tools.control import offered


def state(*tools: str, depth: int | None = None, **agent: Any) -> State:
    """An execution of an agent with these tools; ``depth`` of a subagent."""
    parent = None if depth is None else Parent(execution="p", call_id="c", depth=depth)
    spec = AgentSpec(name="tester", tools=tools, **agent)
    return State(user="ada", id="run-1", agent=spec, parent=parent)


def test_a_control_tool_is_offered_to_whoever_names_it() -> None:
    """And to nobody else."""
    assert offered(state("bash")) == {}
    assert set(offered(state("bash", "ask_user"))) == {"ask_user"}
    both = state("await_event", "ask_user", "nonsense")
    assert set(offered(both)) == {"ask_user", "await_event"}


def test_subagents_are_offered_by_name() -> None:
    """Only those that there are; another agent's are not among them."""
    one = offered(state("spawn_agent", subagents=("coder", "explorer")))
    other = offered(state("spawn_agent", subagents=("helper",)))
    assert names(one["spawn_agent"]) == ["coder", "explorer"]
    assert names(other["spawn_agent"]) == ["helper"]


def names(schema: Any) -> Any:
    """The subagents that a schema lets one choose from."""
    return schema.parameters["properties"]["agent"]["enum"]


@pytest.mark.parametrize(
    ("depth", "subagents", "there"),
    [
        (None, ("helper",), True),
        (1, ("helper",), True),
        (2, ("helper",), False),
        (None, (), False),
    ],
)
def test_subagents_are_offered_only_where_they_may_be(
    depth: int | None, subagents: tuple[str, ...], *, there: bool
) -> None:
    """Not without any, nor at the limit of the depth."""
    one = state("spawn_agent", depth=depth, subagents=subagents, max_depth=2)
    assert ("spawn_agent" in offered(one)) == there


GOOD = {
    "ask_user": {"question": "Which?", "schema": {"enum": [1, 2]}, "within": 60},
    "await_event": {"event_type": "ci.done", "where": {"branch": "main"}},
    "spawn_agent": {"agent": "helper", "prompt": "Do it."},
}
BAD = {
    "ask_user": [{}, {"question": ""}, {"question": "?", "within": 0}, {"q": "?"}],
    "await_event": [{}, {"event_type": 1}, {"event_type": "a", "where": []}],
    "spawn_agent": [{}, {"agent": "helper"}, {"agent": "helper", "prompt": ""}],
}


@pytest.mark.parametrize("name", sorted(control.CONTROL))
def test_the_schema_says_what_is_taken(name: str) -> None:
    """What fits it is parsed, and what does not is told to the model."""
    whole = state(*control.CONTROL, subagents=("helper",))
    schema = offered(whole)[name]
    Draft202012Validator.check_schema(schema.parameters)
    fits = Draft202012Validator(schema.parameters).is_valid
    assert schema.parameters["type"] == "object"
    assert "$ref" not in msgspec.json.encode(schema).decode()
    assert fits(GOOD[name])
    control.parse(name, msgspec.json.encode(GOOD[name]).decode())
    for wrong in BAD[name]:
        assert not fits(wrong)
        with pytest.raises(ToolFailed):
            control.parse(name, msgspec.json.encode(wrong).decode())


@pytest.mark.parametrize("name", sorted(control.CONTROL))
def test_every_field_is_explained(name: str) -> None:
    """A model knows a tool by these words alone."""
    schema = offered(state(*control.CONTROL, subagents=("helper",)))[name]
    assert schema.description.endswith(".")
    for field in schema.parameters["properties"].values():
        assert field.get("description") or field["anyOf"][0]["description"]

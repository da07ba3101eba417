"""The tools that the core itself answers, as they are offered to a model."""

from functools import cache
from typing import Any

import msgspec

from events.control import CONTROL
from events.messages import ToolSchema
from events.state import State
from services.tools.base import flat

_DESCRIPTIONS = {
    "ask_user": (
        "Ask the user a question and wait for the answer, which is this call's "
        "result. It may take days: ask only what you cannot find out yourself and "
        "what you must not guess, everything in one question. To get something "
        "other than text, give a JSON schema of the answer: a choice, for example, "
        'is {"enum": ["red", "blue"]}.'
    ),
    "await_event": (
        "Wait until an event of a type arrives from outside (a build that ended, a "
        "message). Its payload is this call's result. With within, the wait fails "
        "after so many seconds."
    ),
    "spawn_agent": (
        "Let another agent do a part of the work, and wait for its summary, which "
        "is this call's result. Several in one reply work side by side."
    ),
}


def offered(state: State) -> dict[str, ToolSchema]:
    """The control tools that an execution may call, by name.

    ``spawn_agent`` only if it has subagents and is not too deep down itself; it
    names those that there are.
    """
    agent = state.agent
    there = {name: _schema(name) for name in CONTROL if name in agent.tools}
    if "spawn_agent" in there:
        plain = there.pop("spawn_agent")
        if agent.subagents and state.may_spawn:
            there["spawn_agent"] = _with_names(plain, agent.subagents)
    return there


@cache
def _schema(name: str) -> ToolSchema:
    parameters = flat(msgspec.json.schema(CONTROL[name]))
    for property_ in parameters["properties"].values():
        # Said in words: servers that turn schemas into grammars know no lookahead.
        property_.pop("pattern", None)
    return ToolSchema(name=name, description=_DESCRIPTIONS[name], parameters=parameters)


def _with_names(plain: ToolSchema, names: tuple[str, ...]) -> ToolSchema:
    """Say which subagents there are, so that no other is asked for."""
    properties: dict[str, Any] = plain.parameters["properties"]
    agent = {"type": "string", "enum": list(names), "description": "Which agent."}
    parameters = {**plain.parameters, "properties": {**properties, "agent": agent}}
    return msgspec.structs.replace(plain, parameters=parameters)

"""The tools that the core itself answers: they park the execution.

A runner never runs them; the decision that records the model's reply turns
them into events.
"""

from hashlib import blake2b
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from events import schemas
from events.errors import ToolFailed
from events.messages import ToolCall

Text = Annotated[str, Meta(min_length=1, max_length=16_384)]

MOST_AT_ONCE = 10
"""Subagents of one reply: side by side they share what is left of the limits."""

MOST_IN_ALL = 50
"""Subagents of one execution: each is a history of its own, and in its parent's."""

_EVENT_TYPE = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$(?!\n)"
"""Subject tokens; ``$`` alone would let a line break at the end pass."""


Within: TypeAlias = Annotated[
    float,
    Meta(gt=0, le=31_536_000, description="Seconds to wait at most; null: for ever."),
]
Field: TypeAlias = Annotated[str, Meta(max_length=128)]
Plain: TypeAlias = Annotated[str, Meta(max_length=256)] | int | float | bool | None
"""A value to compare with: no lists or objects, so that it can be looked up."""


class AskUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask the user a question and wait for the answer, at most ``within`` seconds."""

    question: Annotated[
        Text, Meta(description="What the user is asked, with all they need to know.")
    ]
    schema: (
        Annotated[
            dict[str, Any],
            Meta(
                description="A JSON schema (draft 2020-12, written out in full) that "
                "the answer must fit; null: any text."
            ),
        ]
        | None
    ) = None
    within: Within | None = None


class AwaitEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait until an event of this type arrives, at most ``within`` seconds."""

    event_type: Annotated[
        str,
        Meta(
            pattern=_EVENT_TYPE,
            max_length=256,
            description="The event's type: words with dots between them, as ci.done.",
        ),
    ]
    where: Annotated[
        dict[Field, Plain],
        Meta(
            max_length=16,
            description="Only an event whose payload has these values in these fields.",
        ),
    ] = {}
    within: Within | None = None


class SpawnAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let another agent do a part of the work and wait for its summary."""

    agent: Annotated[Text, Meta(description="Which agent.")]
    prompt: Annotated[
        Text,
        Meta(description="All that it needs to know: it hears nothing else of you."),
    ]


CONTROL: dict[str, type[AskUser | AwaitEvent | SpawnAgent]] = {
    "ask_user": AskUser,
    "await_event": AwaitEvent,
    "spawn_agent": SpawnAgent,
}


def parse(name: str, arguments: str) -> AskUser | AwaitEvent | SpawnAgent:
    """Decode a control tool's arguments; raises ToolFailed with what is wrong."""
    try:
        return msgspec.json.decode(arguments or "{}", type=CONTROL[name])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ToolFailed(f"invalid arguments for {name}: {error}") from error


def check(name: str, arguments: str) -> AskUser | AwaitEvent | SpawnAgent:
    """Decode them, and see that nothing in them stands in the way of an answer.

    Raises ToolFailed with what is wrong.
    """
    asked = parse(name, arguments)
    wrong = (
        isinstance(asked, AskUser) and asked.schema and schemas.problem(asked.schema)
    )
    if wrong:
        raise ToolFailed(f"invalid arguments for {name}: the schema: {wrong}")
    return asked


def unique(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    """Give every call of one reply an id of its own; models repeat or omit them."""
    ids = {call.id for call in calls}
    if len(ids) == len(calls) and "" not in ids:
        return calls
    seen: set[str] = set()
    result = []
    for number, call in enumerate(calls, 1):
        fresh = call.id
        while not fresh or fresh in seen:
            fresh = f"{fresh}#{number}"
        seen.add(fresh)
        result.append(msgspec.structs.replace(call, id=fresh))
    return tuple(result)


def child_id(user: str, execution: str, step: int, call_id: str) -> str:
    """Name a subagent: the same call gives the same child however often it is made."""
    name = f"{user}/{execution}/{step}/{call_id}"
    return blake2b(name.encode(), digest_size=16).hexdigest()


def digest(name: str, arguments: str) -> str:
    """What an approval is bound to: this tool with these arguments."""
    return blake2b(f"{name}\n{arguments}".encode(), digest_size=16).hexdigest()

"""What an execution asks of a person: in full, and how it is answered."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from events.names import Key
from events.state import State
from gateway.composition import Place, reach
from gateway.wording import one_line, printable

HEADS = {
    "question": "it asks:",
    "approval": "it asks whether this may run:",
    "doubt": "its runner was lost while this ran; it asks what to do:",
}
FLAGS = {
    "question": ("'ANSWER'",),
    "approval": ("--approve", "--deny 'REASON'", "--edit '{…}'"),
    "doubt": ("--run-again", "--tell 'WHAT YOU KNOW'"),
}
"""What may follow ``wake input ID``, by the kind of the request."""

LONGEST = 20_000
"""Characters that are shown of one thing; more would not be read."""


def asked(state: State) -> Iterator[str]:
    """What is asked, as printable lines; none if nothing is."""
    request = state.request
    if request is None:
        return
    yield HEADS[request.kind]
    call = state.call(request.call_id)
    if request.kind == "question" or call is None:
        shown = _whole(request.question)
    else:  # nothing of what is decided about may be hidden, nor look different
        shown = _whole(f"{call.name} {call.arguments}").replace("\n", " ")
    yield from (f"    {line}" for line in shown.rstrip().split("\n"))
    if request.kind == "question" and request.schema:
        yield f"  the answer must fit {_whole(json.dumps(request.schema))}"
    if request.deadline:
        yield f"  until {request.deadline:%Y-%m-%d %H:%M:%S} UTC"
    yield f"  request {one_line(request.request)}"


def answers(key: Key, state: State, place: Place) -> list[str]:
    """The commands that answer it; and that which goes on, if nobody else will."""
    if state.request is None:
        return []
    user = "" if key.user == "local" else f" --user {key.user}"
    name = shlex.quote(key.execution)
    first, *more = (
        f"wake input {name} {flag}{user}{place.options}"
        for flag in FLAGS[state.request.kind]
    )
    lines = [f"answer with: {first}", *(f"         or: {line}" for line in more)]
    if reach(place) is None:
        lines.append(f"and go on with: wake run --resume {name}{place.options}")
    return lines


def as_object(state: State) -> dict[str, Any] | None:
    """The same for programs; None if nothing is asked."""
    request = state.request
    if request is None:
        return None
    call = None if request.kind == "question" else state.call(request.call_id)
    return {
        "request": request.request,
        "kind": request.kind,
        "question": request.question,
        "tool": call and call.name,
        "arguments": call and call.arguments,
        "schema": request.schema,
        "digest": request.digest,
        "deadline": request.deadline,
    }


def _whole(text: str) -> str:
    shown = printable(text)
    if len(shown) <= LONGEST:
        return shown
    more = len(shown) - LONGEST
    return f"{shown[:LONGEST]}… ({more:,} characters more: see wake show --json)"

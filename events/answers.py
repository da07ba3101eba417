"""What an answer to a request has to be, and whether one is that."""

from typing import Any

import msgspec

from events import control, schemas
from events.catalog import AskKind, InputRequested
from events.errors import InvalidInput, ToolFailed
from events.state import Call

DECISIONS: dict[AskKind, tuple[str, ...]] = {
    "approval": ("approve", "deny", "edit"),
    "doubt": ("run_again", "tell"),
}
"""What a person may decide, by the kind of request; a question decides nothing."""


SHOWN = 400
"""Characters of a call's arguments that stand in a question."""


def question(kind: AskKind, call: Call) -> str:
    """Ask a person about a call, naming the tool and what it is called with."""
    what = f"{call.name} {call.arguments}"
    if len(what) > SHOWN:
        what = f"{what[:SHOWN]}… ({len(what):,} characters)"
    if kind == "approval":
        return f"May this run? {what}"
    return f"Did this happen? Its runner was lost while it ran. {what}"


def form(
    kind: AskKind, bound: str, parameters: dict[str, Any] | None
) -> dict[str, Any]:
    """The schema of a decision on the call that ``bound`` is the digest of.

    ``parameters``, those of the tool, are what edited arguments have to fit, unless
    they are unknown or of a kind that is not taken: then they are any object.
    """
    properties: dict[str, Any] = {
        "decision": {"enum": list(DECISIONS[kind])},
        "reason": {"type": ["string", "null"]},
        "digest": {"const": bound},
    }
    whole = {"type": "object", "required": ["decision"], "properties": properties}
    if kind == "approval":
        properties["arguments"] = parameters or {"type": "object"}
        if schemas.problem(whole) is not None:
            properties["arguments"] = {"type": "object"}
    return whole


def check(asked: InputRequested, call: Call | None, answer: Any) -> None:
    """Raise InvalidInput, with what is expected, unless this answers the request."""
    if asked.kind in DECISIONS:
        _check_decision(asked, call, answer)
    wrong = asked.schema and schemas.mismatch(asked.schema, answer)
    if wrong:
        raise InvalidInput(f"the answer does not fit the schema at {wrong}")


def _check_decision(asked: InputRequested, call: Call | None, answer: Any) -> None:
    allowed = DECISIONS[asked.kind]
    decision = answer.get("decision") if isinstance(answer, dict) else None
    if decision not in allowed:
        raise InvalidInput(
            f'answer with {{"decision": …}}, one of {", ".join(allowed)}; '
            f"got {answer!r:.80}"
        )
    if answer.get("digest", asked.digest) != asked.digest:
        raise InvalidInput(
            f"that is for other arguments (digest {answer['digest']!r:.80}) than those "
            f"of {asked.request} ({asked.digest}): look at them again"
        )
    if decision == "edit":
        _check_edit(call, answer.get("arguments"))


def _check_edit(call: Call | None, arguments: Any) -> None:
    """Raise InvalidInput for new arguments that no tool can take."""
    if not isinstance(arguments, dict):
        raise InvalidInput('an edit needs {"arguments": {…}}, the new arguments')
    if call is None or call.name not in control.CONTROL:
        return
    try:
        control.check(call.name, msgspec.json.encode(arguments).decode())
    except ToolFailed as error:
        raise InvalidInput(str(error)) from error

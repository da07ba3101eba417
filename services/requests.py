"""Commands as they are written: JSON in, a decision and an answer out.

What a foreign client may send and what it gets back; ``docs/subjects.md`` shows
it by example.
"""

from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from events import commands
from events.errors import InvalidInput, WakeError
from events.names import Key, check_id

NEW = "new"
"""In place of an execution id: the id follows from idempotency or command id."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Prompt = Annotated[str, Meta(min_length=1, max_length=200_000)]


class Tighter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one start; they may be lower than the agent type's, not higher."""

    max_steps: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_cost: Annotated[float, Meta(ge=0)] | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start an execution of an agent type; see ``events.catalog.Created``."""

    agent_type: Name
    input: Prompt
    command_id: str = ""
    idempotency_key: Annotated[str, Meta(max_length=256)] = ""
    metadata: dict[str, Any] = {}
    model: Name | None = None
    limits: Tighter = Tighter()
    workspace: str | None = None

    @property
    def digest(self) -> str:
        """What makes two starts the same: all but the id of the command."""
        same = msgspec.structs.replace(self, command_id="")
        encoded = msgspec.json.encode(same, order="deterministic")
        return blake2b(encoded, digest_size=16).hexdigest()


Request = Start | commands.AnyCommand

VERBS: dict[str, type[Any]] = {
    "start": Start,
    "pause": commands.Pause,
    "resume": commands.Resume,
    "cancel": commands.Cancel,
    "kill": commands.Kill,
    "input": commands.Input,
    "retry": commands.Retry,
}


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a command: accepted, or refused with code and message."""

    command_id: str
    execution: str
    accepted: bool
    version: int = 0
    position: int = 0
    status: str = ""
    code: str = ""
    message: str = ""


class _Id(msgspec.Struct):
    command_id: str = ""


_ids = msgspec.json.Decoder(_Id)


def parse(verb: str, body: bytes) -> Any:
    """Decode a command's body; raises InvalidInput with what is wrong and where."""
    kind = VERBS.get(verb)
    if kind is None:
        raise InvalidInput(f"no command {verb!r:.40}; there are: {', '.join(VERBS)}")
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"{verb}: {error}") from error


def command_id(body: bytes, position: int) -> str:
    """Return the id to answer under, even of a body that is not right.

    Without a usable one it is ``seq-<position of the command>``.
    """
    try:
        return check_id(_ids.decode(body or b"{}").command_id, "command_id")
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidInput):
        return f"seq-{position}"


def execution_of(key: Key, request: Any, command: str) -> Key:
    """Name the execution that a start on ``new`` is for.

    Raises InvalidInput for an idempotency key beside an explicit id.
    """
    if not isinstance(request, Start):
        return key
    if key.execution != NEW:
        if request.idempotency_key:
            raise InvalidInput(
                "give an execution id or an idempotency_key, not both: with a key, "
                f"publish on commands.{key.user}.{NEW}.start"
            )
        return key
    same = request.idempotency_key or f"\0{command}"
    name = f"{key.user}\n{same}".encode()
    return Key(key.user, blake2b(name, digest_size=16).hexdigest())


def refusal(command: str, key: Key, error: WakeError) -> Answer:
    """Say no."""
    return Answer(
        command_id=command,
        execution=key.execution,
        accepted=False,
        code=error.code,
        message=str(error),
    )

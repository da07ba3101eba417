"""What a trigger says: CloudEvents 1.0, structured or binary, or plain JSON.

The subject says for whom it is and of what type; what the message says of itself
must not contradict. Pure: bytes in, a ``Trigger`` or InvalidInput out.
"""

import base64
import binascii
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote

import msgspec

from events.commit import MAX_DEPTH, too_deep
from events.errors import InvalidInput
from events.names import WANTS_ANSWER, check_id, split_trigger
from events.triggers import MAX_PAYLOAD, Posted, check_body

STRUCTURED = "application/cloudevents"
"""How the content type of a structured event begins (its format follows a ``+``)."""

KIND = f"{STRUCTURED}+json"
"""The content type of what ``write`` writes, and the only format that is taken."""

PREFIX = "ce-"
"""How the headers of a binary event begin."""

SPEC = "1.0"

_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class Trigger(NamedTuple):
    """What happened, to whom; ``user`` may be ``EVERYBODY``.

    ``id`` is the same however often the same event is sent. ``answer`` is the id
    under which its sender wants to hear what came of it.
    """

    position: int
    user: str
    event_type: str
    id: str
    payload: Any
    answer: str | None = None


class _Event(msgspec.Struct):
    """A structured event, as far as it matters here."""

    specversion: str
    id: str
    source: str
    type: str
    datacontenttype: str | None = None
    data: Any = None
    data_base64: str | None = None


_event = msgspec.json.Decoder(_Event)
_encoder = msgspec.json.Encoder()


def read(posted: Posted) -> Trigger:
    """Read a trigger; raises InvalidInput, whose message is for its sender."""
    user, event_type = split_trigger(posted.subject)
    check_body(posted.body)
    headers = {name.lower(): value for name, value in posted.headers.items()}
    id_, payload = _content(posted, headers, event_type)
    _check_payload(payload)
    return Trigger(
        posted.position, user, event_type, id_, payload, wants_answer(posted)
    )


def write(event_id: str, source: str, event_type: str, data: Any) -> bytes:
    """Write a structured event, whole: no data passes for something else in it."""
    return _encoder.encode(
        {
            "specversion": SPEC,
            "id": event_id,
            "source": source,
            "type": event_type,
            "data": data,
        }
    )


def wants_answer(posted: Posted) -> str | None:
    """Return the id under which to answer; raises InvalidInput if it is none."""
    wanted = next(
        (v for n, v in posted.headers.items() if n.lower() == WANTS_ANSWER.lower()),
        None,
    )
    return None if wanted is None else check_id(wanted, WANTS_ANSWER)


def _content(
    posted: Posted, headers: Mapping[str, str], event_type: str
) -> tuple[str, Any]:
    """Return the id and the payload, by the mode of the message."""
    content_type = headers.get("content-type", "")
    if _media(content_type).startswith(STRUCTURED):
        return _structured(_parsed(posted.body, content_type), event_type)
    attributes = {
        name.removeprefix(PREFIX): value
        for name, value in headers.items()
        if name.startswith(PREFIX)
    }
    if attributes:
        return _binary(attributes, posted.body, content_type, event_type)
    payload = _json(posted.body) if posted.body else None
    if isinstance(payload, dict) and "specversion" in payload:
        return _structured(_convert(posted.body), event_type)
    return f"seq-{posted.position}", payload


# ── structured ───────────────────────────────────────────────────────────────


def _parsed(body: bytes, content_type: str) -> _Event:
    if _media(content_type) != KIND:
        _refuse(
            f"content type {content_type!r:.80} is not taken: send CloudEvents one by "
            f"one, as {KIND}"
        )
    return _convert(body)


def _convert(body: bytes) -> _Event:
    try:
        return _event.decode(body)
    except _UNREADABLE as error:
        raise InvalidInput(f"not a CloudEvent: {error}") from error


def _structured(event: _Event, event_type: str) -> tuple[str, Any]:
    _check(event.specversion, event.type, event_type)
    id_ = _identity(event.source, event.id)
    if event.data_base64 is None:
        return id_, event.data
    if event.data is not None:
        _refuse("a CloudEvent has data or data_base64, not both")
    try:
        data = base64.b64decode(event.data_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"data_base64 is no base64: {error}") from error
    return id_, _data(data, event.datacontenttype or "application/octet-stream")


# ── binary ───────────────────────────────────────────────────────────────────


def _binary(
    attributes: Mapping[str, str], body: bytes, content_type: str, event_type: str
) -> tuple[str, Any]:
    for name in ("specversion", "id", "source", "type"):
        if name not in attributes:
            _refuse(f"not a CloudEvent: the header {PREFIX}{name} is missing")
    said = {name: _plain(value) for name, value in attributes.items()}
    _check(said["specversion"], said["type"], event_type)
    id_ = _identity(said["source"], said["id"])
    return id_, _data(body, said.get("datacontenttype") or content_type)


def _plain(value: str) -> str:
    """Undo the percent-encoding of a header (CloudEvents HTTP binding 3.1.3.2)."""
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"header value {value!r:.80} is no UTF-8") from error


# ── what both have ───────────────────────────────────────────────────────────


def _check(version: str, event_type: str, expected: str) -> None:
    """Raise InvalidInput unless we know the version, and it is what the subject says.

    The subject is what senders need a permission for, so that is what counts.
    """
    if version != SPEC:
        _refuse(f"CloudEvents {version!r:.20} is not taken: send version {SPEC}")
    if event_type != expected:
        _refuse(
            f"its type is {event_type!r:.80} and its subject says {expected!r:.80}: "
            "publish it on triggers.<user>.<type>"
        )


def _identity(source: str, event_id: str) -> str:
    """Name an event by source and id, which together are its own (CloudEvents 3.1)."""
    if not source or not event_id:
        _refuse("not a CloudEvent: source and id must not be empty")
    name = f"{source}\n{event_id}".encode(errors="surrogatepass")
    return "ce-" + blake2b(name, digest_size=16).hexdigest()


def _data(data: bytes, content_type: str) -> Any:
    """Return data by its type: JSON as what it says, text as text, bytes as base64."""
    media = _media(content_type)
    if not media or media.endswith(("/json", "+json")):
        return _json(data) if data else None
    if not media.startswith("text/"):
        return base64.b64encode(data).decode()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the text is no UTF-8: {error}") from error


def _media(content_type: str) -> str:
    """Return the media type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except _UNREADABLE as error:
        raise InvalidInput(f"not JSON: {error}") from error


def _check_payload(payload: Any) -> None:
    """Raise InvalidInput for what no commit could hold, or no reader could read."""
    if payload is None or isinstance(payload, bool | int | float):
        return
    try:
        body = _encoder.encode(payload)
    except RecursionError as error:
        raise InvalidInput("its data is nested too deep") from error
    if len(body) > MAX_PAYLOAD:
        _refuse(f"its data has {len(body):,} bytes as JSON; allowed: {MAX_PAYLOAD:,}")
    if too_deep(b"[[[" + body + b"]]]"):  # so deep it stands in a commit
        _refuse(f"its data is nested deeper than {MAX_DEPTH - 3} levels")


def _refuse(message: str) -> NoReturn:
    raise InvalidInput(message)

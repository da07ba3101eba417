"""A commit: the events of one decision, one message of the log, atomic.

On the wire it is one JSON object whose last member is ``chain``:
BLAKE2b-256 over the previous chain value, the execution's key and the body
without ``chain``. So the bytes that were hashed are the bytes that are
stored, and cutting, reordering or editing a history shows (``wake verify``).
"""

import re
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from events.catalog import AnyEvent, Event, Purged
from events.errors import Corrupt, InvalidInput, UnknownEvent
from events.names import Key, Route

GENESIS = "0" * 64
"""The chain value before the first commit."""

MAX_DEPTH = 100
"""Levels of nesting: a decoder gives up at about 900, on a deep stack earlier."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKET = re.compile(rb"[\[\]{}]")
_SEAL = b',"chain":"'
SEAL_LENGTH = len(_SEAL) + 64 + len(b'"}')


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """A string that was taken out of a commit: it lies in BLOBS.

    ``path`` says where it belongs: a JSON pointer (RFC 6901) from ``events``.
    ``size`` is in bytes of UTF-8.
    """

    path: str
    sha256: str
    size: int


class Commit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The events of one decision.

    ``version`` counts commits of one history from 1. ``at`` is the time that
    the decision was given, ``by`` who caused it, ``cause`` the id of the
    command or trigger, if one did. With ``blobs`` it is packed: of those
    strings the events have only the beginning (``blobs.py``).
    """

    version: int
    id: str
    at: datetime
    by: str
    events: tuple[AnyEvent, ...]
    cause: str | None = None
    blobs: tuple[Blob, ...] = ()
    chain: str = ""

    @property
    def purges(self) -> bool:
        """Whether it is the last word of a history: that it is about to be deleted."""
        return bool(self.events) and isinstance(self.events[-1], Purged)


class Recorded(NamedTuple):
    """A commit and where it stands in the log."""

    position: int
    key: Key
    route: Route
    commit: Commit
    body: bytes
    """The commit as it was stored, byte for byte: the chain is over these."""
    trace: str = ""
    """The ``traceparent`` it was appended under, if any: a header, out of reach of
    the chain. It serves to observe and is no part of what happened, so a history
    stays whole where traces are off or a copy has lost them."""


def leftover(history: Sequence[Recorded]) -> bool:
    """Whether this is the end of a history that is being deleted, oldest first."""
    first, last = history[0].commit, history[-1].commit
    return first.version > 1 and last.purges


class _Head(msgspec.Struct):
    events: list[msgspec.Raw]


class _Tag(msgspec.Struct):
    type: str


_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Commit)
_head_decoder = msgspec.json.Decoder(_Head)
_tag_decoder = msgspec.json.Decoder(_Tag)
_KNOWN = frozenset(str(info.__struct_config__.tag) for info in Event.__subclasses__())


def seal(commit: Commit, key: Key, previous: str) -> tuple[Commit, bytes]:
    """Chain a commit to its predecessor; returns it and its body.

    Raises InvalidInput for what no reader could decode again.
    """
    bare = _encode(commit, key)
    chain = _link(previous, key, bare)
    body = bare[:-1] + _SEAL + chain.encode() + b'"}'
    return msgspec.structs.replace(commit, chain=chain), body


def unseal(body: bytes, key: Key) -> Commit:
    """Decode a body; raises UnknownEvent or Corrupt. ``check`` proves the chain."""
    try:
        return _decoder.decode(body)
    except _UNREADABLE as error:
        raise _explain(body, key, error) from error


def check(recorded: Recorded, previous: str) -> None:
    """Raise Corrupt unless the stored bytes follow ``previous``."""
    body, commit = recorded.body, recorded.commit
    bare = body[:-SEAL_LENGTH] + b"}"
    sealed = body[-SEAL_LENGTH:].startswith(_SEAL)
    if sealed and _link(previous, recorded.key, bare) == commit.chain:
        return
    raise Corrupt(
        f"history of {recorded.key} is broken at version {commit.version} "
        f"(position {recorded.position}): the stored commit does not follow its "
        "predecessor; restore EVENTS from a backup"
    )


def _encode(commit: Commit, key: Key) -> bytes:
    try:
        bare = _encoder.encode(commit)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{key}: a value is no JSON: {error}") from error
    if too_deep(bare):
        raise InvalidInput(f"{key}: a value is nested deeper than {MAX_DEPTH} levels")
    return bare


def too_deep(body: bytes) -> bool:
    """Whether JSON is nested deeper than ``MAX_DEPTH`` levels."""
    brackets = body.count(b"[") + body.count(b"{")
    return brackets > MAX_DEPTH and _depth(body) > MAX_DEPTH


def _depth(body: bytes) -> int:
    deepest = depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _link(previous: str, key: Key, bare: bytes) -> str:
    name = f"{previous}\n{key.user}\n{key.execution}\n".encode()
    return blake2b(name + bare, digest_size=32).hexdigest()


def _explain(body: bytes, key: Key, error: Exception) -> UnknownEvent | Corrupt:
    """Tell a newer version's event from damaged bytes."""
    try:
        tags = [
            _tag_decoder.decode(raw).type for raw in _head_decoder.decode(body).events
        ]
    except _UNREADABLE:
        return Corrupt(f"history of {key} has a commit that is no JSON: {error}")
    unknown = [tag for tag in tags if tag not in _KNOWN]
    if unknown:
        return UnknownEvent(
            f"history of {key} has the event {unknown[0]!r}, which this version of "
            "wakestream does not know: upgrade wakestream"
        )
    return Corrupt(f"history of {key} has a commit that cannot be read: {error}")

"""What a log line may say: bounded, without secrets, JSON whatever is given.

A text or a context never raises: a log call must not break what it tells of.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

import msgspec

from events.commit import too_deep
from events.logbook import MAX_CONTEXT, MAX_TEXT
from services.redaction import Redaction

MAX_VALUE = 2 * 1024
"""Bytes kept of each value in a context that is too big as a whole."""

MAX_NAME = 100
"""Bytes kept of a value's name in such a context."""

NOTE = "_cut"
"""The name under which a context says what it lacks."""

ROOM = MAX_CONTEXT - 100
"""Bytes for the values of a context that is cut; the rest is for the note."""

MAX_WORD = 64
"""Characters of an event type."""

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")

T = TypeVar("T")
R = TypeVar("R")


def phrase(value: object, redact: Redaction, limit: int = MAX_TEXT) -> str:
    """Return a text of at most ``limit`` bytes; one that is cut says so."""
    text = value if type(value) is str else _safely(_plain, value) or _name(value)
    if len(text) <= limit // 4:  # a character has four bytes at most
        return _sound(redact(text))
    window = text[: limit + redact.longest]
    clean = _sound(redact(window))
    whole = len(window) == len(text)
    if not whole and redact.longest:
        clean = clean[: -redact.longest]
    encoded = clean.encode()
    if whole and len(encoded) <= limit:
        return clean
    note = f"… ({len(text):,} characters)"
    return encoded[: limit - len(note) - 2].decode(errors="ignore") + note


def word_of(event_type: str) -> str:
    """Return it as a logbook takes it; raises TypeError for what is no text."""
    return _word(event_type[:MAX_WORD])  # cut first: words are remembered


@lru_cache(maxsize=1024)  # few are in use
def _word(event_type: str) -> str:
    parts = (_UNFIT.sub("_", part) for part in event_type.split("."))
    return ".".join(filter(None, parts)) or "unnamed"


def particulars(context: Mapping[str, object], redact: Redaction) -> bytes:
    """Return a context as a JSON object of at most ``MAX_CONTEXT`` bytes.

    Of one that is too big, too deep or no JSON the values are kept that fit,
    each cut to ``MAX_VALUE``; it says what it lacks.
    """
    encoded = _safely(_encoder.encode, context)
    if encoded is not None and len(encoded) <= MAX_CONTEXT and not too_deep(encoded):
        return redact.json(encoded)
    return _cut(context, redact)


def _cut(context: Mapping[str, object], redact: Redaction) -> bytes:
    members: list[bytes] = []
    room = ROOM
    for name, value in context.items():
        member = _member(name, value, redact)
        room -= len(member) + 1
        if room < 0:
            lacking = f"{len(context) - len(members):,} of {len(context):,} values"
            members.append(_encoder.encode({NOTE: lacking})[1:-1])
            break
        members.append(member)
    return b"{" + b",".join(members) + b"}"


def _member(name: str, value: object, redact: Redaction) -> bytes:
    """Return ``"name":value``, the value as text if it cannot stay as it is."""
    encoded = _safely(_encoder.encode, {name: value})
    if encoded is None or len(encoded) > MAX_VALUE or too_deep(encoded):
        if encoded is not None and type(value) is not str:
            value = encoded.decode()
        text = phrase(value, redact, MAX_VALUE)
        encoded = _encoder.encode({phrase(name, redact, MAX_NAME): text})
    return redact.json(encoded)[1:-1]


def _describe(value: object) -> str:
    """Stand in for what JSON has no form for."""
    return _sound(str(value))[:MAX_VALUE]


_encoder = msgspec.json.Encoder(enc_hook=_describe)


def _safely(make: Callable[[T], R], value: T) -> R | None:
    """Return what ``make`` makes of a value, None if it fails."""
    try:
        return make(value)
    except Exception:  # noqa: BLE001 - runs whatever code the value brings along
        return None


def _plain(value: object) -> str:
    return "".join((str(value),))  # not a subclass of str, with methods of its own


def _name(value: object) -> str:
    return f"<{type(value).__name__}>"


def _sound(text: str) -> str:
    """Return ``text`` fit for UTF-8: lone halves of a character are replaced."""
    if text.isascii():
        return text
    return text.encode(errors="replace").decode()

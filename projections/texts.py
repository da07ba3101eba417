"""How long texts, times and values come into the read model.

Of a text its beginning is kept, and its size beside it: the whole stands in the
history (``wake show``). What a commit itself has put aside (``events/blobs.py``)
is kept as the commit has it: its first 200 characters and a note.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from events.commit import Commit

LENGTH = 4_000
"""Characters of a text that are kept: enough to search and to show in a list."""

_ZERO = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, as all rows are
_ZERO_UTC = datetime(1970, 1, 1, tzinfo=UTC)

_encode = msgspec.json.Encoder().encode

Sizes = dict[str, int]
"""The sizes of the texts that a commit has put aside, by where they belong."""

NONE: Sizes = {}


def sizes_of(commit: Commit) -> Sizes:
    """Say what a commit has put aside, by path (``/<event>/<field>…``)."""
    return {b.path: b.size for b in commit.blobs} if commit.blobs else NONE


def cut(text: str) -> str:
    """Keep the beginning of a text; cutting twice is the same."""
    return text if len(text) <= LENGTH else text[:LENGTH]


def size(text: str) -> int:
    """Count the bytes of a text."""
    return len(text) if text.isascii() else len(text.encode())


def as_json(value: Any) -> str | None:
    """Write a value down, whole: half a value is none. Nothing for what is empty."""
    return _encode(value).decode() if value else None


def utc(moment: datetime) -> datetime:
    """Return a time as rows have it: UTC, without saying so.

    By subtraction: ``replace`` takes ten times as long, and each event has a time.
    """
    try:
        return _ZERO + (moment - _ZERO_UTC)
    except (TypeError, OverflowError):  # without a zone; or at the end of all times
        return moment.replace(tzinfo=None)


def utc_or_none(moment: datetime | None) -> datetime | None:
    """Return a time as rows have it, if there is one."""
    return None if moment is None else utc(moment)

"""Pages that stay where they are while rows come and go: each begins after a row.

A cursor has the values that its page ended with, in the order of the query, and
a digest of what was asked: it is good for that and nothing else.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from events.errors import InvalidInput
from projections.queries import Paged

DIGEST = 8
"""Bytes that tell one query from another: it is a mistake to be found, no attack."""

APART = ("limit", "cursor", "min_position", "wait")
"""What may change from page to page."""


class Key(NamedTuple):
    """A column that rows are ordered by; nulls come last, whichever way."""

    column: str
    type: Any
    descending: bool = False

    @property
    def order(self) -> str:
        """What stands in ORDER BY."""
        return f"{self.column} {'DESC' if self.descending else 'ASC'} NULLS LAST"

    def after(self, name: str, value: Any) -> str:
        """The condition that a row comes after a value that is bound as ``name``."""
        if value is None:
            return "false"
        sign = "<" if self.descending else ">"
        return f"({self.column} {sign} ${name} OR {self.column} IS NULL)"


class Ordering(NamedTuple):
    """A total order: no two rows have the same values of all its keys."""

    keys: tuple[Key, ...]

    @property
    def sql(self) -> str:
        """What stands after ORDER BY."""
        return ", ".join(key.order for key in self.keys)

    def beyond(self, values: Sequence[Any]) -> tuple[str, dict[str, Any]]:
        """The condition for what comes after a row, and what is bound in it."""
        bound = {f"after_{n}": value for n, value in enumerate(values)}
        same: list[str] = []
        cases = []
        for key, (name, value) in zip(self.keys, bound.items(), strict=True):
            cases.append(" AND ".join([*same, key.after(name, value)]))
            same.append(f"{key.column} IS NOT DISTINCT FROM ${name}")
        used = {n: v for n, v in bound.items() if any(f"${n}" in c for c in cases)}
        return f"({' OR '.join(cases)})", used


def cursor_of(request: Paged, values: Sequence[Any]) -> str:
    """Say where a page of a request ended."""
    body = msgspec.json.encode([_digest(request), list(values)])
    return urlsafe_b64encode(body).decode().rstrip("=")


def values_of(request: Paged, ordering: Ordering) -> list[Any] | None:
    """Where the page before ended, if there was one; raises InvalidInput."""
    if request.cursor is None:
        return None
    digest, values = _opened(request.cursor)
    if digest != _digest(request):
        raise InvalidInput(
            "this cursor is of another query: ask with the sort and the filters that "
            "it came from, or without a cursor from the beginning"
        )
    try:
        pairs = zip(values, ordering.keys, strict=True)
        return [msgspec.convert(value, key.type) for value, key in pairs]
    except (ValueError, msgspec.ValidationError) as error:
        raise _none() from error


def _opened(cursor: str) -> tuple[str, list[Any]]:
    try:
        body = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(body, type=tuple[str, list[Any]])
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise _none() from error


def _none() -> InvalidInput:
    return InvalidInput(
        "this is no cursor: take it as it is from `next` of the page before"
    )


def _digest(request: Paged) -> str:
    asked = msgspec.to_builtins(request)
    rest = {name: value for name, value in asked.items() if name not in APART}
    body = msgspec.json.encode([request.subject, rest], order="deterministic")
    return blake2b(body, digest_size=DIGEST).hexdigest()

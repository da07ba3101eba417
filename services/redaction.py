"""Keeping secrets out of what people read: error messages and log lines.

Known are the values of environment variables that are named like secrets.
Recognised are keys and tokens by what stands before them, and members of JSON
objects by how their names end.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, AnyStr

import msgspec

HIDDEN = "…"
"""What stands in a secret's place."""

SHORTEST = 8
"""Characters of a secret: a shorter value is a setting, and cutting it would maim
the text."""

_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
_MARKS = ("sk-", "bearer", "x-api-key")
_MARKED = re.compile(r"""(?i)\b(?:sk-|bearer\s+["']?|x-api-key\W+)[^\s"'\\,;]+""")
_NAMES = ("password", "secret", "token", "api_key", "api-key", "authorization")
_NAMED = re.compile(rf"(?i)(?:{'|'.join(_NAMES)})\Z")
_TRACES = (*map(str.encode, _MARKS), *(f'{name}":"'.encode() for name in _NAMES))
"""Lowered JSON text without any of these holds nothing that is recognised."""

_encoder = msgspec.json.Encoder()


class Redaction:
    """Hides the secrets of an environment, as it is now, and what looks like one.

    ``longest``: characters of the longest known secret. Who cuts a text cuts
    that much more after hiding: the cut may have gone through a secret.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        values = {
            value.strip()
            for name, value in environment.items()
            if _VARIABLE.search(name)
        }
        # The longest first: one may be a part of another.
        secrets = sorted(filter(_is_secret, values), key=len, reverse=True)
        self._known = tuple(secrets)
        self._encoded = tuple(_encoder.encode(value)[1:-1] for value in secrets)
        self.longest = max(map(len, secrets), default=0)

    def __call__(self, text: str) -> str:
        """Return ``text`` without secrets."""
        for secret in self._known:
            text = text.replace(secret, HIDDEN)
        return _MARKED.sub(HIDDEN, text) if _holds(text.lower(), _MARKS) else text

    def json(self, text: bytes) -> bytes:
        """Return compact JSON without secrets in its strings, names included."""
        if not self._suspects(text):
            return text
        return _encoder.encode(self._cleaned(msgspec.json.decode(text)))

    def _suspects(self, text: bytes) -> bool:
        """Say quickly whether there may be a secret; if not, there is none."""
        return _holds(text.lower(), _TRACES) or _holds(text, self._encoded)

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self._cleaned(entry) for entry in value]
        if isinstance(value, dict):
            return {self(name): self._member(name, of) for name, of in value.items()}
        return value

    def _member(self, name: str, value: Any) -> Any:
        secret = isinstance(value, str) and _NAMED.search(name)
        return HIDDEN if secret else self._cleaned(value)


def _holds(text: AnyStr, parts: Iterable[AnyStr]) -> bool:
    for part in parts:  # noqa: SIM110 - any() takes three times as long, for each line
        if part in text:
            return True
    return False


def _is_secret(value: str) -> bool:
    """Not a setting, and not bytes that no text can hold."""
    return len(value) >= SHORTEST and not any("\ud800" <= c <= "\udfff" for c in value)

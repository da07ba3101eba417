"""The keys that tokens are verified with: one secret, or a file of public keys."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from jwt.exceptions import PyJWKError

from events.errors import Misconfigured

logger = logging.getLogger(__name__)

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
"""What a public key may be for; a shared secret among them would be none."""

LARGEST = 1024 * 1024
"""Bytes of a file of keys: more is another file by mistake."""

LOOK = 1.0
"""Seconds between two looks at the file: a forged token must not cost one each."""

LEAST_RSA = 2048
"""Bits of an RSA key."""


class KeyFile:
    """The public keys of a JWKS file, read again when the file changes.

    One that cannot be read leaves the keys as they were: a rotation that goes
    wrong locks nobody out. Raises Misconfigured if the first reading fails.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._clock = path, clock
        self._mark, self._keys = self._read()
        self._looked = clock()

    @property
    def current(self) -> Mapping[str, jwt.PyJWK]:
        """The keys by their ids; another object once they are others."""
        if self._clock() - self._looked >= LOOK:
            self._looked = self._clock()
            self._renew()
        return self._keys

    def key(self, kid: object) -> jwt.PyJWK | None:
        """The key of this id, if there is one."""
        return self.current.get(kid) if isinstance(kid, str) else None

    def _renew(self) -> None:
        try:
            if _mark(self._path) != self._mark:
                self._mark, self._keys = self._read()
                logger.info("%s: %d keys", self._path, len(self._keys))
        except (Misconfigured, OSError) as error:
            mark = _mark_or_none(self._path)
            if mark != self._mark:
                self._mark = mark  # told once for each change
                logger.warning("%s; the keys before it still hold", error)

    def _read(self) -> tuple[object, Mapping[str, jwt.PyJWK]]:
        try:
            mark = _mark(self._path)
            with self._path.open("rb") as file:
                text = file.read(LARGEST + 1)
        except OSError as error:
            raise Misconfigured(
                f"gateway.jwks_file: {self._path} cannot be read: {error.strerror}"
            ) from error
        try:
            return mark, _keys(text)
        except ValueError as error:
            raise Misconfigured(f"gateway.jwks_file: {self._path} {error}") from error


def _mark(path: Path) -> object:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _mark_or_none(path: Path) -> object:
    try:
        return _mark(path)
    except OSError:
        return None


def _keys(text: bytes) -> dict[str, jwt.PyJWK]:
    """The keys in a file; raises ValueError with what is wrong."""
    if len(text) > LARGEST:
        raise ValueError(f"is larger than {LARGEST // 1024} KiB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not any(map(_signs, entries)):
        raise ValueError('holds no keys for signatures: it must be {"keys": [...]}')
    keys: dict[str, jwt.PyJWK] = {}
    for number, entry in enumerate(entries, 1):
        if not _signs(entry):
            continue
        kid, key = _key(entry, number)
        if kid in keys:
            raise ValueError(f"has the kid {kid!r:.80} twice")
        keys[kid] = key
    return keys


def _signs(entry: Any) -> bool:
    """Whether a key may be one for signatures (RFC 7517, section 4.2).

    Others, as identity providers publish them beside, are none of ours.
    """
    return not isinstance(entry, dict) or entry.get("use", "sig") == "sig"


def _key(entry: Any, number: int) -> tuple[str, jwt.PyJWK]:
    kid = entry.get("kid") if isinstance(entry, dict) else None
    if not isinstance(kid, str) or not kid:
        raise ValueError(f"has no kid in key {number}: tokens name their key by it")
    try:
        key = jwt.PyJWK(entry)
    except (PyJWKError, jwt.InvalidKeyError, ValueError, TypeError) as error:
        raise ValueError(f"key {kid!r:.80} cannot be used: {error}") from error
    if key.algorithm_name not in ALGORITHMS:
        raise ValueError(
            f"key {kid!r:.80} is for {key.algorithm_name}; allowed are "
            f"{', '.join(sorted(ALGORITHMS))}"
        )
    if getattr(key.key, "key_size", LEAST_RSA) < LEAST_RSA and entry["kty"] == "RSA":
        raise ValueError(f"key {kid!r:.80} has fewer than {LEAST_RSA} bits")
    return kid, key

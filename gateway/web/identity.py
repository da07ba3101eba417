"""Who asks over HTTP, and what that one may see."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from datetime import datetime

import msgspec

from events.errors import InvalidInput
from events.names import EVERYBODY, Key

ADMIN = "admin"
"""The role that sees everybody's executions."""

ENCODED = "sub_"
"""How the user begins that stands for a subject which is no subject token."""

MAX_SUBJECT = 45
"""Bytes of a subject that has to be encoded: 64 characters hold no more."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a token was given to, as one may believe it: it was verified.

    ``user`` is a subject token. ``tier`` is None if the token names none. A feed
    token (``feed``) is good for watching only; with ``execution``, for that one.
    """

    user: str
    expires: datetime
    tier: str | None = None
    roles: frozenset[str] = frozenset()
    feed: bool = False
    execution: str | None = None

    @property
    def admin(self) -> bool:
        """Whether everybody's executions may be seen and steered."""
        return ADMIN in self.roles and not self.feed

    def may_see(self, key: Key) -> bool:
        """Whether this one may know that an execution is there."""
        if self.execution not in {None, key.execution}:
            return False
        return self.admin or key.user == self.user


Authenticate = Callable[[str], Identity]
"""Verify a token and say whose it is; raises ``problems.Unauthorized``."""


def user_of(subject: str) -> str:
    """The user that a token's ``sub`` names: itself, or encoded if it is no token.

    Two subjects never give the same user: one that looks encoded is encoded too.
    Raises InvalidInput for one that is empty or too long.
    """
    plain = _PLAIN.fullmatch(subject) and subject != EVERYBODY
    if plain and not subject.startswith(ENCODED):
        return subject
    raw = subject.encode("utf-8", "surrogatepass")
    if not 1 <= len(raw) <= MAX_SUBJECT:
        raise InvalidInput(
            f"sub {subject!r:.80} cannot name a user: 1 to 64 of A-Z a-z 0-9 _ -, or "
            f"up to {MAX_SUBJECT} bytes of any text"
        )
    return ENCODED + urlsafe_b64encode(raw).decode().rstrip("=")


def subject_of(user: str) -> str:
    """The ``sub`` that gives this user; the reverse of ``user_of``."""
    if not user.startswith(ENCODED):
        return user
    code = user.removeprefix(ENCODED)
    try:
        raw = urlsafe_b64decode(code + "=" * (-len(code) % 4))
        return raw.decode("utf-8", "surrogatepass")
    except (NotBase64, UnicodeDecodeError):
        return user  # nobody we named

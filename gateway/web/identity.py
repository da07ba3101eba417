"""Who asks over HTTP, and what that one may see."""

from collections.abc import Callable
from datetime import datetime

import msgspec

from events.names import Key

ADMIN = "admin"
"""The role that sees everybody's executions."""


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

"""How much of what all share one user may have in hand at a time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.web.problems import TooManyRequests

MOST: Final = 32
"""Parts that one user may have: of the projector's 256 questions, an eighth."""

SOON: Final = 1.0
"""Seconds after which it is worth to ask again."""


class Share:
    """Counts by user; who has nothing in hand is forgotten."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()

    @contextmanager
    def of(self, user: str, parts: int = 1) -> Iterator[None]:
        """Have so many parts as long as the block lasts; raises TooManyRequests."""
        if self._counts[user] + parts > self._most:
            raise TooManyRequests(
                "too many of your questions are being answered at once: wait for some",
                retry_after=SOON,
            )
        self._counts[user] += parts
        try:
            yield
        finally:
            self._counts[user] -= parts
            if not self._counts[user]:
                del self._counts[user]

    def __len__(self) -> int:
        return len(self._counts)

"""Logins that fail: how many from where, so that guessing is slow."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.web.problems import TooManyRequests

FAILURES: Final = 10
"""Tokens that may be wrong from one address within ``WINDOW``."""

WINDOW: Final = 60.0
"""Seconds."""

MOST: Final = 10_000
"""Addresses that are remembered; the one seen longest ago is forgotten."""


class Logins:
    """Counts failures by address.

    Only who fails is slowed: a token that is good is taken from any address, so
    that nobody can lock out others who share one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, address: str) -> None:
        """Note one; raises TooManyRequests from the eleventh in a minute on."""
        now = self._clock()
        since, count = self._failures.pop(address, (now, 0))
        if now - since >= WINDOW:
            since, count = now, 0
        self._failures[address] = since, count + 1
        if len(self._failures) > MOST:
            self._failures.popitem(last=False)
        if count >= FAILURES:
            raise TooManyRequests(
                "too many tokens that are not good came from your address",
                retry_after=since + WINDOW - now,
            )

    def __len__(self) -> int:
        return len(self._failures)

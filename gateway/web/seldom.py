"""What strangers can bring about is logged seldom: the reason once, then how often."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

EVERY = 60.0
"""Seconds in which one reason is written once."""

REMEMBERED = 256
"""Reasons that are told apart; beyond, the oldest are forgotten."""


class Seldom:
    """Writes to ``logger``: each reason once in ``EVERY`` seconds."""

    def __init__(
        self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._clock = logger, clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def warning(self, reason: str, detail: str = "") -> None:
        """Write a warning, with how often its reason was kept back since the last."""
        now = self._clock()
        since, kept_back = self._seen.get(reason, (now - EVERY, 0))
        if now - since < EVERY:
            self._seen[reason] = since, kept_back + 1
            return
        self._seen[reason] = now, 0
        self._seen.move_to_end(reason)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        before = f" (and {kept_back:,} times before)" if kept_back else ""
        self._logger.warning("%s%s%s", reason, f": {detail}" * bool(detail), before)

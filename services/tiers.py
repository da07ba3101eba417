"""Tiers: what users of each kind may do, and which kind a user is.

A tier that the gateway vouches for counts; then what an admin has written down in
the bucket ACCOUNTS; then what the gateway vouched for last. Of whom nobody has said
anything, ``default`` is the tier; if that is None there is no limit.
"""

from collections.abc import Mapping
from typing import NamedTuple

from events.quota import Allotment
from events.register import Register

FREE = "free"
"""The tier of whoever comes over HTTP with a token that names none."""


class Tier(NamedTuple):
    """What a kind of user may do; None: as much as wanted."""

    name: str
    allotment: Allotment = Allotment()
    least_interval: float = 1.0
    most_schedules: int = 100


class Tiers:
    """Says what each user may do."""

    def __init__(
        self, tiers: Mapping[str, Tier], accounts: Register, default: str | None = None
    ) -> None:
        self._tiers, self._accounts, self._default = tiers, accounts, default

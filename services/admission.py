"""Admission: how much a user may start; atomically right, a refusal is true."""

from events.quota import Report
from events.register import Register
from services.handler import Handler
from services.tiers import Tiers


class Admission:
    """Admits starts and retries; and tells how far the limits are used."""

    def __init__(self, handler: Handler, quotas: Register, tiers: Tiers) -> None:
        self._handler, self._quotas, self._tiers = handler, quotas, tiers

    async def limits(self, user: str, tier: str | None = None) -> Report:
        """Tell how far a user's limits are used, as the log has it now.

        ``tier`` is the one a token names, if it names one. Raises InvalidInput for a
        tier that there is not, and Unavailable.
        """
        raise NotImplementedError

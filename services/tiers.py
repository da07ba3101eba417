"""Tiers: what users of each kind may do, and which kind a user is.

A tier that the gateway vouches for counts; then what an admin has written down in
the bucket ACCOUNTS. Who comes with a token that names none, and has no account, is
free. Of who comes without a token, what the gateway vouched for last counts, and if
it never did, ``default``; if that is None there is no limit.
"""

from collections.abc import Mapping
from typing import NamedTuple

from events.errors import InvalidInput, Misconfigured
from events.inbox import Order
from events.names import ASKED_BY, TIER, check_id
from events.quota import Allotment
from services.accounts import Accounts
from services.schedules import ANYTHING, Allowance

FREE = "free"
"""The tier of whoever comes with a token that names none."""


class Tier(NamedTuple):
    """What a kind of user may do; ``name`` None: whoever nobody has said anything of.

    ``priority``: what is started goes into the lane that is served first.
    ``vouched``: the gateway says that this user is of it.
    """

    name: str | None = None
    allotment: Allotment = Allotment()
    schedules: Allowance = ANYTHING
    priority: bool = False
    vouched: bool = False


class Asker(NamedTuple):
    """Who asks. ``token``: with one of the user's own, which may name a ``tier``."""

    by: str
    token: bool = False
    tier: str | None = None


def asker_of(order: Order) -> Asker:
    """Say who sent a command; raises InvalidInput.

    What headers say counts only at the gateway's door. A tier counts for one's own
    executions: it says nothing of others'.
    """
    user = order.key.user
    if order.door != "gateway":
        return Asker(user)
    by = check_id(order.headers.get(ASKED_BY, user), "user")
    if by != user:
        return Asker(by)
    return Asker(by, token=True, tier=order.headers.get(TIER))


class Tiers:
    """Knows the tiers, and finds a user's."""

    def __init__(
        self, tiers: Mapping[str, Tier], accounts: Accounts, default: str | None = None
    ) -> None:
        self._tiers, self._accounts, self._default = tiers, accounts, default

    async def of(self, user: str, asker: Asker, remembered: str = "") -> Tier:
        """Find the tier of a user; ``remembered`` was vouched for before.

        Raises InvalidInput for a tier that there is not, Corrupt, Unavailable.
        """
        if asker.token and asker.tier is not None:
            return self.named(asker.tier)._replace(vouched=True)
        account = await self._accounts.find(user)
        if account is not None and account.tier:
            return self._of_account(user, account.tier)
        if asker.token:
            return self.named(FREE)._replace(vouched=True)
        known = self._tiers.get(remembered)
        if known is not None:
            return known
        return Tier() if self._default is None else self.named(self._default)

    def named(self, name: str) -> Tier:
        """Return a tier; raises InvalidInput."""
        if name in self._tiers:
            return self._tiers[name]
        raise InvalidInput(f"no tier {name!r:.80}; there are: {', '.join(self._tiers)}")

    def _of_account(self, user: str, name: str) -> Tier:
        try:
            return self.named(name)
        except InvalidInput as error:
            raise Misconfigured(
                f"the account of {user}: {error}; change it with wake user set"
            ) from error

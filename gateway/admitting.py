"""Admission put together: the tiers as they are configured, the buckets, the log."""

from events.journal import Journal
from events.kvstream import JetStreamRegister
from events.names import ACCOUNTS, QUOTAS
from events.quota import Allotment
from events.register import Register
from events.wire import Wire
from gateway.settings import LimitsOfTiers, Settings, TierLimits
from services.accounts import Accounts
from services.admission import BY, Admission
from services.handler import Handler
from services.schedules import Allowance
from services.tiers import Tier, Tiers


def tiers_of(limits: LimitsOfTiers) -> dict[str, Tier]:
    """The tiers that there are, by name."""
    configured = {
        "free": limits.free,
        "pro": limits.pro,
        "enterprise": limits.enterprise,
    }
    return {name: _tier(name, given) for name, given in configured.items()}


def _tier(name: str, given: TierLimits) -> Tier:
    return Tier(
        name,
        Allotment(given.concurrent, given.hourly),
        Allowance(given.least_interval, given.schedules),
        given.priority,
    )


async def accounts(wire: Wire, replicas: int | None = None) -> Accounts:
    """Open the accounts; raises ServerUnsuitable, Unavailable."""
    about = "tier and roles of users who come without a token"
    return Accounts(
        await JetStreamRegister.open(wire, ACCOUNTS, about, replicas=replicas)
    )


async def quotas(wire: Wire, replicas: int | None = None) -> Register:
    """Open what counts the starts; raises ServerUnsuitable, Unavailable."""
    about = "who was admitted, and how many starts there were"
    return await JetStreamRegister.open(wire, QUOTAS, about, replicas=replicas)


async def admission(wire: Wire, journal: Journal, settings: Settings) -> Admission:
    """Open admission; raises ServerUnsuitable, Unavailable."""
    replicas, limits = settings.nats.replicas, settings.limits
    counted = await quotas(wire, replicas)
    tiers = Tiers(tiers_of(limits), await accounts(wire, replicas), limits.default_tier)
    return Admission(Handler(journal, BY), counted, tiers)

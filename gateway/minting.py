"""``wake token``: a token for development, signed with what a gateway verifies by."""

from collections.abc import Sequence
from datetime import timedelta

from events.errors import InvalidInput
from gateway.output import put, put_json
from gateway.settings import Settings
from gateway.web.secret import tokens_of

LONGEST = timedelta(days=365)
"""How long a token may live: it cannot be taken back."""


def mint(
    settings: Settings,
    user: str,
    tier: str | None,
    roles: Sequence[str],
    lifetime: timedelta,
    *,
    as_json: bool,
) -> None:
    """Print a token; raises InvalidInput, NotFound, Misconfigured."""
    if settings.gateway.jwks_file is not None:
        raise InvalidInput(
            "tokens are issued by whoever has the private keys of gateway.jwks_file"
        )
    if not timedelta() < lifetime <= LONGEST:
        raise InvalidInput("--for is more than nothing and at most a year: 12h, 30d")
    minted = tokens_of(settings, make=False).mint(
        user, lifetime=lifetime, tier=tier, roles=roles
    )
    if as_json:
        put_json({"token": minted.token, "expires_at": minted.expires})
    else:
        put(minted.token)

"""Tokens: verified here, and those of our own minted.

A token says who asks (``sub``), until when (``exp``) and for what (``aud``);
``tier`` and ``roles`` may stand in it. Feed tokens have an audience of their own,
so that nothing takes them but what takes feed tokens.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple

import jwt

from events.errors import InvalidInput, Misconfigured
from events.names import check_id
from gateway.web.identity import Identity, subject_of, user_of
from gateway.web.keys import KeyFile
from gateway.web.problems import Unauthorized

LEEWAY: Final = 30.0
"""Seconds that clocks may differ."""

FEED: Final = timedelta(hours=1)
"""How long a feed token lives."""

LONGEST: Final = 8 * 1024
"""Characters of a token."""

LEAST_SECRET: Final = 32
"""Bytes of a secret: HS256 is as strong as that."""

REMEMBERED: Final = 10_000
"""Tokens that are not verified anew each time: a third of what a request costs."""

_REQUIRED: Final = ["exp", "aud", "sub"]
_FAR: Final = datetime(9998, 1, 1, tzinfo=UTC)

Clock = Callable[[], datetime]


class Minted(NamedTuple):
    """A token, and until when it is good."""

    token: str
    expires: datetime


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class Tokens:
    """Verifies tokens by ``keys`` or else by ``secret``, and mints by ``secret``.

    With ``keys``, what the secret signed is only good as a feed token. Raises
    Misconfigured for a secret that is too short.
    """

    def __init__(
        self,
        secret: str,
        *,
        audience: str,
        issuer: str | None = None,
        keys: KeyFile | None = None,
        clock: Clock = utc_now,
    ) -> None:
        if len(secret.encode()) < LEAST_SECRET:
            raise Misconfigured(
                f"gateway.secret has fewer than {LEAST_SECRET} bytes: take a longer "
                "one, as openssl rand -hex 32 makes it"
            )
        self._secret, self._keys, self._clock = secret, keys, clock
        self._audience, self._issuer = audience, issuer
        self._good: OrderedDict[bytes, Identity] = OrderedDict()
        self._by: object = None

    @property
    def feed_audience(self) -> str:
        """What a feed token is for."""
        return f"{self._audience}/feed"

    # ── verifying ────────────────────────────────────────────────────────────

    def authenticate(self, token: str) -> Identity:
        """Say whose a token is; raises Unauthorized, with a reason that helps."""
        if len(token) > LONGEST:
            raise Unauthorized("the token is too long")
        mark = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered(mark)
        if known is not None:
            return known
        identity = self._verified(token)
        self._good[mark] = identity
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)
        return identity

    def _remembered(self, mark: bytes) -> Identity | None:
        """What was verified by the keys that still hold, and has not ended."""
        keys = self._keys and self._keys.current
        if keys is not self._by:
            self._good.clear()
            self._by = keys
        known = self._good.get(mark)
        if known is None or known.expires + timedelta(seconds=LEEWAY) <= self._clock():
            return None
        return known

    def _verified(self, token: str) -> Identity:
        try:
            return self._identity(self._claims(token))
        except jwt.ExpiredSignatureError as error:  # it was ours: that is seen first
            raise Unauthorized(_reason(error), guess=False) from error
        except jwt.InvalidTokenError as error:
            raise Unauthorized(_reason(error)) from error
        except (ValueError, OverflowError, RecursionError) as error:
            raise Unauthorized("the token cannot be read") from error
        except InvalidInput as error:
            raise Unauthorized(f"the token says what cannot be: {error}") from error

    def _claims(self, token: str) -> dict[str, Any]:
        """Verify with the key that the header names, for what that key may sign."""
        header = jwt.get_unverified_header(token)
        if header.get("alg") == "HS256":  # never a key of the file: each has its own
            if self._keys is not None:
                return self._decoded(token, self._secret, "HS256", self.feed_audience)
            audiences = [self._audience, self.feed_audience]
            return self._decoded(token, self._secret, "HS256", audiences, self._issuer)
        if self._keys is None:
            raise jwt.InvalidTokenError
        key = self._keys.key(header.get("kid"))
        if key is None:
            raise jwt.InvalidTokenError
        algorithm = str(key.algorithm_name)
        return self._decoded(token, key.key, algorithm, self._audience, self._issuer)

    def _decoded(
        self,
        token: str,
        key: Any,
        algorithm: str,
        audience: str | list[str],
        issuer: str | None = None,
    ) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=audience,
            issuer=issuer,
            leeway=LEEWAY,
            options={"require": _REQUIRED},
        )
        return claims

    def _identity(self, claims: dict[str, Any]) -> Identity:
        audience = claims["aud"]
        feed = self.feed_audience in (
            audience if isinstance(audience, list) else [audience]
        )
        if feed:
            return Identity(
                user=user_of(claims["sub"]),
                expires=_moment(claims["exp"]),
                feed=True,
                execution=_execution(claims.get("execution")),
            )
        return Identity(
            user=user_of(claims["sub"]),
            expires=_moment(claims["exp"]),
            tier=_tier(claims.get("tier")),
            roles=_roles(claims.get("roles")),
        )

    # ── minting ──────────────────────────────────────────────────────────────

    def mint(
        self,
        user: str,
        *,
        lifetime: timedelta,
        tier: str | None = None,
        roles: Sequence[str] = (),
    ) -> Minted:
        """Make a token as ``authenticate`` takes it; raises InvalidInput."""
        user_of(user)
        claims: dict[str, Any] = {"sub": user, "aud": self._audience}
        if tier is not None:
            claims["tier"] = _tier(tier)
        if roles:
            claims["roles"] = sorted({check_id(role, "role") for role in roles})
        if self._issuer is not None:
            claims["iss"] = self._issuer
        return self._signed(claims, lifetime)

    def mint_feed(self, user: str, execution: str | None = None) -> Minted:
        """Make a token for watching all that a user has, or one execution of it."""
        claims = {"sub": subject_of(user), "aud": self.feed_audience}
        if self._issuer is not None:
            claims["iss"] = self._issuer
        if execution is not None:
            claims["execution"] = execution
        return self._signed(claims, FEED)

    def _signed(self, claims: dict[str, Any], lifetime: timedelta) -> Minted:
        now = self._clock().replace(microsecond=0)
        expires = now + lifetime
        whole = {**claims, "iat": now, "exp": expires}
        return Minted(jwt.encode(whole, self._secret, algorithm="HS256"), expires)


def _moment(seconds: Any) -> datetime:
    return datetime.fromtimestamp(min(int(seconds), int(_FAR.timestamp())), UTC)


def _tier(tier: Any) -> str | None:
    if tier is None:
        return None
    if not isinstance(tier, str):
        raise InvalidInput("tier must be text")
    return check_id(tier, "tier")


def _roles(roles: Any) -> frozenset[str]:
    """Those of a token: who issues it may have more than mean something here."""
    if roles is None:
        return frozenset()
    if not isinstance(roles, list) or not all(isinstance(r, str) for r in roles):
        raise InvalidInput("roles must be a list of names")
    return frozenset(roles)


def _execution(execution: Any) -> str | None:
    if execution is None:
        return None
    if not isinstance(execution, str):
        raise InvalidInput("execution must be text")
    return check_id(execution, "execution")


def _reason(error: jwt.InvalidTokenError) -> str:
    """What helps who has the right token and nobody who has none."""
    match error:
        case jwt.ExpiredSignatureError():
            return "the token has expired: get a new one"
        case jwt.ImmatureSignatureError():
            return "the token is not valid yet: look at the clock that issued it"
        case jwt.MissingRequiredClaimError():
            return f"the token has no {error.claim}: exp, aud and sub are required"
        case jwt.InvalidAudienceError():
            return "the token is for another audience"
        case jwt.InvalidIssuerError():
            return "the token is from another issuer"
        case _:
            return "the token is not one that is trusted here"

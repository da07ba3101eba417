"""Who may come in: the token of each request, and which web pages may ask."""

import logging
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from gateway.web.identity import Authenticate, Identity
from gateway.web.logins import Logins
from gateway.web.problems import Forbidden, Unauthorized
from gateway.web.reading import check_expected
from gateway.web.seldom import Seldom

logger = logging.getLogger(__name__)

OPEN: Final = frozenset(
    {
        "/healthz",  # says that it lives, and no more
        "/readyz",  # what it needs, without a name or a number of anybody's
        "/openapi.json",  # the same for everybody
        "/metrics",  # sees to it itself: operating.py
        "/ws",  # takes its token in a subprotocol or the first message
        "/webhooks/agent-trigger",  # is signed
    }
)
"""Paths that take no token in the Authorization header."""

FEEDS: Final = frozenset({"/api/agents/{id}/stream"})
"""What a feed token is good for, beside /ws."""

PUBLIC: Final = "/static/"
"""Where files lie that are the same for everybody."""

WHO: Final = web.RequestKey("who", Identity)
"""Who asks, once ``Guard`` let a request pass."""

ALLOWED: Final = "GET, POST, DELETE"
SENT: Final = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, traceparent"
SEEN: Final = "Location, Retry-After, X-Request-Id, X-Wake-Position"
PREFLIGHT: Final = 600
"""Seconds that a browser need not ask again."""


class Guard:
    """Checks what a request brings before anything else looks at it."""

    def __init__(
        self,
        authenticate: Authenticate,
        origins: Collection[str] = (),
        logins: Logins | None = None,
    ) -> None:
        self._authenticate, self._origins = authenticate, frozenset(origins)
        self._logins = logins or Logins()
        self._seldom = Seldom(logger)

    def login(self, token: str, address: str | None) -> Identity:
        """Say whose a token is; raises Unauthorized, TooManyRequests.

        The one way in, also for what takes its token elsewhere. Blanks around a
        token are none of it: who reads one from a file sends the end of its line.
        """
        try:
            return self._authenticate(token.strip())
        except Unauthorized as error:
            where = address or "nowhere"
            self._seldom.warning(f"login refused ({error})", f"from {where}")
            if error.guess:
                self._logins.failed(where)
            raise

    def check_origin(self, request: web.BaseRequest) -> None:
        """Raise Forbidden for a web page that is none of ours."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or self._ours(origin, request):
            return
        self._seldom.warning("a page of another origin may not ask", f"{origin!r:.80}")
        raise Forbidden(
            "pages of this origin may not ask here: the operator allows them with "
            "gateway.origins"
        )

    def _ours(self, origin: str, request: web.BaseRequest) -> bool:
        """Whether a page is allowed, or came from this very address."""
        if origin in self._origins:
            return True
        try:
            return bool(request.host) and urlsplit(origin).netloc == request.host
        except ValueError:
            return False

    # ── for aiohttp ──────────────────────────────────────────────────────────

    def middleware(self) -> Middleware:
        """Let pass who may; ``who`` then says who it is."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            check_expected(request)
            self.check_origin(request)
            if request.method == hdrs.METH_OPTIONS and hdrs.ORIGIN in request.headers:
                return web.Response(status=204)
            if not is_open(request):
                request[WHO] = self._who(request)
            return await handler(request)

        return guarded

    def _who(self, request: web.Request) -> Identity:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized
        identity = self.login(token, request.remote)
        if identity.feed and canonical(request) not in FEEDS:
            raise Forbidden(
                "a feed token is good for /ws and the stream of an execution only"
            )
        return identity

    async def allow(self, request: web.Request, response: web.StreamResponse) -> None:
        """Tell a browser what its page may do: for ``on_response_prepare``."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if not self._ours(origin, request):
            return
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = SEEN
        if request.method == hdrs.METH_OPTIONS:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = ALLOWED
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = SENT
            response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(PREFLIGHT)


def canonical(request: web.Request) -> str:
    """The path as the routes write it; empty if there is no such route."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def is_open(request: web.Request) -> bool:
    """Whether no token is asked for; nor is one for what is not there."""
    path = canonical(request)
    return not path or path in OPEN or path.startswith(PUBLIC)


def who(request: web.Request) -> Identity:
    """Who asks; for handlers behind the guard."""
    return request[WHO]

"""Each request from its first byte to its log line: errors, traces, who is in hand."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from events.errors import Unavailable, WakeError
from gateway.web.guard import WHO, canonical
from gateway.web.problems import problem, told
from gateway.web.reading import EXPECTED
from gateway.web.seldom import Seldom
from services import metrics
from services.telemetry import bound, failed, note, parent_in, span

logger = logging.getLogger(__name__)

REQUEST: Final = "X-Request-Id"
"""The header of every answer under which its log line is found."""

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""What is asked again and again: told at level debug only."""

CODES: Final = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "not_json",
    417: "bad_request",
    426: "bad_request",
}
"""The code of what aiohttp itself refuses, by its status."""

MISTAKE: Final = "this is a mistake of ours: the log of the gateway says more"

NUMBER: Final = web.RequestKey("number", str)
"""The id of a request."""

BUSY: Final = web.RequestKey("busy", bool)
"""Set on a request whose answer has begun: it cannot become an error any more."""


class Attendant:
    """The outermost of all that handles requests; knows how many are in hand."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_hand = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._seldom = Seldom(logger)

    @property
    def in_hand(self) -> int:
        """Requests whose answer has not ended."""
        return self._in_hand

    async def idle(self, seconds: float) -> bool:
        """Wait until none is in hand, but not longer; whether it is so."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def middleware(self) -> Middleware:
        """See to a request, whatever becomes of it."""

        @web.middleware
        async def attended(
            request: web.Request, handler: Handler
        ) -> web.StreamResponse:
            number = request[NUMBER] = secrets.token_hex(8)
            path = canonical(request) or "(none)"
            about = {"http.request.method": request.method, "http.route": path}
            parent = parent_in({k.lower(): v for k, v in request.headers.items()})
            with (
                bound(request_id=number),
                span(f"{request.method} {path}", about, parent=parent, kind="server"),
            ):
                self._come()
                try:  # no context manager: a watcher would hold it for hours
                    return await self._seen(request, handler)
                finally:
                    self._go()

        return attended

    def _come(self) -> None:
        self._in_hand += 1
        self._idle.clear()

    def _go(self) -> None:
        self._in_hand -= 1
        if not self._in_hand:
            self._idle.set()

    async def _seen(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = self._clock()
        try:
            response = await self._answered(request, handler)
        except asyncio.CancelledError:
            self._log(request, 0, begun)
            raise
        if EXPECTED in request:  # who keeps a body may send something else for it
            response.force_close()
        self._log(request, response.status, begun)
        return response

    async def _answered(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Let the handler answer; what it raises becomes an answer too."""
        try:
            return await handler(request)
        except ConnectionError:
            raise  # nobody is there to be told
        except Exception as error:  # the one place that settles: others must go on
            if request.get(BUSY):
                raise
            return self._explained(request, error)

    def _explained(self, request: web.Request, error: Exception) -> web.StreamResponse:
        match error:
            case WakeError():
                return self._refused(error)
            case web.HTTPException():
                return _http(error)
            case TimeoutError():
                self._seldom.warning("a request took too long", canonical(request))
                return closing(told(Unavailable("it took too long: ask again")))
            case _:
                failed(type(error).__name__)
                logger.error("%s cannot be answered", request.method, exc_info=error)
                return problem(500, "error", MISTAKE)

    def _refused(self, error: WakeError) -> web.Response:
        response = told(error)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._seldom.warning(
                f"answered {response.status} ({error.code})", str(error)
            )
        return response

    def _log(self, request: web.Request, status: int, begun: float) -> None:
        """One line each: no query and no header, tokens may be in both."""
        seconds = self._clock() - begun
        note({"http.response.status_code": status})
        path = canonical(request)
        metrics.requested(request.method if path else "-", path or "-", status, seconds)
        level = logging.DEBUG if path in PROBES else logging.INFO
        if not logger.isEnabledFor(level):
            return
        identity = request.get(WHO)
        with bound(
            user=identity.user if identity else "",
            address=request.remote or "",
            status=str(status),
            ms=f"{seconds * 1000:.1f}",
        ):
            logger.log(level, "%s %s", request.method, request.path[:200])


async def begun(request: web.Request, response: web.StreamResponse) -> None:
    """Note that an answer has begun, and name it: for ``on_response_prepare``."""
    request[BUSY] = True
    if NUMBER in request:
        response.headers[REQUEST] = request[NUMBER]


def closing(response: web.Response) -> web.Response:
    """Let the connection end with this answer: what else it brings is not read."""
    response.force_close()
    return response


def _http(error: web.HTTPException) -> web.StreamResponse:
    """What aiohttp itself refuses, in the shape of all errors."""
    if error.status < HTTPStatus.BAD_REQUEST:
        raise error
    code = CODES.get(error.status, "error")
    response = problem(error.status, code, _detail(error))
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        response.force_close()
    return response


def _detail(error: web.HTTPException) -> str:
    match error:
        case web.HTTPNotFound():
            return "there is nothing of that name"
        case web.HTTPMethodNotAllowed():
            return f"allowed here: {', '.join(sorted(error.allowed_methods))}"
        case _:
            return error.text or error.reason

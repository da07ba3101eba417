"""The edge put together: every route, what stands before them, start and end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Final

from aiohttp import hdrs, web

from events.errors import Misconfigured
from gateway.settings import Listen, Settings
from gateway.web import api, feeds, openapi, operating, static
from gateway.web.attending import begun
from gateway.web.connections import Runner
from gateway.web.edge import EDGE, Edge, edge_of
from gateway.web.webhooks import Webhooks

logger = logging.getLogger(__name__)

MAX_BODY: Final = 256 * 1024
"""Bytes of a request's body: as much as a command may have."""

MAX_LINE: Final = 8 * 1024
"""Bytes of the request line, and of one header."""

MAX_HEADERS: Final = 64
"""Headers of one request."""

QUIET: Final = 30.0
"""Seconds in which a connection must bring a whole head of a request."""

LINGER: Final = 0.2
"""Seconds in which the rest of a refused body is read, so that its sender hears why."""

CLOSING: Final = 1.0
"""Seconds that connections get to close when all that was in hand has ended."""

BACKLOG: Final = 1024


def compose(edge: Edge) -> web.Application:
    """Make the application; what has routes is named here, and nowhere else."""
    app = web.Application(
        middlewares=[edge.attendant.middleware(), edge.guard.middleware()],
        client_max_size=MAX_BODY,
    )
    app[EDGE] = edge
    app.on_response_prepare.append(begun)
    app.on_response_prepare.append(edge.guard.allow)
    app.on_response_prepare.append(_harden)
    app.on_response_prepare.append(_part)
    app.add_routes(operating.routes())
    app.add_routes(api.routes())
    app.add_routes(openapi.routes())
    app.add_routes(feeds.routes())
    app.add_routes(static.routes())
    keys = edge.settings.gateway.webhook_keys
    hooks = Webhooks(edge.desk, keys.reveal().split() if keys else ())
    app.add_routes(hooks.routes())
    return app


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    """Tell browsers to take an answer as what it is, and to keep none."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers.pop(hdrs.SERVER, None)


async def _part(request: web.Request, response: web.StreamResponse) -> None:
    """Let the connection end with its answer once the gateway is to end.

    Or whoever keeps it would ask again and again, and be cut off in the end.
    """
    if edge_of(request).leaving.is_set() and hdrs.CONNECTION not in response.headers:
        response.headers[hdrs.CONNECTION] = "close"
        response.force_close()


class Front:
    """A gateway that listens; ``url`` is where."""

    def __init__(self, edge: Edge, runner: web.AppRunner, url: str) -> None:
        self._edge, self._runner, self.url = edge, runner, url
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Return once it was told to end."""
        await self._ended.wait()

    async def stop(self) -> None:
        """Take nothing new, and see what is in hand to its end, or to ``drain``."""
        self._edge.leaving.set()
        for site in list(self._runner.sites):
            await site.stop()
        drain = self._edge.settings.gateway.drain
        if not await self._edge.attendant.idle(drain):
            left = self._edge.attendant.in_hand
            logger.warning("%d requests did not end within %g s", left, drain)
        self._ended.set()


@asynccontextmanager
async def listening(edge: Edge, listen: Listen) -> AsyncIterator[Front]:
    """Serve as long as the block lasts; raises Misconfigured."""
    app = compose(edge)
    runner = Runner(
        app,
        access_log=None,
        keepalive_timeout=QUIET,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        lingering_time=LINGER,
        auto_decompress=False,
        handler_cancellation=True,
        shutdown_timeout=CLOSING,
    )
    await runner.setup()
    try:
        yield Front(edge, runner, await _bound(runner, listen))
    finally:
        edge.leaving.set()
        await runner.cleanup()


async def _bound(runner: web.AppRunner, listen: Listen) -> str:
    site = web.TCPSite(runner, listen.host, listen.port, backlog=BACKLOG)
    try:
        await site.start()
    except OSError as error:
        raise Misconfigured(
            f"gateway.listen: cannot listen on {listen.host}:{listen.port} "
            f"({error.strerror or error}): name another address or port"
        ) from error
    port = runner.addresses[0][1]
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"http://{host}:{port}"


def check_reach(settings: Settings) -> None:
    """Raise Misconfigured for one that others reach and that has no secret."""
    gateway = settings.gateway
    if gateway.listen is None or loopback(gateway.listen.host):
        return
    if gateway.secret is None and gateway.jwks_file is None:
        raise Misconfigured(
            f"gateway.listen: {gateway.listen.host} is reached from other machines: "
            "set WAKE_GATEWAY_SECRET or gateway.jwks_file first, or listen on 127.0.0.1"
        )


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

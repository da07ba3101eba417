"""What operators look at: whether it lives, whether it can serve, its numbers."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from gateway.web.edge import Edge, edge_of
from gateway.web.problems import Forbidden, Unauthorized
from services import metrics

FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")
"""Headers of a proxy: whoever it speaks for is not on this machine."""


def routes() -> list[web.RouteDef]:
    """The routes of this file."""
    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", numbers),
    ]


async def healthz(_request: web.Request) -> web.Response:
    """The process is alive and handles requests."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """It can serve; or 503, and why not."""
    edge = edge_of(request)
    ready = await edge.health.look(leaving=edge.leaving.is_set())
    return web.Response(
        status=200 if ready.ready else 503,
        body=msgspec.json.encode(ready),
        content_type="application/json",
    )


async def numbers(request: web.Request) -> web.Response:
    """The numbers for Prometheus: to this machine, and to an admin's token."""
    edge = edge_of(request)
    _check_reader(request, edge)
    await edge.health.count_lanes()
    text, kind = metrics.exposition()
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: kind})


def _check_reader(request: web.Request, edge: Edge) -> None:
    token = request.headers.get(hdrs.AUTHORIZATION, "")
    if not token and near(request):
        return
    scheme, _, value = token.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized
    if not edge.guard.login(value, request.remote).admin:
        raise Forbidden("the numbers are for admins")


def near(request: web.BaseRequest) -> bool:
    """Whether somebody on this machine asks, and no proxy for somebody else.

    Nor a page from elsewhere, whose name was made to lead here: it asks by that name.
    """
    if any(name in request.headers for name in FORWARDED):
        return False
    try:
        asked_for = urlsplit(f"//{request.host}").hostname or ""
        here = ip_address(request.remote or "").is_loopback
        return here and (asked_for == "localhost" or ip_address(asked_for).is_loopback)
    except ValueError:
        return False

"""The REST routes."""

from aiohttp import web


def routes() -> list[web.RouteDef]:
    """All of them."""
    return []

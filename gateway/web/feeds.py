"""The routes of the live feed."""

from aiohttp import web

from gateway.web.edge import edge_of
from gateway.web.sessions import websocket_handler
from gateway.web.streams import stream_handler


def routes() -> list[web.RouteDef]:
    """The routes of this file."""
    return [
        web.get("/ws", websocket, allow_head=False),
        web.get("/api/agents/{id}/stream", stream, allow_head=False),
    ]


async def websocket(request: web.Request) -> web.StreamResponse:
    """Watch executions on one websocket."""
    return await websocket_handler(edge_of(request).live, request)


async def stream(request: web.Request) -> web.StreamResponse:
    """Watch one execution as server-sent events."""
    return await stream_handler(edge_of(request).live, request)

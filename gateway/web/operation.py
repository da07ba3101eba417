"""An operation of REST: one row of the table that routes and documents follow from."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from gateway.web.edge import Edge, edge_of
from gateway.web.guard import who
from gateway.web.identity import Identity
from gateway.web.reading import body_of, query_of
from gateway.web.shapes import Nothing

JSON: Final = "application/json"

ID: Final = r"{id:[^{}/]+}"
"""How routes match an id or a name."""

OF_AGENTS: Final = r"/api/agents/{id:(?!token(?:/|$))[^{}/]+}"
"""How they match the id of an execution: ``token`` is a path of its own there."""

ALWAYS: Final = (400, 401, 403, 422, 429, 503)
"""What any operation may answer besides what it is for."""

WITH_BODY: Final = (408, 413, 415)
"""What one that takes a body may answer too."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is answered."""

    payload: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an operation: who asks, and what for; all of it was checked."""

    edge: Edge
    who: Identity
    id: str
    query: Any
    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """``answers`` has the type of each good status; ``problems`` the other bad ones."""

    method: str
    path: str
    name: str
    about: str
    handler: Callable[[Call], Awaitable[Result]]
    answers: Mapping[int, type[Any]]
    problems: Sequence[int] = ()
    query: type[Any] = Nothing
    body: type[Any] | None = None
    optional: bool = False
    idempotent: bool = False

    @property
    def refusals(self) -> tuple[int, ...]:
        """The statuses of its problems."""
        with_body = () if self.body is None else WITH_BODY
        return tuple(sorted({*ALWAYS, *with_body, *self.problems}))

    def route(self) -> web.RouteDef:
        """Where it is called."""
        path = self.path.replace("/api/agents/{id}", OF_AGENTS).replace("{id}", ID)
        return web.route(self.method, path, self._handle)

    async def _handle(self, request: web.Request) -> web.Response:
        """Read, do, answer; within the time that a request may take."""
        edge = edge_of(request)
        async with asyncio.timeout(edge.settings.gateway.timeout):
            query = query_of(request, self.query)
            body = None
            if self.body is not None:
                body = await body_of(request, self.body, optional=self.optional)
            result = await self.handler(
                Call(
                    edge=edge,
                    who=who(request),
                    id=request.match_info.get("id", ""),
                    query=query,
                    body=body,
                    headers=request.headers,
                )
            )
        return web.Response(
            status=result.status,
            body=msgspec.json.encode(result.payload),
            headers={**result.headers, hdrs.CONTENT_TYPE: JSON},
        )

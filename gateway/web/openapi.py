"""The description of REST (OpenAPI 3.1), made of the table and its types."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from gateway.web.api import OPERATIONS
from gateway.web.operation import JSON, Operation
from gateway.web.problems import MEDIA_TYPE, Problem
from gateway.web.steering import KEY, MAX_KEY

REF: Final = "#/components/schemas/{name}"

ABOUT: Final = (
    "Durable AI agents. Every answer that is no good one is a problem detail "
    "(RFC 9457) with a code; a 429 and a 503 say in Retry-After when to ask again. "
    "What is another user's is answered as what is not there."
)

MEANINGS: Final = {
    200: "Done.",
    201: "Made.",
    202: "Stored; it takes effect as soon as a service takes it.",
    400: "The request cannot be read.",
    401: "A token is needed, or the one that was sent is not good.",
    403: "This token, or this web page, may not do that.",
    404: "There is nothing of that name, or it is another's.",
    408: "The body did not arrive in time.",
    409: "Not as it stands now.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "Something in it is not what is allowed here.",
    429: "Too much: a limit is reached, or too many tokens were wrong.",
    503: "It cannot be answered now.",
}


def routes() -> list[web.RouteDef]:
    """Where it is."""
    return [web.get("/openapi.json", show)]


async def show(_request: web.Request) -> web.Response:
    """The description, the same for everybody."""
    return web.Response(body=_encoded(), headers={hdrs.CONTENT_TYPE: JSON})


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(
            operation
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Wakestream", "version": _version(), "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
        "security": [{"token": []}],
    }


def _version() -> str:
    try:
        return version("wakestream")
    except PackageNotFoundError:
        return "0"


def _types() -> list[type[Any]]:
    """Every type that goes over REST."""
    bodies = [o.body for o in OPERATIONS if o.body is not None]
    answers = [kind for o in OPERATIONS for kind in o.answers.values()]
    return list(dict.fromkeys([*bodies, *answers, Problem]))


@cache
def _schemas() -> dict[str, Any]:
    return msgspec.json.schema_components(_types(), ref_template=REF)[1]


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about,
        "parameters": list(_parameters(operation)),
        "responses": {
            **{str(s): _answer(s, kind) for s, kind in operation.answers.items()},
            **{str(s): _refusal(s) for s in operation.refusals},
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.optional,
            "content": {JSON: {"schema": _ref(operation.body)}},
        }
    return described


def _parameters(operation: Operation) -> Any:
    if "{id}" in operation.path:
        yield {
            "name": "id",
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
        }
    (schema,), components = msgspec.json.schema_components(
        [operation.query], ref_template=REF
    )
    query = components[schema["$ref"].rpartition("/")[2]]
    for name, kind in query.get("properties", {}).items():
        yield {
            "name": name,
            "in": "query",
            "required": name in query.get("required", ()),
            "schema": _plain(kind),
        }
    if operation.idempotent:
        yield {
            "name": KEY,
            "in": "header",
            "description": "Sent again under the same key, it takes effect once.",
            "schema": {"type": "string", "maxLength": MAX_KEY},
        }


def _plain(kind: dict[str, Any]) -> dict[str, Any]:
    """The schema of a query parameter: what is left out is nothing, not null."""
    if "anyOf" not in kind:
        return kind
    (only,) = [one for one in kind["anyOf"] if one.get("type") != "null"]
    return dict(only)


def _answer(status: int, kind: type[Any]) -> dict[str, Any]:
    return {
        "description": MEANINGS[status],
        "content": {JSON: {"schema": _ref(kind)}},
    }


def _refusal(status: int) -> dict[str, Any]:
    return {
        "description": MEANINGS[status],
        "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
    }


def _ref(kind: type[Any]) -> dict[str, Any]:
    return {"$ref": REF.format(name=kind.__name__)}

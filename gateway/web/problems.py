"""Errors as problem details (RFC 9457): one shape, and a code for programs."""

from http import HTTPStatus
from math import ceil
from typing import Any, Final

import msgspec
from aiohttp import web

from events.errors import WakeError

STATUSES: Final = {
    "invalid_input": 422,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "deleted": 404,
    "already_exists": 409,
    "not_allowed_now": 409,
    "stale": 409,
    "conflict": 409,
    "too_large": 413,
    "limit_reached": 429,
    "outcome_unknown": 503,
    "unavailable": 503,
    "misconfigured": 503,
}
"""The status of each code of ``events.errors``; 500 for what is not here."""


class Unauthorized(WakeError):
    """A token is needed: log in, or send it as Authorization: Bearer TOKEN."""


class Forbidden(WakeError):
    """This token does not allow that."""


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    retry_after: float | None = None,
    **more: Any,
) -> web.Response:
    """One error as a response; ``more`` are further members of its body."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **more,
    }
    headers = {}
    if retry_after is not None:
        body["retry_after"] = retry_after
        headers["Retry-After"] = str(max(1, ceil(retry_after)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        status=status,
        headers=headers,
        body=msgspec.json.encode(body),
        content_type="application/problem+json",
    )


def told(error: WakeError) -> web.Response:
    """An error of ours as a response."""
    return problem(
        STATUSES.get(error.code, 500),
        error.code,
        str(error),
        retry_after=getattr(error, "retry_after", None),
    )

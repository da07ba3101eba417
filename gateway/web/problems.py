"""Errors as problem details (RFC 9457): one shape, and a code for programs."""

from http import HTTPStatus
from math import ceil
from typing import Any, Final

import msgspec
from aiohttp import web

from events.errors import WakeError

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "deleted": 404,
    "already_exists": 409,
    "not_allowed_now": 409,
    "stale": 409,
    "obsolete": 409,
    "conflict": 409,
    "too_slow": 408,
    "too_large": 413,
    "not_json": 415,
    "invalid_input": 422,
    "too_many_requests": 429,
    "limit_reached": 429,
    "outcome_unknown": 503,
    "unavailable": 503,
    "unanswered": 503,
    "misconfigured": 503,
    "server_unsuitable": 503,
}
"""The status of each code of ``events.errors``; 500 for what is not here."""

UNREAD: Final = frozenset({408, 413, 415})
"""Statuses after which a connection ends: what else it brings is not read."""

LATER: Final = frozenset({429, 503})
"""Statuses after which to ask again; every answer that has one says when."""

AGAIN: Final = 2.0
"""Seconds after which to ask again where nobody knows better."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457). ``code`` is the name that programs match."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    retry_after: float | None = None


class BadRequest(WakeError):
    """This request cannot be read."""


class Unauthorized(WakeError):
    """A token is needed: send it as Authorization: Bearer TOKEN."""

    def __init__(self, message: str = "", *, guess: bool = True) -> None:
        super().__init__(message)
        self.guess = guess  # or else it was a good one once


class Forbidden(WakeError):
    """This token does not allow that."""


class NotJson(WakeError):
    """Send the body as application/json."""


class TooSlow(WakeError):
    """The body did not arrive in time: send it at once."""


class TooManyRequests(WakeError):
    """Too many requests; ``retry_after`` is in seconds."""

    final = False

    def __init__(self, message: str = "", *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


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
        content_type=MEDIA_TYPE,
    )


def told(error: WakeError) -> web.Response:
    """An error of ours as a response."""
    status = STATUSES.get(error.code, 500)
    after = getattr(error, "retry_after", None)
    if status in LATER and after is None:
        after = AGAIN
    response = problem(status, error.code, str(error), retry_after=after)
    if status in UNREAD:
        response.force_close()
    return response

"""What a request brings, read strictly: its body as JSON, its query by name."""

import asyncio
from datetime import datetime
from functools import cache
from typing import Any, Final, TypeVar, get_origin

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from events.commit import MAX_DEPTH, too_deep
from events.errors import InvalidInput, TooLarge
from gateway.web.problems import BadRequest, NotJson, TooSlow

T = TypeVar("T")

JSON: Final = "application/json"

SLOWEST: Final = 10.0
"""Seconds that a body may take to arrive."""

EXPECTED: Final = web.RequestKey("expected", str)
"""What a request expects before it sends its body (RFC 9110, section 10.1.1).

Not there any more once it was asked for.
"""

CONTINUE: Final = "100-continue"
"""All that can be expected here."""


def check_expected(request: web.Request) -> None:
    """Raise HTTPExpectationFailed for what nobody here knows."""
    if request.get(EXPECTED, CONTINUE).lower() != CONTINUE:
        raise web.HTTPExpectationFailed(text=f"what can be expected is {CONTINUE}")


async def ask_for_body(request: web.Request) -> None:
    """Tell a sender that waits for it to send the body: it will be read."""
    waits = request.pop(EXPECTED, None) is not None
    if waits and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # that was no beginning of the answer


async def body_of(request: web.Request, kind: type[T], *, optional: bool) -> T:
    """The body of a request; without one, if that is allowed, what is default.

    Raises NotJson, BadRequest, TooLarge, TooSlow, InvalidInput.
    """
    _check_announced(request)
    raw = await _read(request)
    if not raw and optional:
        return kind()
    _check_kind(request)
    if too_deep(raw):
        raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"body: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def _check_announced(request: web.Request) -> None:
    """Refuse what is known to be too large before any of it is read."""
    most = request.client_max_size
    if request.content_length is not None and request.content_length > most:
        raise TooLarge(f"a body may have {most:,} bytes")


def _check_kind(request: web.Request) -> None:
    if request.content_type != JSON:
        raise NotJson
    if request.charset is not None and request.charset.lower() != "utf-8":
        raise NotJson("send JSON in UTF-8")
    if hdrs.CONTENT_ENCODING in request.headers:
        raise NotJson("send the body as it is, without a Content-Encoding")


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(SLOWEST):
            await ask_for_body(request)
            return await request.read()
    except TimeoutError as error:
        raise TooSlow from error
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"a body may have {request.client_max_size:,} bytes") from error
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body cannot be read: {error}") from error


def query_of(request: web.Request, kind: Any) -> Any:
    """The query of a request; raises InvalidInput, naming what is wrong."""
    many, times = _lists(kind), _times(kind)
    values: dict[str, Any] = {}
    for name in request.query:
        given = request.query.getall(name)
        if name in many:
            values[name] = given
        elif len(given) > 1:
            raise InvalidInput(f"query: {name!r:.80} is given {len(given)} times")
        else:
            values[name] = _time(name, given[0]) if name in times else given[0]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"query: {error}") from error


def _time(name: str, text: str) -> datetime:
    """A time as it has to be written: numbers and words would pass for some."""
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"query: {name}: write a time with its zone, as 2026-12-01T09:00:00Z"
        ) from error


@cache
def _lists(kind: Any) -> frozenset[str]:
    """The parameters that may be given several times."""
    return frozenset(
        f.encode_name
        for f in msgspec.structs.fields(kind)
        if get_origin(getattr(f.type, "__origin__", f.type)) is tuple
    )


@cache
def _times(kind: Any) -> frozenset[str]:
    """The parameters that are times."""
    fields = msgspec.structs.fields(kind)
    return frozenset(f.encode_name for f in fields if "datetime" in str(f.type))

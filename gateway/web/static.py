"""Files that are the same for everybody: the client for browsers, and its types."""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

from aiohttp import hdrs, web

KINDS: Final = {
    "wakestream.js": "text/javascript",
    "wakestream.d.ts": "application/typescript",
}
"""Every file there is, by its name: nothing else of the folder can be asked for."""


class File(NamedTuple):
    """What is sent; ``tag`` changes with it."""

    content: bytes
    tag: str


def routes() -> list[web.RouteDef]:
    """The routes of this file."""
    return [web.get("/static/{name}", static)]


async def static(request: web.Request) -> web.Response:
    """Send a file, or say that whoever asks has it already."""
    name = request.match_info["name"]
    if name not in KINDS:
        raise web.HTTPNotFound
    file = _read(name)
    # A new gateway brings a new client: it may be kept, but not used unasked.
    headers = {hdrs.CACHE_CONTROL: "no-cache"}
    if _known(request, file.tag):
        response = web.Response(status=304, headers=headers)
    else:
        response = web.Response(
            body=file.content,
            headers=headers,
            content_type=KINDS[name],
            charset="utf-8",
        )
    response.etag = file.tag
    return response


def _known(request: web.Request, tag: str) -> bool:
    """Whether the sender has it: by a tag, strong or weak, or any."""
    return any(have.value in {tag, "*"} for have in request.if_none_match or ())


@cache
def _read(name: str) -> File:
    """Read once: it does not change while a gateway runs."""
    content = files("gateway").joinpath("static", name).read_bytes()
    return File(content, sha256(content).hexdigest()[:32])

"""Files for everybody: served as what they are, and kept while they are good."""

import zipfile
from pathlib import Path

import edges
import pytest
from edges import Gateway
from hatchling.builders.wheel import WheelBuilder
from nats_server import NatsServer

from gateway.web.static import KINDS

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "gateway" / "static"
PAGE = "http://page.example.org"


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
async def test_anybody_gets_a_file_as_what_it_is(
    gateway: Gateway, name: str, kind: str
) -> None:
    """Without a token; a browser takes no module of another type."""
    reply = await gateway.nobody().get(f"/static/{name}")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.raw == (STATIC / name).read_bytes()


async def test_whoever_has_it_is_not_sent_it_again(gateway: Gateway) -> None:
    """But has to ask each time: a new gateway has a new client."""
    nobody = gateway.nobody()
    first = await nobody.get("/static/wakestream.js")
    assert first.headers["Cache-Control"] == "no-cache"
    for known in (first.headers["ETag"], f'"other", {first.headers["ETag"]}', "*"):
        again = await nobody.get(
            "/static/wakestream.js", headers={"If-None-Match": known}
        )
        assert (again.status, again.raw) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
    old = await nobody.get("/static/wakestream.js", headers={"If-None-Match": '"old"'})
    assert (old.status, old.raw) == (200, first.raw)
    head = await nobody.ask("HEAD", "/static/wakestream.js")
    assert (head.status, head.raw) == (200, b"")
    assert head.headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/nothing.js",
        "/static/__init__.py",
        "/static/..%2fsettings.py",
        "/static/%2e%2e/settings.py",
        "/static/wakestream.js%00",
        "/static/wakestream.js/",
        "/static/a/wakestream.js",
    ],
)
async def test_nothing_else_can_be_asked_for(gateway: Gateway, path: str) -> None:
    """Whatever way a path takes."""
    reply = await gateway.nobody().get(path)
    assert (reply.status, reply.code) == (404, "not_found")


async def test_a_page_that_is_allowed_gets_it(
    edge_server: NatsServer, tmp_path: Path
) -> None:
    """From another origin, as the operator named it; others do not."""
    async with edges.gateway(
        edge_server.url, tmp_path, ("gateway",), WAKE_GATEWAY_ORIGINS=PAGE
    ) as gateway:
        ours, strange = [
            await gateway.nobody().get(
                "/static/wakestream.js", headers={"Origin": origin}
            )
            for origin in (PAGE, "http://strange.example.org")
        ]
    assert ours.status == 200
    assert ours.headers["Access-Control-Allow-Origin"] == PAGE
    assert (strange.status, strange.code) == (403, "forbidden")
    assert "Access-Control-Allow-Origin" not in strange.headers


def test_the_wheel_has_every_file(tmp_path: Path) -> None:
    """Who installs the package has the client, too."""
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(wheel) as packed:
        for name in KINDS:
            content = packed.read(f"gateway/static/{name}")
            assert content == (STATIC / name).read_bytes()

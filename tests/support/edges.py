"""A gateway on a free port with every service behind it, and somebody who calls it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec

from events.names import Key
from gateway.configuration import load
from gateway.parts import ALL, Name
from gateway.settings import Settings
from gateway.up import Services, Started
from gateway.web.secret import tokens_of
from gateway.web.tokens import Tokens

SECRET = "a secret of tests, which is long enough"  # noqa: S105 - of tests
LIMIT = 60.0
"""Seconds until a test gives up on something."""

DONE = "script:\nsay Done.\n"
"""An input whose agent is done at once."""

SLOW = {"model": "scripted?delay_ms=60000"}
"""Of an agent that is at work until it is ended."""


T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Look until what is seen is good; returns that."""
    async with asyncio.timeout(LIMIT):
        while not good(seen := await look()):  # noqa: ASYNC110 - another's
            await asyncio.sleep(0.01)
        return seen


class Reply(NamedTuple):
    """What was answered."""

    status: int
    body: Any
    headers: Any
    raw: bytes

    @property
    def code(self) -> str:
        """The code of a problem."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        return str(self.body["code"])


class Caller:
    """Calls a gateway as the user of a token; without one, as nobody."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, token: str | None
    ) -> None:
        self._session, self.url, self.token = session, url, token

    @property
    def headers(self) -> dict[str, str]:
        """What it sends with each request."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> Reply:
        """Send a request; ``body`` goes as JSON, bytes as they are."""
        sent = {**self.headers, **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = msgspec.json.encode(body)
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self._session.request(
            method, self.url + path, data=body, headers=sent, **more
        ) as response:
            raw = await response.read()
            kind = response.headers.get("Content-Type", "")
            decoded = msgspec.json.decode(raw) if "json" in kind and raw else None
            return Reply(response.status, decoded, response.headers, raw)

    async def get(self, path: str, **more: Any) -> Reply:
        """GET."""
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        """POST."""
        return await self.ask("POST", path, body, **more)

    async def delete(self, path: str, **more: Any) -> Reply:
        """DELETE."""
        return await self.ask("DELETE", path, **more)

    async def started(self, prompt: str = DONE, **options: Any) -> str:
        """Start an execution; returns its id."""
        body = {"agent_type": "explorer", "input": prompt, "options": options}
        reply = await self.post("/api/agents", body)
        assert reply.status == 201, reply
        return str(reply.body["id"])

    async def listed(self, query: str = "") -> Reply:
        """The list, once the read model is there to be asked."""
        ask = partial(self.get, f"/api/agents?{query}")
        return await eventually(ask, lambda reply: reply.status != 503)

    async def until(self, execution: str, *statuses: str) -> Any:
        """Wait until an execution has one of these statuses; returns it."""

        def there(reply: Reply) -> bool:
            assert reply.status == 200, reply
            return reply.body["status"] in statuses

        ask = partial(self.get, f"/api/agents/{execution}")
        return (await eventually(ask, there)).body


class Gateway:
    """A gateway that serves; ``services`` can be told to end."""

    def __init__(
        self,
        url: str,
        tokens: Tokens,
        settings: Settings,
        services: Services,
        session: aiohttp.ClientSession,
    ) -> None:
        self.url, self.tokens, self.settings = url, tokens, settings
        self.services, self.session = services, session
        self.host, _, port = url.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def caller(
        self, user: str = "ada", tier: str | None = "enterprise", *roles: str
    ) -> Caller:
        """Somebody with a token; her user name is her own."""
        minted = self.tokens.mint(
            user, lifetime=timedelta(hours=1), tier=tier, roles=roles
        )
        return Caller(self.session, self.url, minted.token)

    def nobody(self, token: str | None = None) -> Caller:
        """Somebody without a token, or with a strange one."""
        return Caller(self.session, self.url, token)

    def key(self, execution: str, user: str = "ada") -> Key:
        """The key of an execution."""
        return Key(user, execution)


@asynccontextmanager
async def gateway(
    nats: str,
    folder: Path,
    services: Iterable[Name] = ALL,
    **environment: str,
) -> AsyncIterator[Gateway]:
    """Serve on a nats-server in this process; ``environment`` says what differs."""
    variables = {
        "WAKE_NATS": nats,
        "WAKE_GATEWAY_LISTEN": "0",
        "WAKE_GATEWAY_SECRET": SECRET,
        **environment,
    }
    settings = load({}, variables, folder).settings
    ready: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
    running = Services(settings, tuple(services), ready.set_result)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(running.run(None))
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            url = ready.result().url
            assert url is not None
            async with aiohttp.ClientSession() as session:
                tokens = tokens_of(settings, make=False)
                yield Gateway(url, tokens, settings, running, session)
            running.end()

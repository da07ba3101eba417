"""The connection to nats-server: requests, replies, and what errors mean.

One inbox serves every request, so that a request costs one message each way;
replies in several parts (batched reads, pulls) come through the same inbox.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from events.errors import (
    InvalidInput,
    OutcomeUnknown,
    ServerUnsuitable,
    Unavailable,
    WakeError,
)

if TYPE_CHECKING:
    from nats.aio.msg import Msg

OLDEST_SERVER = (2, 14)
"""Message schedules and what EVENTS needs exist from here on."""

ANSWER = 5.0
"""Seconds to wait for one answer of the server."""

NO_RESPONDERS = "503"


class ApiError(WakeError):
    """The JetStream API said no; ``number`` is its error code."""

    def __init__(self, number: int, description: str) -> None:
        super().__init__(f"JetStream error {number}: {description}")
        self.number = number


class _Problem(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Envelope(msgspec.Struct):
    error: _Problem | None = None


_envelope = msgspec.json.Decoder(_Envelope)


class Wire:
    """A connection to one nats-server or cluster."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.closed = asyncio.Event()
        self._numbers = itertools.count()
        self._inbox = ""
        self._handlers: dict[str, Callable[[Msg], None]] = {}

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        name: str = "wakestream",
    ) -> Self:
        """Connect; raises Unavailable, InvalidInput or ServerUnsuitable."""
        _check_url(url)
        wire = cls(Client())
        try:
            async with asyncio.timeout(ANSWER):
                await wire.client.connect(
                    url, user=user, password=password, **wire.settings(name)
                )
        except (OSError, nats.errors.Error, TimeoutError) as error:
            raise Unavailable(
                f"no nats-server answers at {_public(url)} ({_reason(error)}): "
                "start one, or name another with --nats"
            ) from error
        await wire.begin()
        return wire

    def settings(self, name: str) -> dict[str, Any]:
        """How a connection behaves: it comes back by itself, and says when it won't."""
        return {
            "name": name,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "ping_interval": 10,
            "max_outstanding_pings": 2,
            "allow_reconnect": True,
            "closed_cb": self._on_closed,
            "error_cb": self._on_error,
        }

    async def begin(self) -> None:
        """Check the server and open the inbox; raises ServerUnsuitable."""
        await self._check_server()
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(
            f"{self._inbox}.*",
            cb=self._dispatch,
            pending_msgs_limit=0,  # bounded by what was asked for, never dropped
            pending_bytes_limit=0,
        )

    async def _check_server(self) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            await self.client.close()
            raise ServerUnsuitable(
                f"nats-server {version} is too old: wakestream needs 2.14 or newer; "
                "upgrade it, or leave out --nats to use the one that comes with "
                "wakestream"
            )

    async def _on_closed(self) -> None:
        self.closed.set()

    async def _on_error(self, error: Exception) -> None:
        """Errors of a connection surface where something is awaited."""

    async def close(self) -> None:
        """Close the connection; asking twice is fine."""
        if not self.client.is_closed:
            await self.client.close()

    # ── replies ──────────────────────────────────────────────────────────────

    async def _dispatch(self, message: "Msg") -> None:
        handler = self._handlers.get(message.subject[len(self._inbox) + 1 :])
        if handler:
            handler(message)

    def open(self, handler: Callable[["Msg"], None]) -> str:
        """Return a reply subject whose messages go to ``handler``."""
        token = str(next(self._numbers))
        self._handlers[token] = handler
        return f"{self._inbox}.{token}"

    def shut(self, reply: str) -> None:
        """Hear no more of a reply subject."""
        self._handlers.pop(reply[len(self._inbox) + 1 :], None)

    async def subscribe(
        self, subject: str | None, handler: Callable[["Msg"], None]
    ) -> Subscription:
        """Hear a subject, or a reply subject of its own, without any limit.

        The server stops sending when it is unsubscribed, so what a pull asked
        for is not lost to a reader that has gone.
        """

        async def pass_on(message: "Msg") -> None:
            handler(message)

        return await self.client.subscribe(
            subject or self.client.new_inbox(),
            cb=pass_on,
            pending_msgs_limit=0,  # bounded by what was asked for, never dropped
            pending_bytes_limit=0,
        )

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Hear no more; the server knows it when this returns."""
        if not self.client.is_closed:
            await subscription.unsubscribe()
        if self.client.is_connected:
            await self.client.flush()

    async def send(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send; raises OutcomeUnknown when the connection cannot take it."""
        try:
            await self.client.publish(
                subject,
                payload,
                reply=reply,
                headers=dict(headers) if headers else None,
            )
        except (nats.errors.Error, OSError) as error:
            raise OutcomeUnknown(f"cannot send to nats-server: {error}") from error

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        wait: float = ANSWER,
    ) -> "Msg":
        """Ask and return the answer; raises OutcomeUnknown when there is none."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        reply = self.open(partial(_take, answer))
        timer = loop.call_later(wait, _give_up, answer, subject)
        try:
            await self.send(subject, payload, reply=reply, headers=headers)
            message = await answer
        finally:
            timer.cancel()
            self.shut(reply)
        if status(message) == NO_RESPONDERS:
            raise OutcomeUnknown(f"nobody answers on {subject}")
        return message

    async def api(self, subject: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Call the JetStream API; raises ApiError with its error code."""
        payload = msgspec.json.encode(body) if body is not None else b""
        answer = (await self.request(f"$JS.API.{subject}", payload)).data
        raise_problem(answer)
        return answer


def raise_problem(answer: bytes) -> None:
    """Raise ApiError if a JetStream answer carries an error."""
    problem = _envelope.decode(answer).error
    if problem:
        raise ApiError(problem.err_code, problem.description)


def status(message: "Msg") -> str | None:
    """Return the status of a message that is no data, such as ``404``."""
    if message.data or not message.headers:
        return None
    return message.headers.get("Status")


def _take(answer: "asyncio.Future[Msg]", message: "Msg") -> None:
    if not answer.done():
        answer.set_result(message)


def _give_up(answer: "asyncio.Future[Msg]", subject: str) -> None:
    if not answer.done():
        answer.set_exception(OutcomeUnknown(f"no answer on {subject}"))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("nats", "tls") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise InvalidInput(
            f"{_public(url)!r} is no NATS address: write nats://HOST:PORT"
        )


def _public(url: str) -> str:
    """Leave out user and password: messages end up in logs."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__

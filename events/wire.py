"""The connection to nats-server: requests, replies, and what errors mean.

One inbox serves every request, so that a request costs one message each way;
replies in several parts (batched reads, pulls) come through the same inbox.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec

from events.client import Client, at_once
from events.errors import (
    InvalidInput,
    Misconfigured,
    OutcomeUnknown,
    ServerUnsuitable,
    TooLarge,
    Unavailable,
    WakeError,
)
from events.names import MAX_MESSAGE
from events.natspy import Subscription, errors
from events.presence import Connection

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = logging.getLogger(__name__)

OLDEST_SERVER = (2, 14)
"""Message schedules and what EVENTS needs exist from here on."""

ANSWER = 5.0
"""Seconds to wait for one answer of the server."""

MAX_SUBJECT = 1024
"""Bytes of a subject: the server cuts off who sends a line of more than 4,096."""

NO_RESPONDERS = "503"
REFUSED = "Authorization Violation"


class Nobody(OutcomeUnknown):
    """Nobody listens on that subject: what was asked did not happen."""


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
        self._broken: set[Callable[[], None]] = set()
        self._lost: set[Callable[[], None]] = set()
        self._promises: set[asyncio.Future[Msg]] = set()

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        name: str = "wakestream",
    ) -> Self:
        """Connect; raises InvalidInput, Misconfigured, Unavailable."""
        _check_url(url)
        wire = cls(Client())
        settings = {**wire.settings(name), "allow_reconnect": False}
        try:
            async with asyncio.timeout(ANSWER):
                await wire.client.connect(url, user=user, password=password, **settings)
        except (OSError, errors.Error, TimeoutError) as error:
            why = wire.client.last_error or error
            await wire.close()
            raise _no_connection(url, why) from error
        # From here on it comes back by itself; until here a refusal is an answer.
        wire.client.options["allow_reconnect"] = True
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
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "error_cb": self._on_error,
        }

    async def begin(self) -> None:
        """Check the server and open the inbox; raises ServerUnsuitable."""
        await self._check_server()
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(
            f"{self._inbox}.*",
            cb=at_once(self._dispatch),
            pending_msgs_limit=0,  # bounded by what was asked for, never dropped
            pending_bytes_limit=0,
        )

    async def _check_server(self) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            await self.close()
            raise ServerUnsuitable(
                f"nats-server {version.major}.{version.minor}.{version.patch} is too "
                "old: wakestream needs 2.14 or newer; "
                "upgrade it, or leave out --nats to use the one that comes with "
                "wakestream"
            )
        if self.client.max_payload < MAX_MESSAGE:
            await self.close()
            raise ServerUnsuitable(
                f"nats-server takes messages of {self.client.max_payload:,} bytes at "
                f"most: set max_payload to {MAX_MESSAGE:,} or more"
            )

    async def _on_closed(self) -> None:
        self.closed.set()

    async def _on_disconnected(self) -> None:
        for answer in self._promises:
            _give_up(answer, "a connection that was lost")
        for broken in list(self._broken):
            broken()

    async def _on_reconnected(self) -> None:
        for lost in list(self._lost):
            lost()

    async def _on_error(self, error: Exception) -> None:
        """Errors of a connection surface where something is awaited."""
        logger.debug("nats-server: %s", error)

    @property
    def identity(self) -> Connection:
        """Who we are to the server now; another after each reconnect."""
        client = self.client
        server: str = client._server_info.get("server_id", "")  # noqa: SLF001 - nats-py has no other way
        return Connection(server, client.client_id or 0)

    async def flush(self) -> None:
        """Return when the server has heard all that was sent; raises Unavailable.

        By a message to ourselves: nats-py's own flush sends its PING past what it
        has not written yet, a subscription just made among it.
        """
        heard = self.promise()
        subject = self.open(partial(_take, heard))
        try:
            async with asyncio.timeout(ANSWER):
                await self.send(subject, b"")
                await heard
        except (TimeoutError, OutcomeUnknown) as error:
            raise Unavailable("nats-server does not answer") from error
        finally:
            self.forgive(heard)
            self.shut(subject)

    @property
    def connected(self) -> bool:
        """Whether the server can be talked to right now."""
        return bool(self.client.is_connected)

    def watch(self, lost: Callable[[], None]) -> None:
        """Call ``lost`` after each reconnect: what was asked may be forgotten."""
        self._lost.add(lost)

    def watch_breaks(self, broken: Callable[[], None]) -> None:
        """Call ``broken`` when the connection broke, before anything new is heard.

        After a reconnect is too late for that: what was asked before the break may be
        answered as soon as the server knows the subscriptions again.
        """
        self._broken.add(broken)

    def unwatch(self, *watching: Callable[[], None]) -> None:
        """Call these no more; asking twice is fine."""
        self._broken.difference_update(watching)
        self._lost.difference_update(watching)

    async def close(self) -> None:
        """Close the connection; asking twice is fine."""
        if not self.client.is_closed:
            # What could not be sent any more is tried once more, on a dead socket.
            with contextlib.suppress(RuntimeError, OSError):
                await self.client.close()

    # ── replies ──────────────────────────────────────────────────────────────

    def _dispatch(self, message: "Msg") -> None:
        handler = self._handlers.get(message.subject[len(self._inbox) + 1 :])
        if handler:
            handler(message)

    def open(self, handler: Callable[["Msg"], None]) -> str:
        """Return a reply subject whose messages go to ``handler``."""
        token = str(next(self._numbers))
        self._handlers[token] = handler
        return f"{self._inbox}.{token}"

    def promise(self) -> "asyncio.Future[Msg]":
        """Return a future answer; OutcomeUnknown once the connection is lost.

        Give it back with ``forgive``.
        """
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._promises.add(answer)
        return answer

    def forgive(self, answer: "asyncio.Future[Msg]") -> None:
        """Expect an answer no more."""
        self._promises.discard(answer)
        answer.cancel()

    def shut(self, reply: str) -> None:
        """Hear no more of a reply subject."""
        self._handlers.pop(reply[len(self._inbox) + 1 :], None)

    async def subscribe(
        self, subject: str | None, handler: Callable[["Msg"], None], queue: str = ""
    ) -> Subscription:
        """Hear a subject, or a reply subject of its own, without any limit.

        Of those in a ``queue`` only one hears each message.

        The server stops sending when it is unsubscribed, so what a pull asked
        for is not lost to a reader that has gone. Raises OutcomeUnknown.
        """
        try:
            return await self.client.subscribe(
                subject or self.client.new_inbox(),
                queue=queue,
                cb=at_once(handler),
                pending_msgs_limit=0,  # bounded by what was asked for, never dropped
                pending_bytes_limit=0,
            )
        except (errors.Error, OSError) as error:
            raise OutcomeUnknown(f"cannot listen on nats-server: {error}") from error

    async def hush(self, subscription: Subscription) -> None:
        """Let the server stop sending, and go on hearing what is under way."""
        with contextlib.suppress(errors.Error, OSError):
            # nats-py has no other way to end the one without the other.
            await self.client._send_unsubscribe(subscription._id)  # noqa: SLF001

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Hear no more; what the server had sent until it knew is still heard.

        A server that cannot be told has lost the subscription with the connection.
        """
        with contextlib.suppress(errors.Error, OSError, Unavailable):
            try:
                if self.connected:
                    await self.hush(subscription)
                    await self.flush()
            finally:
                await subscription.unsubscribe()

    async def send(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send; raises OutcomeUnknown when the connection cannot take it.

        Raises TooLarge before anything is sent: the server would cut us off,
        and after that nats-py never comes back.
        """
        _check_size(subject, payload, headers, self.client.max_payload)
        try:
            await self.client.publish(
                subject,
                payload,
                reply=reply,
                headers=dict(headers) if headers else None,
            )
        except (errors.Error, OSError) as error:
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
        answer = self.promise()
        reply = self.open(partial(_take, answer))
        loop = asyncio.get_running_loop()
        timer = loop.call_later(wait, _give_up, answer, subject)
        try:
            await self.send(subject, payload, reply=reply, headers=headers)
            message = await answer
        finally:
            timer.cancel()
            self.forgive(answer)
            self.shut(reply)
        if status(message) == NO_RESPONDERS:
            raise Nobody(f"nobody answers on {subject}")
        return message

    async def api(self, subject: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Call the JetStream API; raises ApiError with its error code."""
        payload = msgspec.json.encode(body) if body is not None else b""
        answer = (await self.request(f"$JS.API.{subject}", payload)).data
        raise_problem(answer)
        return answer


def _check_size(
    subject: str, payload: bytes, headers: Mapping[str, str] | None, most: int
) -> None:
    """Raise TooLarge for a message that the server would not take."""
    size = len(payload)
    if headers:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        size += len(b"NATS/1.0\r\n\r\n") + len(lines.encode())
    if size > most:
        raise TooLarge(
            f"a message of {size:,} bytes, headers included, is larger than the "
            f"{most:,} that nats-server takes ({subject:.80})"
        )
    if len(subject.encode()) > MAX_SUBJECT:
        raise TooLarge(f"a subject has at most {MAX_SUBJECT:,} bytes: {subject:.80}")


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


def _no_connection(url: str, error: Exception) -> WakeError:
    if REFUSED in str(error):
        return Misconfigured(
            f"nats-server at {_public(url)} does not let this user in: check user and "
            "password (nats://USER:PASSWORD@HOST:PORT)"
        )
    return Unavailable(
        f"no nats-server answers at {_public(url)} "
        f"({str(error) or type(error).__name__}): start one, or name another with "
        "--nats"
    )

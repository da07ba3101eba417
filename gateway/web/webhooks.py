"""``POST /webhooks/agent-trigger``: what other systems tell us, signed.

Signatures are those of Standard Webhooks (standardwebhooks.com), by its library:
HMAC-SHA256 over id, time and body, no older than five minutes. The library takes
the same message twice; here its id names the trigger, and JetStream stores one of
a name (``events.triggers.REMEMBERED``): so who sends again, or replays, wakes
nobody twice, whatever died in between.
"""

import asyncio
import base64
import logging
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from events import cloudevents
from events.errors import InvalidInput, Misconfigured, TooLarge, WakeError
from events.names import EVERYBODY, check_event_type, check_id
from events.triggers import MAX_PAYLOAD
from gateway.web import reading
from gateway.web.desk import Desk
from gateway.web.problems import TooSlow, Unauthorized, told
from gateway.web.seldom import Seldom

logger = logging.getLogger(__name__)

PATH: Final = "/webhooks/agent-trigger"

SOURCE = "webhook"
"""Where the CloudEvents come from that are made of plain webhooks."""

ANSWER = 2.0
"""Seconds to wait for how many were woken; the trigger is stored all the same."""

LARGEST = MAX_PAYLOAD - 1024
"""Bytes of a body: with what is written around it, it must be a trigger."""

LEAST_KEY = 24
"""Bytes of a key, as Standard Webhooks has it."""

MOST_ID = 256
"""Characters of a message's id."""

T = TypeVar("T")


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a webhook says; ``user_id`` ``all`` is for everybody."""

    event_type: str
    user_id: str
    payload: Any = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A structured CloudEvent, as far as it matters here: ``userid`` says whose."""

    specversion: str
    id: str
    source: str
    type: str
    userid: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a webhook; ``woken`` is None when nobody said it in time."""

    accepted: bool = True
    duplicate: bool = False
    woken: int | None = None


class Webhooks:
    """Takes webhooks that were signed with any of ``keys`` (as ``whsec_…``).

    Several are for rotation. Raises Misconfigured for a key that is none.
    """

    def __init__(self, desk: Desk, keys: Sequence[str]) -> None:
        self._desk = desk
        self._hooks = [_hook(key) for key in keys]
        self._seldom = Seldom(logger)

    def routes(self) -> list[web.RouteDef]:
        """What is to be mounted; its body is bounded here."""
        return [web.post(PATH, self.take)]

    async def take(self, request: web.Request) -> web.Response:
        """Verify, publish once, and say what it woke."""
        try:
            body = await _read(request)
            name = self._verified(request, body)
            outcome = await self._publish(name, body, request.content_type)
        except WakeError as error:
            self._seldom.warning(f"webhook refused ({error.code})", str(error))
            return told(error)
        return web.Response(
            status=202 if outcome.woken is None and not outcome.duplicate else 200,
            body=msgspec.json.encode(outcome),
            content_type="application/json",
        )

    def _verified(self, request: web.Request, body: bytes) -> str:
        """Return the message's id; raises Unauthorized."""
        if not self._hooks:
            raise Unauthorized(
                "no key for webhooks is configured: set gateway.webhook_keys"
            )
        headers = {name.lower(): value for name, value in request.headers.items()}
        name = headers.get("webhook-id", "")
        if len(name) > MOST_ID:
            raise Unauthorized(f"webhook-id is longer than {MOST_ID} characters")
        problem: Exception | None = None
        for hook in self._hooks:
            try:
                hook.verify(body, headers, json_parse=False)
            except (WebhookVerificationError, ValueError, OverflowError) as error:
                problem = error
            else:
                return name
        raise Unauthorized(f"the signature is not good: {_why(problem)}")

    async def _publish(self, name: str, body: bytes, content_type: str) -> Outcome:
        user, event_type, message = _message(name, body, content_type)
        answer = await self._desk.tell(
            user, event_type, message, f"webhook {name}", ANSWER
        )
        if answer is None:
            return Outcome(duplicate=True)
        return Outcome(woken=answer.woken)


def _hook(key: str) -> Webhook:
    """Read a key strictly: the library skips what is no base64."""
    try:
        raw = base64.b64decode(key.removeprefix("whsec_"), validate=True)
    except ValueError:
        raw = b""
    if len(raw) < LEAST_KEY:
        raise Misconfigured(
            f"gateway.webhook_keys: a key is base64 of at least {LEAST_KEY} bytes, "
            "with or without whsec_ before it"
        )
    return Webhook(raw)


def _why(error: Exception | None) -> str:
    """What is wrong, in words that tell nothing of what would be right."""
    if isinstance(error, WebhookVerificationError):
        return str(error)
    return "webhook-signature is not as v1,BASE64"


async def _read(request: web.Request) -> bytes:
    """Read a body, no further than it may be; raises TooLarge, TooSlow."""
    body = bytearray()
    try:
        async with asyncio.timeout(reading.SLOWEST):  # whoever sends has no token
            await reading.ask_for_body(request)
            async for piece in request.content.iter_chunked(64 * 1024):
                body += piece
                if len(body) > LARGEST:
                    raise TooLarge(f"a webhook may have {LARGEST:,} bytes")
    except TimeoutError as error:
        raise TooSlow from error
    return bytes(body)


def _message(name: str, body: bytes, content_type: str) -> tuple[str, str, bytes]:
    """Return whose trigger it is, of what type, and it as a CloudEvent."""
    if "specversion" in _decoded(body, dict[str, msgspec.Raw]):
        event = _decoded(body, Event)
        return _user(event.userid), check_event_type(event.type), body
    if content_type.startswith("application/cloudevents"):
        raise InvalidInput("not a CloudEvent: specversion is missing")
    call = _decoded(body, Call)
    event_type = check_event_type(call.event_type)
    written = cloudevents.write(name, SOURCE, event_type, call.payload)
    return _user(call.user_id), event_type, written


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"the body does not fit: {error}") from error


def _user(name: str) -> str:
    return name if name == EVERYBODY else check_id(name, "user")

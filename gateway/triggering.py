"""``wake trigger``: something happened, and who is woken by it."""

import asyncio
import secrets
from functools import partial
from typing import Any

import msgspec
import uvloop

from events.errors import InvalidInput, Unavailable
from events.names import EVERYBODY, WANTS_ANSWER, check_event_type, check_id
from events.pinned import JetStreamInbox
from events.triggers import check_body
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from gateway.composition import Place
from gateway.sending import connected
from gateway.times import seconds_of
from services.woken import TriggerAnswer, accepted

ANSWER = 10.0
"""Seconds to wait for an answer; the trigger is stored all the same."""


def trigger(
    place: Place, user: str | None, event_type: str, data: str
) -> TriggerAnswer:
    """Publish a trigger and return what became of it; raises WakeError.

    ``user`` None: for everybody.
    """
    whose = EVERYBODY if user is None else check_id(user, "user")
    check_event_type(event_type)
    body = _json(data)
    check_body(body)
    talk = partial(_publish, user=whose, event_type=event_type, body=body)
    return uvloop.run(connected(place, talk))


def awaiting(
    event_type: str | None, where: str | None, within: str | None
) -> dict[str, Any] | None:
    """Say what a start waits for, by its flags; raises InvalidInput."""
    if event_type is None:
        if where is None and within is None:
            return None
        raise InvalidInput("--where and --within are about --await-event: name a type")
    awaited: dict[str, Any] = {"event_type": event_type}
    if where is not None:
        awaited["where"] = _fields(where)
    if within is not None:
        awaited["within"] = seconds_of(within, "--within")
    return awaited


async def _publish(
    wire: Wire, user: str, event_type: str, body: bytes
) -> TriggerAnswer:
    asked, triggers = f"cli-{secrets.token_hex(8)}", JetStreamTriggers(wire)
    async with JetStreamInbox(wire).answers(user, asked) as answers:
        position = await triggers.publish(
            user, event_type, body, headers={WANTS_ANSWER: asked}
        )
        try:
            async with asyncio.timeout(ANSWER):
                raw = await answers.get()
        except TimeoutError as error:
            raise Unavailable(
                f"no answer within {ANSWER:.0f} s: is a reactor service running "
                f"(wake up)? The trigger is stored (position {position}) and wakes "
                "whoever waits for it when one is"
            ) from error
    return accepted(raw)


def _json(text: str) -> bytes:
    try:
        body = text.encode()
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(
            f"the data is not JSON ({error}): write an object as '{{\"ok\": true}}', "
            "text as '\"text\"'"
        ) from error
    return body


def _fields(text: str) -> Any:
    """Read a filter; what may be in it the service says."""
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidInput(
            f'--where {text!r:.40}: write a JSON object as \'{{"branch": "main"}}\''
        )
    return fields

"""Sending a command and waiting for what lifecycle answers."""

import asyncio
import secrets
from typing import Any, NamedTuple

import msgspec

from events.errors import (
    InvalidInput,
    LimitReached,
    Refused,
    Unavailable,
    WakeError,
)
from events.inbox import Inbox
from events.names import ASKED_BY, TIER, Key, check_id
from services.requests import Answer

ANSWER = 10.0
"""Seconds to wait for an answer; the command is stored all the same."""


class Declined(WakeError):
    """The service refused the command; ``code`` is the one it gave."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.code = answer.code


class Vouched(NamedTuple):
    """Who asks, as the gateway made sure, and the tier that one's token names."""

    by: str
    tier: str | None = None


async def ask(inbox: Inbox, key: Key, verb: str, body: dict[str, Any]) -> Answer:
    """Send a command and return its answer; raises Refused, Declined, Unavailable."""
    command = body.setdefault("command_id", f"cli-{secrets.token_hex(8)}")
    check_id(command, "command_id")
    payload = encoded(body)
    async with inbox.answers(key.user, command) as answers:
        await inbox.publish(key, verb, payload)
        try:
            async with asyncio.timeout(ANSWER):
                raw = await answers.get()
        except TimeoutError as error:
            raise Unavailable(
                f"no answer to {verb} within {ANSWER:.0f} s: is a lifecycle service "
                "running (wake up)? The command is stored and takes effect when one is"
            ) from error
    return as_answer(raw)


def as_answer(raw: bytes) -> Answer:
    """Read an answer that says yes; raises what one that says no is about."""
    answer = _read(raw)
    if not answer.accepted:
        raise _declined(answer)
    return answer


def identity(key: Key, vouched: Vouched) -> dict[str, str]:
    """Say at the gateway's door who asks; a tier counts for one's own executions."""
    said = {ASKED_BY: vouched.by}
    if vouched.tier is not None and vouched.by == key.user:
        said[TIER] = vouched.tier
    return said


def encoded(body: dict[str, Any]) -> bytes:
    """Write a command's body; raises InvalidInput for what is no text."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object!r:.80} is not UTF-8: write it so") from error


def _read(raw: bytes) -> Answer:
    try:
        return msgspec.json.decode(raw, type=Answer)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Unavailable(f"the answer cannot be read: {error}") from error


def _declined(answer: Answer) -> WakeError:
    """Give the refusal the class that its code names, and so its exit code."""
    kinds = {kind.code: kind for kind in Refused.__subclasses__()}
    kind = kinds.get(answer.code)
    if kind is LimitReached:
        return LimitReached(answer.message, retry_after=answer.retry_after)
    return kind(answer.message) if kind else Declined(answer)

"""Talking to a running service from the command line."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import uvloop

from events.errors import InvalidInput, NotFound
from events.names import Key, check_id
from events.pinned import JetStreamInbox
from events.wire import Wire
from gateway.asking import ask
from gateway.composition import Place, connect, reach
from services.handler import utc_now
from services.ids import new_id
from services.requests import NEW, Answer

T = TypeVar("T")


def send(
    place: Place, user: str, execution: str, verb: str, body: dict[str, Any]
) -> Answer:
    """Send a command and return its answer; raises WakeError."""
    key = Key(check_id(user, "user"), check_id(execution, "execution"))

    async def sent(wire: Wire) -> Answer:
        return await ask(JetStreamInbox(wire), key, verb, body)

    return uvloop.run(connected(place, sent))


def fresh_id(idempotency_key: str | None) -> str:
    """Name a new execution, or leave that to the idempotency key."""
    return NEW if idempotency_key else new_id(utc_now())


def check_numbers(limits: Mapping[str, float | None]) -> None:
    """Raise InvalidInput for what JSON cannot say: it would pass for no limit."""
    for name, value in limits.items():
        if value is not None and not math.isfinite(value):
            flag = name.replace("_", "-")
            raise InvalidInput(f"--{flag} {value}: write a number, or leave it out")


async def connected(place: Place, talk: Callable[[Wire], Awaitable[T]]) -> T:
    """Talk to the service of a place; raises NotFound where none is running."""
    login = reach(place)
    if login is None:
        raise NotFound(
            f"no service is running on {place.data}: start one with wake up, or name "
            "a nats-server with --nats"
        )
    wire = await connect(login)
    try:
        return await talk(wire)
    finally:
        await wire.close()

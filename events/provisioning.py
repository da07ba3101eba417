"""Streams are made, or brought up to date, as each of ours is described.

What is not described is an operator's to set (limits, placement) and left alone.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from events.wire import ApiError, Wire

NAME_IN_USE = 10058
NO_STREAM = 10059


async def provision(
    wire: Wire, described: Mapping[str, Any], *, replicas: int | None
) -> None:
    """Let a stream be there as described; asking again is fine.

    With ``replicas`` None it keeps those it has, and a new one gets one: who only
    reads must not take the copies of a cluster away. Raises ApiError and
    OutcomeUnknown.
    """
    name = described["name"]
    try:
        body = {**described, "num_replicas": replicas or 1}
        await wire.api(f"STREAM.CREATE.{name}", body)
    except ApiError as error:
        if error.number != NAME_IN_USE:
            raise
        there = await configured(wire, name) or {}
        copies = replicas or there.get("num_replicas", 1)
        body = {**there, **described, "num_replicas": copies}
        if body != there:
            await wire.api(f"STREAM.UPDATE.{name}", body)


async def configured(wire: Wire, name: str) -> dict[str, Any] | None:
    """How a stream is configured; None if there is none."""
    try:
        answer = await wire.api(f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.number != NO_STREAM:
            raise
        return None
    found: dict[str, Any] = msgspec.json.decode(answer)["config"]
    return found

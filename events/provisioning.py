"""Streams are made, or brought up to date, as each of ours is described.

What is not described is an operator's to set (limits, placement) and left alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from events.wire import ApiError, Wire

NAME_IN_USE = 10058
NO_STREAM = 10059
NO_SPACE = 10047


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


async def provision_bounded(
    wire: Wire,
    described: Mapping[str, Any],
    *,
    replicas: int | None,
    spaces: Sequence[int],
) -> None:
    """Likewise a stream of bounded size: the first of ``spaces`` (bytes) that fits.

    A server reserves what a stream may have, and refuses what it cannot reserve. One
    that is there keeps its space: an operator may have given it more.
    """
    there = await configured(wire, described["name"])
    if there is not None:
        spaces = (there.get("max_bytes", spaces[0]),)
    for space in spaces:
        try:
            bounded = {**described, "max_bytes": space}
            await provision(wire, bounded, replicas=replicas)
        except ApiError as error:
            if error.number != NO_SPACE or space == spaces[-1]:
                raise
        else:
            return


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

"""Limits over REST: what is left, and what is refused, truly."""

import asyncio

from edges import SLOW, Gateway

START = {"agent_type": "explorer", "input": "script:\nsay Done.\n", "options": SLOW}


async def test_the_limit_of_a_tier_holds(gateway: Gateway) -> None:
    """Of ten starts at once a free user gets one; the others are 429 with a time."""
    free = gateway.caller("free-1", None)
    replies = await asyncio.gather(
        *(free.post("/api/agents", START) for _ in range(10))
    )
    assert sorted(r.status for r in replies) == [201] + [429] * 9
    for refused in (r for r in replies if r.status == 429):
        assert refused.code == "limit_reached"
        assert int(refused.headers["Retry-After"]) >= refused.body["retry_after"] > 0
    left = (await free.get("/api/limits")).body
    assert (left["user"], left["tier"]) == ("free-1", "free")
    assert left["concurrent"]["used"] == left["concurrent"]["limit"] == 1
    assert left["concurrent"]["remaining"] == 0
    assert left["hourly"]["used"] == 1
    (started,) = [r.body["id"] for r in replies if r.status == 201]
    assert (await free.delete(f"/api/agents/{started}")).status == 200
    again = await free.post("/api/agents", START)
    assert again.status == 201
    await free.delete(f"/api/agents/{again.body['id']}")


async def test_a_tier_that_there_is_not(gateway: Gateway) -> None:
    """It is said; nothing is started."""
    strange = gateway.caller("someone", "platinum")
    reply = await strange.post("/api/agents", START)
    assert (reply.status, reply.code) == (422, "invalid_input")
    assert "platinum" in reply.body["detail"]
    assert (await strange.get("/api/limits")).status == 422

"""What operators look at, and the end of a gateway."""

from edges import Gateway


async def test_it_says_that_it_lives_and_can_serve(gateway: Gateway) -> None:
    """Without a token: /healthz, and /readyz with what it looked at."""
    nobody = gateway.nobody()
    assert (await nobody.get("/healthz")).body == {"status": "ok"}
    ready = await nobody.get("/readyz")
    assert ready.status == 200
    assert ready.body == {"ready": True, "nats": True, "streams": True, "reasons": []}

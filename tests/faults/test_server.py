"""A nats-server that is killed under load."""

import asyncio

from fleet import Fleet
from form import by_form
from ledger import seen
from nats_server import NatsServer
from plan import Plan, steps
from sender import Sender

MANY, ROUNDS = by_form((12, 1), (60, 6))


async def test_the_server_killed_under_load(fleet: Fleet, server: NatsServer) -> None:
    """By kill -9, and restarted: every command is answered, and all end once."""
    await fleet.reactor()
    await fleet.lifecycle()
    for name in ("r1", "r2"):
        await fleet.runner(name)
    async with Sender.open(fleet) as sender, asyncio.TaskGroup() as group:
        striking = group.create_task(_strike(fleet, server))
        keys = [await sender.start(Plan(f"e{n}", steps(8))) for n in range(MANY)]
        await striking
        await sender.settled(again=True)
        states = await fleet.finished(*keys)
    assert {state.status for state in states} == {"completed"}
    assert all(child.alive for child in fleet.children)
    await fleet.check()


async def _strike(fleet: Fleet, server: NatsServer) -> None:
    """Kill the server each time so many more replies were asked for."""
    for number in range(1, ROUNDS + 1):
        await seen(lambda: fleet.ledger.calls().total() >= number * MANY)  # noqa: B023 - awaited here
        server.kill()
        server.start()

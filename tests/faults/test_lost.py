"""Runners that are lost for a while and come back: another has what they held.

Whatever it was that kept them away, they can write nothing when they are back;
they drop what they held, and serve others.
"""

import signal
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import pytest
from fleet import Fleet
from form import by_form
from nats_server import NatsServer
from nursery import Child
from plan import Plan, Step, Use, step, steps
from proxy import BOTH, Proxy

from events.catalog import ModelResponded
from events.names import Key

LEASE = 4.0
"""Seconds: no runner that is there stands still for two thirds of it."""


@pytest.fixture
async def proxy(server: NatsServer) -> AsyncIterator[Proxy]:
    """A network to the server."""
    async with Proxy.open(server.port) as proxy:
        yield proxy


class Loss(NamedTuple):
    """How a runner is lost and comes back, and whether leases have to run out."""

    lose: Callable[[Child, Proxy], None]
    back: Callable[[Child, Proxy], None]
    by_lease: bool


def _mend(_: Child, proxy: Proxy) -> None:
    proxy.mend()


LOSSES = {
    "stopped": Loss(
        lambda child, _: child.send(signal.SIGSTOP),
        lambda child, _: child.send(signal.SIGCONT),
        by_lease=True,
    ),
    "cut": Loss(lambda _, proxy: proxy.cut(), _mend, by_lease=False),
    "unheard": Loss(lambda _, proxy: proxy.hole("up"), _mend, by_lease=True),
    "deaf": Loss(lambda _, proxy: proxy.hole("down"), _mend, by_lease=True),
    "alone": Loss(lambda _, proxy: proxy.hole(*BOTH), _mend, by_lease=True),
}
IN_HAND: dict[str, Step] = {
    "model": step("write", gate="go"),
    "idempotent": Step((Use("write", gate="go"),)),
    "irreversible": Step((Use("launch", gate="go"),)),
}
"""What a runner can be in the middle of."""

SOME = [
    ("stopped", "irreversible"),
    ("cut", "model"),
    ("unheard", "model"),
    ("deaf", "irreversible"),
]
ALL = [(how, what) for how in LOSSES for what in IN_HAND]


@pytest.mark.parametrize(("how", "what"), by_form(SOME, ALL))
async def test_another_has_it(fleet: Fleet, proxy: Proxy, how: str, what: str) -> None:
    """Attempt 2 is another's; who was lost writes nothing, drops it, serves others."""
    loss = LOSSES[how]
    if not loss.by_lease:
        await fleet.reactor()
    lease = LEASE if loss.by_lease else 30.0
    lost = await fleet.runner("lost", lease=lease, WAKE_NATS=proxy.url)
    late = step("write", gate="late")
    key = await fleet.start(Plan("e1", (step("launch"), IN_HAND[what], late)))
    await fleet.ledger.asked("e1", 2, "lost")
    if what != "model":
        await fleet.done("e1-2-c0")
    loss.lose(lost, proxy)
    other = await fleet.runner("other", lease=lease)
    assert (await fleet.begun_by(key, "other")).attempt >= 2
    fleet.ledger.open("go")
    loss.back(lost, proxy)
    await fleet.said(lost, "dropp")
    await fleet.ledger.asked("e1", 3, "other")
    fleet.ledger.open("late")
    (state,) = await fleet.finished(key)
    assert state.status == "completed"
    await _serves(fleet, lost, other)
    await fleet.check()


async def _serves(fleet: Fleet, lost: Child, other: Child) -> None:
    """With the other gone, new work is done by the one that was lost."""
    other.send(signal.SIGTERM)
    await fleet.ended(other)
    (state,) = await fleet.finished(await fleet.start(Plan("e2", steps(3))))
    assert fleet.ledger.callers("e2", 1) == ["lost"]
    assert (state.status, state.attempt, lost.alive) == ("completed", 1, True)


async def test_away_for_less_than_the_grace(fleet: Fleet, proxy: Proxy) -> None:
    """A runner that only lost its network keeps its work."""
    reactor = await fleet.reactor(FAULTS_GRACE="60")
    await fleet.runner("cut", WAKE_NATS=proxy.url)
    plan = Plan("e1", (step("launch"), step("write", gate="go"), step("launch")))
    key = await fleet.start(plan)
    await fleet.ledger.asked("e1", 2, "cut")
    await fleet.runner("other")
    proxy.cut()
    proxy.mend()
    await fleet.said(reactor, "runner cut is back within the grace")
    fleet.ledger.open("go")
    (state,) = await fleet.finished(key)
    assert (state.status, state.attempt) == ("completed", 1)
    await fleet.check()


@pytest.mark.parametrize("cut", [False, True], ids=["late", "lost"])
async def test_acks_of_appends(fleet: Fleet, proxy: Proxy, *, cut: bool) -> None:
    """What was stored and not confirmed, late or never, is found and not done again."""
    await fleet.runner("deaf", WAKE_NATS=proxy.url)
    plan = Plan("e1", (step("write"), step("launch", gate="go"), step("launch")))
    key = await fleet.start(plan)
    await fleet.ledger.asked("e1", 2, "deaf")
    proxy.hole("down")
    fleet.ledger.open("go")
    await _recorded(fleet, key, 2)
    if cut:
        proxy.cut()
    proxy.mend()
    (state,) = await fleet.finished(key)
    assert (state.status, state.attempt) == ("completed", 1)
    await fleet.check()


async def _recorded(fleet: Fleet, key: Key, number: int) -> None:
    """Wait until a reply is in the log."""
    await fleet.happened(
        key, lambda fact: isinstance(fact, ModelResponded) and fact.step == number
    )


async def test_a_slow_network(fleet: Fleet, proxy: Proxy) -> None:
    """A connection of 50 ms and 200 KB/s: slower, nothing else."""
    await fleet.reactor()
    proxy.slow(0.05, 200_000)
    await fleet.runner("slow", WAKE_NATS=proxy.url)
    many = by_form(4, 32)
    keys = [await fleet.start(Plan(f"e{n}", steps(3, 0.0))) for n in range(many)]
    for state in await fleet.finished(*keys):
        assert (state.status, state.attempt) == ("completed", 1)
    await fleet.check()

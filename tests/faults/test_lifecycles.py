"""Lifecycles that are killed, and commands that come twice or in any order."""

import random

import pytest
from fleet import Fleet
from form import by_form
from plan import Plan, steps
from sender import Sender

from events.names import Key
from events.state import FINAL

POINTS = by_form(
    [("before", 3, True), ("after", 3, False)],
    [(when, n, by) for when in ("before", "after") for n in (2, 3, 7) for by in (0, 1)],
)


@pytest.mark.parametrize(("when", "number", "standby"), POINTS)
async def test_a_lifecycle_killed(
    fleet: Fleet, when: str, number: int, *, standby: bool
) -> None:
    """Every command is answered by whoever is next, and takes effect once."""
    await fleet.reactor()
    victim = await fleet.lifecycle("victim", WAKE_CRASH=f"append.{when}:{number}")
    await fleet.runner("r1")
    async with Sender.open(fleet) as sender:
        await sender.start(Plan("first", steps(2)))
        await sender.settled()
        if standby:
            await fleet.lifecycle("standby")
        keys = [await sender.start(Plan(f"e{n}", steps(3))) for n in range(6)]
        for key in keys:
            await sender.send("pause", key)
            await sender.send("resume", key)
        await fleet.ended(victim)
        if not standby:
            await fleet.lifecycle("restarted")
        await sender.settled()
        await fleet.finished(*keys)
        starts = {sent.command_id for sent in fleet.sent if sent.verb == "start"}
        assert all(a.accepted for a in fleet.answers if a.command_id in starts)
    await fleet.check()


VERBS = ("pause", "resume", "cancel", "input", "retry", "start")


@pytest.mark.parametrize("seed", range(by_form(2, 20)))
async def test_commands_in_any_order(fleet: Fleet, seed: int) -> None:
    """Each of them twice or more: all are answered alike, by what was so then."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
    await fleet.lifecycle()
    await fleet.runner("r1")
    async with Sender.open(fleet) as sender:
        keys = [Key("ada", f"e{n}") for n in range(by_form(8, 24))]
        asked = [(verb, key) for key in keys for verb in VERBS]
        chance.shuffle(asked)
        for verb, key in asked:
            await _send(sender, verb, key, chance.randint(1, 3))
        await sender.settled()
        for key in keys:
            await sender.send("resume", key)  # what is paused would wait for ever
        await sender.settled()
        states = await fleet.finished(*keys)
        assert {state.status for state in states} <= FINAL
    await fleet.check()


async def _send(sender: Sender, verb: str, key: Key, times: int) -> None:
    if verb == "start":
        await sender.start(Plan(key.execution, steps(3)), times)
    elif verb == "input":
        await sender.send(verb, key, times, request="1-question-c1", answer="yes")
    else:
        await sender.send(verb, key, times)

"""Lifecycles that are killed between the two writes of a start."""

import pytest
from fleet import Fleet
from form import by_form
from plan import Plan, steps
from sender import Sender

from events import quota as rules
from events.kvstream import JetStreamRegister
from events.names import QUOTAS

MOST = 5
"""What a pro may have at a time."""

POINTS = by_form(
    [("admission.after:2", 0), ("append.before:3", 1)],
    [
        (f"{point}:{n}", standby)
        for point in ("admission.after", "append.before", "append.after")
        for n in (1, 3, 5)
        for standby in (0, 1)
    ],
)


@pytest.mark.parametrize(("point", "standby"), POINTS)
async def test_a_kill_costs_nobody_a_place(
    fleet: Fleet, point: str, *, standby: bool
) -> None:
    """As many are admitted as may be, each of them is created, and counts once."""
    limited = {"WAKE_LIMITS_DEFAULT_TIER": "pro"}
    victim = await fleet.lifecycle("victim", **limited, WAKE_CRASH=point)
    if standby:
        await fleet.lifecycle("standby", **limited)
    async with Sender.open(fleet) as sender:
        for number in range(3 * MOST):
            await sender.start(Plan(f"e{number}", steps(1)))
        await fleet.ended(victim)
        if not standby:
            await fleet.lifecycle("restarted", **limited)
        await sender.settled(again=True)
    answers = {answer.execution: answer for answer in fleet.answers}
    accepted = {name for name, answer in answers.items() if answer.accepted}
    assert {a.code for a in answers.values() if not a.accepted} == {"limit_reached"}
    assert len(accepted) == MOST
    value = (await JetStreamRegister(fleet.wire, QUOTAS).read("ada")).value
    quota = rules.decoded(value, "ada")
    assert {one.execution for one in quota.admitted} == accepted
    assert sum(start.count for start in quota.starts) == MOST
    await fleet.runner("r1")
    await fleet.reactor()
    keys = [sent.key for sent in fleet.sent if sent.key.execution in accepted]
    await fleet.finished(*keys)
    await fleet.check()


async def test_a_lifecycle_that_limits_nobody_says_so(fleet: Fleet) -> None:
    """On a server that others may reach; not where a default is set."""
    limited = await fleet.lifecycle("limited", WAKE_LIMITS_DEFAULT_TIER="free")
    loose = await fleet.lifecycle("loose")
    await fleet.said(loose, "limits.default_tier is not set")
    assert "default_tier" not in limited.err

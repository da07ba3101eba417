"""The check after each fault: what it says of a service in which something is wrong."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from auditor import Sent
from fleet import Fleet
from plan import Plan, step

from events.catalog import MetadataWritten
from events.execution import Execution
from events.names import Key
from services.handler import Handler


async def _launched_twice(fleet: Fleet, _: Key) -> None:
    fleet.ledger.note_effect("e1-1-c0", "somebody")


async def _written_twice(fleet: Fleet, _: Key) -> None:
    fleet.ledger.note_effect("e1-2-c0", "somebody")


async def _never_asked_for(fleet: Fleet, _: Key) -> None:
    fleet.ledger.note_effect("e1-9-c0", "somebody")


async def _paid_twice(fleet: Fleet, _: Key) -> None:
    fleet.ledger.note_call("e1", 2, "somebody")


async def _not_answered(fleet: Fleet, key: Key) -> None:
    fleet.sent.append(Sent(command_id="cmd-1", key=key, verb="pause"))


async def _not_begun(fleet: Fleet, _: Key) -> None:
    await fleet.start(Plan("e2"))


async def _held_by_nobody(fleet: Fleet, _: Key) -> None:
    begin = partial(Execution.begin, runner="ghost", version=1)
    await Handler(fleet.journal, "ghost").handle(await fleet.start(Plan("e2")), begin)


async def _after_the_end(fleet: Fleet, key: Key) -> None:
    def write(execution: Execution) -> None:
        execution.trigger_event(MetadataWritten, notes={"late": True})

    await Handler(fleet.journal, "zombie").handle(key, write)


WRONG: dict[str, Callable[[Fleet, Key], Awaitable[None]]] = {
    "irreversible call 1-c0 ran 2 times, it may 1": _launched_twice,
    "idempotent call 2-c0 ran 2 times, it may 1": _written_twice,
    "e1-9-c0 ran 1 times, and no reply asked for it": _never_asked_for,
    "reply 2 was asked for 2 times, in 1 attempts": _paid_twice,
    "was never answered": _not_answered,
    "e2 is pending in the end": _not_begun,
    "stuck: Stuck(user='ada', execution='e2', status='running'": _held_by_nobody,
    "not lawful": _after_the_end,
}


@pytest.mark.parametrize("finding", list(WRONG))
async def test_what_is_wrong_is_found(fleet: Fleet, finding: str) -> None:
    """Each in words that say what does not hold, and where."""
    runner = await fleet.runner("r1")
    key = await fleet.start(Plan("e1", (step("launch"), step("write"))))
    await fleet.finished(key)
    await fleet.check()
    runner.kill()
    await fleet.ended(runner)
    await WRONG[finding](fleet, key)
    found = await fleet.findings()
    assert any(finding in one for one in found), found
    with pytest.raises(AssertionError):
        await fleet.check()

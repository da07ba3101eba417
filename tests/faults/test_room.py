"""A nats-server that has no room left.

What it cannot store it says, and nobody takes it for stored; once there is room
again everything goes on.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import ACCOUNTS, Fleet
from form import LONG, by_form
from logs import back
from nats_server import NatsServer
from plan import Plan, step, steps
from sender import Sender

from events.errors import Unavailable
from events.names import Key
from events.pinned import JetStreamInbox
from events.wire import ApiError, raise_problem

SMALL = """
jetstream { store_dir: "store", sync_interval: always, max_file_store: 4MB }
"""
FILLING = {"name": "FILLING", "subjects": ["filling"], "storage": "file"}
FULL = "insufficient resources"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server whose file store is small."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = NatsServer(folder, ACCOUNTS + SMALL, jetstream=False)
    server.start()
    yield server
    server.stop()


async def _fill(fleet: Fleet) -> None:
    """Fill it to the last byte."""
    await fleet.wire.api("STREAM.CREATE.FILLING", FILLING)
    size = 100_000
    while size:
        answer = await fleet.wire.request("filling", b"x" * size)
        try:
            raise_problem(answer.data)
        except ApiError as error:
            if FULL not in str(error):
                raise
            size //= 10


@pytest.mark.parametrize("restart", by_form([False], [False, True]))
async def test_no_room(fleet: Fleet, server: NatsServer, *, restart: bool) -> None:
    """Commands are refused with the reason; what runs waits for room, then goes on.

    There is no reactor: its triggers alone reserve more than this server has.
    """
    await fleet.lifecycle()
    runner = await fleet.runner("r1", lease=2.0)
    async with Sender.open(fleet) as sender:
        plan = Plan("e1", (step("launch"), step("launch", gate="go"), step("write")))
        key = await sender.start(plan)
        await fleet.ledger.asked("e1", 2, "r1")
        await sender.settled()
        await _fill(fleet)
        fleet.ledger.open("go")
        with pytest.raises(Unavailable, match=f"was not stored: .*{FULL}"):
            await JetStreamInbox(fleet.wire).publish(Key("ada", "e2"), "start", b"{}")
        refused = fleet.born("start", "x", "--agent", "tester", "--json")
        await fleet.ended(refused)
        assert FULL in json.loads(refused.out)["message"]
        if LONG:  # half a minute: then the runner gives up, and its lease runs out
            await fleet.said(runner, f"dropped: JetStream error 10023: {FULL}")
        if restart:
            server.kill()
            server.start()
            await back(fleet.journal)
        await fleet.wire.api("STREAM.DELETE.FILLING")
        await sender.start(Plan("e2", steps(3)))
        await sender.settled(again=restart)
        states = await fleet.finished(key, Key("ada", "e2"))
    assert [state.status for state in states] == ["completed"] * 2
    assert states[0].attempt == 1 or LONG
    await fleet.check()

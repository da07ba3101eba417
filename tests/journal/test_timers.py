"""Timers, on both adapters; and what only a real server can do."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from bells import Bell, JetStreamBell, now, timer
from nats_server import NatsServer

from events import timers as port
from events.errors import TooLarge, Unavailable
from events.names import SCHEDULES
from events.timers import Timer


@pytest.fixture
async def own_bell(own_server: NatsServer) -> AsyncIterator[JetStreamBell]:
    """Timers on a server that may be killed."""
    bell = JetStreamBell(own_server.url)
    await bell.open()
    yield bell
    await bell.close()


def test_the_id_follows_from_what_a_timer_says() -> None:
    """In whatever zone its time is written; anything else makes it another one."""
    due = datetime(2026, 12, 1, 9, tzinfo=timezone(timedelta(hours=1)))
    one = timer(due=due)
    assert one.id == timer(due=due.astimezone(UTC)).id
    others = [
        timer(due=due, about="run-2"),
        timer(due=due, kind="start"),
        timer(due=due, detail="1-question-c1"),
        timer(due=due + timedelta(microseconds=1)),
    ]
    assert len({one.id, *(other.id for other in others)}) == 5


async def test_a_timer_goes_off_at_its_time_and_not_before(bell: Bell) -> None:
    """With all that it says; within a quarter of a second, and some scheduling."""
    armed = timer(0.3, detail="x.y z", about="run-1")
    await bell.timers.arm(armed)
    alarm = await bell.rung()
    late = (now() - armed.due).total_seconds()
    assert alarm.timer == armed
    assert 0 <= late < 2.0
    await alarm.done()
    assert await bell.silent()


async def test_a_time_that_is_past_is_due_at_once(bell: Bell) -> None:
    """Also one of long ago."""
    armed = timer(-86_400.0)
    await bell.timers.arm(armed)
    assert (await bell.rung()).timer == armed


async def test_armed_twice_it_goes_off_once(bell: Bell) -> None:
    """By two reactors at the same time, too."""
    other = await bell.again()
    armed = timer(2.0)  # by then both have armed it
    await asyncio.gather(*(t.arm(armed) for t in (bell.timers, other) * 5))
    await (await bell.rung()).done()
    assert await bell.silent()


async def test_a_cancelled_timer_does_not_go_off(bell: Bell) -> None:
    """To cancel what is not there is fine; the others are left alone."""
    gone, stays = timer(2.0), timer(2.0, "run-2")  # cancelled by then
    await bell.timers.cancel(gone)
    for one in (gone, stays):
        await bell.timers.arm(one)
    await bell.timers.cancel(gone)
    assert (await bell.rung()).timer == stays


async def test_a_timer_has_an_end_to_its_size(bell: Bell) -> None:
    """It names what is due; a model that makes up an endless id is not followed."""
    with pytest.raises(TooLarge, match="allowed: 8,192"):
        await bell.timers.arm(timer(detail="x" * 8192))
    await bell.timers.arm(timer(3600.0, detail="x" * 8000))


async def test_what_waits_for_its_time_is_known(bell: Bell) -> None:
    """Until it went off."""
    later, soon = timer(3600.0), timer(0.0, "run-2")
    await bell.timers.arm(later)
    await bell.timers.arm(soon)
    await bell.rung()
    assert await bell.timers.armed() == {("ada", later.id)}


async def test_an_alarm_is_handed_to_one_reactor(bell: Bell) -> None:
    """Twenty alarms, two that take: each goes to one of them."""
    other = await bell.again()
    for number in range(20):
        await bell.timers.arm(timer(0.0, f"run-{number}"))
    taken: list[str] = []

    async def take(timers: port.Timers) -> None:
        while len(taken) < 20:
            for alarm in await timers.take(3, 0.1):
                taken.append(alarm.timer.about)
                await alarm.done()

    await asyncio.gather(take(bell.timers), take(other))
    assert sorted(taken) == sorted({f"run-{number}" for number in range(20)})


async def test_what_was_given_back_comes_again(bell: Bell) -> None:
    """After the delay that was asked for, to anybody."""
    await bell.timers.arm(armed := timer())
    await (await bell.rung()).give_back(0.1)
    again = await bell.rung(await bell.again())
    assert again.timer == armed
    await again.done()


async def test_armed_again_after_it_went_off_it_goes_off_again(bell: Bell) -> None:
    """So who does not know whether it did may arm it."""
    for _ in range(2):
        await bell.timers.arm(timer(0.0, due=datetime(2026, 1, 1, tzinfo=UTC)))
        await (await bell.rung()).done()


async def test_alarms_survive_the_end_of_the_server(
    own_bell: JetStreamBell, own_server: NatsServer
) -> None:
    """What was due while it was down goes off at its start; what was taken, again."""
    await own_bell.timers.arm(due := timer(0.1))
    await own_bell.timers.arm(later := timer(3600.0, "run-2"))
    own_server.kill()
    await asyncio.to_thread(own_server.start)
    alarm = await _rung(own_bell)
    assert alarm.timer == due
    assert await own_bell.timers.armed() == {("ada", later.id)}


async def _rung(bell: JetStreamBell) -> port.Alarm:
    while True:
        try:
            return await bell.rung()
        except Unavailable:
            await asyncio.sleep(0.02)


async def test_a_server_that_is_gone_is_unavailable(
    own_bell: JetStreamBell, own_server: NatsServer
) -> None:
    """Arming, cancelling and looking say so."""
    own_server.kill()
    timers = own_bell.timers
    attempts = (timers.arm(timer()), timers.cancel(timer()), timers.armed())
    came = await asyncio.gather(*attempts, return_exceptions=True)
    assert [type(error) for error in came] == [Unavailable] * 3


async def test_the_stream_is_as_the_design_says(own_bell: JetStreamBell) -> None:
    """Without an age: it would delete what is far away."""
    config = (await own_bell.info())["config"]
    assert config["retention"] == "workqueue"
    assert config["max_age"] == 0
    assert config["allow_msg_schedules"]
    assert sorted(config["subjects"]) == ["due.*.*", "schedules.*.*"]


async def test_what_is_no_timer_is_left_alone(
    own_bell: JetStreamBell, caplog: pytest.LogCaptureFixture
) -> None:
    """Written by a newer version, say; it stops nobody."""
    wire = own_bell.timers._wire
    for body in (b"", b"{}", b"\xff", b'{"kind": "dance"}'):
        await wire.request("due.ada.x", body)
    await own_bell.timers.arm(good := timer())
    assert (await own_bell.rung()).timer == good
    assert "cannot be read" in caplog.text


async def test_opened_again_nothing_is_lost(own_bell: JetStreamBell) -> None:
    """Provisioning twice is fine."""
    await own_bell.timers.arm(later := timer(3600.0))
    other = await own_bell.again()
    assert await other.armed() == {("ada", later.id)}
    assert (await own_bell.info())["config"]["name"] == SCHEDULES


def test_a_timer_says_what_it_is_for() -> None:
    """In a log line."""
    one = Timer(user="ada", about="run-1", kind="start", due=now())
    assert str(one) == "start of ada/run-1"

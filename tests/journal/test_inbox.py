import asyncio
import gc
import random
import warnings
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from inboxes import (
    KEY,
    Box,
    JetStreamBox,
    MemoryBox,
    Taker,
    cut,
    deafen,
    firsts,
    kill,
    timed,
)
from nats_server import NatsServer

from events.errors import InvalidInput, Unavailable, WakeError
from events.inbox import MAX_BODY, Inbox, Order
from events.names import Key
from events.pinned import JetStreamInbox

LONG = 5.0
"""Seconds that a take may wait for what is sure to come."""


@pytest.fixture
async def jetstream(nats_server: NatsServer) -> AsyncIterator[JetStreamBox]:
    """An empty inbox on the shared server, where clients are missed soon.

    But not for what a busy machine makes of a moment.
    """
    with timed(lease=2.0, pin=1.5):
        async with JetStreamBox.empty(nats_server.url) as box:
            yield box


@pytest.fixture
async def own(own_server: NatsServer) -> AsyncIterator[JetStreamBox]:
    """An empty inbox on a server of its own."""
    with timed():
        async with JetStreamBox.empty(own_server.url) as box:
            yield box
    with warnings.catch_warnings():
        # nats-py leaves the socket of a reconnect that failed to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def memory() -> MemoryBox:
    """An empty inbox in memory."""
    return MemoryBox()


@pytest.fixture(params=["memory", "jetstream"])
def box(request: pytest.FixtureRequest) -> Box:
    """Each adapter in turn, empty."""
    chosen: Box = request.getfixturevalue(request.param)
    return chosen


async def fill(inbox: Inbox, count: int, key: Key = KEY) -> list[int]:
    """Publish commands that are numbered; returns their positions."""
    return [
        await inbox.publish(key, "pause", f'{{"n": {n}}}'.encode())
        for n in range(count)
    ]


async def take(inbox: Inbox, count: int) -> list[Order]:
    """Take exactly so many."""
    taken: list[Order] = []
    while len(taken) < count:
        taken += await inbox.take(count - len(taken), LONG)
    return taken


def positions(orders: list[Order]) -> list[int]:
    """Where they are stored."""
    return [order.position for order in orders]


# ── both adapters ────────────────────────────────────────────────────────────


async def test_what_was_published_is_taken_as_it_was(box: Box) -> None:
    """Subject, body and headers arrive, whatever door and verb."""
    place = Key("bob", "x_1-Z")
    header = {"X-Note": "hello"}
    await box.inbox.publish(place, "nonsense", b"\xff", door="gateway", headers=header)
    (order,) = await take(box.inbox, 1)
    assert (order.door, order.key, order.verb) == ("gateway", place, "nonsense")
    assert (order.body, order.headers["X-Note"]) == (b"\xff", "hello")
    await box.inbox.done(order)


async def test_commands_are_taken_in_the_order_they_were_stored(box: Box) -> None:
    """However many are taken at a time."""
    stored = await fill(box.inbox, 50)
    taken = [await take(box.inbox, size) for size in (1, 7, 30, 12)]
    assert [order.position for orders in taken for order in orders] == stored
    assert await box.inbox.take(5, 0.01) == []


async def test_what_is_done_never_comes_again(box: Box) -> None:
    """Only what was taken and not done is handed out when a client is lost."""
    stored = await fill(box.inbox, 6)
    taken = await take(box.inbox, 6)
    for order in (taken[1], taken[4], taken[1]):
        await box.inbox.done(order)
    again = await take(await box.lost(), 4)
    assert positions(again) == [stored[n] for n in (0, 2, 3, 5)]


async def test_what_was_taken_comes_again_before_what_is_newer(box: Box) -> None:
    """Also when the newer was there first, for the client that takes over."""
    stored = await fill(box.inbox, 3)
    await take(box.inbox, 2)
    stored += await fill(box.inbox, 3)
    assert positions(await take(await box.lost(), 6)) == stored


async def test_only_the_last_handing_out_counts(box: Box) -> None:
    """What is held ends with its settling, or when it was handed out anew."""
    await fill(box.inbox, 2)
    first, second = await take(box.inbox, 2)
    assert box.inbox.holds(first)
    await box.inbox.done(first)
    assert not box.inbox.holds(first)
    inbox = await box.lost()
    (again,) = await take(inbox, 1)
    assert again.position == second.position
    assert inbox.holds(again)
    assert not inbox.holds(second)
    await inbox.done(second)
    assert inbox.holds(again)


async def test_a_busy_client_takes_nothing(box: Box) -> None:
    """A limit of 0 gives nothing, at once, and keeps nothing back."""
    stored = await fill(box.inbox, 2)
    for _ in range(3):
        assert await box.inbox.take(0, 60) == []
    assert positions(await take(box.inbox, 2)) == stored


async def test_an_oversized_command_is_refused_before_it_is_sent(box: Box) -> None:
    """The largest passes whole, one byte more is refused, and the inbox goes on."""
    with pytest.raises(InvalidInput, match="262,144 bytes, not 262,145"):
        await box.inbox.publish(KEY, "start", b"x" * (MAX_BODY + 1))
    await box.inbox.publish(KEY, "start", b"x" * MAX_BODY)
    (order,) = await take(box.inbox, 1)
    assert len(order.body) == MAX_BODY


async def test_answers_reach_whoever_listens_and_nobody_else(box: Box) -> None:
    """By user and command id; an asterisk stands for all commands of one user."""
    inbox = box.inbox
    async with (
        inbox.answers("ada", "c1") as one,
        inbox.answers("ada", "*") as own,
        inbox.answers("bob", "*") as other,
    ):
        for user, command in (("ada", "c1"), ("ada", "c2"), ("bob", "c1")):
            await inbox.answer(user, command, f"{user} {command}".encode())
        assert [await own.get() for _ in range(2)] == [b"ada c1", b"ada c2"]
        assert await other.get() == b"bob c1"
        assert await one.get() == b"ada c1"
        assert one.empty()
        assert other.empty()
    await inbox.answer("ada", "c1", b"nobody hears that")
    assert own.empty()


# ── one takes, the others stand by ───────────────────────────────────────────


async def test_a_stand_by_gets_nothing_until_the_first_falls_silent(
    jetstream: JetStreamBox,
) -> None:
    """Then it takes over in order, what was lost with the first before the rest."""
    first, second = jetstream.inbox, await jetstream.client()
    stored = await fill(first, 4)
    taken = await take(first, 4)
    await first.done(taken[1])
    waiting = asyncio.create_task(take(second, 5))
    stored += await fill(await jetstream.client(), 2)
    assert positions(await take(first, 2)) == stored[4:]
    assert not waiting.done()
    await kill(first)
    assert positions(await waiting) == [stored[n] for n in (0, 2, 3, 4, 5)]


async def test_a_closed_client_makes_room_at_once(nats_server: NatsServer) -> None:
    """What lay there untaken is given back: nobody waits for a time to run out."""
    with timed(lease=600, pin=600):
        async with JetStreamBox.empty(nats_server.url) as box:
            first, second = box.inbox, await box.client()
            stored = await fill(first, 5)
            taken = await take(first, 1)
            await first.take(0, 0)
            taken += await take(first, 1)
            waiting = asyncio.create_task(take(second, 5))
            for order in taken:
                await first.done(order)
            stored += await fill(first, 2)
            await first.close()
            await first.close()
            assert positions(await waiting) == stored[2:]


async def test_a_busy_client_stays_the_one_that_takes(jetstream: JetStreamBox) -> None:
    """Busy for longer than its lease and its pin last: a stand-by gets nothing."""
    first, second = jetstream.inbox, await jetstream.client()
    stored = await fill(first, 3)
    taken = await take(first, 3)
    waiting = asyncio.create_task(take(second, 1))
    while (await jetstream.consumer())["num_redelivered"] < 3:
        await first.take(0, 0)
        await asyncio.sleep(0.01)
    stored += await fill(first, 1)
    assert all(first.holds(order) for order in taken)
    (new,) = await take(first, 1)
    assert new.position == stored[3]
    for order in (*taken, new):
        await first.done(order)
    assert (await jetstream.consumer())["num_ack_pending"] == 0
    assert not waiting.done()
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_who_fell_silent_learns_that_another_took_over(
    jetstream: JetStreamBox,
) -> None:
    """What it held counts no more, and what it had not taken is not handed out."""
    first, second = jetstream.inbox, await jetstream.client()
    stored = await fill(first, 4)
    (held,) = await take(first, 1)
    again = await take(second, 4)
    assert positions(again) == stored
    assert await first.take(4, 0.05) == []
    assert not first.holds(held)
    await first.done(held)
    assert all(second.holds(order) for order in again)


async def test_what_was_sent_into_a_break_comes_before_what_is_newer(
    nats_server: NatsServer,
) -> None:
    """The same client is back before another is pinned; yet nothing is overtaken."""
    with timed(lease=0.8, pin=600):
        async with JetStreamBox.empty(nats_server.url) as box:
            inbox, other = box.inbox, await box.client()
            stored = await fill(other, 1)
            await inbox.done((await take(inbox, 1))[0])
            deafen(inbox)
            stored += await fill(other, 3)
            while (await box.consumer())["num_ack_pending"] < 3:
                await inbox.take(9, 0.05)  # asks as often as requests run out
            cut(inbox)
            stored += await fill(other, 3)
            assert positions(await take(inbox, 6)) == stored[1:]


async def test_what_is_sent_before_a_reconnect_is_known_overtakes_nothing(
    nats_server: NatsServer,
) -> None:
    """The server answers what was asked before the break once it is connected again."""
    with timed(lease=0.8, pin=600), pytest.MonkeyPatch.context() as patch:
        patch.setattr("events.pinned.PULL", 60)
        async with JetStreamBox.empty(nats_server.url) as box:
            inbox, other = box.inbox, await box.client()
            await fill(other, 1)
            await inbox.done((await take(inbox, 1))[0])
            await inbox.take(9, 0.05)
            deafen(inbox)
            stored = await fill(other, 3)
            while (await box.consumer())["num_ack_pending"] < 3:  # noqa: ASYNC110 - the server's
                await asyncio.sleep(0.01)
            client = inbox._wire.client
            known = client._reconnected_cb

            async def late() -> None:
                stored.extend(await fill(other, 3))
                await inbox._wire.flush()
                await known()

            patch.setattr(client, "_reconnected_cb", late)
            cut(inbox)
            assert positions(await take(inbox, 6)) == stored


WAYS = {
    "connections": ("cut", "silence"),
    "processes": ("death", "close"),
    "servers": ("server",),
    "anything": ("cut", "silence", "death", "close", "server"),
    "all": ("cut", "silence", "death", "close", "server"),
}


@pytest.mark.parametrize("ways", WAYS)
async def test_no_command_overtakes_another(
    own: JetStreamBox, own_server: NatsServer, ways: str
) -> None:
    """Two clients under load, lost at any moment and in any way: order is kept.

    Each command is handled, and for the first time after all that are older.
    """
    chance = random.Random(ways)  # noqa: S311 - a schedule, no secret
    storm = Storm(own, own_server, chance)
    await storm.begin()
    for _ in range(4):
        await storm.progress(chance.randint(5, 60))
        await getattr(storm, chance.choice(WAYS[ways]))()
    stored = await storm.end()
    assert firsts(storm.handled) == stored


class Storm:
    """Commands come in, two clients take them, and things go wrong."""

    def __init__(
        self, box: JetStreamBox, server: NatsServer, chance: random.Random
    ) -> None:
        self.handled: list[tuple[object, int]] = []
        self._box, self._server, self._chance = box, server, chance
        self._ending = asyncio.Event()

    async def begin(self) -> None:
        """Let two clients take."""
        self._takers = [await self._taker() for _ in range(2)]
        self._feeding = asyncio.create_task(self._feed())

    async def _taker(self) -> Taker:
        return Taker(await self._box.client(), self.handled, self._chance)

    async def _feed(self) -> None:
        while not self._ending.is_set():
            with suppress(WakeError):
                await self._box.inbox.publish(KEY, "pause", b"{}")
            await asyncio.sleep(self._chance.random() * 0.01)

    async def progress(self, more: int) -> None:
        """Wait until some more were handled."""
        goal = len(self.handled) + more
        while len(self.handled) < goal:  # noqa: ASYNC110 - several append to it
            await asyncio.sleep(0.005)

    async def cut(self) -> None:
        """A connection breaks, and comes back."""
        cut(self._chance.choice(self._takers).inbox)

    async def silence(self) -> None:
        """A process stands still until another one went on, or nothing is left."""
        taker = self._chance.choice(self._takers)
        with taker.silent():
            await self._others_go_on(taker)

    async def _others_go_on(self, taker: Taker) -> None:
        known = len(self.handled)
        while {who for who, _ in self.handled[known:]} <= {taker}:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)

    async def death(self) -> None:
        """A process is killed; another one starts."""
        taker = self._takers.pop(self._chance.randrange(2))
        await taker.end()
        await kill(taker.inbox)
        self._takers.append(await self._taker())

    async def close(self) -> None:
        """A process ends in order; another one starts."""
        taker = self._takers.pop(self._chance.randrange(2))
        await taker.end()
        await taker.inbox.close()
        self._takers.append(await self._taker())

    async def server(self) -> None:
        """The nats-server is killed, and comes back on what it stored."""
        self._server.kill()
        self._server.start()

    async def end(self) -> list[int]:
        """See everything handled and settled; returns what was stored."""
        self._ending.set()
        await self._feeding
        while True:
            info = await self._box.consumer()
            if not info["num_pending"] and not info["num_ack_pending"]:
                break
            await asyncio.sleep(0.02)
        for taker in self._takers:
            await taker.end()
        return list(range(1, info["delivered"]["stream_seq"] + 1))


# ── hostile messages ─────────────────────────────────────────────────────────

FORGED = {
    "a status": b"Status: 423\r\nDescription: gone",
    "a pin": b"Nats-Pin-Id: forged",
    "no header at all": b"no colon here",
    "no text": b"X-Bytes: \xff\xfe",
}


@pytest.mark.parametrize("subject", [b"a\xff\xfe", b"a\x0bb", b"a\x0c", "ü§".encode()])
async def test_no_subject_stops_the_client(
    jetstream: JetStreamBox, subject: bytes
) -> None:
    """A user or an id may have any bytes; whatever they are, the next one comes."""
    inbox = jetstream.inbox
    await send(inbox, b"commands." + subject + b".x.pause")
    await send(inbox, b"commands.ada." + subject + b".pause")
    stored = await fill(inbox, 1)
    taken = await take(inbox, 3)
    assert taken[2].position == stored[0]
    assert taken[1].key.user == "ada"
    for order in taken:
        await inbox.done(order)


@pytest.mark.parametrize("name", FORGED)
async def test_no_header_passes_for_the_server_s(
    jetstream: JetStreamBox, name: str
) -> None:
    """A command without a body that looks like a status is a command like others."""
    inbox = jetstream.inbox
    await send(inbox, b"commands.ada.run-1.pause", FORGED[name])
    stored = await fill(inbox, 1)
    taken = await take(inbox, 2)
    assert (taken[0].body, taken[1].position) == (b"", stored[0])
    for order in taken:
        await inbox.done(order)
    assert (await jetstream.consumer())["num_ack_pending"] == 0


REFUSED = {
    "Nats-Rollup": "sub",
    "Nats-TTL": "1s",
    "Nats-Schedule": "@at 2031-01-01T00:00:00Z",
    "Nats-Incr": "1",
    "Nats-Batch-Id": "b1",
    "Nats-Expected-Last-Sequence": "7",
    "Nats-Expected-Last-Subject-Sequence": "7",
    "Nats-Expected-Last-Msg-Id": "m7",
    "Nats-Expected-Stream": "EVENTS",
}


@pytest.mark.parametrize("header", REFUSED)
async def test_a_header_that_would_do_more_than_say_is_refused(
    jetstream: JetStreamBox, header: str
) -> None:
    """By the server, to whoever sent it; nothing is stored, nothing is lost."""
    inbox = jetstream.inbox
    stored = await fill(inbox, 1)
    with pytest.raises(Unavailable, match="was not stored"):
        await inbox.publish(KEY, "pause", b"", headers={header: REFUSED[header]})
    stored += await fill(inbox, 1)
    assert positions(await take(inbox, 2)) == stored


async def test_a_message_id_takes_nobody_s_place_for_long(
    jetstream: JetStreamBox,
) -> None:
    """Within a moment the sender is told that it is a duplicate; then it is none."""
    inbox = jetstream.inbox
    header = {"Nats-Msg-Id": "guessed"}
    first = await inbox.publish(Key("eve", "x"), "pause", b"", headers=header)
    while True:
        with suppress(Unavailable):
            mine = await inbox.publish(KEY, "pause", b"mine", headers=header)
            break
    assert mine > first
    assert [order.body for order in await take(inbox, 2)] == [b"", b"mine"]


async def send(inbox: JetStreamInbox, subject: bytes, header: bytes = b"") -> None:
    """Publish raw, as a client that checks nothing, and see that the server took it."""
    client = inbox._wire.client
    host, port = client.connected_url.hostname, client.connected_url.port
    reader, writer = await asyncio.open_connection(host, port)
    head = b"NATS/1.0\r\n" + header + b"\r\n\r\n"
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\nSUB told 1\r\n')
    if header:
        sizes = b"%d %d" % (len(head), len(head))
        writer.write(b"HPUB " + subject + b" told " + sizes + b"\r\n" + head + b"\r\n")
    else:
        writer.write(b"PUB " + subject + b" told 0\r\n\r\n")
    while b'"seq"' not in (line := await reader.readline()):
        assert line
    writer.close()
    await writer.wait_closed()

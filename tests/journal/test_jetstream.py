"""What only the JetStream adapter has: its stream, its server, its connection."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from commits import KEY, OTHER, write
from logs import JetStreamLog
from nats_server import NatsServer

from events.errors import (
    InvalidInput,
    Misconfigured,
    OutcomeUnknown,
    ServerUnsuitable,
    Unavailable,
    WakeError,
)
from events.jetstream import JetStreamJournal
from events.names import EVENTS, LANES, lane_consumer
from events.wire import ApiError, Wire

PASSWORD = "correct horse"  # noqa: S105 - of a server that lives for one test
USERS = f'authorization: {{ user: "wake", password: "{PASSWORD}" }}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Start a server with a configuration of its own."""
    started: list[NatsServer] = []

    def start(config: str = "", *, jetstream: bool = True) -> NatsServer:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(NatsServer(folder, config, jetstream=jetstream))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[Wire]:
    """Connect and close."""
    wire = await Wire.connect(url, **settings)
    try:
        yield wire
    finally:
        await wire.close()


# ── the stream ───────────────────────────────────────────────────────────────


async def test_the_stream_is_what_the_log_promises(
    jetstream_log: JetStreamLog,
) -> None:
    """Nothing ages or is pushed out, nobody purges or rolls up, headers do nothing."""
    config = (await jetstream_log.info())["config"]
    expected = {
        "subjects": ["events.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msg_size": 512 * 1024,
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": -1,
        "duplicate_window": 100_000_000,
        "allow_direct": True,
        "deny_purge": True,
        "num_replicas": 1,
        "republish": {"src": "events.>", "dest": "feed.>"},
    }
    assert {name: config.get(name) for name in expected} == expected
    never = ("allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules", "sealed")
    assert [name for name in never if config.get(name)] == []


@pytest.mark.parametrize(
    "header", ["Nats-Rollup: sub", "Nats-TTL: 1s", "Nats-Schedule: @at 2030-01-01"]
)
async def test_no_header_makes_a_commit_vanish(
    jetstream_log: JetStreamLog, header: str
) -> None:
    """Who may append cannot erase, age or move what is stored."""
    journal = jetstream_log.journal
    written = await write(journal, KEY, ["log"] * 3)
    name, _, value = header.partition(": ")
    answer = await journal.wire.request(
        "events.ada.run-1.log", b"{}", headers={name: value}
    )
    assert b"error" in answer.data
    assert await journal.read(KEY) == written


async def test_the_stream_cannot_be_purged(jetstream_log: JetStreamLog) -> None:
    """Not even by who may do everything."""
    journal = jetstream_log.journal
    written = await write(journal, KEY, ["log"] * 3)
    with pytest.raises(ApiError, match="purge"):
        await journal.wire.api(f"STREAM.PURGE.{EVENTS}")
    assert await journal.read(KEY) == written


async def test_a_message_that_is_too_large_for_the_stream_is_refused(
    jetstream_log: JetStreamLog,
) -> None:
    """The server's own limit stands behind ours."""
    wire = jetstream_log.journal.wire
    answer = await wire.request("events.ada.run-1.log", b"x" * 600_000)
    assert b"10054" in answer.data


async def test_opening_again_changes_nothing(jetstream_log: JetStreamLog) -> None:
    """The second process finds the stream, its commits and the same settings."""
    written = await write(jetstream_log.journal, KEY, ["log"] * 3)
    before = (await jetstream_log.info())["config"]
    again = await jetstream_log.again()
    assert await again.read(KEY) == written
    assert (await jetstream_log.info())["config"] == before


async def test_a_stream_of_an_earlier_version_is_brought_up_to_date(
    jetstream_log: JetStreamLog,
) -> None:
    """What a newer version wants to be otherwise is changed in place."""
    journal = jetstream_log.journal
    written = await write(journal, KEY, ["log"] * 3)
    config = (await jetstream_log.info())["config"]
    older = {**config, "description": "older", "max_msg_size": 1_000}
    await journal.wire.api(f"STREAM.UPDATE.{EVENTS}", older)
    await JetStreamJournal.open(journal.wire)
    config = (await jetstream_log.info())["config"]
    assert config["max_msg_size"] == 512 * 1024
    assert await journal.read(KEY) == written


async def test_commits_are_republished_to_the_feed(jetstream_log: JetStreamLog) -> None:
    """Live readers hear each stored commit under feed., with its position."""
    journal = jetstream_log.journal
    heard: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
    subscription = await journal.wire.subscribe(
        "feed.>",
        lambda m: heard.put_nowait((m.subject, m.headers["Nats-Sequence"], m.data)),
    )
    await journal.wire.client.flush()
    [one] = await write(journal, KEY, ["agents"])
    [two] = await write(journal, OTHER, ["finished"])
    for stored, route in ((one, "agents"), (two, "finished")):
        user, execution = stored.key
        subject = f"feed.{user}.{execution}.{route}"
        assert await heard.get() == (subject, str(stored.position), stored.body)
    await journal.wire.unsubscribe(subscription)


async def test_a_lane_never_stalls_and_never_gives_up(
    jetstream_log: JetStreamLog,
) -> None:
    """No bound on what is held at once, nor on how often it is handed out."""
    journal = jetstream_log.journal
    for lane in LANES:
        queue = await journal.work(lane, lease=7.5)
        await queue.close()
        answer = await journal.wire.api(f"CONSUMER.INFO.{EVENTS}.{lane_consumer(lane)}")
        config = msgspec.json.decode(answer)["config"]
        assert config["max_ack_pending"] == -1
        assert config["max_deliver"] == -1
        assert config["ack_wait"] == 7_500_000_000
        assert config["filter_subject"] == f"events.*.*.{lane}"


# ── servers that will not do ─────────────────────────────────────────────────


async def test_a_server_without_jetstream_is_unsuitable(
    server: Callable[..., NatsServer],
) -> None:
    """The message says what to switch on."""
    async with connected(server(jetstream=False).url) as wire:
        with pytest.raises(ServerUnsuitable, match="start it with jetstream enabled"):
            await JetStreamJournal.open(wire)


async def test_an_account_without_jetstream_is_unsuitable(
    server: Callable[..., NatsServer],
) -> None:
    """The server has it, this user has not: the message speaks of the user."""
    without = "A { users: [{user: a, password: b}] }"
    config = (
        f"accounts {{ {without}, B {{ jetstream: enabled, users: [{{user: c}}] }} }}"
    )
    url = server(config).url
    async with connected(url, user="a", password="b") as wire:  # noqa: S106 - as above
        with pytest.raises(ServerUnsuitable, match="no JetStream for this user"):
            await JetStreamJournal.open(wire)


async def test_a_stream_in_the_way_is_unsuitable(
    server: Callable[..., NatsServer],
) -> None:
    """Somebody else's stream holds our subjects: the server's words are passed on."""
    async with connected(server().url) as wire:
        other = {"name": "OTHERS", "subjects": ["events.>"]}
        await wire.api("STREAM.CREATE.OTHERS", other)
        with pytest.raises(ServerUnsuitable, match="subjects overlap"):
            await JetStreamJournal.open(wire)


async def test_another_stream_of_our_name_is_unsuitable(
    server: Callable[..., NatsServer],
) -> None:
    """One that cannot be made ours is left as it is."""
    async with connected(server().url) as wire:
        other = {"name": EVENTS, "subjects": ["x"], "storage": "memory"}
        await wire.api(f"STREAM.CREATE.{EVENTS}", other)
        with pytest.raises(ServerUnsuitable, match=r"cannot hold the log: .*storage"):
            await JetStreamJournal.open(wire)


async def test_a_server_that_takes_only_small_messages_is_unsuitable(
    server: Callable[..., NatsServer],
) -> None:
    """Found out before the first large commit, and with the setting's name."""
    with pytest.raises(ServerUnsuitable, match=r"100,000 bytes.*set max_payload to"):
        await Wire.connect(server("max_payload: 100000").url)


async def test_a_silent_server_is_unavailable_not_unsuitable(
    own_log: JetStreamLog, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be changed about it, it has to answer."""
    wire = own_log.journal.wire
    request = wire.request
    monkeypatch.setattr(wire, "request", lambda *a, **_: request(*a, wait=0.05))
    own_server.freeze(frozen=True)
    with pytest.raises(Unavailable, match="cannot be opened now"):
        await JetStreamJournal.open(wire)
    own_server.freeze(frozen=False)


@asynccontextmanager
async def pretender(greeting: bytes) -> AsyncIterator[str]:
    """A TCP server that greets like a nats-server and answers pings."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with listener:
        yield f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("version", ["2.10.1", "2.13.9", "1.4.1"])
async def test_a_server_that_is_too_old_is_unsuitable(version: str) -> None:
    """The message names its version, the one that is needed, and the way out."""
    info = {"version": version, "max_payload": 1 << 20, "server_id": "x"}
    greeting = b"INFO " + msgspec.json.encode(info) + b"\r\n"
    async with pretender(greeting) as url:
        with pytest.raises(
            ServerUnsuitable, match=rf"server {version} is too old: .* 2\.14"
        ):
            await Wire.connect(url)


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH_9.7\r\n", b"INFO {broken\r\n", b"\r\n"]
)
async def test_what_is_no_nats_server_is_unavailable(greeting: bytes) -> None:
    """Another service on that port is told by the address."""
    async with pretender(greeting) as url:
        with pytest.raises(Unavailable, match=f"no nats-server answers at {url}"):
            await Wire.connect(url)


async def test_a_server_that_is_not_there_is_unavailable(
    server: Callable[..., NatsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the address, the reason, and what to do."""
    monkeypatch.setattr("events.wire.ANSWER", 0.3)
    gone = server()
    gone.stop()
    message = rf"{gone.url} \(.*Connect call failed.*\): start one, or name another"
    with pytest.raises(Unavailable, match=message):
        await Wire.connect(gone.url)


@pytest.mark.parametrize("inside", [True, False], ids=["in the address", "apart"])
async def test_a_wrong_password_is_told_without_showing_it(
    server: Callable[..., NatsServer], *, inside: bool
) -> None:
    """At once, by what to check, and neither right nor wrong one is in the message."""
    url, wrong = server(USERS).url, "battery-staple"
    settings = {} if inside else {"user": "wake", "password": wrong}
    if inside:
        url = url.replace("//", f"//wake:{wrong}@")
    with pytest.raises(Misconfigured, match="check user and password") as caught:
        await Wire.connect(url, **settings)
    shown = "".join(map(str, [caught.value, caught.value.__cause__]))
    assert wrong not in shown
    assert PASSWORD not in shown


async def test_the_right_password_is_let_in(server: Callable[..., NatsServer]) -> None:
    """So that the refusal above is the password's."""
    url = server(USERS).url
    async with connected(url, user="wake", password=PASSWORD) as wire:
        await JetStreamJournal.open(wire)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:4222", "http://x:1", "nats://", "nats://h:x", "nats://h:99999"],
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    """Before anything is tried, and with the form it must have."""
    with pytest.raises(InvalidInput, match="write nats://HOST:PORT"):
        await Wire.connect(url)


# ── requests ─────────────────────────────────────────────────────────────────


async def test_a_request_that_nobody_hears_says_so_at_once(
    jetstream_log: JetStreamLog,
) -> None:
    """No timer has to run out."""
    with pytest.raises(OutcomeUnknown, match="nobody answers on nobody"):
        await jetstream_log.journal.wire.request("nobody.home", wait=60.0)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_request_whose_connection_is_lost_fails_at_once(
    own_log: JetStreamLog, own_server: NatsServer, how: str
) -> None:
    """Its answer cannot come any more; no timer has to run out."""
    wire = own_log.journal.wire
    deaf = await wire.subscribe("deaf", lambda _: None)
    await wire.client.flush()
    asked = asyncio.create_task(wire.request("deaf", wait=60.0))
    await asyncio.sleep(0)
    getattr(own_server, how)()
    with pytest.raises(OutcomeUnknown, match="connection that was lost"):
        await asked
    await wire.unsubscribe(deaf)


async def test_requests_leave_nothing_behind(jetstream_log: JetStreamLog) -> None:
    """Answered, unheard, timed out or cancelled: no handler and no promise stays."""
    wire = jetstream_log.journal.wire
    deaf = await wire.subscribe("deaf", lambda _: None)
    await wire.api("INFO")
    for subject in ("nobody.home", "deaf"):
        with pytest.raises(WakeError):
            await wire.request(subject, wait=0.01)
    cancelled = asyncio.create_task(wire.request("deaf"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await asyncio.sleep(0)
    assert (wire._handlers, wire._promises) == ({}, set())
    await wire.unsubscribe(deaf)


async def test_a_flush_that_was_given_up_does_not_silence_the_connection(
    jetstream_log: JetStreamLog,
) -> None:
    """Cancelled while it waits, as when a reader is cancelled that is closing."""
    wire = jetstream_log.journal.wire
    for _ in range(3):
        flush = asyncio.create_task(wire.client.flush())
        await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait([flush])
    await wire.client.flush()
    await wire.api("INFO")


async def test_a_cancelled_unsubscribe_still_hears_no_more(
    jetstream_log: JetStreamLog,
) -> None:
    """Whenever it is cancelled, nothing stays behind, and the connection works."""
    wire = jetstream_log.journal.wire
    before = dict(wire.client._subs)
    for steps in range(1, 7):
        subscription = await wire.subscribe("deaf", lambda _: None)
        leaving = asyncio.create_task(wire.unsubscribe(subscription))
        for _ in range(steps):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        await wire.api("INFO")
    assert wire.client._subs == before

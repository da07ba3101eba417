"""``/api/agents/{id}/stream`` against a real gateway."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import edges
import pytest
from aiohttp import hdrs
from edges import Caller, Gateway
from lifelike import lifelike
from nats_server import NatsServer
from onlookers import Onlooker, Reader, Writer, aline
from watching import Streams, bare, everything

from events import catalog as e
from events.commit import Recorded
from events.names import EVENTS, Key, commit_subject
from gateway.web import outlet, streams

ONE = "/api/agents/one"
PATH = f"{ONE}/stream"


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is over soon."""
    monkeypatch.setattr(streams, "LINGER", 0.1)


@pytest.fixture
async def gateway(edge_server: NatsServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway and nothing behind it but the log."""
    async with edges.gateway(edge_server.url, tmp_path, ["gateway"]) as one:
        yield one


@pytest.fixture
def key(tmp_path: Path) -> Key:
    """An execution that no other test has."""
    return Key(f"s-{tmp_path.name[-50:]}", "one")


@pytest.fixture
def token(gateway: Gateway, key: Key) -> str:
    """A token of its user."""
    return gateway.tokens.mint(key.user, lifetime=timedelta(minutes=5)).token


def ended(key: Key) -> list[Recorded]:
    """A history that has come to an end."""
    for seed in range(100):
        log = list(lifelike(Random(seed), key, 40).log)  # noqa: S311 - no secret
        last = log[-1].commit.events[-1]
        if len(log) > 9 and isinstance(last, e.Completed | e.Failed | e.Cancelled):
            return log
    raise AssertionError


def messages(events: Sequence[dict[str, str]]) -> list[Any]:
    """What the events carry; its cursor is an event's id, its type the name."""
    found = []
    for event in events:
        message = json.loads(event["data"])
        assert message["type"] == event["event"]
        assert message["cursor"] == event["id"]
        found.append(message)
    return found


async def wanted(commits: Sequence[Recorded]) -> list[Any]:
    """The messages that a history gives, without cursors."""
    streams_ = Streams()
    for recorded in commits:
        streams_.store(recorded)
    return bare(await everything(streams_, commits[0].key))


async def seen(gateway: Gateway, token: str, position: int) -> None:
    """Wait until the gateway has heard of a commit: it is told a moment later."""
    async with Reader.at(gateway.url, f"{PATH}?after={position}-0", token) as one:
        assert one.response.status in {200, 204}


async def told(gateway: Gateway, token: str) -> None:
    """Wait until the gateway has heard of a log line."""
    path, events = f"{PATH}?after=0&kinds=log", list[Any]()
    while not any(event["event"] == "log" for event in events):
        async with Reader.at(gateway.url, path, token) as one:
            events = [*await one.to_the_end()]


async def test_all_of_it_comes_to_the_end(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """Then the response is over, and whoever comes back is told to stay away."""
    log = ended(key)
    await writer.commit(*log[:5])
    async with Reader.at(gateway.url, f"{PATH}?after=0", token) as one:
        assert one.response.headers["Content-Type"] == "text/event-stream"
        await one.next()
        await writer.commit(*log[5:])
        *events, last = await one.to_the_end()
    assert bare(messages(events)) == await wanted(log)
    assert last["event"] == "end"
    async with Reader.at(gateway.url, f"{PATH}?after=0", token, last["id"]) as again:
        assert again.response.status == 204


async def test_a_stream_has_an_id_for_the_log(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """As every answer; so has a websocket."""
    await writer.commit(*ended(key))
    async with Reader.at(gateway.url, PATH, token) as one:
        assert one.response.headers["X-Request-Id"]
    headers = {"Authorization": f"Bearer {token}"}
    async with gateway.session.ws_connect(f"{gateway.url}/ws", headers=headers) as ws:
        assert ws._response.headers["X-Request-Id"]


async def test_who_comes_back_goes_on(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """With Last-Event-ID, which goes before what the address says."""
    log = ended(key)
    await writer.commit(*log)
    await writer.line(aline(key))
    await told(gateway, token)
    async with Reader.at(gateway.url, f"{PATH}?after=0", token) as one:
        *events, _ = await one.to_the_end()
    for place in (0, len(events) // 2, len(events) - 1):
        path, last = f"{PATH}?after=0", events[place]["id"]
        async with Reader.at(gateway.url, path, token, last) as again:
            if place == len(events) - 1:
                assert again.response.status == 204
                continue
            *rest, _ = await again.to_the_end()
            assert rest == events[place + 1 :]


async def test_without_a_cursor_it_begins_with_the_status(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """Of one that has ended, that is all."""
    log = ended(key)
    await seen(gateway, token, await writer.commit(*log))
    async with Reader.at(gateway.url, PATH, token) as one:
        status, last = await one.to_the_end()
    [message] = messages([status])
    assert message["type"] == "status"
    assert message["payload"]["version"] == len(log)
    assert last["event"] == "end"


async def test_only_the_kinds_that_are_wanted_come(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """And it ends all the same."""
    await writer.commit(*ended(key))
    await writer.line(aline(key))
    await told(gateway, token)
    path = f"{PATH}?after=0&kinds=log&kinds=delta"
    async with Reader.at(gateway.url, path, token) as one:
        *events, last = await one.to_the_end()
    assert [event["event"] for event in events] == ["log"]
    assert last["event"] == "end"


async def test_a_quiet_stream_has_a_heartbeat(
    gateway: Gateway,
    writer: Writer,
    key: Key,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Comments, so that no proxy ends it."""
    monkeypatch.setattr(streams, "HEARTBEAT", 0.05)
    await writer.commit(*ended(key)[:2])
    async with Reader.at(gateway.url, f"{PATH}?after=0", token) as one:
        comments = 0
        while comments < 3:
            comments += await one.response.content.readline() == b":\n"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (PATH + "?after=x", 422),
        (PATH + "?after=999999999999-0", 422),
        (PATH + "?after=0&after=1-1", 422),
        (PATH + "?kinds=dance", 422),
        (PATH + "?kind=log", 422),
        (PATH + "?user=nobody", 404),
        ("/api/agents/two/stream", 404),
        ("/api/agents/a.b/stream", 422),
    ],
)
async def test_what_makes_no_sense_is_refused(
    gateway: Gateway, writer: Writer, key: Key, token: str, path: str, status: int
) -> None:
    """As a problem, before it is a stream."""
    await writer.commit(*ended(key))
    async with Reader.at(gateway.url, path, token) as one:
        assert one.response.status == status
        assert one.response.content_type == "application/problem+json"


async def test_one_that_is_damaged_is_told_as_such(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """As REST tells it, here and on a websocket; whoever follows all goes on.

    Its log lines, which may say why, can be read.
    """
    await writer.commit(*ended(key)[:2])
    stored = await writer.wire.request(commit_subject(key, "log"), b"garbage")
    async with Reader.at(gateway.url, PATH, token) as one:
        assert one.response.status == 500
        assert json.loads(await one.response.read())["code"] == "corrupt"
    async with Onlooker.at(gateway.url, token) as watching:
        await watching.say(type="subscribe", execution=key.execution)
        assert (await watching.until("error"))["code"] == "corrupt"
        await watching.say(type="subscribe", execution="*")
        await watching.until("live")
    assert "| `corrupt`" in (Path(__file__).parents[3] / "docs/live.md").read_text()
    lines = await Caller(gateway.session, gateway.url, token).get(f"{ONE}/logs")
    assert (lines.status, lines.body["items"]) == (200, [])
    gone = {"seq": json.loads(stored.data)["seq"]}  # other tests read this log, too
    await writer.wire.api(f"STREAM.MSG.DELETE.{EVENTS}", gone)


async def test_anothers_is_not_found(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """An admin finds it, a feed token its own only, and nobody without a token."""
    await writer.commit(*ended(key), *ended(key._replace(execution="two")))
    tokens = gateway.tokens
    hour = timedelta(hours=1)
    eve, root = (
        tokens.mint("eve", lifetime=hour),
        tokens.mint("root", lifetime=hour, roles=["admin"]),
    )
    feed = tokens.mint_feed(key.user, execution="one")
    path = f"{PATH}?user={key.user}"
    for who, address, status in (
        (eve.token, path, 404),
        (root.token, path, 200),
        (root.token, PATH, 404),
        (feed.token, PATH, 200),
        (feed.token, "/api/agents/two/stream", 404),
        ("forged", PATH, 401),
    ):
        async with Reader.at(gateway.url, address, who) as one:
            assert one.response.status == status


async def test_a_stream_ends_with_its_token(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """And says why."""
    await writer.commit(*ended(key)[:2])
    brief = gateway.tokens.mint(key.user, lifetime=timedelta(seconds=3))
    async with Reader.at(gateway.url, PATH, brief.token) as one:
        *_, last = await one.to_the_end()
    assert last["event"] == "closing"
    assert "expired" in last["data"]


async def test_a_gateway_that_ends_says_so(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """And is not held up by who watches."""
    await writer.commit(*ended(key)[:2])
    async with Reader.at(gateway.url, PATH, token) as one:
        await one.next()
        gateway.services.end()
        *_, last = await one.to_the_end()
    assert "the gateway ends" in last["data"]


async def test_a_gateway_that_ends_lets_nobody_watch_any_more(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """Over a connection that was there before: the answer is the last on it."""
    await writer.commit(*ended(key)[:2])
    header = {"Authorization": f"Bearer {token}"}
    connector = aiohttp.TCPConnector(limit=1)
    async with (
        Reader.at(gateway.url, PATH, token) as watching,
        aiohttp.ClientSession(gateway.url, connector=connector) as session,
    ):
        await watching.next()
        async with session.get("/healthz") as alive:
            assert hdrs.CONNECTION not in alive.headers
        gateway.services.end()
        await watching.to_the_end()
        async with session.get(PATH, headers=header) as late:
            assert late.status == 503
            assert "the gateway ends" in await late.text()
            assert late.headers[hdrs.CONNECTION] == "close"


async def test_a_reader_that_takes_nothing_is_let_go(
    gateway: Gateway,
    writer: Writer,
    key: Key,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection is cut; it comes back with the last id that it has."""
    monkeypatch.setattr(outlet, "MOST_WAITING", 64 * 1024)
    await seen(gateway, token, await writer.commit(*ended(key)[:2]))
    async with Reader.at(gateway.url, PATH, token) as one:
        await one.next()
        for number in range(1_000):
            await writer.line(aline(key, f"{number} " + "x" * 8_000))
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await one.to_the_end()
        cursor = one.heard[-1]["id"]
    async with Reader.at(gateway.url, PATH, token, cursor) as again:
        await again.next()
    read = [json.loads(event["data"])["payload"]["id"] for event in one.heard[1:]]
    first = json.loads(again.heard[0]["data"])["payload"]["id"]
    assert [*read, first] == list(range(read[0], first + 1))


async def test_an_old_client_gets_it_too(
    gateway: Gateway, writer: Writer, key: Key, token: str
) -> None:
    """HTTP/1.0 knows no chunks: it ends with the connection."""
    log = ended(key)
    await writer.commit(*log)
    reader, out = await asyncio.open_connection(gateway.host, gateway.port)
    head = f"GET {PATH}?after=0 HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n"
    out.write(head.encode())
    async with asyncio.timeout(60):
        answer = await reader.read()
    out.close()
    events = [part for part in answer.split(b"\n\n") if b"data: " in part]
    assert len(events) == len(await wanted(log)) + 1
    assert b"\r\n" not in answer.partition(b"\r\n\r\n")[2]

"""``/ws`` against a real gateway: what comes, who may see it, what strangers try."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import edges
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError
from edges import Gateway
from lifelike import lifelike
from nats_server import NatsServer
from onlookers import AT, Onlooker, Writer, aline
from watching import Streams, bare, everything

from events.commit import Recorded
from events.deltas import Delta
from events.names import Key
from gateway.web import outlet, sessions
from gateway.web.asked import Refused
from gateway.web.live import Live
from gateway.web.logins import FAILURES
from projections.feedcursor import Cursor


@pytest.fixture
async def gateway(edge_server: NatsServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway and nothing behind it but the log."""
    async with edges.gateway(edge_server.url, tmp_path, ["gateway"]) as one:
        yield one


@pytest.fixture
def key(tmp_path: Path) -> Key:
    """An execution that no other test has."""
    return Key(f"u-{tmp_path.name[-50:]}", "one")


def token(gateway: Gateway, user: str, *roles: str, seconds: float = 600) -> str:
    """A token of a user."""
    minted = gateway.tokens.mint(user, lifetime=timedelta(seconds=seconds), roles=roles)
    return minted.token


def history(key: Key, seed: int = 1) -> list[Recorded]:
    """A history that an execution may have."""
    return list(lifelike(Random(seed), key, 30).log)  # noqa: S311 - no secret


async def wanted(commits: Sequence[Recorded]) -> list[Any]:
    """The messages that a history gives, without cursors."""
    streams = Streams()
    for recorded in commits:
        streams.store(recorded)
    return bare(await everything(streams, commits[0].key))


async def test_all_of_a_history_comes_and_then_what_happens(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """Each message once, with a cursor to go on with."""
    log = history(key)
    await writer.commit(*log[:5])
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        assert (await one.next())["type"] == "ready"
        answer = await one.subscribe("one", after=0, id="7")
        assert answer == {
            "type": "subscribed",
            "id": "7",
            "execution": "one",
            "user": key.user,
            "cursor": "0-0",
        }
        await writer.commit(*log[5:])
        await writer.line(aline(key))
        await one.until("log")
    messages = one.live
    assert bare(messages[:-1]) == await wanted(log)
    assert messages[-1]["payload"]["message"] == "well"
    middle = messages[len(messages) // 2]["cursor"]
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as again:
        await again.subscribe("one", after=middle)
        assert again.live == messages[len(messages) // 2 + 1 :]


async def test_from_now_on_it_begins_with_the_status(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """And nothing of what was before."""
    log = history(key)
    await living().feed.reach(Cursor(await writer.commit(*log[:3])))
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        answer = await one.subscribe("one")
        [status] = one.live
        assert status["type"] == "status"
        assert status["payload"]["version"] == 3
        assert status["cursor"] == answer["cursor"]
        await writer.commit(*log[3:])
        expected = (await wanted(log))[len(await wanted(log[:3])) :]
        assert bare((await one.messages(1 + len(expected)))[1:]) == expected


async def test_all_of_ones_own_comes_on_one_subscription(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """Also of executions that are not there yet; nothing of others'."""
    other, foreign = key._replace(execution="two"), Key("eve", key.user)
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.subscribe("*")
        await writer.commit(*history(foreign))
        await writer.commit(*history(key), *history(other, 2))
        expected = len(await wanted(history(key))) + len(
            await wanted(history(other, 2))
        )
        messages = await one.messages(expected)
        assert {m["execution"] for m in messages} == {"one", "two"}
        assert {m["user"] for m in messages} == {key.user}
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as again:
        await again.subscribe("*", after=0)
        assert bare(again.live) == bare(messages)


async def test_only_the_kinds_that_are_wanted_come(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """Here what models say, as they say it, and the ends of steps."""
    await writer.commit(*history(key)[:2])
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.subscribe("one", kinds=["delta"])
        piece = Delta(at=AT, step=1, attempt=1, text="Once")
        await writer.deltas.publish(key, piece)
        heard = await one.until("delta")
        payload = {"step": 1, "attempt": 1, "try": 1, "offset": 0, "text": "Once"}
        assert heard["payload"] == payload
        assert {m["type"] for m in one.live} == {"status", "delta"}


async def test_unsubscribed_nothing_more_comes(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """And the socket serves its other subscriptions."""
    other = key._replace(execution="two")
    mine, others = history(key), history(other)
    await writer.commit(mine[0], others[0])
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.subscribe("one")
        await one.subscribe("two")
        await one.say(type="unsubscribe", execution="one")
        assert (await one.until("unsubscribed"))["execution"] == "one"
        await writer.commit(*mine[1:], *others[1:])
        before = len(one.live)
        expected = len(await wanted(others)) - len(await wanted(others[:1]))
        messages = await one.messages(before + expected)
        assert {m["execution"] for m in messages[before:]} == {"two"}


# ── who may see what ─────────────────────────────────────────────────────────


async def test_anothers_is_not_found_as_one_that_is_not_there(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """Whoever asks learns nothing from the answer."""
    await writer.commit(*history(key))
    async with Onlooker.at(gateway.url, token(gateway, "eve")) as eve:
        await eve.next()
        answers = []
        for user in (key.user, "nobody", None):
            await eve.say(type="subscribe", execution="one", user=user)
            answers.append(await eve.next())
        assert answers[0]["code"] == "not_found"
        assert all(answer == answers[0] for answer in answers)
        await eve.say(type="subscribe", execution="*", user=key.user)
        assert (await eve.next())["code"] == "forbidden"


async def test_an_admin_sees_everybodys(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """By naming whose they are."""
    await living().feed.reach(Cursor(await writer.commit(*history(key))))
    root = token(gateway, "root", "admin")
    async with (
        Onlooker.at(gateway.url, root) as one,
        Onlooker.at(gateway.url, root) as all_,
    ):
        await one.subscribe("one", user=key.user, after=0)
        await all_.subscribe("*", user=key.user, after=0)
        assert one.live == all_.live != []


async def test_a_feed_token_is_for_its_execution_only(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """Not for the user's others, nor for all of them."""
    await writer.commit(*history(key), *history(key._replace(execution="two")))
    minted = gateway.tokens.mint_feed(key.user, execution="one")
    async with Onlooker.at(gateway.url, minted.token) as one:
        assert (await one.subscribe("one", after=0))["type"] == "subscribed"
        assert (await one.subscribe("two"))["code"] == "not_found"
        assert (await one.subscribe("*"))["code"] == "forbidden"


@pytest.mark.parametrize("bad", ["x", "", "a.b.c", "\u00e4"])
async def test_a_forged_token_in_the_header_is_refused_at_once(
    gateway: Gateway, bad: str
) -> None:
    """Before there is a websocket."""
    with pytest.raises(WSServerHandshakeError) as refused:
        async with Onlooker.at(gateway.url, headers={"Authorization": f"Bearer {bad}"}):
            pass
    assert refused.value.status == 401


async def test_a_browser_brings_its_token_in_a_subprotocol(
    gateway: Gateway, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not echoed, and stands in no log."""
    caplog.set_level("DEBUG")
    mine = token(gateway, key.user)
    protocols = ("wake.v1", f"wake.bearer.{mine}")
    async with Onlooker.at(gateway.url, protocols=protocols) as one:
        assert (await one.next())["user"] == key.user
        assert one.ws.protocol == "wake.v1"
    with pytest.raises(WSServerHandshakeError) as refused:
        async with Onlooker.at(gateway.url, protocols=protocols[1:]):
            pass
    assert refused.value.status == 400
    assert mine not in caplog.text


async def test_a_token_can_be_the_first_message(gateway: Gateway, key: Key) -> None:
    """For who can send neither."""
    async with Onlooker.at(gateway.url) as one:
        await one.say(type="auth", token=token(gateway, key.user))
        assert (await one.next())["type"] == "ready"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ({"type": "auth", "token": "forged"}, "token"),
        ({"type": "subscribe", "execution": "one"}, "say who you are first"),
        ({"type": "dance"}, "this is no order"),
    ],
)
async def test_whoever_is_nobody_is_closed(
    gateway: Gateway, first: Any, reason: str
) -> None:
    """With a code that says that a token is wanted."""
    async with Onlooker.at(gateway.url) as one:
        await one.say(**first)
        code, why = await one.closed()
        assert code == 4401
        assert reason in why


async def test_who_says_nothing_is_closed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some seconds: an open socket costs memory."""
    monkeypatch.setattr(sessions, "INTRODUCTION", 0.05)
    async with Onlooker.at(gateway.url) as one:
        assert (await one.closed())[0] == 4401


async def test_a_socket_ends_with_its_token(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """Also while it watches."""
    await writer.commit(*history(key))
    async with Onlooker.at(gateway.url, token(gateway, key.user, seconds=3)) as one:
        await one.subscribe("one")
        assert await one.closed() == (
            4401,
            "the token has expired: come back with another",
        )


async def test_a_later_token_keeps_a_socket_open(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """One of the same user; not one of another, and not a forged one.

    Blanks around it count as little as they do in a header: files end with a line.
    """
    log = history(key)
    await writer.commit(log[0])
    async with Onlooker.at(gateway.url, token(gateway, key.user, seconds=4)) as one:
        short = await one.next()
        await one.subscribe("one")
        await one.say(type="auth", token=token(gateway, "eve"))
        assert (await one.until("error"))["code"] == "forbidden"
        await one.say(type="auth", token="forged")  # noqa: S106 - it is none
        assert (await one.until("error"))["code"] == "unauthorized"
        await one.say(type="auth", token=f" {token(gateway, key.user)}\n")
        assert (await one.until("ready"))["expires"] > short["expires"]
        while datetime.now(UTC) < datetime.fromisoformat(short["expires"]):  # noqa: ASYNC110 - real time
            await asyncio.sleep(0.05)
        await writer.commit(*log[1:])
        await one.messages(2)


async def test_every_code_of_a_refusal_is_told_of(gateway: Gateway, key: Key) -> None:
    """Also that of who guesses at tokens on a socket that is open: it goes on."""
    page = (Path(__file__).parents[3] / "docs/live.md").read_text()
    codes = set()
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        for _ in range(FAILURES + 1):
            await one.say(type="auth", token="forged")  # noqa: S106 - it is none
            codes.add((await one.until("error"))["code"])
        await one.say(type="ping")
        await one.until("pong")
    assert codes == {"unauthorized", "too_many_requests"}
    assert all(f"\n| `{code}` |" in page for code in codes)


async def test_a_strange_page_may_not_watch(gateway: Gateway, key: Key) -> None:
    """Whatever token its visitor has."""
    mine = token(gateway, key.user)
    with pytest.raises(WSServerHandshakeError) as refused:
        async with Onlooker.at(
            gateway.url, mine, headers={"Origin": "https://evil.example"}
        ):
            pass
    assert refused.value.status == 403
    async with Onlooker.at(gateway.url, mine, headers={"Origin": gateway.url}) as one:
        assert (await one.next())["type"] == "ready"


# ── what strangers try ───────────────────────────────────────────────────────

ORDERS = [
    "",
    "no json",
    "[]",
    "null",
    '"subscribe"',
    "{}",
    '{"type": 7}',
    '{"type": "dance"}',
    '{"type": "subscribe"}',
    '{"type": "subscribe", "execution": 7}',
    '{"type": "subscribe", "execution": "one", "afer": "0"}',
    '{"type": "subscribe", "execution": "one", "kinds": []}',
    '{"type": "subscribe", "execution": "one", "kinds": ["dance"]}',
    '{"type": "subscribe", "execution": "one", "after": 1}',
    '{"type": "subscribe", "execution": "one", "after": -1}',
    '{"type": "subscribe", "execution": "one", "after": "' + "9" * 80 + '"}',
    '{"type": "subscribe", "execution": "../one"}',
    '{"type": "subscribe", "execution": "one.>"}',
    '{"type": "subscribe", "execution": ">"}',
    '{"type": "subscribe", "execution": ""}',
    '{"type": "subscribe", "execution": "*", "user": "*"}',
    '{"type": "subscribe", "execution": "one", "user": "a b"}',
    '{"type": "unsubscribe", "execution": "never"}',
    '{"type": "ping", "id": "' + "x" * 65 + '"}',
    "[" * 5_000,
    '{"type": "subscribe", "execution": ' + '{"a":' * 2_000 + "1" + "}" * 2_001,
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order[:60])
async def test_what_is_no_order_is_refused_and_the_socket_goes_on(
    gateway: Gateway, writer: Writer, key: Key, order: str
) -> None:
    """With a code and what to send instead."""
    await writer.commit(*history(key))
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.next()
        await one.ws.send_str(order)
        refused = await one.next()
        assert refused["type"] == "error"
        assert refused["code"] in {"invalid_input", "not_found", "forbidden"}
        assert len(refused["message"]) < 500
        assert (await one.subscribe("one"))["type"] == "subscribed"


@pytest.mark.parametrize("cursor", ["1", "x", "1-", "99999999999-0", "0-99999999999"])
async def test_a_cursor_from_nowhere_is_refused(
    gateway: Gateway, writer: Writer, key: Key, cursor: str
) -> None:
    """Garbage, and what is beyond the end of the log."""
    await writer.commit(*history(key))
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        for execution in ("one", "*"):
            await one.say(type="subscribe", execution=execution, after=cursor)
            refused = await one.until("error")
            assert refused["code"] == "invalid_input"
            assert "0 for the beginning" in refused["message"]
        assert (await one.subscribe("one"))["type"] == "subscribed"


async def test_binary_is_not_understood(gateway: Gateway, key: Key) -> None:
    """Orders are text."""
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.next()
        await one.ws.send_bytes(b'{"type":"ping"}')
        assert await one.closed() == (1003, "send text: orders are JSON")


@pytest.mark.parametrize("size", [sessions.MAX_ORDER + 1, 8_000_000])
async def test_a_huge_frame_closes_the_socket(
    gateway: Gateway, key: Key, size: int
) -> None:
    """Before it is in memory."""
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.next()
        try:
            await one.ws.send_str("x" * size)
        except ConnectionError:
            return  # it was cut off in the middle of it
        code, _ = await one.closed()
        assert code in {1009, 1006}


async def test_ten_thousand_subscriptions_are_too_many(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """A hundred are taken; who goes on asking is shown the door."""
    await writer.commit(*history(key))
    async with Onlooker.at(gateway.url, token(gateway, key.user, "admin")) as one:
        await one.next()
        refused = 0
        for number in range(10_000):
            try:
                await one.say(type="subscribe", execution=f"e{number}")
            except ConnectionError:
                break
            message = await one.ws.receive()
            if message.type is not WSMsgType.TEXT:
                break
            refused += json.loads(message.data)["code"] == "not_found"
        assert refused == Refused.MANY
        assert one.ws.close_code == 1008


async def test_a_socket_has_so_many_subscriptions(
    gateway: Gateway, writer: Writer, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one beyond is refused, and one that was given up makes room."""
    monkeypatch.setattr(sessions, "MOST", 2)
    keys = [key._replace(execution=f"e{n}") for n in range(3)]
    for each in keys:
        await writer.commit(history(each)[0])
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.subscribe("e0")
        await one.subscribe("e1")
        assert (await one.subscribe("e2"))["code"] == "limit_reached"
        await one.say(type="unsubscribe", execution="e0")
        await one.until("unsubscribed")
        assert (await one.subscribe("e2"))["type"] == "subscribed"


async def test_nothing_is_sent_twice_for_being_subscribed_to_twice(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """One execution and all of them, in either order, are refused."""
    await writer.commit(*history(key))
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.subscribe("one")
        assert (await one.subscribe("one"))["code"] == "already_subscribed"
        assert (await one.subscribe("*"))["code"] == "already_subscribed"
        await one.say(type="unsubscribe", execution="one")
        await one.until("unsubscribed")
        assert (await one.subscribe("*"))["type"] == "subscribed"
        assert (await one.subscribe("one"))["code"] == "already_subscribed"


async def test_a_user_has_so_many_sockets(
    gateway: Gateway, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is closed; another user's is not; one that was closed makes room."""
    live = living()
    monkeypatch.setattr(live, "_per_user", 2)
    mine = token(gateway, key.user)
    async with Onlooker.at(gateway.url, mine) as one:
        await one.next()
        async with Onlooker.at(gateway.url, mine) as two:
            await two.next()
            async with Onlooker.at(gateway.url, mine) as three:
                code, reason = await three.closed()
                assert code == 4429
                assert "2 connections" in reason
            async with Onlooker.at(gateway.url, token(gateway, "eve")) as eve:
                await eve.next()
        while live.watching > 1:  # noqa: ASYNC110 - the gateway's
            await asyncio.sleep(0.01)
        async with Onlooker.at(gateway.url, mine) as two:
            await two.next()


def living() -> Live:
    """The live edge of the gateway that serves; it is in nobody's hands.

    Those of gateways that have ended may lie there too, until they are collected.
    """
    lives = [one for one in gc.get_objects() if isinstance(one, Live)]
    [serving] = [one for one in lives if not one._leaving]
    return serving


async def test_a_client_that_takes_nothing_is_let_go(
    gateway: Gateway, writer: Writer, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a code that says why; others go on."""
    monkeypatch.setattr(outlet, "MOST_WAITING", 64 * 1024)
    monkeypatch.setattr(sessions, "CLOSING", 60.0)  # it reads again once all is written
    mine = token(gateway, key.user)
    await writer.commit(history(key)[0])
    async with (
        Onlooker.at(gateway.url, mine) as stalled,
        Onlooker.at(gateway.url, mine) as good,
    ):
        await stalled.subscribe("one")
        await good.subscribe("one")
        before = len(stalled.live)
        transport = stalled.ws._response.connection.transport  # type: ignore[union-attr]
        transport.pause_reading()
        count = 800
        reading = asyncio.create_task(good.messages(before + count))
        for number in range(count):
            await writer.line(aline(key, f"{number} " + "x" * 8_000))
        await reading
        transport.resume_reading()
        code, reason = await stalled.closed()
        assert (code, reason) == (1013, outlet.SLOW)


@pytest.mark.parametrize("fallen", ["silent", "cut"])
async def test_a_client_that_is_gone_is_found_out(
    gateway: Gateway, key: Key, monkeypatch: pytest.MonkeyPatch, fallen: str
) -> None:
    """One that answers no ping, or whose connection broke."""
    monkeypatch.setattr(sessions, "HEARTBEAT", 1.0)
    live = living()
    async with Onlooker.at(
        gateway.url, token(gateway, key.user), autoping=False
    ) as one:
        await one.next()
        assert live.watching
        if fallen == "cut":
            one.ws._response.connection.transport.abort()  # type: ignore[union-attr]
        async with asyncio.timeout(60):
            while live.watching:  # noqa: ASYNC110 - the gateway's
                await asyncio.sleep(0.01)


async def test_a_client_sees_whether_we_are_there(gateway: Gateway, key: Key) -> None:
    """Also a browser's page, which sees no pings of the protocol."""
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.say(type="ping", id="a")
        assert await one.until("pong") == {"type": "pong", "id": "a"}
        await one.ws.ping()


async def test_a_gateway_that_ends_says_so(
    gateway: Gateway, writer: Writer, key: Key
) -> None:
    """Its clients go to another, with their cursors."""
    await writer.commit(*history(key))
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.subscribe("one")
        gateway.services.end()
        code, reason = await one.closed()
        assert code == 1001
        assert "come back" in reason


async def test_a_reason_that_is_long_is_cut_between_characters(
    gateway: Gateway,
) -> None:
    """A close frame holds 123 bytes, and they are text."""
    for name in ("é" * 60, "x" + "é" * 60):
        async with Onlooker.at(gateway.url, None) as one:
            await one.say(type="auth", **{name: 1})
            code, reason = await one.closed()
            assert code == 4401
            assert "é" in reason


async def test_what_is_no_websocket_is_refused(gateway: Gateway, key: Key) -> None:
    """As a problem, like all errors."""
    reply = await gateway.caller(key.user).get("/ws")
    assert (reply.status, reply.code) == (400, "bad_request")


async def test_how_many_watch_is_counted(gateway: Gateway, key: Key) -> None:
    """For whoever looks at the numbers."""
    async with Onlooker.at(gateway.url, token(gateway, key.user)) as one:
        await one.next()
        numbers = (await gateway.nobody().get("/metrics")).raw
        assert b"\nwake_feed_clients 1.0\n" in numbers

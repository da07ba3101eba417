import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from nats_server import NatsServer, take_away
from outside import JetStreamOutside, MemoryOutside, Outside, collect

from events.errors import InvalidInput, Unavailable
from events.names import EVERYBODY, MAX_MESSAGE, TRIGGERS
from events.triggers import MAX_PAYLOAD, Posted
from events.triggerstream import SPACE, SPACES, JetStreamTriggers
from events.wire import Wire

BAD_TYPES = (
    "",
    "*",
    ">",
    "a.*",
    "a.>",
    ".a",
    "a.",
    "a..b",
    "a b",
    "a\n",
    "é",
    "x" * 257,
)
BAD_USERS = ("", "*", ">", "a.b", "a b", "é", "x" * 65)


@pytest.fixture
async def memory_outside() -> MemoryOutside:
    """Nothing happened yet, in memory."""
    return MemoryOutside()


@pytest.fixture
async def jetstream_outside(
    nats_server: NatsServer,
) -> AsyncIterator[JetStreamOutside]:
    """Nothing happened yet, on the shared server."""
    async with JetStreamOutside.empty(nats_server.url) as outside:
        yield outside


@pytest.fixture(params=["memory", "jetstream"])
def outside(request: pytest.FixtureRequest) -> Outside:
    """Each adapter in turn, empty."""
    chosen: Outside = request.getfixturevalue(f"{request.param}_outside")
    return chosen


async def test_a_trigger_is_followed_as_it_was_published(outside: Outside) -> None:
    """Subject, body and headers, byte for byte, at the position that was told."""
    body = b'{"text": "\xc3\xa9 \x00", "n": 1e5}'
    headers = {"ce-id": "17", "Wake-Answer": "t-1"}
    position = await outside.triggers.publish("ada", "ci.done", body, headers=headers)
    [found] = await collect(outside.triggers, 1)
    assert found[:3] == (position, "triggers.ada.ci.done", body)
    assert dict(found.headers) == headers


async def test_positions_grow_across_users_and_types(outside: Outside) -> None:
    """And the last one is told, also to another client."""
    assert await outside.triggers.last() == 0
    places = [("ada", "a"), ("bob", "a.b"), (EVERYBODY, "a"), ("ada", "a.b.c")] * 5
    told = [await outside.triggers.publish(u, t, b"1") for u, t in places]
    assert told == sorted(set(told))
    assert await outside.triggers.last() == told[-1]
    assert await (await outside.again()).last() == told[-1]
    found = await collect(outside.triggers, len(told))
    assert [(p.position, p.subject) for p in found] == [
        (n, f"triggers.{u}.{t}") for n, (u, t) in zip(told, places, strict=True)
    ]


async def test_following_goes_on_after_a_position_and_stays(outside: Outside) -> None:
    """Old ones, then each new one, once."""
    old = [await outside.triggers.publish("ada", "a", b"%d" % n) for n in range(5)]
    async with aclosing(outside.triggers.follow(after=old[1])) as runs:
        seen = list(await anext(runs))
        while len(seen) < 3:
            seen += await anext(runs)
        for n in range(5, 8):
            await outside.triggers.publish("bob", "b", b"%d" % n)
            seen += await anext(runs)
    assert [int(p.body) for p in seen] == [2, 3, 4, 5, 6, 7]


async def test_the_first_beyond_a_position_is_of_that_user_and_type(
    outside: Outside,
) -> None:
    """Not of another user, not of everybody, not of a longer or shorter type."""
    triggers = outside.triggers
    for user, event_type in (("bob", "ci"), (EVERYBODY, "ci"), ("ada", "ci.done")):
        await triggers.publish(user, event_type, b"no")
    assert await triggers.beyond("ada", "ci", 0) is None
    headers = {"ce-id": "a b", "Wake-Answer": "t"}
    first = await triggers.publish("ada", "ci", b"first", headers=headers)
    second = await triggers.publish("ada", "ci", b"\x00\xff")
    found = await triggers.beyond("ada", "ci", 0)
    assert found
    assert found[:3] == (first, "triggers.ada.ci", b"first")
    assert dict(found.headers) == headers
    later = await triggers.beyond("ada", "ci", first)
    assert later
    assert (later.position, later.body) == (second, b"\x00\xff")
    assert await triggers.beyond("ada", "ci", second) is None
    everybody = await triggers.beyond(EVERYBODY, "ci", 0)
    assert everybody
    assert everybody.subject == "triggers.all.ci"


async def test_the_latest_of_each_subject_is_known(outside: Outside) -> None:
    """One position for each, that of its last trigger."""
    assert await outside.triggers.latest() == {}
    expected = {}
    for n in range(300):
        event_type = f"t{n % 7}.x"
        position = await outside.triggers.publish("ada", event_type, b"1")
        expected[f"triggers.ada.{event_type}"] = position
    assert await outside.triggers.latest() == expected


@pytest.mark.parametrize("event_type", BAD_TYPES)
async def test_a_type_that_is_none_is_refused(
    outside: Outside, event_type: str
) -> None:
    """With what would do, and nothing is stored."""
    with pytest.raises(InvalidInput, match=r"event type .* is not allowed: use words"):
        await outside.triggers.publish("ada", event_type, b"1")
    with pytest.raises(InvalidInput):
        await outside.triggers.beyond("ada", event_type, 0)
    assert await outside.triggers.last() == 0


@pytest.mark.parametrize("user", BAD_USERS)
async def test_a_user_that_is_none_is_refused(outside: Outside, user: str) -> None:
    """With what would do, and nothing is stored."""
    with pytest.raises(InvalidInput, match=r"user .* is not allowed"):
        await outside.triggers.publish(user, "a", b"1")
    assert await outside.triggers.last() == 0


async def test_what_is_too_large_is_refused_before_it_is_sent(outside: Outside) -> None:
    """Up to the limit it is stored."""
    with pytest.raises(InvalidInput, match=r"262,144 bytes, not 262,145"):
        await outside.triggers.publish("ada", "a", b"x" * (MAX_PAYLOAD + 1))
    await outside.triggers.publish("ada", "a", b"x" * MAX_PAYLOAD)
    [found] = await collect(outside.triggers, 1)
    assert len(found.body) == MAX_PAYLOAD


async def test_a_strangers_message_is_followed_too(outside: Outside) -> None:
    """Whatever its subject: what it is worth others decide."""
    await outside.send("triggers.é.x", b"1")
    await outside.send("triggers.ada.*", b"\xff", {"ce-id": "%FF"})
    await outside.triggers.publish("ada", "a", b"1")
    found = await collect(outside.triggers, 3)
    assert [p.position for p in found] == [1, 2, 3]
    assert found[1].subject == "triggers.ada.*"


# ── on a real server ─────────────────────────────────────────────────────────


async def test_without_a_stream_there_was_no_trigger(nats_server: NatsServer) -> None:
    """So a wait may begin; but none can be stored, and it is said what to start."""
    async with JetStreamOutside.empty(nats_server.url) as outside:
        wire = await outside.wire()
        await take_away(wire, TRIGGERS)
        assert await outside.triggers.last() == 0
        assert await outside.triggers.beyond("ada", "a", 0) is None
        with pytest.raises(Unavailable, match="wake service reactor"):
            await outside.triggers.publish("ada", "a", b"1")


async def test_the_last_position_outlives_what_was_there(
    jetstream_outside: JetStreamOutside,
) -> None:
    """When all triggers are too old, a wait still begins behind them."""
    position = await jetstream_outside.triggers.publish("ada", "a", b"1")
    wire = await jetstream_outside.wire()
    await wire.api(f"STREAM.PURGE.{TRIGGERS}")
    assert await jetstream_outside.triggers.last() == position
    assert await jetstream_outside.triggers.latest() == {}


async def test_the_space_of_triggers_is_bounded(
    jetstream_outside: JetStreamOutside,
) -> None:
    """A storm must not fill the disk under EVENTS; nor may one message be huge.

    What an operator set is left alone when the stream is opened again.
    """
    wire = await jetstream_outside.wire()

    async def config() -> dict[str, object]:
        answer = await wire.api(f"STREAM.INFO.{TRIGGERS}")
        found: dict[str, object] = msgspec.json.decode(answer)["config"]
        return found

    found = await config()
    assert (found["max_bytes"], found["discard"]) == (SPACE, "old")
    assert found["max_age"] == 7 * 24 * 3600 * 10**9
    await wire.api(f"STREAM.UPDATE.{TRIGGERS}", {**found, "max_bytes": 10**6})
    await JetStreamTriggers.open(wire)
    assert (await config())["max_bytes"] == 10**6
    stored = await jetstream_outside.triggers.last()
    answer = await wire.request("triggers.ada.a", b"x" * (MAX_MESSAGE + 1))
    assert b"message size exceeds maximum" in answer.data
    assert await jetstream_outside.triggers.last() == stored


async def test_following_survives_a_restart_of_the_server(
    own_server: NatsServer,
) -> None:
    """It goes on where it was, and repeats nothing."""
    async with JetStreamOutside.empty(own_server.url) as outside:
        await outside.triggers.publish("ada", "a", b"0")
        async with aclosing(outside.triggers.follow(after=0)) as runs:
            seen: list[Posted] = list(await anext(runs))
            own_server.kill()
            own_server.start()
            await published(outside.triggers)
            while len(seen) < 2:
                seen += await anext(runs)
    assert [p.position for p in seen] == [1, 2]


async def test_without_an_answer_nobody_knows_whether_it_was_stored(
    own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not said that it was not: sent again, it may be there twice."""
    async with JetStreamOutside.empty(own_server.url) as outside:
        own_server.freeze(frozen=True)
        monkeypatch.setattr(
            Wire.request, "__kwdefaults__", {"headers": None, "wait": 0.2}
        )
        with pytest.raises(Unavailable, match="nobody said whether"):
            await outside.triggers.publish("ada", "a", b"1")
        own_server.freeze(frozen=False)
        monkeypatch.undo()
        [found] = await collect(outside.triggers, 1)
        assert found.body == b"1"


async def published(triggers: object) -> None:
    """Publish as soon as the server is back."""
    assert isinstance(triggers, JetStreamTriggers)
    while True:
        try:
            await triggers.publish("ada", "a", b"1")
        except Unavailable:
            await asyncio.sleep(0.02)
        else:
            return


async def test_a_server_that_is_away_is_said_to_be(own_server: NatsServer) -> None:
    """Rather than that there was no trigger: then a wait would begin too early."""
    async with JetStreamOutside.empty(own_server.url) as outside:
        await outside.triggers.publish("ada", "a", b"1")
        own_server.stop()
        for ask in (
            outside.triggers.last(),
            outside.triggers.beyond("ada", "a", 0),
            outside.triggers.latest(),
        ):
            with pytest.raises(Unavailable, match="out of reach"):
                await ask
        own_server.start()
        wire = await Wire.connect(own_server.url)
        assert await JetStreamTriggers(wire).last() == 1
        await wire.close()


async def test_a_small_store_gives_them_little_room(tmp_path: Path) -> None:
    """A server refuses to reserve what it has not; asked again, it stays as it is."""
    small = 'jetstream { store_dir: "store", max_file_store: 64MB }'
    server = NatsServer(tmp_path, small, jetstream=False)
    server.start()
    wire = await Wire.connect(server.url)
    try:
        for _ in range(2):
            triggers = await JetStreamTriggers.open(wire)
            await triggers.publish("ada", "ci.done", b"{}")
            info = msgspec.json.decode(await wire.api("STREAM.INFO.TRIGGERS"))
            assert info["config"]["max_bytes"] == SPACES[2]
        assert info["state"]["messages"] == 2
    finally:
        await wire.close()
        server.stop()

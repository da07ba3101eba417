"""Buckets of values, on both adapters; and what only a real server can do."""

import asyncio
import json

import nats
import pytest
from nats_server import NatsServer
from registers import Buckets, JetStreamBuckets

from events import kvstream
from events.errors import Conflict, TooLarge, Unavailable
from events.kvstream import MAX_VALUE, SPACE, JetStreamRegister
from events.names import QUOTAS, bucket_stream, bucket_subject
from events.register import Held
from events.wire import Wire


async def test_what_is_written_is_read(buckets: Buckets) -> None:
    """By whoever looks, with its revision; of a key nobody wrote there is none."""
    assert await buckets.quotas.read("ada") == Held(b"", 0)
    first = await buckets.quotas.write("ada", b"one", after=0)
    other = await buckets.quotas.write("bob", b"two", after=0)
    assert await (await buckets.again()).read("ada") == Held(b"one", first)
    assert other > first > 0
    second = await buckets.quotas.write("ada", b"three", after=first)
    assert await buckets.quotas.read("ada") == Held(b"three", second)
    assert await buckets.quotas.read("bob") == Held(b"two", other)


async def test_only_the_last_revision_is_replaced(buckets: Buckets) -> None:
    """Whoever was second must read again, also if there was nothing."""
    first = await buckets.quotas.write("ada", b"1", after=0)
    second = await buckets.quotas.write("ada", b"2", after=first)
    for stale in (0, first, second + 1):
        with pytest.raises(Conflict):
            await buckets.quotas.write("ada", b"x", after=stale)
    with pytest.raises(Conflict):
        await buckets.quotas.write("new", b"x", after=second)
    assert await buckets.quotas.read("ada") == Held(b"2", second)


async def test_of_ten_who_write_at_once_one_does(buckets: Buckets) -> None:
    """The others hear that somebody was first."""
    registers = [await buckets.again() for _ in range(10)]
    tries = (
        register.write("ada", str(n).encode(), after=0)
        for n, register in enumerate(registers)
    )
    came = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in came) == 9


async def test_what_is_emptied_is_gone(buckets: Buckets) -> None:
    """It is no key any more, and can be written again behind its revision."""
    for user in ("bob", "ada"):
        await buckets.quotas.write(user, b"1", after=0)
    assert await buckets.quotas.keys() == ["ada", "bob"]
    held = await buckets.quotas.read("ada")
    gone = await buckets.quotas.write("ada", b"", after=held.revision)
    assert await buckets.quotas.read("ada") == Held(b"", gone)
    assert await buckets.quotas.keys() == ["bob"]
    await buckets.quotas.write("ada", b"2", after=gone)
    assert await buckets.quotas.keys() == ["ada", "bob"]


# ── what only a real server can do ───────────────────────────────────────────


async def test_any_client_reads_and_writes_it(
    jetstream_buckets: JetStreamBuckets, nats_server: NatsServer
) -> None:
    """It is a key-value bucket as others make them, with one revision of each key."""
    await jetstream_buckets.quotas.write("ada", b'{"tier":"pro"}', after=0)
    client = await nats.connect(nats_server.url)
    try:
        bucket = await client.jetstream().key_value(QUOTAS)
        entry = await bucket.get("ada")
        assert entry.value == b'{"tier":"pro"}'
        await bucket.update("ada", b"theirs", last=entry.revision)
        assert (await jetstream_buckets.quotas.read("ada")).value == b"theirs"
        await bucket.delete("ada")
        assert (await jetstream_buckets.quotas.read("ada")).value == b""
        assert await jetstream_buckets.quotas.keys() == []
        held = await jetstream_buckets.quotas.read("ada")
        await jetstream_buckets.quotas.write("ada", b"", after=held.revision)
        with pytest.raises(nats.js.errors.KeyNotFoundError):
            await bucket.get("ada")
        assert (await bucket.status()).history == 1
    finally:
        await client.close()


async def test_who_may_write_one_key_cannot_erase_the_others(
    jetstream_buckets: JetStreamBuckets, nats_server: NatsServer
) -> None:
    """A rollup of everything is refused."""
    await jetstream_buckets.quotas.write("ada", b"1", after=0)
    client = await nats.connect(nats_server.url)
    try:
        with pytest.raises(nats.js.errors.APIError):
            await client.jetstream().publish(
                bucket_subject(QUOTAS, "bob"), b"", headers={"Nats-Rollup": "all"}
            )
    finally:
        await client.close()
    assert (await jetstream_buckets.quotas.read("ada")).value == b"1"


async def test_a_value_is_bounded(jetstream_buckets: JetStreamBuckets) -> None:
    """And so is the bucket: what is full says what to do."""
    with pytest.raises(TooLarge, match="at most"):
        await jetstream_buckets.quotas.write("ada", b"x" * MAX_VALUE, after=0)
    wire = await jetstream_buckets.wire()
    small = {
        **kvstream.bucket_config(QUOTAS, "of a test"),
        "max_bytes": 4096,
        "num_replicas": 1,
    }
    await wire.api(f"STREAM.UPDATE.{bucket_stream(QUOTAS)}", small)
    first = await jetstream_buckets.quotas.write("ada", b"x" * 2000, after=0)
    with pytest.raises(Unavailable, match=r"raise max_bytes of the stream KV_QUOTAS"):
        await jetstream_buckets.quotas.write("bob", b"x" * 3000, after=0)
    await jetstream_buckets.quotas.write("ada", b"y" * 2000, after=first)


@pytest.mark.parametrize("room", [2 * SPACE, 4096, -1])
async def test_the_room_that_an_operator_gave_is_left(
    jetstream_buckets: JetStreamBuckets, room: int
) -> None:
    """More or less than ours, also at the next start."""
    wire = await jetstream_buckets.wire()
    config = {**kvstream.bucket_config(QUOTAS, "of a test"), "num_replicas": 1}
    changed = {**config, "max_bytes": room}
    await wire.api(f"STREAM.UPDATE.{bucket_stream(QUOTAS)}", changed)
    await jetstream_buckets.again()
    answer = await wire.api(f"STREAM.INFO.{bucket_stream(QUOTAS)}")
    assert json.loads(answer)["config"]["max_bytes"] == room


async def test_where_nobody_ever_served_there_is_nothing(
    own_server: NatsServer,
) -> None:
    """And to write there says what to start."""
    wire = await Wire.connect(own_server.url)
    try:
        register = JetStreamRegister(wire, QUOTAS)
        assert await register.read("ada") == Held(b"", 0)
        assert await register.keys() == []
        with pytest.raises(Unavailable, match="wake up"):
            await register.write("ada", b"1", after=0)
    finally:
        await wire.close()


async def test_out_of_reach_is_told(own_server: NatsServer) -> None:
    """Reading and writing fail in a way that may be tried again."""
    wire = await Wire.connect(own_server.url)
    try:
        register = await JetStreamRegister.open(wire, QUOTAS, "of a test")
        await register.write("ada", b"1", after=0)
        own_server.stop()
        for ask in (register.read("ada"), register.keys()):
            with pytest.raises(Unavailable):
                await ask
    finally:
        await wire.close()

"""The bucket on a real server: written piece by piece, whole or not there at all."""

import asyncio
import base64
from hashlib import sha256

import msgspec
import pytest
from commits import KEY
from logs import JetStreamLog, back
from nats.js.errors import NotFoundError
from nats_server import NatsServer, take_away

from events.bucket import CHUNK, Bucket
from events.errors import Corrupt, OutcomeUnknown, Unavailable
from events.names import (
    BLOBS,
    BLOBS_STREAM,
    MAX_MESSAGE,
    blob_chunks,
    blob_info,
    blob_name,
)
from events.wire import ApiError, Wire

CONTENT = bytes(range(256)) * 8 * 1024
"""Two megabytes: sixteen pieces."""

NAME = blob_name(KEY, sha256(CONTENT).hexdigest())


@pytest.fixture
def wire(jetstream_log: JetStreamLog) -> Wire:
    """A connection to a server with an empty bucket."""
    return jetstream_log.journal.wire


@pytest.fixture
def bucket(wire: Wire) -> Bucket:
    """The empty bucket."""
    return Bucket(wire)


async def counts(wire: Wire) -> dict[str, int]:
    """How many messages the bucket has, by subject."""
    answer = await wire.api(f"STREAM.INFO.{BLOBS_STREAM}", {"subjects_filter": ">"})
    return dict(msgspec.json.decode(answer)["state"].get("subjects") or {})


WRITTEN = {blob_chunks(NAME): 16, blob_info(NAME): 1}


async def pieces(wire: Wire, *contents: bytes) -> None:
    """Write pieces and no more, as who dies in between does."""
    for content in contents:
        await wire.request(blob_chunks(NAME), content)


async def test_the_bucket_is_what_it_promises(wire: Wire) -> None:
    """Nothing ages or is pushed out, and no header erases; a piece fits anywhere."""
    answer = msgspec.json.decode(await wire.api(f"STREAM.INFO.{BLOBS_STREAM}"))
    expected = {
        "subjects": ["$O.BLOBS.C.>", "$O.BLOBS.M.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": -1,
        "allow_direct": True,
    }
    config = answer["config"]
    assert {name: config.get(name) for name in expected} == expected
    never = ("allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules", "sealed")
    assert [name for name in never if config.get(name)] == []
    assert CHUNK <= MAX_MESSAGE // 4


@pytest.mark.parametrize("header", ["Nats-Rollup: sub", "Nats-Rollup: all"])
async def test_no_header_makes_a_blob_vanish(
    wire: Wire, bucket: Bucket, header: str
) -> None:
    """Who may store cannot erase."""
    await bucket.put(NAME, CONTENT)
    name, _, value = header.partition(": ")
    for subject in WRITTEN:
        answer = await wire.request(subject, b"", headers={name: value})
        assert b"rollup not permitted" in answer.data
    assert await bucket.get(NAME) == CONTENT


async def test_any_object_store_client_reads_a_blob(wire: Wire, bucket: Bucket) -> None:
    """With nats-py's: content, size and digest."""
    await bucket.put(NAME, CONTENT)
    store = await wire.client.jetstream().object_store(BLOBS)
    found = await store.get(NAME)
    digest = base64.urlsafe_b64encode(sha256(CONTENT).digest()).decode()
    assert found.data == CONTENT
    assert (found.info.size, found.info.chunks) == (len(CONTENT), 16)
    assert found.info.digest == f"SHA-256={digest}"
    with pytest.raises(NotFoundError):
        await store.get_info("ada/run-1/other")


@pytest.mark.parametrize(
    "size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK], ids=lambda size: f"{size}"
)
async def test_a_blob_of_any_size_is_read_as_it_was_stored(
    bucket: Bucket, size: int
) -> None:
    """Less than a piece, exactly one, and more; twice is once."""
    for _ in range(2):
        await bucket.put(NAME, CONTENT[:size])
    assert await bucket.get(NAME) == CONTENT[:size]


async def test_more_than_one_batch_is_read_whole(bucket: Bucket) -> None:
    """The server gives four megabytes at a time."""
    content = CONTENT * 5
    await bucket.put(NAME, content)
    assert await bucket.get(NAME) == content


async def test_storing_again_writes_nothing(wire: Wire, bucket: Bucket) -> None:
    """One look is all that it costs."""
    await bucket.put(NAME, CONTENT)
    before = wire.client.stats["out_msgs"]
    await bucket.put(NAME, CONTENT)
    assert wire.client.stats["out_msgs"] == before + 1
    assert await counts(wire) == WRITTEN


async def test_what_is_not_whole_is_not_there(wire: Wire, bucket: Bucket) -> None:
    """Pieces without an info, and an info with too few pieces."""
    await pieces(wire, CONTENT[:CHUNK])
    assert await bucket.get(NAME) is None
    assert await bucket.names(KEY) == [NAME]
    await bucket.put(NAME, CONTENT)
    await wire.api(f"STREAM.PURGE.{BLOBS_STREAM}", {"filter": blob_chunks(NAME)})
    assert await bucket.get(NAME) is None


@pytest.mark.parametrize("written", [1, 2, 16])
async def test_who_was_cut_off_goes_on_where_it_stopped(
    wire: Wire, bucket: Bucket, written: int
) -> None:
    """No piece is stored twice, and none is left behind elsewhere."""
    parts = [CONTENT[n * CHUNK : (n + 1) * CHUNK] for n in range(written)]
    await pieces(wire, *parts)
    await bucket.put(NAME, CONTENT)
    assert await bucket.get(NAME) == CONTENT
    assert await counts(wire) == WRITTEN


async def test_pieces_of_another_size_are_gone_on_with(
    wire: Wire, bucket: Bucket
) -> None:
    """A later version may cut otherwise."""
    await pieces(wire, CONTENT[:1000], CONTENT[1000:1500])
    await bucket.put(NAME, CONTENT)
    assert await bucket.get(NAME) == CONTENT


async def test_pieces_that_are_not_of_it_are_corrupt(
    wire: Wire, bucket: Bucket
) -> None:
    """The message says what to do; after that it can be stored."""
    await pieces(wire, b"something else")
    with pytest.raises(Corrupt, match=f"{NAME} are damaged: delete it from BLOBS"):
        await bucket.put(NAME, CONTENT)
    await bucket.delete(NAME)
    await bucket.put(NAME, CONTENT)
    assert await bucket.get(NAME) == CONTENT


@pytest.mark.parametrize(
    "said",
    [
        b'{"name": "x", "bucket": "BLOBS", "nuid": "x", "deleted": true}',
        b'{"name": "x", "bucket": "BLOBS", "nuid": "x", "size": 3}',
        b"[]",
        b"",
        b"\xff",
    ],
    ids=["deleted", "of another size", "no info", "empty", "no UTF-8"],
)
async def test_an_info_that_is_not_of_it_does_not_count(
    wire: Wire, bucket: Bucket, said: bytes
) -> None:
    """Whoever wrote it: it is not there, and can be stored."""
    await wire.request(blob_info(NAME), said)
    assert await bucket.get(NAME) is None
    await bucket.put(NAME, CONTENT)
    assert await bucket.get(NAME) == CONTENT


async def test_many_may_store_the_same_at_once(jetstream_log: JetStreamLog) -> None:
    """Through connections of their own: it is there once, without a piece too many."""
    journals = [await jetstream_log.again() for _ in range(5)]
    digest = NAME.rpartition("/")[2]
    async with asyncio.TaskGroup() as group:
        for journal in journals:
            group.create_task(journal.keep(KEY, {digest: CONTENT}))
    wire = jetstream_log.journal.wire
    assert await Bucket(wire).get(NAME) == CONTENT
    assert await counts(wire) == WRITTEN


async def test_a_deleted_blob_leaves_nothing(wire: Wire, bucket: Bucket) -> None:
    """No piece, no info, no mark that it was there."""
    await bucket.put(NAME, CONTENT)
    await bucket.delete(NAME)
    assert await counts(wire) == {}
    assert await bucket.get(NAME) is None


async def test_a_server_that_is_killed_meanwhile_loses_nothing(
    own_log: JetStreamLog, own_server: NatsServer
) -> None:
    """What was stored before is not written again."""
    journal, wire = own_log.journal, own_log.journal.wire
    digest, pieces_before = NAME.rpartition("/")[2], 0

    async def kill_in_the_middle() -> None:
        nonlocal pieces_before
        while pieces_before < 3:
            pieces_before = (await counts(wire)).get(blob_chunks(NAME), 0)
        own_server.kill()
        await asyncio.to_thread(own_server.start)

    async with asyncio.TaskGroup() as group:
        group.create_task(kill_in_the_middle())
        group.create_task(journal.keep(KEY, {digest: CONTENT * 10}))
    await back(journal)
    assert 3 <= pieces_before < 160
    assert await Bucket(wire).get(NAME) == CONTENT * 10
    assert await counts(wire) == {blob_chunks(NAME): 160, blob_info(NAME): 1}


async def test_without_an_answer_blobs_are_unavailable(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never taken for missing."""
    await bucket.put(NAME, CONTENT)
    monkeypatch.setattr("events.wire.Wire.request", _silent)
    with pytest.raises(Unavailable, match="cannot be read now"):
        await bucket.get(NAME)
    with pytest.raises(Unavailable, match="cannot be listed now"):
        await bucket.names(KEY)
    with pytest.raises(Unavailable, match="was not deleted"):
        await bucket.delete(NAME)
    with pytest.raises(OutcomeUnknown):
        await bucket.put(NAME, CONTENT)


async def _silent(*_: object, **__: object) -> None:
    raise OutcomeUnknown("no answer")


async def test_a_bucket_that_is_gone_is_unavailable(wire: Wire, bucket: Bucket) -> None:
    """A stream that somebody deleted is no blob that was lost."""
    await take_away(wire, BLOBS_STREAM)
    with pytest.raises(Unavailable, match="stream not found"):
        await bucket.get(NAME)
    with pytest.raises(ApiError):
        await counts(wire)

"""Long texts as docs/subjects.md describes them: what is stored, who may read it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import documented
import msgspec
import nats
import pytest
from histories import BEGINNING, spec
from nats.aio.client import Client
from nats_server import NatsServer

from events.blobs import pack
from events.catalog import Created, MetadataWritten, ModelResponded
from events.commit import Commit
from events.errors import Unavailable
from events.execution import Execution
from events.jetstream import JetStreamJournal
from events.messages import Usage
from events.names import Key, blob_name
from events.wire import Wire
from services.handler import Handler

KEY = Key("alice", "report-4")
TEXT = "All is well. " * 200_000
LIMIT = 60.0
"""Seconds until a test gives up waiting for a message."""

Whole = Callable[[Client, str, str, Any], Awaitable[Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that lets the service and a reader in, as the page says."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        whose = (
            "WAKE_NATS",
            "WAKE_NATS_JANITOR",
            "WAKE_NATS_GATEWAY",
            "ALICE",
            "READER",
        )
        for name in whose:
            patch.setenv(f"{name}_PASSWORD", "secret")
        server = NatsServer(folder, documented.with_reader())
        server.start()
    yield server
    server.stop()


def granted() -> list[str]:
    """The subjects that the page gives the service for the bucket, less deleting."""
    rows = documented.table("for the bucket")
    deleting = [subject for subject, why in rows if why.startswith("delete: ")]
    assert len(deleting) == 2
    return [subject.strip("`") for subject, _ in rows if subject not in deleting]


@asynccontextmanager
async def journal(url: str) -> AsyncIterator[JetStreamJournal]:
    """The log, as the service opens it."""
    wire = await Wire.connect(url, user="wake", password="secret")  # noqa: S106 - see above
    try:
        yield await JetStreamJournal.open(wire)
    finally:
        await wire.close()


@asynccontextmanager
async def reader(url: str) -> AsyncIterator[tuple[Client, asyncio.Queue[str]]]:
    """A program that reads long texts, and what the server complains of."""
    complaints: asyncio.Queue[str] = asyncio.Queue()

    async def complain(error: Exception) -> None:
        complaints.put_nowait(str(error))

    client = await nats.connect(
        url,
        user="reader",
        password="secret",  # noqa: S106 - see above
        error_cb=complain,
    )
    try:
        yield client, complaints
    finally:
        await client.close()


def the_pages() -> Whole:
    """The function of the page that puts the strings back."""
    names: dict[str, Any] = {}
    exec(documented.block("python"), names)  # noqa: S102 - it is ours
    whole: Whole = names["whole"]
    return whole


async def write(log: JetStreamJournal, key: Key, **notes: Any) -> None:
    """Create an execution, and write notes into it."""
    handler, new = Handler(log, "tester"), Created(agent=spec(), input="Go")
    await handler.handle(key, partial(Execution.create, created=new))
    await handler.handle(
        key, lambda execution: execution.trigger_event(MetadataWritten, notes=notes)
    )


def test_the_commit_of_the_page_is_what_is_stored() -> None:
    """To the letter: what is left of the text, the pointer, digest and size."""
    [shown] = [e.value for e in documented.examples("stored") if "blobs" in e.value]
    reply = ModelResponded(
        step=1,
        model="scripted",
        text=TEXT,
        usage=Usage(input=6, output=3),
        cost=0.0,
        latency_ms=50.0,
    )
    commit = Commit(version=3, id="c", at=BEGINNING, by="t", events=(reply,))
    packed, _ = pack(commit, KEY)
    stored = msgspec.json.decode(msgspec.json.encode(packed))
    assert stored["events"] == shown["events"]
    assert stored["blobs"] == shown["blobs"]


async def test_a_foreign_client_puts_the_strings_back(server: NatsServer) -> None:
    """With the page's code and permissions, from the feed; in lists and odd names."""
    notes = {"text": TEXT, "a/b~": [1, {"": TEXT + "!"}], "short": "x"}
    async with journal(server.url) as log, reader(server.url) as (client, complaints):
        heard = await client.subscribe("feed.alice.report-4.>")
        await client.flush()
        await write(log, KEY, **notes)
        await heard.next_msg(timeout=LIMIT)
        commit = json.loads((await heard.next_msg(timeout=LIMIT)).data)
        assert len(commit["blobs"]) == 2
        whole = await the_pages()(client, *KEY, commit)
        assert whole["events"] == [{"type": "metadata_written.v1", "notes": notes}]
        assert complaints.empty()


async def test_a_foreign_client_notices_what_is_not_whole(server: NatsServer) -> None:
    """It does not take a beginning for all of it."""
    key = Key("alice", "report-5")
    async with journal(server.url) as log, reader(server.url) as (client, _):
        await write(log, key, text=TEXT)
        body = msgspec.json.decode((await log.read(key))[1].body)
        [name] = await log.blobs_of(key)
        await log.delete_blob(name)
        with pytest.raises(LookupError, match="is not there, or not whole"):
            await the_pages()(client, *key, body)


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.PURGE.OBJ_BLOBS",
        "$JS.API.STREAM.MSG.DELETE.OBJ_BLOBS",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.STREAM.MSG.GET.OBJ_BLOBS",
        "$JS.API.DIRECT.GET.OBJ_BLOBS",
        "$O.BLOBS.C.alice.report-4.x",
        "$O.BLOBS.M.x",
        "events.alice.report-4.log",
    ],
)
async def test_a_reader_reads_and_nothing_else(
    server: NatsServer, subject: str
) -> None:
    """Neither deletes nor writes."""
    async with reader(server.url) as (client, complaints):
        await client.publish(subject, b"{}")
        await client.flush()
        async with asyncio.timeout(LIMIT):
            complaint = await complaints.get()
        assert "permissions violation for publish" in complaint.lower()
        assert subject.lower() in complaint.lower()


async def test_where_a_readers_answer_goes_is_its_own_account(
    server: NatsServer,
) -> None:
    """Else it could let the server write into a history, as ADR 0009 tells."""
    async with journal(server.url) as log, reader(server.url) as (client, _):
        key = Key("alice", "report-6")
        await write(log, key, text=TEXT)
        query = json.dumps({"last_by_subj": "$O.BLOBS.C.>"}).encode()
        await client.publish("blobs.get", query, reply=f"events.{key.user}.x.log")
        assert b"message" in (await client.request("blobs.get", query)).data
        assert await log.read(Key(key.user, "x")) == []


@pytest.fixture
def confined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server whose service may do no more than that."""
    api = [f"$JS.API.{call}.EVENTS" for call in ("STREAM.CREATE", "STREAM.UPDATE")]
    api += [f"$JS.API.{call}.EVENTS" for call in ("STREAM.MSG.GET", "DIRECT.GET")]
    publish = ", ".join(f'"{s}"' for s in ("events.>", *api, *granted()))
    server = NatsServer(
        tmp_path_factory.mktemp("confined"),
        'authorization { users: [ { user: wake, password: "secret", permissions: '
        f'{{ publish: [{publish}], subscribe: "_INBOX.>" }} }} ] }}',
    )
    server.start()
    yield server
    server.stop()


async def test_the_service_needs_no_more_than_the_page_says(
    confined: NatsServer,
) -> None:
    """It stores and reads, sets up twice; it cannot delete, nor erase by a header."""
    async with journal(confined.url) as log, journal(confined.url) as again:
        await write(log, KEY, text=TEXT)
        [_, recorded] = await again.read(KEY)
        assert recorded.commit.events == (MetadataWritten(notes={"text": TEXT}),)
        [digest] = {b["sha256"] for b in msgspec.json.decode(recorded.body)["blobs"]}
        again.wire.request = partial(again.wire.request, wait=0.2)  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="was not deleted"):
            await again.delete_blob(blob_name(KEY, digest))
        with pytest.raises(Unavailable, match="cannot be listed"):
            await again.blobs_of(KEY)
        erasing = {"Nats-Rollup": "all"}
        answer = await log.wire.request("$O.BLOBS.M.x", b"", headers=erasing)
        assert b"rollup not permitted" in answer.data
        assert await log.read(KEY) == await again.read(KEY)

"""Permissions: what docs/subjects.md gives a user of the server, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
import serving
import waking
from nats.aio.client import Client
from serving import Login

LIMIT = 60.0
"""Seconds until a test gives up waiting for a message."""


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """``wake up`` on a server that lets alice in, and as whom."""
    with serving.fenced(tmp_path_factory.mktemp("fenced")) as login:
        yield login


@asynccontextmanager
async def connected(login: Login) -> AsyncIterator[tuple[Client, asyncio.Queue[str]]]:
    """Connect; gives the client and what the server complains of."""
    complaints: asyncio.Queue[str] = asyncio.Queue()

    async def complain(error: Exception) -> None:
        complaints.put_nowait(str(error))

    client = await nats.connect(
        login.url, user=login.user, password=login.password, error_cb=complain
    )
    try:
        yield client, complaints
    finally:
        await client.close()


async def last_position(client: Client) -> int:
    """The position of the last commit in the log."""
    state = (await client.jetstream().stream_info("EVENTS")).state
    return int(state.last_seq)


FORBIDDEN = [
    "commands.bob.x.start",
    "commands.bob.x.cancel",
    "commands.alice.x.dance",
    "triggers.bob.ci.done",
    "triggers.all.ci.done",
    "triggers.alice",
    "gateway.alice.x.start",
    "gateway.bob.x.kill",
    "$KV.QUOTAS.alice",
    "$KV.ACCOUNTS.alice",
    "$JS.API.STREAM.MSG.GET.KV_QUOTAS",
    "$JS.API.DIRECT.GET.KV_ACCOUNTS.$KV.ACCOUNTS.alice",
    "events.alice.x.agents",
    "feed.alice.x.agents",
    "answers.alice.x",
    "logs.alice.x.info",
    "deltas.alice.x",
    "schedules.alice.x",
    "due.alice.x",
    "recurring.alice.x.defined",
    "queries.executions.list",
    "queries.sql",
    "queries.cancel",
    "$SRV.PING",
    "projector.rebuild",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.MSG.GET.EVENTS",
    "$JS.API.STREAM.MSG.GET.OBJ_BLOBS",
    "$JS.API.DIRECT.GET.OBJ_BLOBS.$O.BLOBS.M.x",
    "$O.BLOBS.C.alice.x.y",
    "$O.BLOBS.M.x",
    "$JS.API.DIRECT.GET.EVENTS.events.alice.x.agents",
    "$JS.ACK.COMMANDS.lifecycle.1.1.1.1.1",
    "_INBOX.x",
]


@pytest.mark.parametrize("subject", FORBIDDEN)
async def test_a_user_cannot_publish_there(subject: str, fenced: Login) -> None:
    """Not as another user, nor past the service, nor to JetStream."""
    async with (
        connected(fenced) as (alice, complaints),
        connected(fenced.operator) as (wake, _),
    ):
        arrived = await wake.subscribe(subject)
        await wake.flush()
        await alice.publish(subject, b"{}", reply="answers.alice.back")
        await alice.flush()
        async with asyncio.timeout(LIMIT):
            complaint = await complaints.get()
        await wake.flush()
        assert "permissions violation for publish" in complaint.lower()
        assert subject.lower() in complaint.lower()
        assert arrived.pending_msgs == 0


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "*.bob.>",
        "events.>",
        "events.alice.>",
        "feed.>",
        "feed.bob.>",
        "answers.bob.>",
        "logs.bob.>",
        "deltas.bob.>",
        "schedules.alice.>",
        "recurring.alice.>",
        "commands.>",
        "commands.alice.>",
        "triggers.>",
        "triggers.alice.>",
        "gateway.>",
        "gateway.alice.>",
        "$KV.>",
        "$KV.QUOTAS.alice",
        "queries.>",
        "$SRV.>",
        "$JS.API.>",
        "$O.>",
        "$O.BLOBS.C.alice.>",
        "_INBOX.>",
    ],
)
async def test_a_user_cannot_listen_there(subject: str, fenced: Login) -> None:
    """Not to others, nor to the log itself, nor to JetStream."""
    async with connected(fenced) as (alice, complaints):
        await alice.subscribe(subject)
        await alice.flush()
        async with asyncio.timeout(LIMIT):
            complaint = await complaints.get()
        assert "permissions violation for subscription" in complaint.lower()
        assert subject.lower() in complaint.lower()


async def test_a_reply_subject_leads_nowhere(fenced: Login) -> None:
    """The stream's acknowledgement stays in the sender's account, whatever is named.

    In one account with the service it would be stored as a commit of bob's.
    """
    targets = [
        "events.bob.x.agents",
        "commands.bob.x.kill",
        "gateway.bob.x.kill",
        "answers.bob.x",
        "triggers.all.ci.done",
        "logs.bob.x.info",
        "$JS.API.STREAM.MSG.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.COMMANDS",
    ]
    async with (
        connected(fenced) as (alice, complaints),
        connected(fenced.operator) as (wake, _),
    ):
        before = await last_position(wake)
        arrived = [await wake.subscribe(target) for target in targets]
        acks = await alice.subscribe("answers.alice.ack")
        await wake.flush()
        for target in [*targets, "answers.alice.ack"]:
            await alice.publish("commands.alice.nobody.pause", b"{}", reply=target)
            await alice.publish("triggers.alice.ci.done", b"{}", reply=target)
        told = [await acks.next_msg(timeout=LIMIT) for _ in range(2)]  # of the last
        assert {json.loads(t.data)["stream"] for t in told} == {"COMMANDS", "TRIGGERS"}
        await wake.flush()
        assert [subscription.pending_msgs for subscription in arrived] == [0] * 8
        assert await last_position(wake) == before
        assert complaints.empty()


async def test_a_user_wakes_her_own_and_hears_how_many(fenced: Login) -> None:
    """From an account of her own, with the headers of a CloudEvent; bob's sleep on."""
    async with connected(fenced) as (alice, complaints):
        command = await alice.subscribe("answers.alice.w-1")
        trigger = await alice.subscribe("answers.alice.t-1")
        await alice.flush()
        body = {
            "command_id": "w-1",
            "agent_type": "explorer",
            "input": "x",
            "await_event": {"event_type": "ci.done"},
        }
        await alice.publish("commands.alice.w-1.start", json.dumps(body).encode())
        started = json.loads((await command.next_msg(timeout=LIMIT)).data)
        assert started["status"] == "awaiting_event"
        headers = {
            "ce-specversion": "1.0",
            "ce-id": "1",
            "ce-source": "/ci",
            "ce-type": "ci.done",
            "Wake-Answer": "t-1",
        }
        await alice.publish("triggers.alice.ci.done", b"{}", headers=headers)
        answer = await trigger.next_msg(timeout=LIMIT)
        assert json.loads(answer.data)["woken"] == 1
        assert complaints.empty()


async def gone(client: Client) -> tuple[int, int]:
    """Where EVENTS begins, and how much is missing from it; others may append."""
    state = (await client.jetstream().stream_info("EVENTS")).state
    return state.first_seq, state.num_deleted or 0


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.MSG.DELETE.EVENTS",
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.LOGS",
    ],
)
async def test_the_service_itself_cannot_delete(subject: str, fenced: Login) -> None:
    """Who has got hold of its password cannot make anything undone."""
    async with connected(fenced.operator) as (wake, complaints):
        before = await gone(wake)
        await wake.publish(subject, b'{"seq": 1}')
        await wake.flush()
        async with asyncio.timeout(LIMIT):
            complaint = await complaints.get()
        assert "permissions violation for publish" in complaint.lower()
        assert await gone(wake) == before


VOUCHING = "gateway.bob.x.kill"
GIVING = ["$KV.ACCOUNTS.bob", "$KV.QUOTAS.bob"]


@pytest.mark.parametrize(
    ("who", "subject"),
    [
        ("janitor", VOUCHING),
        ("operator", VOUCHING),
        *(("janitor", subject) for subject in GIVING),
        *(("gateway", subject) for subject in GIVING),
    ],
)
async def test_even_the_services_have_one_who_may(
    who: str, subject: str, fenced: Login
) -> None:
    """Speak for others: the gateway; give tiers: the user of the service."""
    may = fenced.gateway if subject == VOUCHING else fenced.operator
    async with (
        connected(getattr(fenced, who)) as (client, complaints),
        connected(may) as (one, refused),
    ):
        arrived = await one.subscribe(subject)
        await one.flush()
        await client.publish(subject, b"")
        await client.flush()
        async with asyncio.timeout(LIMIT):
            complaint = await complaints.get()
        assert "permissions violation for publish" in complaint.lower()
        await one.flush()
        assert arrived.pending_msgs == 0
        await one.publish(subject, b"")
        await arrived.next_msg(timeout=LIMIT)
        assert refused.empty()


async def test_headers_of_a_user_vouch_for_nothing(fenced: Login) -> None:
    """Who says to be somebody else, of another tier, is who the subject says."""
    async with connected(fenced) as (alice, _), connected(fenced.gateway) as (gate, _):
        answers = await alice.subscribe("answers.alice.v-1")
        feed = await alice.subscribe("feed.alice.v-1.>")
        await alice.flush()
        headers = {"Wake-By": "root", "Wake-Tier": "gold"}  # gold would be refused
        start = {"command_id": "v-1", "agent_type": "explorer", "input": "x"}
        body = json.dumps({**start, "await_event": {"event_type": "never"}}).encode()
        await alice.publish("commands.alice.v-1.start", body, headers=headers)
        answer = json.loads((await answers.next_msg(timeout=LIMIT)).data)
        assert answer["accepted"] is True, answer
        commit = json.loads((await feed.next_msg(timeout=LIMIT)).data)
        assert commit["by"] == "user:alice"
        headers = {"Wake-By": "root"}
        reply = await gate.request(
            "gateway.alice.v-1.pause", b"{}", timeout=LIMIT, headers=headers
        )
        assert json.loads(reply.data)["stream"] == "COMMANDS"
        commit = json.loads((await feed.next_msg(timeout=LIMIT)).data)
        assert commit["by"] == "user:root"


async def test_the_janitor_deletes(fenced: Login, tmp_path: Path) -> None:
    """``wake cleanup`` logs in as that user where its password is set."""
    async with connected(fenced) as (alice, _):
        answers = {c: await alice.subscribe(f"answers.alice.{c}") for c in ("j1", "j2")}
        await alice.flush()
        start = {"command_id": "j1", "agent_type": "explorer", "input": "x"}
        start["model"] = "scripted?delay_ms=60000"  # until it is killed
        for command, verb, body in (
            ("j1", "start", json.dumps(start).encode()),
            ("j2", "kill", b'{"command_id": "j2"}'),
        ):
            await alice.publish(f"commands.alice.old.{verb}", body)
            answer = await answers[command].next_msg(timeout=LIMIT)
            assert json.loads(answer.data)["accepted"] is True, answer.data
    ended = await asyncio.to_thread(
        waking.wake,
        *(tmp_path, "cleanup", "--days", "0", "--json"),
        WAKE_NATS_URL=fenced.url,
        WAKE_NATS_PASSWORD=serving.OPERATOR,
        WAKE_NATS_JANITOR_PASSWORD=serving.JANITOR,
    )
    assert ended.code == 0, ended.err
    swept = [json.loads(line) for line in ended.out.splitlines()[:-1]]
    assert {"old"} <= {one["execution"] for one in swept if one["deleted"]}
    async with connected(fenced.operator) as (wake, _):
        stream = wake.jetstream()
        info = await stream.stream_info("EVENTS", subjects_filter="events.alice.old.*")
        assert not info.state.subjects

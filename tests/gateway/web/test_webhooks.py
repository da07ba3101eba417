import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from logs import JetStreamLog
from outside import JetStreamOutside, collect
from standardwebhooks import Webhook

from events.errors import Misconfigured, Unavailable
from events.names import MESSAGE_ID
from events.pinned import JetStreamInbox
from events.triggerstream import TAKEN, JetStreamTriggers, _digest
from gateway.web.desk import Desk
from gateway.web.seldom import Seldom
from gateway.web.webhooks import LARGEST, PATH, Webhooks
from services.handler import Handler
from services.reactor import Reactor
from services.triggers import Waker

OLD, NEW, OTHER = (
    f"whsec_{base64.b64encode(text * 8).decode()}" for text in (b"old", b"new", b"no!")
)
CALL = {"event_type": "ci.done", "user_id": "ada", "payload": {"ok": True}}
EVENT = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "ci",
    "type": "ci.done",
    "userid": "all",
    "data": 7,
}
LIMIT = 60.0
DOCUMENT = Path("docs/webhooks.md").read_text()


class Sender:
    """Another system that sends webhooks."""

    def __init__(self, client: "TestClient[Any, Any]") -> None:
        self.client = client

    async def send(
        self,
        body: Any = CALL,
        *,
        name: str = "msg_1",
        key: str = NEW,
        late: timedelta = timedelta(),
        **changed: str,
    ) -> tuple[int, dict[str, Any]]:
        """Sign and send; ``changed`` are headers."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        at = datetime.now(UTC) - late
        text = data.decode(errors="replace")
        # The library writes a naive time as if it were UTC.
        signature = Webhook(key).sign(name, at.replace(tzinfo=None), text)
        headers = {
            "webhook-id": name,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
            "content-type": "application/json",
        } | {header.replace("_", "-"): value for header, value in changed.items()}
        async with self.client.post(PATH, data=data, headers=headers) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def outside(jetstream_log: JetStreamLog) -> AsyncIterator[JetStreamOutside]:
    """Triggers on a real server, none yet."""
    async with JetStreamOutside.empty(jetstream_log._url) as outside:
        yield outside


@pytest.fixture
async def sender(
    jetstream_log: JetStreamLog, outside: JetStreamOutside
) -> AsyncIterator[Sender]:
    """A gateway that takes two keys, and a reactor that answers."""
    inbox = JetStreamInbox(await jetstream_log.wire())
    waker = Waker(Handler(jetstream_log.journal, "r"), outside.triggers, inbox.answer)
    reactor = Reactor(jetstream_log.journal, [waker])
    wire = await jetstream_log.wire()
    opened = Desk.open(wire, inbox, jetstream_log.journal, outside.triggers)
    app = web.Application()
    async with AsyncExitStack() as stack:
        desk = await stack.enter_async_context(opened)
        app.add_routes(Webhooks(desk, [NEW, OLD]).routes())
        running = asyncio.create_task(reactor.run())
        async with asyncio.timeout(LIMIT):
            await reactor.ready.wait()
            await waker.ready.wait()
        yield Sender(await stack.enter_async_context(TestClient(TestServer(app))))
        await reactor.stop()
        await running


async def test_a_signed_webhook_is_a_trigger(
    sender: Sender, outside: JetStreamOutside
) -> None:
    """On the subject of its user and type, as a CloudEvent, and counted."""
    assert await sender.send() == (
        200,
        {"accepted": True, "duplicate": False, "woken": 0},
    )
    [found] = await collect(outside.triggers, 1)
    assert found.subject == "triggers.ada.ci.done"
    body = msgspec.json.decode(found.body)
    assert (body["id"], body["data"]) == ("msg_1", {"ok": True})


async def test_a_cloudevent_says_whose_it_is(
    sender: Sender, outside: JetStreamOutside
) -> None:
    """By its extension ``userid``; it goes on as it came."""
    kind = "application/cloudevents+json"
    status, _ = await sender.send(EVENT, content_type=kind)
    [found] = await collect(outside.triggers, 1)
    assert (status, found.subject) == (200, "triggers.all.ci.done")
    assert msgspec.json.decode(found.body) == EVENT


async def test_what_is_sent_again_reaches_nobody_twice(
    sender: Sender, outside: JetStreamOutside
) -> None:
    """The same message, replayed or signed anew, also ten at once."""
    told = await asyncio.gather(*(sender.send(name="m") for _ in range(10)))
    assert {status for status, _ in told} == {200}
    assert sorted(said["duplicate"] for _, said in told) == [False] + [True] * 9
    assert (await sender.send(name="m", key=OLD))[1]["duplicate"]
    assert await outside.triggers.last() == 1


async def test_the_server_remembers_what_was_sent(outside: JetStreamOutside) -> None:
    """So do all gateways, and one that was started anew."""
    for triggers in (outside.triggers, JetStreamTriggers(await outside.wire())):
        await triggers.publish_once("ada", "a", b"1", name="m")
    assert await outside.triggers.last() == 1


@pytest.mark.parametrize("taken", [1, TAKEN])
async def test_an_id_that_another_has_taken_says_nothing(
    outside: JetStreamOutside, taken: int
) -> None:
    """Whoever may send triggers over NATS gives them any id, also one of a webhook."""
    triggers = outside.triggers
    for number in range(taken):
        header = {MESSAGE_ID: _digest("m", number)}
        await triggers.publish("eve", "a", b"1", headers=header)
    if taken == TAKEN:
        with pytest.raises(Unavailable, match="ids"):
            await triggers.publish_once("ada", "a", b"2", name="m")
        return
    assert await triggers.publish_once("ada", "a", b"2", name="m")
    assert not await triggers.publish_once("ada", "a", b"2", name="m")
    last = await triggers.beyond("ada", "a", 0)
    assert last is not None
    assert last.body == b"2"


async def test_old_and_new_keys_are_taken(sender: Sender) -> None:
    """A sender may change from one to the other at any time."""
    for name, key in (("a", OLD), ("b", NEW)):
        assert (await sender.send(name=name, key=key))[0] == 200


@pytest.mark.parametrize(
    "forged",
    [
        {"key": OTHER},
        {"late": timedelta(minutes=6)},
        {"late": timedelta(minutes=-20)},
        {"webhook_id": "another"},
        {"webhook_id": ""},
        {"webhook_id": "x" * 300},
        {"webhook_timestamp": "nan"},
        {"webhook_timestamp": "1e999"},
        {"webhook_timestamp": "-1"},
        {"webhook_timestamp": ""},
        {"webhook_signature": ""},
        {"webhook_signature": "v1"},
        {"webhook_signature": "v1,"},
        {"webhook_signature": "v1,a,b"},
        {"webhook_signature": "v1,%%%"},
        {"webhook_signature": "v2,AAAA"},
        {"webhook_signature": "v1,\xe9"},
    ],
    ids=lambda forged: f"{forged}"[:40],
)
async def test_what_is_not_signed_is_refused(
    sender: Sender, outside: JetStreamOutside, forged: dict[str, Any]
) -> None:
    """With 401 and a reason that tells nothing; nothing is stored."""
    status, said = await sender.send(**forged)
    assert (status, said["code"]) == (401, "unauthorized")
    assert await outside.triggers.last() == 0


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"", "body"),
        (b"\xff\xfe", "signature"),
        (b"[1]", "body"),
        (b"{", "body"),
        (b'{"a":' * 5_000, "body"),
        ({"event_type": "a"}, "user_id"),
        ({**CALL, "event_type": "a.*"}, "event type"),
        ({**CALL, "event_type": "a.>"}, "event type"),
        ({**CALL, "event_type": 7}, "event_type"),
        ({**CALL, "user_id": "a.b"}, "user"),
        ({**CALL, "user_id": ">"}, "user"),
        ({**CALL, "user": "ada"}, "user"),
        ({**EVENT, "userid": "*"}, "user"),
        ({**EVENT, "specversion": "2.0"}, "version"),
        ({**EVENT, "source": ""}, "source"),
        ({k: v for k, v in EVENT.items() if k != "userid"}, "userid"),
    ],
    ids=lambda value: f"{value!r}"[:40],
)
async def test_what_says_nothing_good_is_refused(
    sender: Sender, body: Any, names: str
) -> None:
    """Well signed, and wrong: the message names what is to be changed."""
    status, said = await sender.send(body)
    assert status in {401, 422}
    assert names in said["detail"]


async def test_a_large_body_is_refused_early(
    sender: Sender, outside: JetStreamOutside
) -> None:
    """With 413; the largest that may be is taken."""
    frame = len(msgspec.json.encode({**CALL, "payload": ""}))
    for size, status in ((LARGEST - frame, 200), (LARGEST - frame + 1, 413)):
        body = {**CALL, "payload": "x" * size}
        assert (await sender.send(body, name=f"m{size}"))[0] == status
    assert await outside.triggers.last() == 1


def test_a_key_that_is_none_is_named() -> None:
    """When the gateway starts, not when the first webhook comes."""
    for key in ("whsec_", f"{NEW}%", "", "whsec_c2hvcnQ="):
        with pytest.raises(Misconfigured, match="webhook_keys"):
            Webhooks(None, [key])  # type: ignore[arg-type]


def test_a_reason_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """And then with how often it was kept back, however its details vary."""
    now = 0.0
    seldom = Seldom(logging.getLogger("edge"), lambda: now)
    for number in range(1_000):
        seldom.warning("refused", f"{number}")
    now = 61.0
    seldom.warning("refused", "last")
    assert caplog.messages == ["refused: 0", "refused: last (and 999 times before)"]


async def test_the_documented_example_is_taken(
    sender: Sender, outside: JetStreamOutside
) -> None:
    """As docs/webhooks.md has it, byte for byte."""
    code, body = (
        DOCUMENT.split(f"<!-- {name} -->\n```{kind}\n")[1].split("\n```")[0]
        for name, kind in (("example", "python"), ("body", "json"))
    )
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - it is our own documentation
    headers = names["signed"](NEW, "msg_9", body)
    async with sender.client.post(PATH, data=body, headers=headers) as response:
        assert (response.status, (await response.json())["woken"]) == (200, 0)
    assert await outside.triggers.last() == 1

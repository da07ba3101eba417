"""What operators look at, and the end of a gateway."""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import edges
import msgspec
import pytest
from edges import DONE, SLOW, Caller, Gateway, eventually
from nats_server import NatsServer

from events.names import answer_subject
from events.wire import Wire
from gateway.web.problems import Problem
from services.requests import Answer


async def ready(caller: Caller, status: int) -> edges.Reply:
    """Wait until it says that it can serve, or that it cannot."""
    look = partial(caller.get, "/readyz")
    return await eventually(look, lambda reply: reply.status == status)


async def test_it_says_that_it_lives_and_can_serve(gateway: Gateway) -> None:
    """Without a token: /healthz, and /readyz with what it looked at."""
    nobody = gateway.nobody()
    assert (await nobody.get("/healthz")).body == {"status": "ok"}
    look = partial(nobody.get, "/readyz")
    told = (await eventually(look, lambda r: r.body["read_model"] == "current")).body
    assert told["behind"] >= 0
    assert (told["nats"], told["streams"], told["reasons"]) == (True, True, [])


async def test_without_a_read_model_it_serves_all_but_lists(
    edge_server: NatsServer, tmp_path: Path
) -> None:
    """It is ready, says that the read model is away, and lists are 503."""
    services = ("lifecycle", "runner", "gateway")
    async with edges.gateway(edge_server.url, tmp_path, services) as one:
        told = (await ready(one.nobody(), 200)).body
        assert (told["read_model"], told["behind"]) == ("away", None)
        ada = one.caller()
        execution = await ada.started()
        await ada.until(execution, "completed")
        listed = await ada.get("/api/agents")
        assert (listed.status, listed.code) == (503, "unavailable")
        assert int(listed.headers["Retry-After"]) >= 1


async def test_while_the_server_is_away_it_is_alive_and_not_ready(
    own_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every answer is 503 with Retry-After; it goes on by itself afterwards."""
    async with edges.gateway(own_server.url, tmp_path) as one:
        ada = one.caller()
        await ada.started()
        own_server.kill()
        told = (await ready(one.nobody(), 503)).body
        assert told["reasons"][0] in {
            "nats-server does not answer",  # the connection may not be missed yet
            "nats-server cannot be reached",
        }
        assert (await one.nobody().get("/healthz")).status == 200
        with caplog.at_level(logging.INFO):
            for _ in range(5):
                reply = await ada.get("/api/agents/some-id/logs")
                assert reply.status == 503, reply
                assert int(reply.headers["Retry-After"]) >= 1
        told_once = [r for r in caplog.records if "answered 503" in r.getMessage()]
        assert len(told_once) == 1
        own_server.start()
        await ready(one.nobody(), 200)
        start = partial(ada.post, "/api/agents", START)
        await eventually(start, lambda reply: reply.status == 201)


START = {"agent_type": "explorer", "input": DONE}


async def test_a_command_that_nobody_answers_is_stored(
    edge_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202 with the id; once a lifecycle runs, the execution is there."""
    monkeypatch.setattr("gateway.web.desk.WAIT", 0.2)
    async with edges.gateway(edge_server.url, tmp_path, ("gateway",)) as one:
        ada = one.caller()
        queued = await ada.post("/api/agents", START)
        assert queued.status == 202, queued
        execution = queued.body["id"]
        assert (await ada.get(f"/api/agents/{execution}")).status == 404
    async with edges.gateway(edge_server.url, tmp_path) as one:
        ada = one.caller()
        look = partial(ada.get, f"/api/agents/{execution}")
        await eventually(look, lambda reply: reply.status == 200)
        await ada.until(execution, "completed")


@pytest.mark.parametrize(("whose", "status"), [("eve", 202), ("ada", 200)])
async def test_an_answer_to_another_is_none(
    edge_server: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
    status: int,
) -> None:
    """Though it has the same id: over NATS eve may give a command of hers any."""
    wait = 60.0 if whose == "ada" else 0.5
    monkeypatch.setattr("gateway.web.desk.WAIT", wait)
    async with edges.gateway(edge_server.url, tmp_path, ("gateway",)) as one:
        wire = await Wire.connect(edge_server.url)

        def answer(message: Any) -> None:
            command = msgspec.json.decode(message.data)["command_id"]
            said = Answer(
                command_id=command, execution="x", accepted=True, status="paused"
            )
            subject = answer_subject(whose, command)
            sent.append(
                group.create_task(wire.send(subject, msgspec.json.encode(said)))
            )

        sent: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as group:
            await wire.subscribe("gateway.ada.x.pause", answer)
            await wire.flush()
            reply = await one.caller().post(
                "/api/agents/x/pause", headers={"Idempotency-Key": "1"}
            )
        await wire.close()
    assert len(sent) == 1
    assert reply.status == status


async def test_what_is_in_hand_is_seen_to_its_end(
    edge_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to end, it answers what it has begun, takes nothing new, then ends."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    async with edges.gateway(edge_server.url, tmp_path) as one:
        ada = one.caller()
        execution = await ada.started(**SLOW)

        async def slow(*_: object, **__: object) -> list[object]:
            begun.set()
            await go_on.wait()
            return []

        monkeypatch.setattr("events.logstream.JetStreamLogbook.read", slow)
        asked = asyncio.create_task(ada.get(f"/api/agents/{execution}/logs"))
        await begun.wait()
        await ready(one.nobody(), 200)  # over a connection that stays open
        one.services.end()
        told = await ready(one.nobody(), 503)
        assert told.body["reasons"] == ["it is about to end"]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(one.host, one.port)
        assert not asked.done()
        go_on.set()
        assert (await asked).status == 200


async def test_the_numbers_are_for_operators(gateway: Gateway) -> None:
    """This machine sees them, through no proxy; elsewhere an admin's token does."""
    ada = gateway.caller()
    execution = await ada.started()
    await ada.until(execution, "completed")
    url = f"{gateway.url}/ws"
    async with gateway.session.ws_connect(url, headers=ada.headers):
        look = partial(gateway.nobody().get, "/metrics")
        told = "wake_feed_clients 1.0"
        text = (await eventually(look, lambda r: told in r.raw.decode())).raw.decode()
    assert 'route="/api/agents/{id}",status="200"' in text
    assert 'wake_lane_waiting{lane="agents"} 0.0' in text
    assert 'wake_commands_total{verb="start"}' in text
    assert execution not in text
    forwarded = {"X-Forwarded-For": "192.0.2.7"}
    assert (
        await gateway.nobody().get("/metrics", headers=forwarded)
    ).code == "unauthorized"
    assert (await ada.get("/metrics", headers=forwarded)).code == "forbidden"
    admin = gateway.caller("root", None, "admin")
    assert (await admin.get("/metrics", headers=forwarded)).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 401),
        ("evil.example:8787", 401),
        ("127.0.0.1.evil.example", 401),
        ("[", 401),
        ("localhost:8787", 200),
        ("127.0.0.1", 200),
        ("[::1]:8787", 200),
    ],
)
async def test_a_page_whose_name_leads_here_sees_no_numbers(
    gateway: Gateway, host: str, status: int
) -> None:
    """A browser on this machine asks on behalf of whatever page it shows."""
    reply = await gateway.nobody().get("/metrics", headers={"Host": host})
    assert reply.status == status


async def test_every_answer_has_an_id_that_the_log_knows(
    ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """And what went wrong has the shape of all problems, on any path."""
    with caplog.at_level(logging.INFO, logger="gateway.web"):
        missing = await ada.get("/nothing/here?x=1")
    assert missing.status == 404
    assert set(missing.body) == set(Problem.__struct_fields__) - {"retry_after"}
    assert missing.headers["X-Request-Id"]
    (line,) = [r for r in caplog.records if r.name == "gateway.web.attending"]
    assert line.getMessage() == "GET /nothing/here"

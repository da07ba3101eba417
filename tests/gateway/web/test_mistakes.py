"""What takes too long, and what is our own mistake: answered in order all the same."""

import asyncio
import logging
from pathlib import Path

import edges
import pytest
from edges import Caller
from nats_server import NatsServer

from events.errors import LimitReached, Unavailable, WakeError
from gateway.web.problems import TooManyRequests, told

READ = "events.logstream.JetStreamLogbook.read"


async def test_a_request_that_takes_too_long(
    edge_server: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """503 with a time to ask again; the connection ends; the log says so once."""

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    more = {"WAKE_GATEWAY_TIMEOUT": "5"}
    async with edges.gateway(edge_server.url, tmp_path, **more) as one:
        ada = one.caller()
        execution = await ada.started()
        monkeypatch.setattr(READ, hang)
        path = f"/api/agents/{execution}/logs"
        with caplog.at_level(logging.INFO):
            replies = await asyncio.gather(*(ada.get(path) for _ in range(5)))
        for reply in replies:
            assert (reply.status, reply.code) == (503, "unavailable")
            assert int(reply.headers["Retry-After"]) >= 1
            assert reply.headers["Connection"] == "close"
        assert (await ada.get(f"/api/agents/{execution}/events")).status == 200
    told = [r for r in caplog.records if "took too long" in r.getMessage()]
    assert len(told) == 1


async def test_a_mistake_of_ours_is_answered_and_logged(
    ada: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 that says nothing of the inside; the log has all of it; others go on."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the inside")

    execution = await ada.started()
    with monkeypatch.context() as patch:
        patch.setattr(READ, fail)
        reply = await ada.get(f"/api/agents/{execution}/logs")
    assert (reply.status, reply.code) == (500, "error")
    assert "inside" not in reply.raw.decode()
    assert reply.headers["X-Request-Id"]
    (told,) = [r for r in caplog.records if r.exc_info]
    assert told.levelname == "ERROR"
    assert (await ada.get(f"/api/agents/{execution}/logs")).status == 200


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (LimitReached("100 connections watch", limit="connections"), 2),
        (LimitReached("so many run", retry_after=5.0, limit="concurrent"), 5),
        (LimitReached("so many were started", retry_after=0.2, limit="hourly"), 1),
        (TooManyRequests("too many questions", retry_after=1.4), 2),
        (Unavailable("nobody is there"), 2),
    ],
    ids=str,
)
def test_what_may_be_asked_again_says_when(error: WakeError, seconds: int) -> None:
    """In its header, whoever refuses it, and also where nobody knows for sure."""
    assert int(told(error).headers["Retry-After"]) == seconds

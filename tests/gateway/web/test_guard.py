"""Who comes in, at every door; and what the log tells of it."""

import logging
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import edges
import pytest
from edges import SLOW, Caller, Gateway
from hypothesis import given
from hypothesis import strategies as st
from nats_server import NatsServer

from gateway.web.api import OPERATIONS
from gateway.web.logins import FAILURES, MOST, WINDOW, Logins
from gateway.web.problems import TooManyRequests

DOORS = [(o.method, o.path.replace("{id}", "some-id")) for o in OPERATIONS]
PAGE = "https://app.example"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer x.y.z"],
)
async def test_every_door_wants_a_token(gateway: Gateway, header: str | None) -> None:
    """Without a good one it is 401 everywhere, and nothing else is said."""
    headers = {} if header is None else {"Authorization": header}
    for method, path in DOORS:
        reply = await gateway.nobody().ask(method, path, headers=headers)
        assert reply.status in (401, 429), (method, path, reply)
        if reply.status == 401:
            assert reply.headers["WWW-Authenticate"] == "Bearer"
            assert reply.code == "unauthorized"


async def test_a_token_in_the_query_is_none(gateway: Gateway, ada: Caller) -> None:
    """It would stand in logs and histories: no door takes it there."""
    for name in ("token", "access_token", "authorization"):
        path = f"/api/agents?{name}={ada.token}"
        assert (await gateway.nobody().get(path)).status == 401
        refused = await ada.get(path)
        assert refused.status == 422
        assert ada.token is not None
        assert ada.token not in refused.raw.decode()


async def test_a_feed_token_opens_no_door_of_rest(gateway: Gateway) -> None:
    """Neither for reading nor for steering, whoever's it is."""
    admin = gateway.caller("root", None, "admin")
    for path in ("/api/agents/token",):
        feed = gateway.nobody((await admin.get(path)).body["token"])
        for method, door in DOORS:
            reply = await feed.ask(method, door)
            assert (reply.status, reply.code) == (403, "forbidden"), (method, door)
        assert (await feed.get("/metrics")).status == 403


async def test_a_feed_token_of_anothers_is_the_owners(gateway: Gateway) -> None:
    """An admin's feed token for one execution shows that one, as its owner sees it."""
    ada, admin = gateway.caller("ada"), gateway.caller("root", None, "admin")
    execution = await ada.started(**SLOW)
    token = (await admin.get(f"/api/agents/{execution}/token")).body["token"]
    who = gateway.tokens.authenticate(token)
    assert (who.user, who.execution, who.feed) == ("ada", execution, True)
    await ada.delete(f"/api/agents/{execution}")


SIGNALS = ("pause", "resume", "cancel", "retry")


async def test_nobody_steers_anothers_execution(gateway: Gateway, ada: Caller) -> None:
    """Every door about it answers as if it were not there, and nothing happens."""
    execution = await ada.started(**SLOW)
    bob = gateway.caller("bob", "enterprise", "operator")
    for user in ("", f"?user={gateway.tokens.authenticate(str(ada.token)).user}"):
        for verb in SIGNALS:
            reply = await bob.post(f"/api/agents/{execution}/{verb}{user}")
            assert (reply.status, reply.code) == (404, "not_found"), reply
        body = {"answer": "yes"}
        reply = await bob.post(f"/api/agents/{execution}/input{user}", body)
        assert (reply.status, reply.code) == (404, "not_found")
        assert (await bob.delete(f"/api/agents/{execution}{user}")).status == 404
    seen = await ada.get(f"/api/agents/{execution}")
    assert seen.body["status"] in ("pending", "running")
    admin = gateway.caller("root", None, "admin")
    killed = await admin.delete(f"/api/agents/{execution}?reason=by%20an%20admin")
    assert killed.body["status"] == "cancelled"
    history = (await ada.get(f"/api/agents/{execution}/events")).body["items"]
    assert history[-1]["events"][-1]["reason"] == "by an admin"


@pytest.mark.parametrize(
    "strange",
    [
        *("..", "../ada", "%2e%2e%2fetc", "%2F", "*", ">", "a.b", "%00", "ä", "x" * 65),
        *("x" * 2_000, "%", "%zz", "a%20b", "%F0%9F%98%80", "'--", "%C0%AF", "a;b"),
    ],
)
async def test_path_tricks(gateway: Gateway, strange: str) -> None:
    """What can be no id names nothing, for an admin neither."""
    admin = gateway.caller("root", None, "admin")
    for path in ("", "/events", "/logs", "/state", "/token"):
        reply = await admin.get(f"/api/agents/{strange}{path}")
        assert reply.status in (404, 405), (strange, path, reply)
    assert (await admin.get(f"/api/agents/x?user={strange[:50]}")).status in (404, 422)
    assert (await admin.get(f"/api/schedules/{strange}")).status in (404, 405)


# ── failures ─────────────────────────────────────────────────────────────────


async def test_who_guesses_is_slowed_down(
    gateway: Gateway, ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """From the eleventh on it is 429; a good token is taken all the same."""
    with caplog.at_level(logging.INFO):
        wrong = gateway.nobody("x.y.z")
        replies = [await wrong.get("/api/agent-types") for _ in range(FAILURES + 5)]
    assert [r.status for r in replies] == [401] * FAILURES + [429] * 5
    assert 1 <= int(replies[-1].headers["Retry-After"]) <= WINDOW
    assert (await ada.get("/api/agent-types")).status == 200
    told = [r for r in caplog.records if "login refused" in r.message]
    assert len(told) == 1


async def test_a_token_that_has_expired_is_no_guess(gateway: Gateway) -> None:
    """Behind a proxy a thousand pages share an address, and each token ends once.

    Who is told 429 in place of 401 would not get another; guesses are slowed still.
    """
    ended = gateway.tokens.mint("ada", lifetime=-timedelta(hours=1)).token
    forged = ended[:-4] + "AAAA"
    late, wrong = gateway.nobody(ended), gateway.nobody(forged)
    told = [await late.get("/api/limits") for _ in range(FAILURES + 5)]
    assert {(r.status, r.code) for r in told} == {(401, "unauthorized")}
    assert "expired" in told[0].body["detail"]
    told = [await wrong.get("/api/limits") for _ in range(FAILURES + 1)]
    assert [r.status for r in told] == [401] * FAILURES + [429]
    assert (await late.get("/api/limits")).status == 401


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=100))
def test_never_more_than_ten_in_a_minute(tries: list[tuple[str, float]]) -> None:
    """Whoever fails, and whenever: no address gets an eleventh answer in a window."""
    now = 0.0
    logins = Logins(clock=lambda: now)
    answered: dict[str, list[float]] = {}
    for address, pause in tries:
        now += pause
        with suppress(TooManyRequests):
            logins.failed(address)
            answered.setdefault(address, []).append(now)
    for times in answered.values():
        for first, eleventh in zip(times, times[FAILURES * 2 :], strict=False):
            assert eleventh - first >= WINDOW


def test_what_is_remembered_of_failures_is_bounded() -> None:
    """A million addresses fill no memory; those seen last are known."""
    logins = Logins(clock=lambda: 0.0)
    for number in range(MOST + 100):
        logins.failed(str(number))
    assert len(logins) == MOST
    for _ in range(FAILURES - 1):
        logins.failed(str(MOST + 99))
    with pytest.raises(TooManyRequests):
        logins.failed(str(MOST + 99))


# ── pages ────────────────────────────────────────────────────────────────────


async def test_pages_of_other_origins_may_not_ask(
    gateway: Gateway, ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """403 even with a good token, said once; its own origin may."""
    for _ in range(20):
        reply = await ada.get("/api/agent-types", headers={"Origin": "https://evil.x"})
        assert (reply.status, reply.code) == (403, "forbidden")
        assert "Access-Control-Allow-Origin" not in reply.headers
    assert len([r for r in caplog.records if "another origin" in r.message]) == 1
    own = await ada.get("/api/agent-types", headers={"Origin": gateway.url})
    assert own.status == 200
    for strange in ("null", "", "http://[", "evil", "http://"):
        reply = await ada.get("/api/agent-types", headers={"Origin": strange})
        assert reply.status == 403, strange


async def test_pages_that_are_allowed_may_ask(
    edge_server: NatsServer, tmp_path: Path
) -> None:
    """A preflight is answered without a token, and errors can be read too."""
    more = {"WAKE_GATEWAY_ORIGINS": PAGE}
    async with edges.gateway(edge_server.url, tmp_path, **more) as one:
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "DELETE"}
        preflight = await one.nobody().ask("OPTIONS", "/api/agents/x", headers=asked)
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
        assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
        refused = await one.nobody().get("/api/agents", headers={"Origin": PAGE})
        assert refused.status == 401
        assert refused.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Origin" in refused.headers["Vary"]


# ── the log ──────────────────────────────────────────────────────────────────


async def test_no_token_is_logged(
    gateway: Gateway, ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither of a header, nor of a query, nor of what cannot be read."""
    secret = "eyJsecretsecretsecret"  # noqa: S105 - what must not be seen
    with caplog.at_level(logging.DEBUG, logger="gateway"):
        await gateway.nobody(f"{secret}.{secret}.x").get("/api/agents")
        await ada.get(f"/api/agents?token={secret}")
        await gateway.nobody().get("/none", headers={"Authorization": secret * 600})
        await ada.get("/api/agent-types")
    told = "\n".join(str(vars(r)) for r in caplog.records)
    assert "GET /api/agent-types" in told
    assert secret not in told
    assert str(ada.token) not in told

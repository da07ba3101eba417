"""Starting and steering over REST: once however often, and in whatever order."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from edges import DONE, SLOW, Caller, Gateway, eventually
from onlookers import Writer

from events.names import EVENTS

ASKS = 'script:\nask_user {"question": "Which colour?"}\nsay Thanks.\n'
START = {"agent_type": "explorer", "input": DONE}
KEY = "Idempotency-Key"


def start(**options: Any) -> dict[str, Any]:
    """The body of a start."""
    return {**START, "options": options}


async def test_a_start_with_a_key_happens_once(ada: Caller) -> None:
    """Ten at once, by header and by body, are one execution and one count."""
    before = (await ada.get("/api/limits")).body["hourly"]["used"]
    asked = [ada.post("/api/agents", START, headers={KEY: "k"}) for _ in range(5)]
    asked += [ada.post("/api/agents", start(idempotency_key="k")) for _ in range(5)]
    replies = await asyncio.gather(*asked)
    assert {r.status for r in replies} == {201}
    assert len({r.body["id"] for r in replies}) == 1
    after = (await ada.get("/api/limits")).body["hourly"]["used"]
    assert after - before == 1
    other = {**START, "input": "Something else."}
    reply = await ada.post("/api/agents", other, headers={KEY: "k"})
    assert (reply.status, reply.code) == (409, "already_exists")


async def test_keys_that_differ_are_refused(ada: Caller) -> None:
    """Header and body have to say the same."""
    body = start(idempotency_key="one")
    assert (await ada.post("/api/agents", body, headers={KEY: "one"})).status == 201
    reply = await ada.post("/api/agents", body, headers={KEY: "two"})
    assert (reply.status, reply.code) == (422, "invalid_input")
    assert KEY in reply.body["detail"]
    assert (
        await ada.post("/api/agents", START, headers={KEY: "x" * 300})
    ).status == 422


async def test_the_same_key_of_two_users_is_two_executions(
    gateway: Gateway, ada: Caller
) -> None:
    """A key is its user's."""
    bob = gateway.caller("bob")
    hers = await ada.post("/api/agents", START, headers={KEY: "same"})
    his = await bob.post("/api/agents", START, headers={KEY: "same"})
    assert hers.body["id"] != his.body["id"]


async def test_a_start_at_a_time(ada: Caller) -> None:
    """It is there, pending, and says when; a time that is past is refused."""
    later = datetime.now(UTC) + timedelta(hours=2)
    started = await ada.post("/api/agents", start(run_at=later.isoformat()))
    seen = (await ada.get(f"/api/agents/{started.body['id']}")).body
    assert seen["status"] == "pending"
    assert datetime.fromisoformat(seen["scheduled_for"]) == later
    past = await ada.post("/api/agents", start(run_at="2020-01-01T00:00:00Z"))
    assert (past.status, past.code) == (422, "invalid_input")


async def test_a_trigger_wakes_ones_own(gateway: Gateway, ada: Caller) -> None:
    """An execution that waits goes on; another's trigger of that type wakes nobody."""
    awaited = {"event_type": "ci.done", "where": {"branch": "main"}}
    started = await ada.post("/api/agents", start(await_event=awaited))
    execution = started.body["id"]
    seen = (await ada.get(f"/api/agents/{execution}")).body
    assert seen["awaiting"]["event_type"] == "ci.done"
    body = {"event_type": "ci.done", "payload": {"branch": "main"}}
    bob = gateway.caller("bob")
    assert (await bob.post("/api/triggers", body)).body["woken"] == 0
    other = {**body, "payload": {"branch": "x", "specversion": "1.0", "type": "y"}}
    assert (await ada.post("/api/triggers", other)).body["woken"] == 0
    woken = await ada.post("/api/triggers", body, headers={KEY: "push-1"})
    assert (woken.status, woken.body["woken"]) == (200, 1)
    again = await ada.post("/api/triggers", body, headers={KEY: "push-1"})
    assert again.body["duplicate"] is True
    await ada.until(execution, "completed")
    everybody = {**body, "everybody": True}
    assert (await ada.post("/api/triggers", everybody)).code == "forbidden"
    admin = gateway.caller("root", None, "admin")
    assert (await admin.post("/api/triggers", everybody)).status == 200


@pytest.mark.parametrize(
    "kind", ["", "a b", ".a", "a.", "a.*", "a.>", "x" * 300, "a\n"]
)
async def test_event_types_that_are_none(ada: Caller, kind: str) -> None:
    """They would be other subjects."""
    reply = await ada.post("/api/triggers", {"event_type": kind})
    assert (reply.status, reply.code) == (422, "invalid_input")


async def test_a_question_is_answered(ada: Caller) -> None:
    """It shows what is asked; one answer is taken, and then nothing asks."""
    body = {"agent_type": "coder", "input": ASKS}
    execution = (await ada.post("/api/agents", body)).body["id"]
    asked = await ada.until(execution, "awaiting_input")
    assert asked["request"]["question"] == "Which colour?"
    path = f"/api/agents/{execution}/input"
    wrong = await ada.post(path, {"answer": "red", "request": "none-such"})
    assert (wrong.status, wrong.code) == (409, "not_allowed_now")
    assert (await ada.post(path, {})).status == 422
    replies = await asyncio.gather(*(ada.post(path, {"answer": "red"}) for _ in "123"))
    assert sorted(r.status for r in replies) == [200, 409, 409]
    await ada.until(execution, "completed")
    late = await ada.post(path, {"answer": "red"})
    assert (late.status, late.code) == (409, "not_allowed_now")


async def test_signals_twice_and_at_once(ada: Caller) -> None:
    """To ask for what already is so is fine; the history has each once."""
    execution = await ada.started(**SLOW)
    for verb in ("pause", "resume"):
        path = f"/api/agents/{execution}/{verb}"
        replies = await asyncio.gather(*(ada.post(path) for _ in range(8)))
        assert {r.status for r in replies} == {200}
    kills = await asyncio.gather(
        *(ada.delete(f"/api/agents/{execution}") for _ in range(8))
    )
    assert {r.status for r in kills} == {200}
    history = (await ada.get(f"/api/agents/{execution}/events")).body["items"]
    kinds = [e["type"] for c in history for e in c["events"]]
    assert kinds.count("cancelled.v1") == 1
    assert kinds.count("resumed.v1") <= 1


async def test_a_signal_with_a_key_takes_effect_once(ada: Caller) -> None:
    """A pause that is sent again after a resume does not pause again."""
    execution = await ada.started(**SLOW)
    await ada.until(execution, "running")
    path = f"/api/agents/{execution}"
    once = {KEY: "pause-1"}
    assert (await ada.post(f"{path}/pause", headers=once)).status == 200
    assert (await ada.post(f"{path}/resume")).status == 200
    assert (await ada.post(f"{path}/pause", headers=once)).status == 200
    seen = (await ada.get(path)).body
    assert (seen["status"], seen["pause_requested"]) != ("paused", True)
    assert seen["status"] in ("running", "pending")
    await ada.delete(path)


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "retry", "input"])
async def test_signals_to_what_is_over_or_not_there(ada: Caller, verb: str) -> None:
    """409 with how it stands; 404 for an id that nobody has."""
    execution = await ada.started()
    await ada.until(execution, "completed")
    body = {"answer": 1} if verb == "input" else None
    over = await ada.post(f"/api/agents/{execution}/{verb}", body)
    assert (over.status, over.code) == (409, "not_allowed_now")
    assert "completed" in over.body["detail"]
    missing = await ada.post(f"/api/agents/nobody-has-this/{verb}", body)
    assert (missing.status, missing.code) == (404, "not_found")
    killed = await ada.delete(f"/api/agents/{execution}")
    assert (killed.status, killed.code) == (409, "not_allowed_now")


async def test_schedules(gateway: Gateway, ada: Caller) -> None:
    """Added, listed, paused, resumed, removed; another's is not there."""
    schedule = {"name": "nightly", "start": START, "cron": "0 3 * * *"}
    added = await ada.post("/api/schedules", schedule)
    assert (added.status, added.body["status"]) == (201, "active"), added
    same = await ada.post("/api/schedules", schedule)
    assert same.status == 201
    other = await ada.post("/api/schedules", {**schedule, "cron": "0 4 * * *"})
    assert other.status in (201, 409)
    listed = (await ada.get("/api/schedules")).body["items"]
    assert [row["name"] for row in listed] == ["nightly"]
    assert listed[0]["next"] is not None
    bob = gateway.caller("bob")
    for reply in (
        await bob.get("/api/schedules/nightly"),
        await bob.post("/api/schedules/nightly/pause"),
        await bob.delete("/api/schedules/nightly"),
    ):
        assert (reply.status, reply.code) == (404, "not_found"), reply
    assert (await bob.get("/api/schedules")).body["items"] == []
    for verb, status in (("pause", "paused"), ("resume", "active")):
        assert (await ada.post(f"/api/schedules/nightly/{verb}")).status == 200
        one = (await ada.get("/api/schedules/nightly")).body
        assert one["status"] == status
    assert (await ada.delete("/api/schedules/nightly")).status == 200
    assert (await ada.get("/api/schedules/nightly")).status == 404


@pytest.mark.parametrize("name", ["token", "new", "all", "pause", "-", "a" * 64])
async def test_a_schedule_may_have_any_name(ada: Caller, name: str) -> None:
    """Also one that means something elsewhere: it is found, steered and removed."""
    schedule = {"name": name, "start": START, "every": 3600}
    assert (await ada.post("/api/schedules", schedule)).status == 201
    path = f"/api/schedules/{name}"
    assert (await ada.get(path)).body["name"] == name
    assert (await ada.post(f"{path}/pause")).body["status"] == "paused"
    assert (await ada.delete(path)).status == 200
    assert (await ada.get(path)).code == "not_found"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"cron": "61 9 * * *"}, "minute"),
        ({"cron": ""}, "cron"),
        ({"cron": "", "every": 0}, "every"),
        ({"every": 60}, "cron"),
        ({"time_zone": "Europe/Berln"}, "Europe/Berlin"),
        ({"name": "a b"}, "name"),
        ({"start": {**START, "agent_type": "exlporer"}}, "explorer"),
        ({"start": {**START, "options": {"run_at": "2030-01-01T00:00:00Z"}}}, "run_at"),
    ],
)
async def test_schedules_that_are_wrong(
    ada: Caller, changed: dict[str, Any], why: str
) -> None:
    """What is wrong is said, as of a start; nothing is kept."""
    schedule = {"name": "s", "start": START, "cron": "0 3 * * *", **changed}
    reply = await ada.post("/api/schedules", schedule)
    assert (reply.status, reply.code) == (422, "invalid_input"), reply
    assert why in reply.body["detail"]
    assert (await ada.get("/api/schedules")).body["items"] == []


async def test_two_schedules_under_one_key_are_told_apart(ada: Caller) -> None:
    """Asked for at once, each gets its own answer: two are made, one is refused."""
    key = {"Idempotency-Key": "the same"}
    asked = [("one", 3600), ("other", 3600), ("other", 7200)]
    replies = await asyncio.gather(
        *(
            ada.post(
                "/api/schedules",
                {"name": name, "start": START, "every": every},
                headers=key,
            )
            for name, every in asked
        )
    )
    made = [reply.body["name"] for reply in replies if reply.status == 201]
    assert made == ["one", "other"]
    assert [reply.code for reply in replies if reply.status != 201] == [
        "already_exists"
    ]


# ── what was ─────────────────────────────────────────────────────────────────


async def test_what_an_execution_was(ada: Caller) -> None:
    """By version and by time; what was not yet, and what makes no sense, is said."""
    before = datetime.now(UTC) - timedelta(seconds=5)
    execution = await ada.started()
    done = await ada.until(execution, "completed")
    path = f"/api/agents/{execution}/state"
    first = (await ada.get(f"{path}?at=1")).body
    assert (first["status"], first["version"], first["turns"]) == ("pending", 1, [])
    last = (await ada.get(path)).body
    assert (last["status"], last["version"]) == ("completed", done["version"])
    assert [turn["text"] for turn in last["turns"]] == ["Done."]
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    assert (await ada.get(f"{path}?at={now}")).body["status"] == "completed"
    early = before.isoformat().replace("+00:00", "Z")
    assert (await ada.get(f"{path}?at={early}")).code == "not_found"
    first_of_all, last_of_all = (
        "0001-01-01T00:00:00%2B23:59",
        "9999-12-31T23:59:59-23:59",
    )
    assert (await ada.get(f"{path}?at={first_of_all}")).code == "not_found"
    assert (await ada.get(f"{path}?at={last_of_all}")).body["status"] == "completed"
    for wrong in ("0", "99", "-1", "x", "2026-01-01", "9" * 30, "1.5", "2026-13-01T0Z"):
        reply = await ada.get(f"{path}?at={wrong}")
        assert (reply.status, reply.code) == (422, "invalid_input"), wrong


async def test_pages_follow_each_other(ada: Caller) -> None:
    """Events and log lines by cursor: all of them, none twice."""
    execution = await ada.started()
    await ada.until(execution, "completed")
    path = f"/api/agents/{execution}"
    whole = (await ada.get(f"{path}/events?limit=1000")).body["items"]
    versions, after = [], 0
    while after is not None:
        page = (await ada.get(f"{path}/events?after={after}&limit=2")).body
        versions += [commit["version"] for commit in page["items"]]
        after = page["next"]
    assert versions == [c["version"] for c in whole] == list(range(1, len(whole) + 1))
    ended = "execution.completed"
    look = partial(ada.get, f"{path}/logs?limit=1000")
    lines = (await eventually(look, lambda r: ended in r.raw.decode())).body["items"]
    ids, after_id = [], 0
    while page := (await ada.get(f"{path}/logs?after_id={after_id}&limit=3")).body:
        if not page["items"]:
            break
        ids += [line["id"] for line in page["items"]]
        after_id = page["next"]
    assert ids == [line["id"] for line in lines]
    warnings = (await ada.get(f"{path}/logs?level=warning")).body["items"]
    assert {line["level"] for line in warnings} <= {"warning", "error"}


async def test_a_list_shows_what_one_just_did(ada: Caller) -> None:
    """At once, without a word about positions; and by filter, sort and cursor."""
    ids = []
    for number in range(5):
        ids.append(await ada.started(metadata={"n": number % 2}))
        listed = (await ada.listed("limit=1")).body
        assert listed["items"][0]["id"] == ids[-1]
    found, cursor = [], ""
    while cursor is not None:
        page = (await ada.listed(f"limit=2&order=asc&cursor={cursor}")).body
        found += [row["id"] for row in page["items"]]
        cursor = page["next"]
    assert found == ids
    odd = (await ada.listed("metadata=n:1&order=asc")).body["items"]
    assert [row["id"] for row in odd] == ids[1::2]
    assert (await ada.listed("agent_type=coder")).body["items"] == []
    assert (await ada.listed("user=bob")).body["items"] == []


async def test_a_position_that_was_given_is_known_for_ever(
    ada: Caller, writer: Writer
) -> None:
    """Also when what stood there was deleted; one that was never given is refused."""
    execution = await ada.started()
    await ada.until(execution, "completed")
    position = (await ada.listed()).body["position"]
    query = {"seq": position, "no_erase": True}  # as the janitor does it
    await writer.wire.api(f"STREAM.MSG.DELETE.{EVENTS}", query)
    assert (await ada.listed(f"min_position={position}")).body["position"] >= position
    beyond = await ada.get(f"/api/agents?min_position={position + 1_000}")
    assert (beyond.status, beyond.code) == (422, "invalid_input")

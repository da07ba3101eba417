"""Executions over REST: started, seen, steered; and what others get of them."""

import pytest
from edges import DONE, SLOW, Caller, Gateway


async def test_an_execution_from_start_to_end(ada: Caller) -> None:
    """It is started, seen by its id and in the list, with its events and logs."""
    started = await ada.post(
        "/api/agents",
        {
            "agent_type": "explorer",
            "input": DONE,
            "options": {"metadata": {"ticket": 7}},
        },
    )
    assert started.status == 201, started
    execution = started.body["id"]
    assert started.headers["Location"] == f"/api/agents/{execution}"
    seen = await ada.until(execution, "completed")
    assert (seen["output"], seen["step_count"]) == ("Done.", 1)
    assert seen["metadata"] == {"ticket": 7}
    listed = await ada.listed()
    assert [row["id"] for row in listed.body["items"]] == [execution]
    history = await ada.get(f"/api/agents/{execution}/events")
    kinds = [e["type"] for c in history.body["items"] for e in c["events"]]
    assert kinds[0] == "created.v1"
    assert kinds[-1] == "completed.v1"
    logs = await ada.get(f"/api/agents/{execution}/logs")
    assert "command.accepted" in [line["event_type"] for line in logs.body["items"]]


async def test_signals(ada: Caller) -> None:
    """pause, resume, cancel and kill are answered with how it stands then."""
    execution = await ada.started(**SLOW)
    for verb in ("pause", "resume", "cancel"):
        reply = await ada.post(f"/api/agents/{execution}/{verb}")
        assert reply.status == 200, reply
    killed = await ada.delete(f"/api/agents/{execution}?reason=enough")
    assert killed.body["status"] == "cancelled", killed
    again = await ada.post(f"/api/agents/{execution}/pause")
    assert (again.status, again.code) == (409, "not_allowed_now")


async def test_a_list_says_what_the_execution_itself_says(ada: Caller) -> None:
    """But for its log lines, which a list leaves out."""
    options = {"await_event": {"event_type": "never"}}
    asked = {"agent_type": "explorer", "input": DONE, "options": options}
    execution = (await ada.post("/api/agents", asked)).body["id"]
    for verb in ("pause", "resume", "cancel"):
        await ada.post(f"/api/agents/{execution}/{verb}")
    itself = await ada.until(execution, "cancelled")
    (row,) = (await ada.listed()).body["items"]
    assert row["paused_at"] is not None
    assert row.pop("logs") == []
    assert row == {name: itself[name] for name in row}


async def test_a_list_has_the_beginnings_of_long_texts(ada: Caller) -> None:
    """Of input and output alike; the execution itself has them whole."""
    said = "ä" * 4_001
    execution = await ada.started(f"script:\nsay {said}\n")
    itself = await ada.until(execution, "completed")
    assert itself["output"] == said
    (row,) = (await ada.listed()).body["items"]
    assert row["output"] == said[:4_000]
    assert row["input"] == itself["input"][:4_000] != itself["input"]


async def test_head_is_get_without_a_body(ada: Caller) -> None:
    """As RFC 9110 wants it; also where there is nothing, or no such method."""
    execution = await ada.started()
    await ada.until(execution, "completed")
    for path, status in ((f"/api/agents/{execution}", 200), ("/api/agents/no", 404)):
        got, head = await ada.get(path), await ada.ask("HEAD", path)
        assert (head.status, head.raw) == (got.status, b"") == (status, b"")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
    refused = await ada.ask("PUT", f"/api/agents/{execution}")
    assert refused.status == 405
    assert "HEAD" in refused.headers["Allow"]


@pytest.mark.parametrize("path", ["", "/events", "/logs", "/state", "/token"])
async def test_anothers_execution_is_not_there(
    gateway: Gateway, ada: Caller, path: str
) -> None:
    """Who does not own it gets what one gets of an id that nobody has."""
    execution = await ada.started()
    bob = gateway.caller("bob")
    missing = await bob.get(f"/api/agents/{'0' * len(execution)}{path}")
    hers = await bob.get(f"/api/agents/{execution}{path}")
    assert hers.status == missing.status == 404
    assert hers.raw.replace(execution.encode(), b"0" * len(execution)) == missing.raw
    admin = gateway.caller("root", None, "admin")
    assert (await admin.get(f"/api/agents/{execution}{path}")).status == 200

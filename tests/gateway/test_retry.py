"""A failed execution after its cause is gone, as an operator lives through it."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import serving
import waking
from fake_openai import FakeOpenAI
from fake_provider import Answer, Call, Refusal
from waking import facts, wake

LOOK = Call(id="c1", name="list_dir", arguments=('{"path": "."}',))
SCRIPT = (
    Answer(text=("Looking.",), calls=(LOOK,)),
    Refusal(status=401, body={"error": {"message": "Incorrect API key"}}),
    Answer(text=("All is done.",)),
)


async def test_with_the_key_put_right_it_goes_on_where_it_failed(
    tmp_path: Path,
) -> None:
    """It is listed with the reason; after a retry no earlier step is asked again."""
    async with FakeOpenAI(*SCRIPT) as provider:
        await asyncio.to_thread(partial(lived_through, tmp_path, provider))
    keys = [headers["Authorization"] for headers in provider.headers]
    assert keys == ["Bearer sk-wrong", "Bearer sk-wrong", "Bearer sk-right"]
    roles = [[m["role"] for m in body["messages"]] for body in provider.requests]
    assert roles[1] == roles[2] == [*roles[0], "assistant", "tool"]


def lived_through(cwd: Path, provider: FakeOpenAI) -> None:
    """Fail for a wrong key, set the right one, retry."""
    with serving.serving(cwd, **keyed(provider, "sk-wrong")):
        execution = started(cwd)
        assert wake(cwd, "watch", execution).code == 1
        row = listed(cwd)
    before = waking.history(cwd, execution)
    with serving.serving(cwd, **keyed(provider, "sk-right")):
        assert wake(cwd, "retry", execution, "--reason", "the key").code == 0
        result = wake(cwd, "watch", execution, "--json").last
        assert listed(cwd)["error"] is None
        refused = wake(cwd, "retry", execution, "--json")
    after = waking.history(cwd, execution)
    assert row["status"] == "failed"
    assert row["error"] == {
        "error": "model_refused",
        "message": "openai-chat:gpt-4o refused (401): Incorrect API key",
        "retryable": False,
    }
    assert (result["status"], result["output"]) == ("completed", "All is done.")
    assert refused.last["error"] == "not_allowed_now"
    assert after[: len(before)] == before
    steps = [f["step"] for f in facts(after) if f["type"] == "model_responded.v1"]
    assert steps == [1, 2]
    kinds = [fact["type"] for fact in facts(after[len(before) :])]
    assert kinds == ["retried.v1", "started.v1", "model_responded.v1", "completed.v1"]


def keyed(provider: FakeOpenAI, key: str) -> dict[str, str]:
    """The environment of a service with this key."""
    return {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": key}


def started(cwd: Path) -> str:
    """Start it; returns its id."""
    model = ("--model", "openai-chat:gpt-4o", "--workspace", ".")
    ended = wake(cwd, "start", "Look around.", *model)
    assert ended.code == 0, ended.err
    return ended.out.strip()


def listed(cwd: Path) -> Any:
    """The only row of wake ls."""
    (line,) = wake(cwd, "ls", "--json").out.splitlines()
    return json.loads(line)

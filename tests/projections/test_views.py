"""The views answer what they are for."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from histories import Story, call
from readmodels import Logs, append, ask, projecting, settled

from events import catalog as e
from events.commands import Cancel
from events.messages import ToolResult, Usage
from events.names import Key
from projections.projector import Projector


@pytest.fixture
async def projector(tmp_path: Path) -> AsyncIterator[Projector]:
    """A projector on the histories below."""
    logs = Logs.empty()
    for story in _stories(datetime.now(UTC)):
        await append(logs, story)
    async with projecting(tmp_path / "readmodel.duckdb", logs) as projector:
        await settled(projector)
        yield projector


def _stories(now: datetime) -> list[Story]:
    """What happened, some of it until just now: the suite may run for long before."""
    done = _worked("done", "ada", cost=0.5)
    unpriced = _worked("unpriced", "bob", cost=None)
    copy = done.copy_to(Key("ada", "copy"), 4)
    forked = e.Forked(source="done", source_version=4, source_chain="x", input="More")
    copy.do(lambda x: x.fork(forked))
    copy.begin()
    copy.respond(text="Done.", usage=Usage(input=1, output=1), cost=0.125)
    failed = Story(Key("ada", "failed"))
    failed.running()
    failed.do(lambda x: x.fail(1, "ModelRefused", "no", retryable=True))
    cancelled = Story(Key("ada", "cancelled"))
    cancelled.start()
    cancelled.command(Cancel(reason="enough"))
    silent = Story(Key("ada", "silent"), now - timedelta(minutes=11))
    silent.running()
    waiting = Story(Key("ada", "waiting"), now - timedelta(minutes=12))
    waiting.start(lane="agents_long")
    fresh = Story(Key("ada", "fresh"), now)
    fresh.start()
    late = Story(Key("ada", "late"), now - timedelta(minutes=3))
    late.start(
        awaited=e.Awaited(event_type="ci.done", deadline=now - timedelta(minutes=2))
    )
    return [done, unpriced, copy, failed, cancelled, silent, waiting, fresh, late]


def _worked(name: str, user: str, cost: float | None) -> Story:
    story = Story(Key(user, name))
    story.start()
    story.wait(4)
    story.begin()
    usage = Usage(input=10, output=5, cache_read=2)
    story.respond(
        call("a"), call("b"), usage=usage, cost=cost, latency_ms=100.0, model="big"
    )
    results = [
        ToolResult(call_id="a", output="x", latency_ms=10.0),
        ToolResult(call_id="b", output="y", outcome="failed", latency_ms=30.0),
    ]
    story.do(lambda x: x.finish_calls(1, results))
    story.respond(text="Done.", usage=usage, cost=cost, latency_ms=300.0, model="big")
    return story


async def test_usage_counts_what_was_paid_once(projector: Projector) -> None:
    """By day, user, agent and model; what a fork copied is not counted again."""
    found = await ask(
        projector,
        'SELECT day, "user", model, steps, input_tokens, output_tokens, cache_read, '
        'cost, unpriced FROM usage ORDER BY "user", model',
    )
    day = datetime(2026, 1, 1, tzinfo=UTC).date()
    assert found == [
        (day, "ada", "big", 2, 20, 10, 4, 1.0, 0),
        (day, "ada", "m", 1, 1, 1, 0, 0.125, 0),
        (day, "bob", "big", 2, 20, 10, 4, 0.0, 2),
    ]


async def test_failures_say_why(projector: Projector) -> None:
    """Errors, limits and cancels, with an example of each."""
    found = await ask(
        projector,
        "SELECT status, reason, executions, retryable, example FROM failures "
        "ORDER BY 1",
    )
    assert found == [
        ("cancelled", "enough", 1, 0, "cancelled"),
        ("failed", "ModelRefused", 1, 1, "failed"),
    ]


async def test_latencies(projector: Projector) -> None:
    """Half, nine tenths and so on, of models and of tools; once what was copied."""
    found = await ask(
        projector,
        "SELECT steps, p50_ms, max_ms FROM step_latency WHERE model = 'big'",
    )
    assert found == [(4, 200.0, 300.0)]
    found = await ask(
        projector, "SELECT tool, calls, failed, p50_ms, max_ms FROM tool_latency"
    )
    assert found == [("look", 4, 2, 20.0, 30.0)]


async def test_queue_times(projector: Projector) -> None:
    """How long work waited, once what was copied; and what waits now."""
    found = await ask(
        projector,
        "SELECT attempts, max_ms FROM queue_times "
        "WHERE hour = '2026-01-01' AND lane = 'agents'",
    )
    assert found == [(4, 4000.0)]
    found = await ask(
        projector, "SELECT lane, executions, seconds > 600 FROM queued ORDER BY 1"
    )
    assert found == [("agents", 1, False), ("agents_long", 1, True)]


async def test_stuck(projector: Projector) -> None:
    """What should have moved, and only that."""
    found = await ask(projector, "SELECT execution, why FROM stuck ORDER BY 1")
    assert found == [
        ("late", "its event is beyond the deadline"),
        ("silent", "no commit while it runs"),
        ("waiting", "no runner takes it"),
    ]

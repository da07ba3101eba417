import asyncio
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from collector import Collector, Span
from nats_server import NatsServer

from events.errors import InvalidInput, Misconfigured, ModelUnavailable
from events.inbox import MemoryInbox
from events.jetstream import JetStreamJournal
from events.journal import Journal
from events.memory import MemoryJournal
from events.messages import Reply, Request, ToolCall, Usage
from events.names import Key
from events.pinned import JetStreamInbox
from events.spec import AgentSpec
from events.wire import Wire
from services import loglines, telemetry
from services.agents.loop import Means
from services.agents.model import Model
from services.allowed import Allowed
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.redaction import Redaction
from services.runner import Runner
from services.telemetry import (
    configure_logs,
    configure_traces,
    current,
    failed,
    ids,
    note,
    parent_in,
    shutdown,
    span,
)
from services.tools.files import ListDir

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
KEY = Key("ada", "run-1")
HUNTER = "hunter2hunter2"


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Configuration is the process's: each test leaves it as it was."""
    monkeypatch.setattr(telemetry, "_on", telemetry._Configured())
    yield
    shutdown(0)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that this process sends its spans to."""
    async with Collector() as collector:
        redact = Redaction({"SOME_TOKEN": HUNTER})
        configure_traces(collector.url, "test", redact=redact)
        yield collector
        await asyncio.to_thread(shutdown)


async def sent(collector: Collector) -> list[Span]:
    """Everything, once it is there; the collector answers on this loop."""
    await asyncio.to_thread(shutdown)
    return collector.spans


# ── off ──────────────────────────────────────────────────────────────────────


def test_off_unless_configured() -> None:
    """Nothing is kept, carried or said, and no error is swallowed."""
    configure_traces(None, "test")
    with span("x", {"a": 1}, parent=PARENT):
        note({"b": 2})
        failed("bad")
        assert current() == ""
        assert ids() == {}
    with pytest.raises(KeyError), span("x", {}):
        raise KeyError
    assert parent_in({"traceparent": PARENT}) == ""
    shutdown()


def test_without_the_extra_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line."""
    monkeypatch.delitem(sys.modules, "services.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(Misconfigured, match=r"wakestream\[telemetry\]") as caught:
        configure_traces("http://127.0.0.1:1", "test")
    assert "\n" not in str(caught.value)
    assert current() == ""


# ── spans ────────────────────────────────────────────────────────────────────


async def test_spans_arrive_nested(collector: Collector) -> None:
    """With service, kind, attributes, and the ids that were carried."""
    with span("outer", {"n": 1, "yes": True, "part": 0.5, "many": ("a", "b")}):
        outer = current()
        with span("inner", {}, kind="client"):
            note({"late": "x"})
    assert current() == ""
    await sent(collector)
    parent, child = collector.named("outer"), collector.named("inner")
    assert outer[:-2] == f"00-{parent.trace}-{parent.id}-"
    assert (child.trace, child.parent) == (parent.trace, parent.id)
    assert parent.about == {"n": 1, "yes": True, "part": 0.5, "many": ["a", "b"]}
    assert (child.about, child.kind, parent.kind) == (
        {"late": "x"},
        "client",
        "internal",
    )
    assert parent.service == "test"
    assert collector.paths == {"/v1/traces"}


async def test_a_parent_from_elsewhere_stands_before_the_active_span(
    collector: Collector,
) -> None:
    """Its trace goes on."""
    with span("mine", {}), span("theirs", {}, parent=PARENT):
        assert current().startswith(f"00-{TRACE}-")
    await sent(collector)
    theirs = collector.named("theirs")
    assert (theirs.trace, theirs.parent) == (TRACE, SPAN)


async def test_what_is_not_sampled_elsewhere_is_not_kept(collector: Collector) -> None:
    """And that is carried on."""
    with span("x", {}, parent=PARENT[:-2] + "00"):
        assert current().endswith("-00")
    assert await sent(collector) == []


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "x",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + "\n",
        " " + PARENT,
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        "\ud800",
        "01" + PARENT[2:] + "x",
        "01" + PARENT[2:] + "-" + "x" * 1_000,
        "0" * 1_000_000,
    ],
)
async def test_a_parent_that_is_none_is_ignored(
    collector: Collector, parent: str
) -> None:
    """The span begins a trace of its own, and nothing of it is passed on."""
    with span("x", {}, parent=parent):
        assert TRACE not in current()
    await sent(collector)
    assert collector.named("x").parent == ""


async def test_a_later_version_is_understood(collector: Collector) -> None:
    """As far as it is known today; that is how the standard grows."""
    with span("x", {}, parent=f"01{PARENT[2:]}-more"):
        assert current().startswith(f"00-{TRACE}-")
    assert (await sent(collector))[0].trace == TRACE


async def test_an_error_that_leaves_is_noted(collector: Collector) -> None:
    """Its kind and message, without secrets; it goes on unchanged."""
    error = ValueError(f"no {HUNTER}")
    with pytest.raises(ValueError, match="no ") as caught, span("x", {}):
        raise error
    assert caught.value is error
    (told,) = await sent(collector)
    assert (told.failed, told.about["error.type"]) == (True, "ValueError")
    assert told.why.startswith("no ")
    assert HUNTER not in told.why
    assert told.events == []


async def test_a_cancellation_is_no_error(collector: Collector) -> None:
    """A lost lease or a drain ends work that went well."""

    async def work() -> None:
        with span("x", {}):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (told,) = await sent(collector)
    assert (told.failed, told.about) == (False, {})


class Broken:
    """An object whose text fails."""

    def __str__(self) -> str:
        raise RuntimeError


async def test_no_value_loses_the_batch(collector: Collector) -> None:
    """They are cut, made text, and without secrets."""
    odd: dict[str, Any] = {
        "long": "x" * 1_000_000,
        "big": 2**70,
        "half": "\ud800",
        "object": Broken(),
        "secret": f"a {HUNTER}",
        "many": (HUNTER, "x" * 1_000_000, "\ud800"),
    }
    with span("x" * 1_000_000 + HUNTER, odd):
        note(odd)
    (told,) = await sent(collector)
    assert len(told.name) <= 128
    assert told.about.keys() == odd.keys()
    assert len(str(told.about)) < 8_000
    assert HUNTER not in str(told.about)


async def test_lines_say_the_trace(collector: Collector) -> None:
    """Of the span that is active, and only inside."""
    stream = io.StringIO()
    handlers, level = list(logging.root.handlers), logging.root.level
    configure_logs(level="info", as_json=True, stream=stream)
    try:
        with span("x", {}, parent=PARENT):
            logging.getLogger("services.x").info("in")
            carried = current()
        logging.getLogger("services.x").info("out")
    finally:
        logging.root.handlers = handlers
        logging.root.setLevel(level)
        for name in loglines.OURS:
            logging.getLogger(name).setLevel(logging.NOTSET)
        logging.captureWarnings(capture=False)
    inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert carried == f"00-{inside['trace_id']}-{inside['span_id']}-01"
    assert inside["trace_id"] == TRACE
    assert "trace_id" not in outside
    assert len(await sent(collector)) == 1


@pytest.mark.parametrize("suffix", ["", "/", "/v1/traces", "/v1/traces/"])
async def test_an_address_may_name_the_path(suffix: str) -> None:
    """Or leave it to us."""
    async with Collector() as collector:
        configure_traces(collector.url + suffix, "test")
        with span("x", {}):
            pass
        await sent(collector)
        assert collector.paths == {"/v1/traces"}


async def test_a_collector_that_refuses_harms_nobody() -> None:
    """Work goes on, and ending does not wait for it."""
    async with Collector(status=503) as collector:
        configure_traces(collector.url, "test")
        with span("x", {}):
            pass
        ending = asyncio.create_task(asyncio.to_thread(shutdown, 0.1))
        await collector.refused.wait()
        await ending
        assert current() == ""


def test_a_dead_collector_harms_nobody(nats_server: NatsServer) -> None:
    """Nor does one that is something else."""
    configure_traces(nats_server.url.replace("nats", "http"), "test")
    with span("x", {}):
        assert current() != ""
    shutdown(0.1)
    shutdown(0.1)


async def test_configured_again_the_last_one_holds(collector: Collector) -> None:
    """What the first was given is sent there."""
    with span("first", {}):
        pass
    async with Collector() as other:
        await asyncio.to_thread(configure_traces, other.url, "test")
        with span("second", {}):
            pass
        await sent(other)
        assert [s.name for s in collector.spans] == ["first"]
        assert [s.name for s in other.spans] == ["second"]


@pytest.mark.usefixtures("collector")
async def test_a_foreign_carrier_may_write_a_capital() -> None:
    """As those made for HTTP do."""
    assert parent_in({"traceparent": PARENT}) == PARENT
    assert parent_in({"Traceparent": PARENT}) == PARENT
    assert parent_in({}) == ""


# ── one command, seen whole ──────────────────────────────────────────────────


class Two(Model):
    """Is busy once, asks for two tools, then ends."""

    name = "openai-chat:gpt"

    def __init__(self) -> None:
        self.busy = True

    async def reply(self, request: Request, _on_text: Any = None) -> Reply:
        """Answer by what was said."""
        if self.busy:
            self.busy = False
            raise ModelUnavailable("busy", retry_after=0.001)
        calls = (ToolCall(id="c1", name="list_dir"), ToolCall(id="c2", name="nope"))
        return Reply(
            model="gpt-2026",
            text="hm",
            tool_calls=calls if len(request.messages) < 2 else (),
            usage=Usage(input=7, output=3, cache_read=2),
        )

    async def aclose(self) -> None:
        """Nothing to let go."""


SPEC = AgentSpec(
    name="lister",
    model="openai-chat:gpt",
    tools=("list_dir",),
    effects={"list_dir": "read"},
)


def resolve(agent: str, _model: str | None) -> AgentSpec:
    """Know one agent."""
    if agent != SPEC.name:
        raise InvalidInput(f"no agent {agent}")
    return SPEC


@asynccontextmanager
async def services(
    to_lifecycle: Journal, to_runner: Journal, inbox: Any, workspaces: Path
) -> AsyncIterator[None]:
    """Lifecycle and runner, each with its own way to the log."""
    tools = {"list_dir": ListDir()}
    means = Means(open_model=lambda _: Two(), tools=tools, workspaces=workspaces)
    runner = Runner(to_runner, means, name="r1")
    lifecycle = Lifecycle(
        Handler(to_lifecycle, "lifecycle"), inbox, resolve, Allowed([])
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(lifecycle.run())
        group.create_task(runner.run())
        yield
        await lifecycle.stop()
        await runner.drain(5)


async def finished(journal: Journal, key: Key) -> list[Any]:
    """Wait for the end; returns the history."""
    async for run in journal.follow(key=key):
        if any(recorded.route == "finished" for recorded in run):
            break
    return await journal.read(key)


START = msgspec.json.encode(
    {"agent_type": "lister", "input": "go", "command_id": "cmd-1"}
)


async def test_one_command_is_one_trace_across_nats(
    collector: Collector, own_server: NatsServer, tmp_path: Path
) -> None:
    """From a client's span over lifecycle and runner to models and tools."""
    wires = [await Wire.connect(own_server.url) for _ in range(3)]
    first, second = [await JetStreamJournal.open(wire) for wire in wires[:2]]
    inbox = await JetStreamInbox.open(wires[0])
    client = await JetStreamInbox.open(wires[2])
    async with services(first, second, inbox, tmp_path):
        headers = {"traceparent": PARENT}
        await client.publish(KEY, "start", START, headers=headers)
        history = await finished(second, KEY)
    for wire in wires:
        await wire.close()
    assert {span.trace for span in await sent(collector)} == {TRACE}
    command, attempt = collector.named("wake.command"), collector.named("wake.attempt")
    assert (command.parent, attempt.parent) == (SPAN, command.id)
    assert history[0].trace == f"00-{TRACE}-{command.id}-01"
    assert {r.trace for r in history[1:]} == {f"00-{TRACE}-{attempt.id}-01"}
    below = [span.name for span in collector.spans if span.parent == attempt.id]
    assert sorted(below) == ["chat gpt", "chat gpt", "execute_tool list_dir"]
    assert command.about == {
        "wake.user": "ada",
        "wake.execution": "run-1",
        "wake.verb": "start",
        "wake.command": "cmd-1",
    }
    assert attempt.about["wake.status"] == "completed"


async def run_one(headers: dict[str, str], body: bytes, tmp_path: Path) -> Any:
    """Start one execution in memory; returns its history, once it is answered."""
    journal, inbox = MemoryJournal(), MemoryInbox()
    async with (
        services(journal, journal, inbox, tmp_path),
        inbox.answers("ada", "*") as answers,
    ):
        await inbox.publish(KEY, "start", body, headers=headers)
        answer = msgspec.json.decode(await answers.get())
        if not answer["accepted"]:
            return answer
        return await finished(journal, KEY)


async def test_calls_are_told_in_the_words_of_the_conventions(
    collector: Collector, tmp_path: Path
) -> None:
    """Nothing of what was said is in them."""
    await run_one({}, START, tmp_path)
    spans = await sent(collector)
    chat = next(span for span in spans if span.name == "chat gpt")
    assert (chat.kind, chat.failed) == ("client", False)
    assert chat.about == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt",
        "gen_ai.response.model": "gpt-2026",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.agent.name": "lister",
        "gen_ai.conversation.id": "run-1",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.cache_write.input_tokens": 0,
    }
    tool = collector.named("execute_tool list_dir")
    assert (tool.kind, tool.failed) == ("internal", False)
    assert tool.about == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "list_dir",
        "gen_ai.tool.call.id": "c1",
        "gen_ai.tool.type": "function",
        "gen_ai.agent.name": "lister",
        "gen_ai.conversation.id": "run-1",
    }


async def test_a_refusal_is_told_and_no_failure(
    collector: Collector, tmp_path: Path
) -> None:
    """It is the client's."""
    await run_one({"traceparent": "rubbish"}, b'{"agent_type":"x"}', tmp_path)
    (command,) = await sent(collector)
    assert (command.about["wake.refused"], command.failed) == ("invalid_input", False)


async def test_off_nothing_is_carried(tmp_path: Path) -> None:
    """Not even what a client sent."""
    history = await run_one({"traceparent": PARENT}, START, tmp_path)
    assert {recorded.trace for recorded in history} == {""}


async def test_a_retry_is_told_in_the_log_and_not_printed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a program prints is its own, whichever libraries are installed."""
    await run_one({}, START, tmp_path)
    assert any("asked again" in record.getMessage() for record in caplog.records)
    assert capsys.readouterr().out == ""

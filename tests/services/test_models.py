"""Models by name, end to end against providers on loopback."""

import asyncio
import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_anthropic import FakeAnthropic
from fake_openai import FakeOpenAI
from fake_provider import Answer, Call, FakeProvider, Refusal

from events.errors import (
    InvalidInput,
    Misconfigured,
    ModelRefused,
    ModelUnavailable,
)
from events.messages import (
    AssistantMessage,
    Message,
    Reply,
    Request,
    ToolCall,
    ToolMessage,
    ToolSchema,
    Usage,
    UserMessage,
)
from services.agents.models import open_provider_model
from services.agents.providers import MAX_MESSAGE, MAX_WAIT, ProviderModel

KEY = "test-key-0123456789"
CHAT = "openai-chat:gpt-4o"
RESPONSES = "openai:gpt-5"
CLAUDE = "anthropic:claude-sonnet-5-5"
OLLAMA = "ollama:qwen3"
ALL = (CHAT, RESPONSES, CLAUDE, OLLAMA)

BASH = ToolSchema(
    name="bash",
    description="Run a command.",
    parameters={
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
        "additionalProperties": False,
    },
)

Open = Callable[..., Awaitable[tuple[ProviderModel, FakeProvider]]]

every_provider = pytest.mark.parametrize("name", ALL)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no address of the machine's own."""
    for provider in ("OPENAI", "ANTHROPIC", "OLLAMA", "DEEPSEEK"):
        monkeypatch.delenv(f"{provider}_API_KEY", raising=False)
        monkeypatch.delenv(f"{provider}_BASE_URL", raising=False)


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Open a model whose provider answers with a script."""
    async with AsyncExitStack() as stack:

        async def open_(
            name: str, *script: Answer | Refusal, silence: float = 60.0
        ) -> tuple[ProviderModel, FakeProvider]:
            fake = FakeAnthropic if name == CLAUDE else FakeOpenAI
            server = await stack.enter_async_context(fake(*script))
            variable = name.partition(":")[0].partition("-")[0].upper()
            monkeypatch.setenv(f"{variable}_BASE_URL", server.url)
            monkeypatch.setenv(f"{variable}_API_KEY", KEY)
            model = open_provider_model(name, silence=silence)
            stack.push_async_callback(model.aclose)
            return model, server

        yield open_


def asked(*messages: Message) -> Request:
    """A request in a small agent's conversation."""
    return Request(
        system="Be brief.", messages=messages or (UserMessage("hi"),), tools=(BASH,)
    )


def answered(reply: Reply) -> AssistantMessage:
    """``reply`` as the next request holds it, after it went through the log."""
    read = msgspec.json.decode(msgspec.json.encode(reply), type=Reply)
    return AssistantMessage(read.text, read.tool_calls, read.opaque)


def blocks(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Anthropic's content blocks of one kind."""
    contents = [message["content"] for message in body["messages"]]
    lists = [content for content in contents if isinstance(content, list)]
    return [block for content in lists for block in content if block["type"] == kind]


def wire_results(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Id and text of each tool result that a provider received."""
    if "input" in body:
        items = [i for i in body["input"] if i.get("type") == "function_call_output"]
        return [(item["call_id"], item["output"]) for item in items]
    tools = [message for message in body["messages"] if message["role"] == "tool"]
    results = blocks(body, "tool_result")
    return [(m["tool_call_id"], m["content"]) for m in tools] + [
        (block["tool_use_id"], block["content"][0]["text"]) for block in results
    ]


def wire_calls(body: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Id, name and arguments of each tool call that a provider received."""
    if "input" in body:
        items = [i for i in body["input"] if i.get("type") == "function_call"]
        return [(i["call_id"], i["name"], json.loads(i["arguments"])) for i in items]
    calls = [c for m in body["messages"] for c in m.get("tool_calls", ())]
    functions = [(call["id"], call["function"]) for call in calls]
    return [(id_, f["name"], json.loads(f["arguments"])) for id_, f in functions] + [
        (b["id"], b["name"], b["input"]) for b in blocks(body, "tool_use")
    ]


# ── what is answered ─────────────────────────────────────────────────────────


@every_provider
async def test_text_is_heard_as_it_comes(opened: Open, name: str) -> None:
    """Every delta is heard once, in order; together they are the reply."""
    model, server = await opened(name, Answer(text=("Hé", "llo ", "世界 😀")))
    heard: list[str] = []
    reply = await model.reply(asked(), heard.append)
    assert heard == ["Hé", "llo ", "世界 😀"]
    assert reply.text == "Héllo 世界 😀"
    assert reply.model == name
    assert reply.finish_reason == "stop"
    assert reply.latency_ms > 0
    assert len(server.requests) == 1


@every_provider
async def test_what_is_sent(opened: Open, name: str) -> None:
    """The provider gets the system prompt, the message, the tool and the key."""
    model, server = await opened(name, Answer(text=("ok",)))
    await model.reply(asked(UserMessage("Größe? 😀")))
    sent = json.dumps(server.last, ensure_ascii=False)
    assert "Be brief." in sent
    assert "Größe? 😀" in sent
    assert '"command": {"type": "string"}' in sent
    assert server.last["stream"] is True
    assert any(KEY in value for value in server.headers[0].values())


@every_provider
async def test_parallel_tool_calls(opened: Open, name: str) -> None:
    """Several calls keep their order, ids and the text of their arguments."""
    calls = (
        Call(id="c1", name="bash", arguments=('{"comm', 'and": "ls"}')),
        Call(id="c2", name="bash", arguments=('{"command": "ü"}',)),
    )
    model, _ = await opened(name, Answer(text=("Looking.",), calls=calls))
    reply = await model.reply(asked())
    assert reply.text == "Looking."
    assert reply.tool_calls == (
        ToolCall(id="c1", name="bash", arguments='{"command": "ls"}'),
        ToolCall(id="c2", name="bash", arguments='{"command": "ü"}'),
    )
    assert reply.finish_reason == "tool_call"


@every_provider
async def test_malformed_arguments_survive(opened: Open, name: str) -> None:
    """Arguments that are no JSON come back as written, and can be sent again."""
    broken = Call(id="c1", name="bash", arguments=('{"command": "ls', ""))
    model, server = await opened(
        name, Answer(calls=(broken,)), Answer(text=("Sorry.",))
    )
    reply = await model.reply(asked())
    assert reply.tool_calls[0].arguments == '{"command": "ls'
    result = ToolMessage("c1", "bash", "no JSON", "failed")
    await model.reply(asked(UserMessage("hi"), answered(reply), result))
    assert wire_calls(server.last) == [
        ("c1", "bash", {"INVALID_JSON": '{"command": "ls'})
    ]


@every_provider
async def test_empty_reply(opened: Open, name: str) -> None:
    """An answer without text and calls is an empty reply, and is not sent again."""
    model, server = await opened(name, Answer(), Answer(text=("ok",)))
    reply = await model.reply(asked())
    assert (reply.text, reply.tool_calls) == ("", ())
    await model.reply(asked(UserMessage("hi"), answered(reply), UserMessage("So?")))
    said = server.last.get("messages") or server.last["input"]
    assert not [message for message in said if message["role"] == "assistant"]


@every_provider
async def test_large_reply(opened: Open, name: str) -> None:
    """Two megabytes of text arrive whole."""
    piece = "wörter " * 150
    model, _ = await opened(name, Answer(text=(piece,) * 2000))
    heard: list[str] = []
    reply = await model.reply(asked(), heard.append)
    assert reply.text == piece * 2000 == "".join(heard)


@every_provider
async def test_large_arguments(opened: Open, name: str) -> None:
    """Two megabytes of a call's arguments arrive whole, and are told again."""
    command = "x" * 2_000_000
    pieces = ('{"command": "', *[command[:4_000]] * 500, '"}')
    call = Call(id="c1", name="bash", arguments=pieces)
    model, server = await opened(name, Answer(calls=(call,)), Answer(text=("ok",)))
    reply = await model.reply(asked())
    assert json.loads(reply.tool_calls[0].arguments) == {"command": command}
    result = ToolMessage("c1", "bash", "too long", "failed")
    await model.reply(asked(UserMessage("hi"), answered(reply), result))
    assert wire_calls(server.last) == [("c1", "bash", {"command": command})]


@every_provider
async def test_half_characters_are_mended(opened: Open, name: str) -> None:
    """An emoji cut in two is joined, a lone half replaced: the log takes the reply."""
    text = ("\ud83d", "\ude00 and \ud83d")
    broken = Call(id="c1", name="bash", arguments=('{"command": "\ud83d"}',))
    answer = Answer(text=text, thinking="\ud83d", signature="s", calls=(broken,))
    model, _ = await opened(name, answer)
    heard: list[str] = []
    reply = await model.reply(asked(), heard.append)
    assert reply.text == "😀 and �"
    assert reply.tool_calls[0].arguments == '{"command": "�"}'
    assert msgspec.json.encode((reply, heard))


@pytest.mark.parametrize(("finish", "reason"), [("length", "length")])
async def test_finish_reason(opened: Open, finish: str, reason: str) -> None:
    """An answer that hit the provider's limit says so."""
    model, _ = await opened(CHAT, Answer(text=("cut",), finish=finish))
    assert (await model.reply(asked())).finish_reason == reason


async def test_calls_at_once(opened: Open) -> None:
    """One model answers any number of conversations at once."""
    model, server = await opened(CHAT, *[Answer(text=("ok",))] * 8)
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(model.reply(asked()))
    assert len(server.requests) == 8


# ── ids ──────────────────────────────────────────────────────────────────────


@every_provider
async def test_ids_are_unique_and_fit(opened: Open, name: str) -> None:
    """Ids that repeat, or that another provider would refuse, are replaced."""
    ids = ("call_0", "call_0", "functions.bash:0", "x" * 100)
    calls = tuple(Call(id=call_id, name="bash") for call_id in ids)
    model, _ = await opened(name, Answer(calls=calls))
    before = AssistantMessage("", (ToolCall(id="call_0", name="bash"),))
    done = ToolMessage("call_0", "bash", "done")
    reply = await model.reply(asked(UserMessage("hi"), before, done))
    assert [call.id for call in reply.tool_calls] == [
        "call_0-2",
        "call_0-3",
        "functions_bash_0",
        "x" * 64,
    ]


@every_provider
async def test_invented_tool_names_do_not_stop_a_conversation(
    opened: Open, name: str
) -> None:
    """A name that providers refuse is told to the runner, but sent in a fit form."""
    invented = Call(id="c1", name="functions.bash now")
    model, server = await opened(name, Answer(calls=(invented,)), Answer())
    reply = await model.reply(asked())
    assert reply.tool_calls[0].name == "functions.bash now"
    told = ToolMessage("c1", "functions.bash now", "no such tool", "failed")
    await model.reply(asked(UserMessage("hi"), answered(reply), told))
    assert wire_calls(server.last) == [("c1", "functions_bash_now", {})]


# ── usage and cost ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        (CHAT, Usage(input=1000, output=50, cache_read=100)),
        (RESPONSES, Usage(input=1000, output=50, cache_read=100)),
        (OLLAMA, Usage(input=1000, output=50, cache_read=100)),
        (CLAUDE, Usage(input=1120, output=50, cache_read=100, cache_write=20)),
    ],
)
async def test_usage(opened: Open, name: str, usage: Usage) -> None:
    """Cached tokens are part of the input, whichever way a provider counts."""
    answer = Answer(text=("ok",), tokens=(1000, 50), cached=(100, 20))
    model, _ = await opened(name, answer)
    assert (await model.reply(asked())).usage == usage


async def test_cost_is_known(opened: Open) -> None:
    """A listed model's price counts cached tokens at their own rate."""
    answer = Answer(text=("ok",), tokens=(1000, 50), cached=(100, 0))
    model, _ = await opened(CHAT, answer)
    cost = (await model.reply(asked())).cost
    assert cost == pytest.approx((900 * 2.5 + 100 * 1.25 + 50 * 10) / 1e6)


@pytest.mark.parametrize("name", [OLLAMA, "openai-chat:my-own-model"])
async def test_unknown_cost_is_none(opened: Open, name: str) -> None:
    """A model without a listed price has no cost, which is not the cost zero."""
    model, _ = await opened(name, Answer(text=("ok",)))
    assert (await model.reply(asked())).cost is None


# ── tools and their outcomes ─────────────────────────────────────────────────

CONVERSATION: tuple[Message, ...] = (
    UserMessage("Do it."),
    AssistantMessage(
        "Trying.",
        (
            ToolCall(id="c1", name="bash", arguments='{"command": "ls"}'),
            ToolCall(id="c2", name="bash", arguments='{"command": "rm"}'),
            ToolCall(id="c3", name="bash", arguments='{"command": "pay"}'),
            ToolCall(id="c4", name="bash", arguments='{"command": "x"}'),
            ToolCall(id="c5", name="bash"),
        ),
    ),
    ToolMessage("c1", "bash", "größe.txt\n"),
    ToolMessage("c2", "bash", "not by me", "denied"),
    ToolMessage("c3", "bash", "the runner died", "in_doubt"),
    ToolMessage("c4", "bash", "no such command", "failed"),
    ToolMessage("c5", "bash", ""),
    UserMessage("Hurry."),
)


@every_provider
async def test_tool_results_on_the_wire(opened: Open, name: str) -> None:
    """Every call meets its result, and the text says how it came out."""
    model, server = await opened(name, Answer(text=("ok",)))
    await model.reply(asked(*CONVERSATION))
    results = dict(wire_results(server.last))
    assert [call_id for call_id, *_ in wire_calls(server.last)] == list(results)
    assert results["c1"] == "größe.txt\n"
    assert results["c2"] == "[denied] not by me"
    assert results["c3"] == "[outcome unknown] the runner died"
    assert "[failed] no such command" in results["c4"]
    assert results["c5"] == "(no output)"
    assert "Hurry." in json.dumps(server.last)


async def test_anthropic_is_told_of_a_failure(opened: Open) -> None:
    """A failed tool also takes the provider's own way of saying so."""
    model, server = await opened(CLAUDE, Answer(text=("ok",)))
    await model.reply(asked(*CONVERSATION))
    parts = server.last["messages"][2]["content"]
    failed = [b["tool_use_id"] for b in parts if b.get("is_error")]
    assert failed == ["c4"]


@every_provider
async def test_blank_texts_are_not_sent(opened: Open, name: str) -> None:
    """A blank text, which some providers refuse for ever, never goes out."""
    call = ToolCall(id="c1", name="bash")
    blank = AssistantMessage("\n\n", (call,))
    model, server = await opened(name, Answer(text=("ok",)))
    await model.reply(asked(UserMessage(" "), blank, ToolMessage("c1", "bash", "\n")))
    sent = json.dumps(server.last)
    assert "(empty message)" in sent
    assert "(no output)" in sent
    assert r"\n\n" not in sent


@pytest.mark.parametrize("second", ALL)
@pytest.mark.parametrize("first", ALL)
async def test_a_conversation_moves_between_providers(
    opened: Open, first: str, second: str
) -> None:
    """What one provider answered, thinking included, can be sent to any other."""
    answer = Answer(
        thinking="My secret thought.",
        signature="c2lnbmVk",
        text=("Trying.",),
        calls=(Call(id="c1", name="bash", arguments=('{"command": "ls"}',)),),
    )
    one, _ = await opened(first, answer)
    reply = await one.reply(asked())
    two, server = await opened(second, Answer(text=("ok",)))
    result = ToolMessage("c1", "bash", "a.txt")
    await two.reply(asked(UserMessage("hi"), answered(reply), result))
    assert wire_calls(server.last) == [("c1", "bash", {"command": "ls"})]
    assert wire_results(server.last) == [("c1", "a.txt")]
    assert "Trying." in json.dumps(server.last)
    if first != second:
        assert "secret" not in json.dumps(server.last)
        assert "c2lnbmVk" not in json.dumps(server.last)


# ── what only the provider understands ───────────────────────────────────────

THOUGHTFUL = Answer(
    thinking="Hmm.",
    signature="c2lnbmVk",
    text=("Trying.",),
    calls=(Call(id="c1", name="bash"),),
)


async def test_signed_thinking_goes_back_to_anthropic(opened: Open) -> None:
    """Thinking returns with its signature, in its place before the text."""
    model, server = await opened(CLAUDE, THOUGHTFUL, Answer(text=("ok",)))
    reply = await model.reply(asked())
    done = ToolMessage("c1", "bash", "done")
    await model.reply(asked(UserMessage("hi"), answered(reply), done))
    parts = server.last["messages"][1]["content"]
    assert [block["type"] for block in parts] == ["thinking", "text", "tool_use"]
    assert parts[0]["thinking"] == "Hmm."
    assert parts[0]["signature"] == "c2lnbmVk"


async def test_sealed_reasoning_goes_back_to_openai(opened: Open) -> None:
    """Encrypted reasoning and the items' ids return to the Responses API."""
    model, server = await opened(RESPONSES, THOUGHTFUL, Answer(text=("ok",)))
    reply = await model.reply(asked())
    done = ToolMessage("c1", "bash", "done")
    await model.reply(asked(UserMessage("hi"), answered(reply), done))
    items = server.last["input"]
    kinds = [item.get("type", item.get("role")) for item in items]
    assert kinds == [
        "user",
        "reasoning",
        "message",
        "function_call",
        "function_call_output",
    ]
    assert items[1]["encrypted_content"] == "c2lnbmVk"
    assert items[2]["id"] == "msg_1"


async def test_opaque_repeats_nothing(opened: Open) -> None:
    """The log holds text and arguments once: opaque data only points at them."""
    call = Call(id="c1", name="bash", arguments=('{"command": "unusual"}',))
    answer = Answer(thinking="Hmm.", signature="s", text=("Special.",), calls=(call,))
    model, _ = await opened(CLAUDE, answer)
    opaque = json.dumps((await model.reply(asked())).opaque)
    assert "Hmm." in opaque
    assert "Special." not in opaque
    assert "unusual" not in opaque


BY_ANTHROPIC = {"provider": "anthropic", "response": {"provider_name": "anthropic"}}


@pytest.mark.parametrize(
    "opaque",
    [
        7,
        "text",
        [],
        {"provider": "anthropic"},
        {"provider": "anthropic", "response": {"usage": 7}, "parts": []},
        BY_ANTHROPIC | {"parts": []},
        BY_ANTHROPIC | {"parts": [{}]},
        BY_ANTHROPIC | {"parts": [{"part_kind": "nonsense"}]},
        BY_ANTHROPIC | {"parts": [{"part_kind": []}]},
        BY_ANTHROPIC | {"parts": [{"part_kind": "tool-call"}] * 3},
        BY_ANTHROPIC | {"parts": [{"part_kind": "text", "characters": "x"}]},
        BY_ANTHROPIC | {"parts": [{"part_kind": "text", "characters": 1}]},
    ],
)
async def test_unfit_opaque_is_dropped(opened: Open, opaque: Any) -> None:
    """Opaque data that is damaged or does not fit gives way to the message."""
    model, server = await opened(CLAUDE, Answer(text=("ok",)))
    call = ToolCall(id="c1", name="bash", arguments='{"command": "ls"}')
    said = AssistantMessage("Trying.", (call,), opaque)
    await model.reply(asked(UserMessage("hi"), said, ToolMessage("c1", "bash", "x")))
    parts = server.last["messages"][1]["content"]
    assert [block["type"] for block in parts] == ["text", "tool_use"]
    assert parts[0]["text"] == "Trying."


# ── when it goes wrong ───────────────────────────────────────────────────────


def refusal(status: int, said: str = "because", **headers: str) -> Refusal:
    """An error as both protocols write it."""
    error = {"type": "invalid_request_error", "message": said}
    body = {"type": "error", "error": error}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Refusal(status=status, body=body, headers=named)


@every_provider
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_refused(opened: Open, name: str, status: int) -> None:
    """The request's own fault is final: one request, one line, with the reason."""
    model, server = await opened(name, refusal(status))
    with pytest.raises(ModelRefused) as caught:
        await model.reply(asked())
    assert str(caught.value) == f"{name} refused ({status}): because"
    assert len(server.requests) == 1


@every_provider
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_unavailable(opened: Open, name: str, status: int) -> None:
    """The provider's trouble may pass; nothing below the runner tries again."""
    model, server = await opened(name, refusal(status, Retry_After="7"))
    with pytest.raises(ModelUnavailable) as caught:
        await model.reply(asked())
    assert str(caught.value) == f"{name} is unavailable ({status}): because"
    assert caught.value.retry_after == 7
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WAIT),
        ("9" * 300, MAX_WAIT),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
async def test_retry_after(opened: Open, header: str, seconds: float | None) -> None:
    """Seconds or a date are understood, nonsense is ignored, and an age is cut."""
    model, _ = await opened(CHAT, refusal(429, Retry_After=header))
    with pytest.raises(ModelUnavailable) as caught:
        await model.reply(asked())
    assert caught.value.retry_after == seconds


async def test_an_empty_account_is_final(opened: Open) -> None:
    """Waiting does not help against a 429 that means: pay first."""
    error = {"code": "insufficient_quota", "type": "x", "message": "Pay."}
    model, _ = await opened(CHAT, Refusal(status=429, body={"error": error}))
    with pytest.raises(ModelRefused, match="Pay"):
        await model.reply(asked())


@every_provider
@pytest.mark.parametrize("ending", ["drop", "end", "garbage", "error"])
async def test_a_broken_stream(opened: Open, name: str, ending: Any) -> None:
    """An answer that stops, is damaged or fails half-way may be asked for again."""
    failure = {"type": "overloaded_error", "code": "server_error", "message": "busy"}
    answer = Answer(text=("par",), ending=ending, failure=failure)
    model, server = await opened(name, answer, Answer(text=("whole",)))
    heard: list[str] = []
    with pytest.raises(ModelUnavailable):
        await model.reply(asked(), heard.append)
    assert heard == ["par"]
    assert len(server.requests) == 1
    assert (await model.reply(asked())).text == "whole"


@every_provider
async def test_nobody_listens(opened: Open, name: str) -> None:
    """A provider that cannot be reached is unavailable, and comes back."""
    model, server = await opened(name)
    await server._runner.cleanup()
    with pytest.raises(ModelUnavailable, match="is unavailable"):
        await model.reply(asked())


@every_provider
async def test_silence(opened: Open, name: str) -> None:
    """A provider that says nothing for too long is unavailable."""
    hanging = Answer(text=("par",), ending="hang")
    model, _ = await opened(name, hanging, silence=0.2)
    with pytest.raises(ModelUnavailable):
        await model.reply(asked())


@every_provider
async def test_cancel_mid_stream(opened: Open, name: str) -> None:
    """A cancellation passes through and the provider sees the client leave."""
    model, server = await opened(name, Answer(text=("par",), ending="hang"))
    heard = asyncio.Event()
    task = asyncio.create_task(model.reply(asked(), lambda _: heard.set()))
    await asyncio.wait_for(heard.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.gone.wait(), 30)


async def test_a_listener_that_fails(opened: Open) -> None:
    """An error of the listener passes through and ends the call."""
    model, server = await opened(CHAT, Answer(text=("par",), ending="hang"))

    def fail(_text: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await model.reply(asked(), fail)
    await asyncio.wait_for(server.gone.wait(), 30)


@every_provider
async def test_no_key_in_an_error(opened: Open, name: str) -> None:
    """A provider that repeats the key does not get it into message or traceback."""
    said = f"bad key {KEY}, header Bearer {KEY} or sk-proj-abcdef0123"
    model, _ = await opened(name, refusal(401, said))
    with pytest.raises(ModelRefused) as caught:
        await model.reply(asked())
    printed = "".join(traceback.format_exception(caught.value))
    for secret in (KEY, "sk-proj"):
        assert secret not in str(caught.value)
        assert secret not in printed


@every_provider
@pytest.mark.parametrize(
    "body",
    ["<html>\x1b[31m\n" + "long " * 1000, {"error": None}, {"error": []}, [1], ""],
)
async def test_strange_error_bodies(opened: Open, name: str, body: Any) -> None:
    """Whatever a proxy answers, the message is one printable line of some length."""
    model, _ = await opened(name, Refusal(status=502, body=body))
    with pytest.raises(ModelUnavailable) as caught:
        await model.reply(asked())
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < MAX_MESSAGE + 100


@every_provider
@pytest.mark.parametrize("body", ["<html>log in first", {"no": "stream"}])
async def test_no_stream_at_all(opened: Open, name: str, body: Any) -> None:
    """A 200 that holds no answer is no empty answer."""
    model, _ = await opened(name, Refusal(status=200, body=body))
    with pytest.raises(ModelUnavailable):
        await model.reply(asked())


async def test_closing_twice(opened: Open) -> None:
    """Closing is safe twice, and for a model that was never asked."""
    model, _ = await opened(CHAT, Answer(text=("ok",)))
    unused, _ = await opened(CHAT)
    assert (await model.reply(asked())).text == "ok"
    for closing in (model, model, unused, unused):
        await closing.aclose()


# ── names, keys and packages ─────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("gpt-5", "write openai:gpt-5"),
        ("claude-opus-5", "write anthropic:claude-opus-5"),
        ("llama3.2:3b", "write ollama:llama3.2:3b"),
        ("opnai:gpt-5", "write openai:gpt-5"),
        ("google-gla:gemini-3", "write google:gemini-3"),
        ("zzz", "write PROVIDER:MODEL, for example ollama:zzz"),
        ("", "write PROVIDER:MODEL, for example ollama:qwen3"),
        (":", "write PROVIDER:MODEL, for example ollama:qwen3"),
        ("openai:", "write openai:MODEL"),
        ("openai: gpt-5 ", "write openai:MODEL"),
        ("test", "write PROVIDER:MODEL"),
    ],
)
def test_wrong_names(name: str, right: str) -> None:
    """A name that says no provider, or an unknown one, is told the right form."""
    with pytest.raises(InvalidInput) as caught:
        open_provider_model(name)
    assert right in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (CHAT, f"{CHAT} needs a key: set OPENAI_API_KEY"),
        (RESPONSES, f"{RESPONSES} needs a key: set OPENAI_API_KEY"),
        (CLAUDE, f"{CLAUDE} needs a key: set ANTHROPIC_API_KEY"),
        ("deepseek:chat", "deepseek:chat needs a key: set DEEPSEEK_API_KEY"),
        (OLLAMA, f"{OLLAMA} needs an address: set OLLAMA_BASE_URL"),
    ],
)
def test_missing_setting(name: str, message: str) -> None:
    """A missing key or address is one line that names the variable."""
    with pytest.raises(Misconfigured) as caught:
        open_provider_model(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("key", ["", " ", "sk-abc\n", "schlüssel", "two words"])
@pytest.mark.parametrize("name", [CHAT, RESPONSES, CLAUDE])
def test_unusable_key(monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    """A key that no header can carry is found before any request, and not shown."""
    variable = "ANTHROPIC_API_KEY" if name == CLAUDE else "OPENAI_API_KEY"
    monkeypatch.setenv(variable, key)
    with pytest.raises(Misconfigured, match=variable) as caught:
        open_provider_model(name)
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/v1", "http://", "http://h:x"])
def test_unusable_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """An address that can never be reached is found before any request."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(Misconfigured, match="OPENAI_BASE_URL"):
        open_provider_model(CHAT)


def test_missing_package_of_a_provider() -> None:
    """A provider whose package is not installed says how to install it."""
    code = (
        "import sys; sys.modules['groq'] = None\n"
        "from services.agents.models import open_provider_model\n"
        "open_provider_model('groq:x')"
    )
    assert (
        'Misconfigured: groq:x needs: pip install "pydantic-ai-slim[groq]"'
        in _python(code)
    )


def test_missing_extra() -> None:
    """Without pydantic-ai, the message names our extra."""
    code = (
        "import sys; sys.modules['pydantic_ai'] = None\n"
        "from services.agents.models import open_provider_model\n"
        "open_provider_model('openai:gpt-5')"
    )
    wanted = "Misconfigured: openai:gpt-5 needs: pip install 'wakestream[models]'"
    assert wanted in _python(code)


def test_nothing_is_imported_before_it_is_used() -> None:
    """Importing the module, or refusing a name, costs no provider's library."""
    code = (
        "import sys, services.agents.models as models\n"
        "try: models.open_provider_model('gpt-5')\n"
        "except models.InvalidInput: pass\n"
        "heavy = {'pydantic_ai', 'pydantic', 'openai', 'anthropic', 'httpx2'}\n"
        "print('imported', sorted(heavy & set(sys.modules)))"
    )
    assert "imported []" in _python(code)


def _python(code: str) -> str:
    """What a new interpreter prints for ``code``, errors included."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout

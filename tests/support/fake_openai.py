"""OpenAI's two protocols on loopback: chat completions, and responses."""

from typing import Any

from fake_provider import Answer, Call, Events, FakeProvider, frame


class FakeOpenAI(FakeProvider):
    """Point ``OPENAI_BASE_URL`` (or ``OLLAMA_BASE_URL``) at ``url``."""

    @property
    def url(self) -> str:
        """The base URL that clients of OpenAI want."""
        return f"{self.address}/v1"

    def events(self, path: str, body: dict[str, Any], answer: Answer) -> Events:
        """Text (and before it thinking, if any) as deltas."""
        if path.endswith("/responses"):
            return _responses_text(body, answer)
        return _chat_text(body, answer)

    def closing(self, path: str, body: dict[str, Any], answer: Answer) -> Events:
        """Tool calls, the reason for the end, and the usage."""
        if path.endswith("/responses"):
            return _responses_end(body, answer)
        return _chat_end(body, answer)

    def error(self, path: str, failure: dict[str, Any]) -> bytes:
        """An error object in place of a chunk."""
        if path.endswith("/responses"):
            return _event("error", **failure)
        return frame({"error": failure})


def _chunk(body: dict[str, Any], delta: dict[str, Any], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return frame(_chat(body) | {"choices": [choice]})


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_767_225_600,
        "model": body["model"],
    }


async def _chat_text(body: dict[str, Any], answer: Answer) -> Events:
    if answer.thinking:
        yield _chunk(body, {"reasoning_content": answer.thinking}, None)
    for text in answer.text:
        yield _chunk(body, {"role": "assistant", "content": text}, None)


async def _chat_end(body: dict[str, Any], answer: Answer) -> Events:
    for index, call in enumerate(answer.calls):
        for delta in _chat_call(index, call):
            yield _chunk(body, {"tool_calls": [delta]}, None)
    finish = answer.finish or ("tool_calls" if answer.calls else "stop")
    yield _chunk(body, {}, finish)
    yield frame(_chat(body) | {"choices": [], "usage": _chat_usage(answer)})
    yield frame("[DONE]")


def _chat_call(index: int, call: Call) -> list[dict[str, Any]]:
    named = {"name": call.name, "arguments": ""}
    start = {"index": index, "id": call.id, "type": "function", "function": named}
    pieces = [
        {"index": index, "function": {"arguments": piece}} for piece in call.arguments
    ]
    return [start, *pieces]


def _chat_usage(answer: Answer) -> dict[str, Any]:
    tokens_in, tokens_out = answer.tokens
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": answer.cached[0]},
    }


def _event(kind: str, **data: Any) -> bytes:
    return frame({"sequence_number": 0, **data, "type": kind}, kind)


def _response(body: dict[str, Any], status: str, usage: Any = None) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_767_225_600,
        "model": body["model"],
        "status": status,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }


async def _responses_text(body: dict[str, Any], answer: Answer) -> Events:
    yield _event("response.created", response=_response(body, "in_progress"))
    if answer.signature:
        yield _event(
            "response.output_item.done", output_index=0, item=_reasoning(answer)
        )
    if answer.text:
        message = {"type": "message", "id": "msg_1", "role": "assistant"}
        item = message | {"status": "in_progress", "content": []}
        yield _event("response.output_item.added", output_index=1, item=item)
    for text in answer.text:
        yield _event(
            "response.output_text.delta",
            item_id="msg_1",
            output_index=1,
            content_index=0,
            delta=text,
            logprobs=[],
        )


def _reasoning(answer: Answer) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": answer.thinking}],
        "encrypted_content": answer.signature,
        "status": "completed",
    }


async def _responses_end(body: dict[str, Any], answer: Answer) -> Events:
    for index, call in enumerate(answer.calls, 2):
        for event in _responses_call(index, call):
            yield event
    tokens_in, tokens_out = answer.tokens
    usage = {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "input_tokens_details": {"cached_tokens": answer.cached[0]},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    yield _event("response.completed", response=_response(body, "completed", usage))


def _responses_call(index: int, call: Call) -> list[bytes]:
    text = "".join(call.arguments)
    item = {
        "type": "function_call",
        "id": f"fc_{index}",
        "call_id": call.id,
        "name": call.name,
        "arguments": "",
        "status": "in_progress",
    }
    done = item | {"arguments": text, "status": "completed"}
    kind = "response.function_call_arguments"
    at = {"item_id": item["id"], "output_index": index}
    return [
        _event("response.output_item.added", output_index=index, item=item),
        *(_event(f"{kind}.delta", **at, delta=piece) for piece in call.arguments),
        _event(f"{kind}.done", **at, name=call.name, arguments=text),
        _event("response.output_item.done", output_index=index, item=done),
    ]

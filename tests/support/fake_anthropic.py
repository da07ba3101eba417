"""Anthropic's messages protocol on loopback."""

from typing import Any

from fake_provider import Answer, Call, Events, FakeProvider, frame


class FakeAnthropic(FakeProvider):
    """Point ``ANTHROPIC_BASE_URL`` at ``url``."""

    @property
    def url(self) -> str:
        """The base URL that clients of Anthropic want."""
        return self.address

    async def events(self, path: str, body: dict[str, Any], answer: Answer) -> Events:
        """Thinking with its signature, if any, and the text as deltas."""
        del path
        yield _event("message_start", message=_message(body, answer))
        if answer.thinking:
            for event in _thinking(answer):
                yield event
        if answer.text:
            block = {"type": "text", "text": ""}
            yield _event("content_block_start", index=1, content_block=block)
        for text in answer.text:
            yield _delta(1, type="text_delta", text=text)

    async def closing(self, path: str, body: dict[str, Any], answer: Answer) -> Events:
        """Tool calls, the reason for the end, and the usage."""
        del path, body
        if answer.text:
            yield _event("content_block_stop", index=1)
        for index, call in enumerate(answer.calls, 2):
            for event in _call(index, call):
                yield event
        finish = answer.finish or ("tool_use" if answer.calls else "end_turn")
        yield _event(
            "message_delta",
            delta={"stop_reason": finish, "stop_sequence": None},
            usage={"output_tokens": answer.tokens[1]},
        )
        yield _event("message_stop")

    def error(self, path: str, failure: dict[str, Any]) -> bytes:
        """An error event."""
        del path
        return _event("error", error=failure)


def _event(kind: str, **data: Any) -> bytes:
    return frame({"type": kind, **data}, kind)


def _delta(index: int, **delta: Any) -> bytes:
    return _event("content_block_delta", index=index, delta=delta)


def _message(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    read, write = answer.cached
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": answer.tokens[0],
            "output_tokens": 1,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": write,
        },
    }


def _thinking(answer: Answer) -> list[bytes]:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    return [
        _event("content_block_start", index=0, content_block=block),
        _delta(0, type="thinking_delta", thinking=answer.thinking),
        _delta(0, type="signature_delta", signature=answer.signature),
        _event("content_block_stop", index=0),
    ]


def _call(index: int, call: Call) -> list[bytes]:
    block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
    pieces = (
        _delta(index, type="input_json_delta", partial_json=piece)
        for piece in call.arguments
    )
    return [
        _event("content_block_start", index=index, content_block=block),
        *pieces,
        _event("content_block_stop", index=index),
    ]

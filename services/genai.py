"""Spans of model and tool calls, in OpenTelemetry's words for generative AI.

The names are of its GenAI semantic conventions, which are still in
development: that is why they stand in one place. What is said and what tools
give is never part of a span.
"""

from contextlib import AbstractContextManager, nullcontext

from events.messages import Reply, ToolResult
from events.state import Call, State
from services.telemetry import failed, note, span, tracing

PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "google-gla": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "openai-chat": "openai",
    "openai-responses": "openai",
    "xai": "x_ai",
}
"""Where the conventions name a provider otherwise than our model names do."""

_nothing = nullcontext()


def chat(state: State) -> AbstractContextManager[None]:
    """Be the call to a model that comes next, with all its retries."""
    if not tracing():
        return _nothing
    before, _, after = state.agent.model.partition(":")
    return span(
        f"chat {after or before}",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDERS.get(before, before),
            "gen_ai.request.model": after or before,
            "gen_ai.agent.name": state.agent.name,
            "gen_ai.conversation.id": state.id,
        },
        kind="client",
    )


def answered(reply: Reply) -> None:
    """Say what the call to a model came to."""
    if not tracing():
        return
    note(
        {
            "gen_ai.response.model": reply.model,
            "gen_ai.response.finish_reasons": (reply.finish_reason,),
            "gen_ai.usage.input_tokens": reply.usage.input,
            "gen_ai.usage.output_tokens": reply.usage.output,
            "gen_ai.usage.cache_read.input_tokens": reply.usage.cache_read,
            "gen_ai.usage.cache_write.input_tokens": reply.usage.cache_write,
        }
    )


def execute_tool(call: Call, state: State) -> AbstractContextManager[None]:
    """Be the run of a tool that a model asked for."""
    if not tracing():
        return _nothing
    return span(
        f"execute_tool {call.name}",
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.call.id": call.id,
            "gen_ai.tool.type": "function",
            "gen_ai.agent.name": state.agent.name,
            "gen_ai.conversation.id": state.id,
        },
    )


def told(result: ToolResult) -> None:
    """Say what the run of a tool came to."""
    if result.outcome != "success":
        failed(result.outcome)

"""Asking a provider's model, and what its failures mean to a runner.

Everything goes through ``pydantic_ai.direct``, always streamed. The library's
and the SDKs' own retries are off: the runner retries, and records that it did.
"""

import time
from collections.abc import Callable

from pydantic_ai import exceptions
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import (
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import Model as PydanticModel
from pydantic_ai.settings import ModelSettings

from events.errors import ModelRefused, ModelUnavailable
from events.messages import Reply, Request
from services.agents.dialect import history, parameters, sound, to_reply
from services.agents.model import ignore
from services.redaction import Redaction

MAX_MESSAGE = 300
"""Characters of an error message: a provider may answer with a page of HTML."""

MAX_WAIT = 3600.0
"""Seconds of waiting that a provider can ask for: a header is not trusted with more."""

_Failure = exceptions.AgentRunError | exceptions.UserError

_FINAL = (
    exceptions.ModelRequestRejectedError,
    exceptions.ModelQuotaExceededError,  # a 429 too, but waiting fills no account
    exceptions.ContentFilterError,
    exceptions.UserError,
)

_SERVER_ERROR = 500
_PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 with which a provider says: not now."""

_SAY_HOW_IT_ENDED = frozenset({"openai", "anthropic", "ollama"})
"""Providers that end every answer with a reason; one without it was cut off."""


class ProviderModel:
    """A provider's model behind the ``Model`` port; close it with ``aclose``.

    Holds nothing of a conversation: any number may be in flight. ``silence``
    is in seconds.
    """

    def __init__(self, name: str, model: PydanticModel, silence: float) -> None:
        self.name = name
        self._model = model
        # An agent sends its whole past with every step: caching pays from the second.
        self._settings = ModelSettings(timeout=silence, max_retries=0, cache=True)

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """One answer; ``on_text`` hears its text piece by piece as it comes.

        Raises ModelUnavailable or ModelRefused; a cancellation closes the
        connection.
        """
        started = time.monotonic()
        try:
            response = await self._ask(request, on_text)
        except (exceptions.AgentRunError, exceptions.UserError) as error:
            # Without the cause: it carries the request, and with it the key.
            raise _meaning(self.name, error) from None
        latency = (time.monotonic() - started) * 1000
        return to_reply(self.name, request, response, latency)

    async def aclose(self) -> None:
        """Close the connections that are kept open; asking twice is safe."""
        async with self._model:
            pass  # leaving the model closes the HTTP client that it owns

    async def _ask(
        self, request: Request, on_text: Callable[[str], None]
    ) -> ModelResponse:
        async with model_request_stream(
            self._model,
            list(history(request.messages, self.name)),
            model_settings=self._settings,
            model_request_parameters=parameters(request),
        ) as stream:
            async for event in stream:
                if text := _text_of(event):
                    on_text(sound(text))
            response = stream.get()
        self._check_whole(response)
        return response

    def _check_whole(self, response: ModelResponse) -> None:
        details = response.provider_details or {}
        if self._model.system in _SAY_HOW_IT_ENDED and not details.get("finish_reason"):
            raise exceptions.ModelConnectionError(self.name, "the answer was cut off")


def _text_of(event: ModelResponseStreamEvent) -> str:
    match event:
        case PartStartEvent(part=TextPart(content=text)):
            return text
        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return text
        case _:
            return ""


def _meaning(name: str, error: _Failure) -> ModelUnavailable | ModelRefused:
    """What ``error`` is to a runner, in one line without a key in it."""
    status: int | None = getattr(error, "status_code", None)
    about = f" ({status})" if status else ""
    said = _one_line(_provider_message(error))
    if isinstance(error, _FINAL) or _is_final(status):
        return ModelRefused(f"{name} refused{about}: {said}")
    wait: float | None = getattr(error, "retry_after", None)
    return ModelUnavailable(
        f"{name} is unavailable{about}: {said}",
        retry_after=None if wait is None else min(wait, MAX_WAIT),
    )


def _is_final(status: int | None) -> bool:
    return status is not None and status < _SERVER_ERROR and status not in _PASSING


def _provider_message(error: _Failure) -> str:
    """The sentence in the provider's answer, else the library's."""
    body = getattr(error, "body", None)
    for key in ("error", "message"):
        if isinstance(body, dict):
            body = body.get(key, body)
    return body if isinstance(body, str) and body.strip() else error.message


def _one_line(text: str) -> str:
    """``text`` without line breaks, control characters and keys, not too long."""
    text = Redaction()(text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"

"""Asking a model again while that can help: a provider's bad minutes.

What passes by itself (busy, down, slow, a stream cut in the middle, an answer
with nothing in it) is waited out here, inside the time that the caller sets;
what will not pass is raised at once. Nothing of a failed try is recorded.
"""

import logging
from collections.abc import Callable

import msgspec
import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from events.errors import ModelUnavailable
from events.messages import Reply, Request, Usage
from services import metrics
from services.agents.model import Model

logger = logging.getLogger(__name__)

MODEL_TRIES = 10
"""Tries of one model call before its failure is recorded: some two minutes, which is
how long a busy provider usually stays so."""

EMPTY_TRIES = 3
"""Answers without text and calls before that is a failure: each of them is paid."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries, doubled each time, unless the provider says how long."""


class Patience:
    """One reply of a model, asked for until it is there.

    ``on_text`` hears the tokens of every try, ``told`` why a try came to nothing.
    """

    def __init__(
        self,
        model: Model,
        request: Request,
        on_text: Callable[[str], None],
        told: Callable[[str], None],
    ) -> None:
        self._model, self._request = model, request
        self._on_text, self._told = on_text, told
        self._empty: list[Reply] = []

    async def reply(self) -> Reply:
        """Ask, and ask again while that can help.

        Raises ModelUnavailable after so many tries, ModelRefused at once. What
        empty answers took is part of the usage and cost of the one that counts.
        """
        try:
            return await self._once()
        except ModelUnavailable as error:
            failure: ModelUnavailable | None = error
        async for attempt in stamina.retry_context(
            on=self._pause,
            attempts=MODEL_TRIES,
            timeout=None,
            wait_initial=FIRST_PAUSE,
            wait_max=LONGEST_PAUSE,
        ):
            with attempt:
                if failure:  # the first try, made above
                    first, failure = failure, None
                    raise first
                return await self._once()
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    async def _once(self) -> Reply:
        try:
            reply = await self._model.reply(self._request, self._on_text)
            self._check(reply)
        except ModelUnavailable as error:
            self._told(str(error))
            metrics.model_failed(error.code)
            raise
        return self._with_what_was_spent(reply)

    def _check(self, reply: Reply) -> None:
        """Raise ModelUnavailable for an answer that says nothing: it ends no work."""
        if reply.text.strip() or reply.tool_calls:
            return
        self._empty.append(reply)
        raise ModelUnavailable(
            f"{reply.model} answered with neither text nor calls, and the reason "
            f"{reply.finish_reason!r:.40} ({len(self._empty)} of {EMPTY_TRIES} times)"
        )

    def _with_what_was_spent(self, reply: Reply) -> Reply:
        if not self._empty:
            return reply
        paid = [*self._empty, reply]
        costs = [one.cost for one in paid if one.cost is not None]
        return msgspec.structs.replace(
            reply,
            usage=sum((one.usage for one in paid), Usage()),
            cost=sum(costs) if len(costs) == len(paid) else None,
        )

    def _pause(self, error: Exception) -> bool | float:
        """Try again if that can help, and not before the provider wants it."""
        if not isinstance(error, ModelUnavailable) or len(self._empty) >= EMPTY_TRIES:
            return False
        return error.retry_after or True  # at once is what no busy provider can mean


def _asked_again(details: RetryDetails) -> None:
    wait, why = details.wait_for, details.caused_by
    logger.warning("the model is asked again in %.1f s: %s", wait, why)


# The default prints to stdout wherever structlog is installed and not configured.
set_on_retry_hooks([_asked_again])

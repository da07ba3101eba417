"""What a process counts of its work, for whoever watches the service.

Where a fact occurs, the code calls one function of this file. All of them do
nothing until ``served`` or ``counted``: only then prometheus-client is imported
(150 ms), and a fact costs about a microsecond. Labels are words of our own, a
tool's name, a status: nothing that a user can make up, so that no number of users
fills the memory of whoever collects.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from events.messages import Reply, ToolResult

if TYPE_CHECKING:
    from services.instruments import Instruments

Path = Literal["departure", "sweep", "redelivery", "boot"]
"""How an execution came back that somebody had begun: its runner's end was announced;
it had reached nobody's hands; its work was handed out again, because its runner gave
it back or let its lease run out; everything was started anew."""


class _On:
    """What is counted with; None as long as nobody asked."""

    instruments: "Instruments | None" = None


@contextmanager
def served(host: str, port: int) -> Iterator[str]:
    """Count, and show the numbers over HTTP; gives the URL.

    Port 0 is any that is free. Raises Misconfigured if it cannot be listened on.
    """
    from services.instruments import Instruments, serve  # noqa: PLC0415 - see the top

    instruments = Instruments()
    with serve(instruments, host, port) as url:
        _On.instruments = instruments
        try:
            yield url
        finally:
            _On.instruments = None


def answered(verb: str, code: str) -> None:
    """Count a command: accepted with no code, refused with one."""
    on = _On.instruments
    if on is not None:
        # The verb of a command that was refused is whatever somebody sent.
        (on.refusals(code) if code else on.commands(verb)).inc()


def limited(limit: str) -> None:
    """Count a start that was refused, by the limit that was reached."""
    on = _On.instruments
    if on is not None:
        on.limited(limit).inc()


def held(change: int) -> None:
    """Say that a runner works on so many more executions."""
    on = _On.instruments
    if on is not None:
        on.held.inc(change)


def watched(change: int) -> None:
    """Say that so many more connections watch the live feed."""
    on = _On.instruments
    if on is not None:
        on.watching.inc(change)


def attempted(status: str) -> None:
    """Count an attempt by the status it left its execution in."""
    on = _On.instruments
    if on is not None:
        on.attempts(status).inc()


def replied(reply: Reply) -> None:
    """Count a step that was recorded: its tokens, its cost, how long it took."""
    on = _On.instruments
    if on is not None:
        on.steps.inc()
        on.tokens("input").inc(reply.usage.input)
        on.tokens("output").inc(reply.usage.output)
        on.cost.inc(reply.cost or 0.0)
        on.model_seconds.observe(reply.latency_ms / 1000)


def model_failed(code: str) -> None:
    """Count a try of a model call that came to nothing."""
    on = _On.instruments
    if on is not None:
        on.model_failures(code).inc()


def tool_ran(tool: str, result: ToolResult) -> None:
    """Count a tool call; ``tool`` is one that there is."""
    on = _On.instruments
    if on is not None:
        on.tool_seconds(tool).observe(result.latency_ms / 1000)
        if result.outcome != "success":
            on.tool_failures(tool).inc()


def dropped(reason: str) -> None:
    """Count a work that its runner let go of without an end."""
    on = _On.instruments
    if on is not None:
        on.dropped(reason).inc()


def recovered(path: Path, count: int = 1) -> None:
    """Count executions that came back after somebody had begun them."""
    on = _On.instruments
    if on is not None:
        on.recoveries(path).inc(count)


def stuck(count: int) -> None:
    """Say how many executions say that they run while nobody holds them."""
    on = _On.instruments
    if on is not None:
        on.stuck.set(count)


def requested(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request over HTTP by its route, as the routes write it."""
    on = _On.instruments
    if on is not None:
        on.requests(method, route, str(status)).inc()
        on.request_seconds(route).observe(seconds)


def waiting(lane: str, count: int) -> None:
    """Say how much work waits in a lane."""
    on = _On.instruments
    if on is not None:
        on.waiting(lane).set(count)


@contextmanager
def counted() -> Iterator[None]:
    """Count, without a server of its own: ``exposition`` gives the numbers.

    Where they are shown already, what is counted there is given.
    """
    if _On.instruments is not None:
        yield
        return
    from services.instruments import Instruments  # noqa: PLC0415 - see the top

    _On.instruments = Instruments()
    try:
        yield
    finally:
        _On.instruments = None


def exposition() -> tuple[bytes, str]:
    """The numbers as Prometheus reads them, and their content type."""
    from services.instruments import MEDIA_TYPE, text_of  # noqa: PLC0415 - see the top

    on = _On.instruments
    return (text_of(on) if on is not None else b""), MEDIA_TYPE

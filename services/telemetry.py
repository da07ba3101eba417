"""What a process tells of itself while it works: log lines and traces.

Both are off until they are configured, and cost next to nothing until then:
neither structlog nor OpenTelemetry is even imported. How a record becomes a
line stands in ``loglines.py``, how a span is kept and sent in ``tracing.py``.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, TextIO

from events.errors import Misconfigured
from events.names import TRACE, Level
from services.redaction import Redaction

if TYPE_CHECKING:
    from services.tracing import Tracing

Kind = Literal["internal", "client", "consumer", "server"]
"""What a span is to the outside: nothing, a call to it, something that it sent, or
that it waits for."""

Value = str | int | float | bool | tuple[str, ...]
"""What an attribute can be."""

FLUSHING = 3.0
"""Seconds that the last spans get to be sent: a dead collector must not hold us."""


class _Configured:
    """What is on in this process."""

    bind: Callable[[dict[str, str]], AbstractContextManager[None]] | None = None
    traces: "Tracing | None" = None


_on = _Configured()
_nothing = nullcontext()


def configure_logs(
    *,
    level: Level,
    as_json: bool,
    stream: TextIO | None = None,
    redact: Redaction | None = None,
) -> None:
    """Write every log record, ours and the libraries', as a line on ``stream``.

    The stream is stderr if none is given. Of libraries only what is a level
    worse is written. Asked again, the last call holds.
    """
    from services import loglines  # noqa: PLC0415 - structlog takes 90 ms to import

    loglines.install(level, stream, redact or Redaction(), ids, as_json=as_json)
    _on.bind = loglines.Bound


def bound(**context: str) -> AbstractContextManager[None]:
    """Add ``context`` to every line that is logged inside, by tasks begun there too."""
    return _nothing if _on.bind is None else _on.bind(context)


def configure_traces(
    endpoint: str | None, service: str, *, redact: Redaction | None = None
) -> None:
    """Send spans to the OTLP/HTTP collector at ``endpoint``; without one, none.

    ``service`` is what this process is called there. Headers, sampling and
    further attributes are set by OpenTelemetry's own ``OTEL_…`` variables.
    Raises Misconfigured without the extra. Asked again, the last call holds.
    """
    shutdown()
    if endpoint is None:
        return
    try:
        from services.tracing import Tracing  # noqa: PLC0415 - an extra, 80 ms to import
    except ImportError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise Misconfigured(
            "telemetry.otlp_endpoint needs OpenTelemetry: pip install "
            "'wakestream[telemetry]', or leave the endpoint out"
        ) from error
    _on.traces = Tracing(endpoint, service, redact or Redaction())


def tracing() -> bool:
    """Say whether spans are kept."""
    return _on.traces is not None


def current() -> str:
    """Return the active span as a W3C ``traceparent``; "" if there is none."""
    return "" if _on.traces is None else _on.traces.current()


def ids() -> dict[str, str]:
    """Return trace and span id of the active span, for a log line."""
    return {} if _on.traces is None else _on.traces.ids()


def span(
    name: str,
    about: Mapping[str, Value],
    *,
    parent: str = "",
    kind: Kind = "internal",
) -> AbstractContextManager[None]:
    """Time what happens inside, as a child of the active span.

    ``about`` are its attributes; they are bounded, and secrets hidden. ``parent``
    is a ``traceparent`` that came from elsewhere, and stands before the active
    span; what is none is ignored. An error that leaves the block is noted, a
    cancellation is not one.
    """
    if _on.traces is None:
        return _nothing
    return _on.traces.span(name, about, parent, kind)


def note(about: Mapping[str, Value]) -> None:
    """Say more of the active span."""
    if _on.traces is not None:
        _on.traces.note(about)


def failed(error: str) -> None:
    """Say that the active span's work failed, and by what kind of error."""
    if _on.traces is not None:
        _on.traces.failed(error)


def parent_in(headers: Mapping[str, str]) -> str:
    """Return the ``traceparent`` that a message brought, unchecked; or ""."""
    if _on.traces is None:
        return ""
    # Carriers made for HTTP write its name with a capital.
    return headers.get(TRACE) or headers.get(TRACE.capitalize(), "")


def shutdown(wait: float = FLUSHING) -> None:
    """Send what is left and trace no more; blocks up to ``wait`` seconds.

    Call it when the event loop has ended. Asking twice is fine.
    """
    traces, _on.traces = _on.traces, None
    if traces is not None:
        traces.shutdown(wait)

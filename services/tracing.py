"""Spans: kept while work is done, sent to a collector from a thread of their own.

Imported only where traces are configured: OpenTelemetry is an extra. What
becomes of a span is the SDK's matter; nothing here raises or waits.
"""

import re
import threading
from collections.abc import Mapping
from types import TracebackType

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from services.phrasing import phrase
from services.redaction import Redaction
from services.telemetry import Kind, Value

SCOPE = "wakestream"
"""Who made the spans."""

PATH = "/v1/traces"
"""Where a collector takes traces, unless its address says another path."""

MAX_NAME = 128
"""Bytes of a span's name."""

MAX_VALUE = 1024
"""Bytes of an attribute."""

_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})"
    r"-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_LONGEST = 512

_KINDS: Mapping[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
    "server": SpanKind.SERVER,
}


class Tracing:
    """Keeps the spans of one process and sends them to ``endpoint``."""

    def __init__(self, endpoint: str, service: str, redact: Redaction) -> None:
        self.redact = redact
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service}),
            shutdown_on_exit=False,  # it would wait half a minute for a dead collector
        )
        exporter = OTLPSpanExporter(endpoint=address(endpoint))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer(SCOPE)

    def span(
        self, name: str, about: Mapping[str, Value], parent: str, kind: Kind
    ) -> "_Block":
        """Return a block that is a span."""
        return _Block(self, name, about, parent, kind)

    def current(self) -> str:
        """Return the active span as a ``traceparent``."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return ""
        return (
            f"00-{context.trace_id:032x}-{context.span_id:016x}"
            f"-{context.trace_flags:02x}"
        )

    def ids(self) -> dict[str, str]:
        """Return the ids of the active span."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        return {
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
        }

    def note(self, about: Mapping[str, Value]) -> None:
        """Add attributes to the active span."""
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes(self.fit(about))

    def failed(self, error: str) -> None:
        """Mark the active span."""
        self.note({"error.type": error})
        trace.get_current_span().set_status(Status(StatusCode.ERROR))

    def fit(self, about: Mapping[str, Value]) -> dict[str, AttributeValue]:
        """Bound attributes, without secrets: one that is no good loses the batch."""
        return {name: self._fit(value) for name, value in about.items()}

    def _fit(self, value: Value) -> AttributeValue:
        if isinstance(value, bool | float):
            return value
        if isinstance(value, int) and abs(value) < 2**63:
            return value
        if isinstance(value, tuple):
            return [phrase(entry, self.redact, MAX_VALUE) for entry in value]
        return phrase(value, self.redact, MAX_VALUE)

    def shutdown(self, wait: float) -> None:
        """Send what is left; after ``wait`` seconds it is left to itself."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(wait)


class _Block:
    """One span, active while its block runs."""

    __slots__ = ("_about", "_kind", "_name", "_of", "_parent", "_span", "_token")

    def __init__(
        self,
        of: Tracing,
        name: str,
        about: Mapping[str, Value],
        parent: str,
        kind: Kind,
    ) -> None:
        self._of, self._name, self._about = of, name, about
        self._parent, self._kind = parent, kind

    def __enter__(self) -> None:
        context = remote(self._parent)
        self._span = self._of.tracer.start_span(
            phrase(self._name, self._of.redact, MAX_NAME),
            context,
            _KINDS[self._kind],
            self._of.fit(self._about),
        )
        self._token = attach(trace.set_span_in_context(self._span, context))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        detach(self._token)
        if isinstance(error, Exception):
            told = phrase(error, self._of.redact, MAX_VALUE)
            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(Status(StatusCode.ERROR, told))
        self._span.end()


def address(endpoint: str) -> str:
    """Return where a collector takes traces, given where it listens."""
    base = endpoint.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


def remote(parent: str) -> Context | None:
    """Return the context that a ``traceparent`` names, None if it is none."""
    found = _PARENT.fullmatch(parent) if len(parent) <= _LONGEST else None
    if found is None or (found["more"] and found["version"] == "00"):
        return None  # only a later version may say more
    trace_id, span_id, flags = (int(found[n], 16) for n in ("trace", "span", "flags"))
    context = SpanContext(
        trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(context), Context())

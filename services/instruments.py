"""The one file that knows Prometheus: every metric by name, and their HTTP server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from events.errors import Misconfigured

# A second series for each counter, that nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call]

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""What its text is."""

MODEL = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper bounds in seconds: models answer in tenths of seconds or think for minutes."""

TOOL = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 60, 300, 600)
"""Upper bounds in seconds: a file is read in a millisecond, a build takes minutes."""

HTTP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30)
"""Upper bounds in seconds: an answer takes milliseconds."""


class Instruments:
    """Every metric of a process, in a registry of its own.

    Those with a label are functions of it, which look up what was made before:
    making it takes seven times as long as counting.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counted(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"wake_{name}", about, labels, registry=registry)

        def timed(
            name: str, about: str, bounds: tuple[float, ...], *labels: str
        ) -> Histogram:
            return Histogram(
                f"wake_{name}", about, labels, buckets=bounds, registry=registry
            )

        def level(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"wake_{name}", about, labels, registry=registry)

        self.commands = cache(
            counted("commands", "Commands accepted, by verb.", "verb").labels
        )
        self.refusals = cache(
            counted("refusals", "Commands refused, by code.", "code").labels
        )
        self.limited = cache(
            counted(
                "limits_reached", "Starts refused, by the limit reached.", "limit"
            ).labels
        )
        self.held = level("executions_held", "Executions that are worked on now.")
        self.watching = level("feed_clients", "Connections that watch the live feed.")
        self.attempts = cache(
            counted(
                "attempts",
                "Attempts that came to a stop, by the status they led to.",
                "status",
            ).labels
        )
        self.steps = counted("steps", "Replies of models that were recorded.")
        self.tokens = cache(
            counted("tokens", "Tokens of those replies.", "direction").labels
        )
        self.cost = counted("cost_dollars", "Cost of those whose price is known.")
        self.model_seconds = timed("model_seconds", "How long those took.", MODEL)
        self.model_failures = cache(
            counted("model_failures", "Tries that came to nothing.", "code").labels
        )
        self.tool_seconds = cache(
            timed("tool_seconds", "How long tool calls took.", TOOL, "tool").labels
        )
        self.tool_failures = cache(
            counted("tool_failures", "Tool calls that failed.", "tool").labels
        )
        self.dropped = cache(
            counted(
                "work_dropped", "Work let go of without an end, by why.", "reason"
            ).labels
        )
        self.recoveries = cache(
            counted(
                "recoveries",
                "Executions that came back after they had been begun, by how.",
                "path",
            ).labels
        )
        self.waiting = cache(
            level("lane_waiting", "Work that waits for a runner.", "lane").labels
        )
        self.requests = cache(
            counted(
                "http_requests",
                "Requests over HTTP; status 0: the client went away.",
                "method",
                "route",
                "status",
            ).labels
        )
        self.request_seconds = cache(
            timed("http_request_seconds", "How long they took.", HTTP, "route").labels
        )
        self.stuck = level(
            "stuck_executions",
            "Executions that say they run and that nobody holds, as a reactor sees it.",
        )


def text_of(instruments: Instruments) -> bytes:
    """The numbers as text."""
    return generate_latest(instruments.registry)


@contextmanager
def serve(instruments: Instruments, host: str, port: int) -> Iterator[str]:
    """Serve the numbers in a thread; gives the URL. Raises Misconfigured."""
    server, thread = _listening(instruments, host, port)
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listening(
    instruments: Instruments, host: str, port: int
) -> tuple[WSGIServer, threading.Thread]:
    try:
        return start_http_server(port, host, instruments.registry)
    except OSError as error:
        raise Misconfigured(
            f"metrics.address: cannot listen on {host}:{port} "
            f"({error.strerror or error}): name another address, each process "
            "needs one of its own"
        ) from error

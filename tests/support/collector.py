"""An OpenTelemetry collector on loopback that keeps what it is sent."""

import asyncio
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

KINDS = ("", "internal", "server", "client", "producer", "consumer")


class Span:
    """One span as it arrived, with readable ids."""

    def __init__(self, service: str, span: Any) -> None:
        self.service, self.name = service, span.name
        self.kind = KINDS[span.kind]
        self.trace, self.id = span.trace_id.hex(), span.span_id.hex()
        self.parent = span.parent_span_id.hex()
        self.about = {a.key: _value(a.value) for a in span.attributes}
        self.failed, self.why = span.status.code == 2, span.status.message
        self.events = [event.name for event in span.events]


class Collector:
    """Answers with ``status``; ``spans`` are what came with a good answer."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.refused = status, asyncio.Event()
        self.spans: list[Span] = []
        self.paths: set[str] = set()
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.paths.add(request.path)
        if self.status != 200:
            self.refused.set()
            return web.Response(status=self.status)
        for resource in ExportTraceServiceRequest.FromString(
            await request.read()
        ).resource_spans:
            about = {a.key: _value(a.value) for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [Span(about["service.name"], s) for s in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> Span:
        """The one span of a name."""
        (found,) = (span for span in self.spans if span.name == name)
        return found


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(entry) for entry in value.array_value.values]
    return getattr(value, kind)

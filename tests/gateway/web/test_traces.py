"""Traces through the edge: a request, its command, the execution's work."""

import asyncio
from functools import partial

from collector import Collector
from edges import DONE, Gateway, eventually

from services.telemetry import configure_traces, shutdown

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_one_trace_from_the_request_to_the_work(gateway: Gateway) -> None:
    """What came as traceparent is the trace of the request and of its command."""
    async with Collector() as collector:
        configure_traces(collector.url, "test")
        try:
            ada = gateway.caller()
            body = {"agent_type": "explorer", "input": DONE}
            headers = {"traceparent": PARENT}
            started = await ada.post("/api/agents", body, headers=headers)
            assert started.status == 201
            await ada.until(started.body["id"], "completed")
        finally:
            await asyncio.to_thread(shutdown)
        names = partial(_names, collector)
        await eventually(names, lambda found: "wake.command" in found)
        request = collector.named("POST /api/agents")
        command = collector.named("wake.command")
        assert request.kind == "server"
        assert request.about["http.response.status_code"] == 201
        assert request.about["http.route"] == "/api/agents"
        assert (request.trace, request.parent) == (TRACE, "b7ad6b7169203331")
        assert (command.trace, command.parent) == (TRACE, request.id)
        assert all("Bearer" not in str(span.about) for span in collector.spans)


async def _names(collector: Collector) -> list[str]:
    return [span.name for span in collector.spans]

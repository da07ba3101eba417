"""Making tool calls: from what a model wrote to what it is told.

Nothing a model writes is fatal: an unknown tool, broken arguments, a tool that
fails or crashes all become results that it can read.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from events.control import CONTROL
from events.errors import ToolFailed
from events.messages import ToolCall, ToolResult, ToolSchema
from events.names import Key
from events.state import Call, State
from services import metrics
from services.genai import execute_tool, told
from services.telling import Tell, silent
from services.tools.base import (
    MAX_OUTPUT,
    StateContext,
    StateTool,
    Tool,
    ToolContext,
    ToolOutput,
    clip,
)
from services.tools.control import offered
from services.tools.workspace import Workspace

logger = logging.getLogger(__name__)

Tools = Mapping[str, Tool[Any]]

LONGEST = 600.0
"""Seconds one call may take at most, whatever is left of the execution's time."""

SETTLING = 1.0
"""Seconds a tool has beyond its limit, to say what it did until then."""


class Caller:
    """Makes the calls of one execution; opens its workspace when first needed."""

    def __init__(
        self,
        tools: Tools,
        workspace: Callable[[], Workspace],
        tell: Tell = silent,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tools, self._find_workspace, self._tell = tools, workspace, tell
        self._stopwatch = stopwatch
        self._workspace: Workspace | None = None
        self._schemas: tuple[ToolSchema, ...] | None = None

    def open(self) -> Workspace:
        """Open the workspace; raises InvalidInput if there is none."""
        if self._workspace is None:
            self._workspace = self._find_workspace()
        return self._workspace

    def close(self) -> None:
        """Let go of the workspace; asking twice is fine."""
        if self._workspace is not None:
            self._workspace.close()
            self._workspace = None

    def schemas(self, state: State) -> tuple[ToolSchema, ...]:
        """Return the tools as they are offered to the model, in the agent's order."""
        if self._schemas is None:
            there = offered(state)
            self._schemas = tuple(
                self._tools[name].schema if name in self._tools else there[name]
                for name in state.agent.tools
                if name in self._tools or name in there
            )
        return self._schemas

    def at_once(self, state: State, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Answer the calls that need no world: wrong ones, and those on the state."""
        results = []
        for call in calls:
            result = self._at_once(state, call)
            if result is not None:
                results.append(result)
        return results

    def _at_once(self, state: State, call: ToolCall) -> ToolResult | None:
        if call.name in CONTROL:
            return None
        try:
            tool = self._tool(state, call.name)
            arguments = tool.parse(call.arguments)
            if not isinstance(tool, StateTool) or call.name in state.agent.approvals:
                return None
            return _result(call.id, tool.apply(arguments, _context(state, call.id)))
        except ToolFailed as error:
            return _failed(call.id, str(error))
        except Exception as error:  # noqa: BLE001 - the reply that asked must be recorded
            return _crashed(state, call, error)

    async def run(self, state: State, call: Call, limit: float) -> ToolResult:
        """Run one call to its end, at most ``limit`` seconds; never raises."""
        with execute_tool(call, state):
            result = await self._settled(state, call, limit)
            told(result)
        metrics.tool_ran(call.name if call.name in self._tools else "unknown", result)
        good = result.outcome == "success"
        self._tell(
            Key(state.user, state.id),
            "debug" if good else "warning",
            "tool.completed" if good else "tool.failed",
            call.name if good else f"{call.name}: {result.output[:500]}",
            call_id=call.id,
            milliseconds=result.latency_ms,
        )
        return result

    async def _settled(self, state: State, call: Call, limit: float) -> ToolResult:
        began = self._stopwatch()
        limit = min(limit, LONGEST)
        try:
            async with asyncio.timeout(limit + SETTLING):
                result = await self._run(state, call, limit)
        except ToolFailed as error:
            result = _failed(call.id, str(error))
        except TimeoutError:
            result = _failed(call.id, f"{call.name} was cut off after {limit:.0f} s")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            result = _failed(call.id, f"{call.name} crashed: it cancelled itself")
        except Exception as error:  # noqa: BLE001 - the one place that settles a call
            result = _crashed(state, call, error)
        spent = round((self._stopwatch() - began) * 1000, 3)
        return msgspec.structs.replace(result, latency_ms=spent)

    async def _run(self, state: State, call: Call, limit: float) -> ToolResult:
        tool = self._tool(state, call.name)
        about = _context(state, call.id)
        context = ToolContext(
            workspace=self.open(),
            timeout=limit,
            tell=partial(self._tell, Key(state.user, state.id)),
            key=about.key,
            notes=about.notes,
            tasks=about.tasks,
        )
        return _result(call.id, await tool.run(tool.parse(call.arguments), context))

    def _tool(self, state: State, name: str) -> Tool[Any]:
        tool = self._tools.get(name) if name in state.agent.tools else None
        if tool is None:
            there = ", ".join(state.agent.tools) or "none"
            raise ToolFailed(f"no tool {name!r:.80}; there are: {there}")
        return tool


def _context(state: State, call_id: str) -> StateContext:
    key = f"{state.id}-{state.steps}-{call_id}"
    return StateContext(key=key, notes=state.notes, tasks=state.tasks)


def _result(call_id: str, output: ToolOutput) -> ToolResult:
    return ToolResult(
        call_id=call_id,
        output=_clip(output.text),
        tasks=output.tasks,
        notes=output.notes,
    )


def _failed(call_id: str, message: str) -> ToolResult:
    return ToolResult(call_id=call_id, output=_clip(message), outcome="failed")


def _crashed(state: State, call: ToolCall | Call, error: Exception) -> ToolResult:
    """Log what the tool's author must see, and tell the model."""
    logger.error("%s/%s: %s crashed", state.user, state.id, call.name, exc_info=error)
    return _failed(call.id, f"{call.name} crashed: {type(error).__name__}: {error}")


def _clip(text: str) -> str:
    """Cut what a model is told to what fits a commit, however it is escaped."""
    text = clip(text)
    if len(msgspec.json.encode(text)) <= 2 * MAX_OUTPUT:
        return text
    return clip(text, MAX_OUTPUT // 3)  # JSON writes a control character as six

"""Recorded histories: how they are written down, read, and what they come to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from events.commit import Recorded, unseal
from events.execution import Execution
from events.names import Key, commit_subject, split_subject


def stored(recorded: Recorded) -> dict[str, Any]:
    """Say how a commit was stored; its body as text, byte for byte."""
    return {
        "position": recorded.position,
        "subject": commit_subject(recorded.key, recorded.route),
        "body": recorded.body.decode(),
    }


def read(path: Path) -> list[Recorded]:
    """Read a history back."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [_recorded(**line) for line in lines]


def _recorded(position: int, subject: str, body: str) -> Recorded:
    key, route = split_subject(subject)
    raw = body.encode()
    return Recorded(position, key, route, unseal(raw, key), raw)


def outcome(history: Sequence[Recorded]) -> dict[str, Any]:
    """What a history comes to, in words that outlive the state's own shape."""
    key = history[0].key
    return {
        "user": key.user,
        "execution": key.execution,
        "versions": [_version(key, history[:n]) for n in range(1, len(history) + 1)],
        "end": _end(Execution.fold(key, history)),
    }


def _version(key: Key, history: Sequence[Recorded]) -> str:
    state = Execution.fold(key, history).state
    return f"{state.version} {state.status}"


def _end(execution: Execution) -> dict[str, Any]:
    state = execution.state
    told = {
        "chain": state.chain,
        "agent": state.agent.name,
        "model": state.agent.model,
        "output": state.output,
        "reason": state.finish_reason,
        "failure": state.failure,
        "steps": state.steps,
        "tokens": state.usage.total,
        "cost": state.cost,
        "unpriced": state.unpriced,
        "attempt": state.attempt,
        "chunk": state.chunk,
        "tasks": state.tasks,
        "notes": state.notes,
        "children": {name: child.status for name, child in state.children.items()},
        "origin": state.origin,
        "purged": state.purged,
        "active_seconds": state.active_seconds,
        "causes": sorted(state.applied),
        "conversation": list(state.conversation()),
    }
    plain: dict[str, Any] = json.loads(msgspec.json.encode(told))
    return plain

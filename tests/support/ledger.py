"""What processes did to the world, counted in files; and gates to hold them at."""

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import auditor

from events import catalog as e
from events.commit import Recorded

LOOK = 0.01
"""Seconds between two looks at what nobody announces."""


async def seen(condition: Callable[[], object]) -> None:
    """Wait for what nobody announces."""
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(LOOK)


class Ledger:
    """A folder with a file of model calls, one of effects, and the open gates.

    Each line is one write of its own, so it is there even if the process is
    killed in the next moment.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    def note_call(self, execution: str, step: int, runner: str) -> None:
        """Note that a model was asked for a reply."""
        self._note("calls", f"{execution} {step} {runner}")

    def note_effect(self, key: str, runner: str) -> None:
        """Note that a tool did its work."""
        self._note("effects", f"{key} {runner}")

    def _note(self, name: str, line: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(self._folder / name, flags, 0o644)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)

    def _lines(self, name: str) -> list[list[str]]:
        path = self._folder / name
        text = path.read_text() if path.exists() else ""
        return [line.split(" ") for line in text.splitlines()]

    # ── gates ────────────────────────────────────────────────────────────────

    def open(self, gate: str) -> None:
        """Let everybody pass, now and later."""
        (self._folder / f"gate-{gate}").touch()

    async def passed(self, gate: str) -> None:
        """Wait until a gate is open; without a name there is none."""
        if gate:
            await seen((self._folder / f"gate-{gate}").exists)

    # ── what was counted ─────────────────────────────────────────────────────

    def effects(self) -> Counter[str]:
        """How often each call of a tool did its work, by its idempotency key."""
        return Counter(key for key, _ in self._lines("effects"))

    def calls(self) -> Counter[tuple[str, int]]:
        """How often a model was asked for each reply, by execution and step."""
        return Counter((x, int(number)) for x, number, _ in self._lines("calls"))

    def callers(self, execution: str, step: int) -> list[str]:
        """Which runners asked for a reply, in order."""
        asked = [execution, str(step)]
        return [line[2] for line in self._lines("calls") if line[:2] == asked]

    async def asked(self, execution: str, step: int, runner: str) -> None:
        """Wait until a runner asks for a reply."""
        await seen(lambda: runner in self.callers(execution, step))


def check_calls(log: Iterable[Recorded], calls: Counter[tuple[str, int]]) -> list[str]:
    """A reply is asked for once in each attempt that may have begun it.

    So what is recorded is never paid for again: whoever starts after the reply
    finds it, and asks for the next.
    """
    findings = []
    for history in auditor.histories(log):
        may = _attempts(history)
        for (execution, step), times in calls.items():
            if execution == history.key.execution and times > may[step]:
                findings.append(
                    f"{history.key}: reply {step} was asked for {times} times, "
                    f"in {may[step]} attempts"
                )
    return findings


def _attempts(history: auditor.History) -> dict[int, int]:
    """Count for each step the attempts that may have asked for it."""
    may: dict[int, int] = defaultdict(int)
    step = 1
    for _, event in history.facts:
        if isinstance(event, e.Started):
            may[step] += 1
        elif isinstance(event, e.ModelResponded):
            step = event.step + 1
            may[step] += 1  # whoever got this reply goes on
    return may

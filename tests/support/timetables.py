"""Schedules under test, in memory or on a real server."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

from nats_server import take_away

from events.names import RECURRING
from events.tablestream import JetStreamTimetable
from events.timetable import Definition, MemoryTimetable, Timetable
from events.wire import Wire

SINCE = datetime(2026, 11, 1, 12, tzinfo=UTC)


def definition(name: str = "report", user: str = "ada", **more: Any) -> Definition:
    """A schedule that has been there since noon of a day."""
    given = {
        "start": {"agent_type": "worker", "input": "Do it."},
        "since": SINCE,
        "at": SINCE,
        "by": f"user:{user}",
        "cause": "cmd-1",
        "digest": "d1",
    }
    return Definition(user=user, name=name, **{**given, **more})


class Table(ABC):
    """No schedules at all, at first."""

    timetable: Timetable

    @abstractmethod
    async def again(self) -> Timetable:
        """Open the same as another process would."""


class MemoryTable(Table):
    """In memory."""

    def __init__(self) -> None:
        self.timetable: MemoryTimetable = MemoryTimetable()

    async def again(self) -> Timetable:
        """Memory is shared."""
        return self.timetable


class JetStreamTable(Table):
    """On a real server, each process with its own connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.wires: list[Wire] = []

    async def open(self) -> None:
        """Begin with nothing, whatever an earlier test left."""
        wire = await self.wire()
        await take_away(wire, RECURRING)
        self.timetable: JetStreamTimetable = await JetStreamTimetable.open(wire)

    async def wire(self) -> Wire:
        """Connect once more."""
        wire = await Wire.connect(self._url)
        self.wires.append(wire)
        return wire

    async def again(self) -> JetStreamTimetable:
        """Connect as another process."""
        return await JetStreamTimetable.open(await self.wire())

    async def close(self) -> None:
        """Close every connection."""
        for wire in self.wires:
            await wire.close()

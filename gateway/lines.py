"""``wake logs``: the log lines of one execution."""

from collections.abc import Callable
from contextlib import aclosing

import msgspec

from events.logbook import Line, Logbook
from events.logstream import JetStreamLogbook
from events.names import Key, Level, check_id, check_level
from gateway.composition import Log, Place, with_log
from gateway.orders import find
from gateway.output import put, put_json
from gateway.wording import moment, one_line

PAGE = 1_000
"""Lines read at a time."""


def logs(
    place: Place,
    execution: str,
    *,
    after: int,
    level: str,
    follow: bool,
    as_json: bool,
) -> None:
    """Print log lines; with ``follow`` also those to come. Raises WakeError."""
    check_id(execution)
    wanted = check_level(level)
    place.check()
    tell = _put_json if as_json else _put

    async def look(log: Log) -> None:
        key = await find(log.journal, execution)
        logbook = JetStreamLogbook(log.wire)
        if follow and log.server is None:
            await _follow(logbook, key, after, wanted, tell)
        else:
            await _all(logbook, key, after, wanted, tell)

    with_log(place, look)


Tell = Callable[[Line], None]


async def _all(
    logbook: Logbook, key: Key, after: int, level: Level, tell: Tell
) -> None:
    while True:
        lines = await logbook.read(key, after=after, level=level, limit=PAGE)
        for line in lines:
            tell(line)
        if len(lines) < PAGE:
            return
        after = lines[-1].id


async def _follow(
    logbook: Logbook, key: Key, after: int, level: Level, tell: Tell
) -> None:
    followed = logbook.follow(key, after=after, level=level)
    async with aclosing(followed) as runs:
        async for run in runs:
            for line in run:
                tell(line)


def _put_json(line: Line) -> None:
    put_json(line)


def _put(line: Line) -> None:
    about = ""
    if line.context:
        about = "  " + msgspec.json.encode(line.context).decode()
    head = f"{line.id:>6}  {moment(line.at)}  {line.level:7}  {line.event_type}"
    put(f"{head}  {one_line(line.message + about)}")

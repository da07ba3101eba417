"""Rows of what is not an execution's own: log lines and triggers."""

from events.cloudevents import read
from events.errors import InvalidInput
from events.logbook import Line
from events.names import split_trigger
from events.rawlog import Raw
from events.triggers import Posted
from projections.rows import LogRow, TriggerRow
from projections.texts import as_json, cut, utc


def line_row(line: Line) -> LogRow:
    """A log line as a row."""
    return LogRow(
        line.id,
        line.user,
        line.execution,
        line.level,
        line.event_type,
        line.by,
        cut(line.message),
        as_json(line.context),
        utc(line.at),
    )


def trigger_row(raw: Raw) -> TriggerRow:
    """A trigger as a row; raises InvalidInput for one that is for nobody."""
    try:
        user, event_type = split_trigger(raw.subject)
    except ValueError as error:
        raise InvalidInput("this is no subject of a trigger") from error
    text = raw.body.decode(errors="replace")
    size = len(raw.body)
    return TriggerRow(raw.position, user, event_type, _id(raw), cut(text), size)


def _id(raw: Raw) -> str:
    """The id that an execution remembers which was woken by it."""
    try:
        return read(Posted(raw.position, raw.subject, raw.body)).id
    except InvalidInput:
        return f"seq-{raw.position}"

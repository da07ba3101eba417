"""How a log record becomes a line: one JSON object, or text for a person.

A line is bounded, holds no known secret and nothing that could pass for
another line; whatever is logged, writing it never raises.
"""

import json
import logging
import math
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import msgspec
import structlog
from structlog.contextvars import (
    bind_contextvars,
    merge_contextvars,
    reset_contextvars,
)
from structlog.processors import ExceptionRenderer
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

from events.names import Level
from services.phrasing import phrase
from services.redaction import Redaction

OURS = ("events", "services", "projections", "gateway")
"""The loggers that the level is meant for."""

LIBRARIES: Mapping[Level, int] = {
    "debug": logging.INFO,
    "info": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""What is written of libraries: at debug some of them write headers, keys included."""

FIRST = ("user", "execution", "command_id", "runner", "trace_id", "span_id")
"""What stands first of the context, in this order: it is kept without one."""

MAX_VALUE = 1024
"""Bytes of each value beside the message."""

MAX_ITEMS = 32
"""Entries of a list or mapping, more than the frames of a traceback."""

MAX_FRAMES = 20
"""Frames kept of a traceback."""

MAX_DEPTH = 10
"""Levels of nesting: an error in a group in a group."""

MAX_LINE = 64 * 1024
"""Bytes of a line; of a longer one only the plain values are kept."""

CUT = "…"

_Ids = Callable[[], dict[str, str]]


def install(
    level: Level,
    stream: TextIO | None,
    redact: Redaction,
    ids: _Ids,
    *,
    as_json: bool,
) -> None:
    """Have the root logger write lines; an earlier call's handler is replaced."""
    handler = _Lines(stream or sys.stderr)
    handler.setFormatter(_Formatter(redact, ids, as_json=as_json))
    for old in [h for h in logging.root.handlers if isinstance(h, _Lines)]:
        logging.root.removeHandler(old)
    logging.root.addHandler(handler)
    logging.root.setLevel(LIBRARIES[level])
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    _configure_structlog()


def _configure_structlog() -> None:
    """Let what is logged by structlog itself take the same way."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


class Bound:
    """Binds context for a block, and what stood there before again after it."""

    __slots__ = ("_context", "_tokens")

    def __init__(self, context: dict[str, str]) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._tokens = bind_contextvars(**self._context)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        reset_contextvars(**self._tokens)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines; one that cannot be written is lost."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: the stream it would be said on is the one that failed."""


class _Formatter(ProcessorFormatter):
    """Formats whatever record comes."""

    def __init__(self, redact: Redaction, ids: _Ids, *, as_json: bool) -> None:
        self._redact = redact
        self._render = _as_json if as_json else _as_text
        super().__init__(processors=self._processors(ids))

    def _processors(self, ids: _Ids) -> list[Processor]:
        def traced(_logger: Any, _name: str, event: EventDict) -> EventDict:
            event.update(ids())
            return event

        return [
            merge_contextvars,
            traced,
            ExceptionRenderer(_stacks),
            self._line,
        ]

    def _line(self, _logger: Any, _name: str, event: EventDict) -> str:
        record: logging.LogRecord = event.pop("_record")
        del event["_from_structlog"]
        return self._written(record, event.pop("event", ""), event)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or one that says that it failed."""
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - runs whatever code was logged
            why = f"could not be formatted: {type(error).__name__}"
            return self._written(record, record.msg, {"log_line": why})

    def _written(
        self, record: logging.LogRecord, message: object, context: EventDict
    ) -> str:
        line = {
            "timestamp": _time(record.created),
            "level": record.levelname.lower(),
            "logger": phrase(record.name, self._redact, MAX_VALUE),
            "event": phrase(message, self._redact),
        }
        first = {name: context[name] for name in FIRST if name in context}
        ordered = {**first, **context}
        for name, value in list(ordered.items())[:MAX_ITEMS]:
            line.setdefault(name, _bounded(value, self._redact))
        encoded = self._redact.json(msgspec.json.encode(line))
        if len(encoded) > MAX_LINE:
            encoded = self._redact.json(msgspec.json.encode(_plain(line)))
        return self._render(encoded)


_stacks = ExceptionDictTransformer(
    show_locals=False,  # they hold whatever is worked on, secrets too
    max_frames=MAX_FRAMES,
    use_rich=False,
)


def _time(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bounded(value: object, redact: Redaction, depth: int = 0) -> Any:
    """Return what JSON has a form for, of bounded size."""
    if value is None or value is True or value is False:
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) in {dict, list, tuple}:
        return _inside(value, redact, depth + 1)
    return phrase(value, redact, MAX_VALUE)


def _inside(value: Any, redact: Redaction, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return CUT
    if isinstance(value, dict):
        return {
            phrase(name, redact, MAX_VALUE): _bounded(entry, redact, depth)
            for name, entry in list(value.items())[:MAX_ITEMS]
        }
    kept = [_bounded(entry, redact, depth) for entry in value[:MAX_ITEMS]]
    return kept if len(value) <= MAX_ITEMS else [*kept, CUT]


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: CUT if isinstance(value, (dict, list)) else value
        for name, value in line.items()
    }


def _as_json(encoded: bytes) -> str:
    """ASCII only: there are characters that some readers take for the line's end."""
    text = encoded.decode()
    if text.isascii():
        return text
    return json.dumps(msgspec.json.decode(encoded), separators=(",", ":"))


def _as_text(encoded: bytes) -> str:
    line = msgspec.json.decode(encoded)
    at, level, logger, event = (
        _printable(line.pop(name)) for name in ("timestamp", "level", "logger", "event")
    )
    error = line.pop("exception", None)
    context = "".join(f" {_printable(f'{k}={v}')}" for k, v in line.items())
    return "\n".join([f"{at} {level:<7} {logger}: {event}{context}", *_told(error)])


def _told(error: Any, indent: str = "    ") -> list[str]:
    """Write errors out, indented, so that nothing in them begins a line."""
    if not isinstance(error, list):
        return [] if error is None else [f"{indent}{_printable(str(error))}"]
    lines = []
    for stack in (stack for stack in error if isinstance(stack, dict)):
        told = f"{stack.get('exc_type')}: {stack.get('exc_value')}"
        lines.append(indent + _printable(told))
        lines += [
            f"{indent}  {_printable('{filename}:{lineno} {name}'.format_map(frame))}"
            for frame in stack.get("frames", ())
            if isinstance(frame, dict)
        ]
        for inner in stack.get("exceptions", ()):
            lines += _told(inner, indent + "    ")
    return lines


def _printable(text: str) -> str:
    """Write out what would move the cursor or begin a line."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )

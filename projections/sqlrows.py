"""What an SQL query came to as JSON: one message, or a stream of lines in pieces.

The stream is a line with ``columns`` and ``position``, one for each row (an array),
and a last one with ``done``. It is cut into pieces wherever one is full: whoever
puts the pieces together has the lines. Each piece is a request of its own, and the
next is sent when it was answered: nobody's memory has to hold them all.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from events.errors import TooLarge
from events.names import MAX_MESSAGE
from projections.queries import SqlRequest
from projections.readers import Flow, Question, Readers, Rows
from projections.values import plain

PIECE = 256 * 1024
"""Bytes of a piece."""

WHOLE = MAX_MESSAGE - 16 * 1024
"""Bytes of an answer in one message."""

LARGEST = 64 * 1024 * 1024
"""Bytes of a row: it has to be held at once, here and by whoever asked."""

FIRST = 64
"""Rows taken first; then as many as make some pieces, if they are like the last."""

MOST = 1_000
"""Rows taken at a time: some milliseconds, in a thread."""

_encode: Final = msgspec.json.Encoder().encode

Send = Callable[[bytes], Awaitable[None]]
"""Send a piece; returns when it was received."""


def question(request: SqlRequest) -> Question:
    """What is asked, and its limits."""
    return Question(sql=request.sql, limit=request.limit, seconds=request.timeout)


async def whole(readers: Readers, request: SqlRequest, position: int) -> bytes:
    """Answer in one message; raises TooLarge if it does not fit."""
    async with readers.flow(question(request)) as flow:
        rows: list[bytes] = []
        size = 0
        async for lines in _lines(flow):
            rows += lines
            size += sum(map(len, lines)) + len(lines)
            if size > WHOLE:
                raise TooLarge(
                    f"{len(rows):,} rows are {size:,} bytes, and a message has "
                    f"{WHOLE:,}: ask with `stream`, or for fewer rows or columns"
                )
    head = _encode(_columns(flow))
    more = b"true" if flow.more else b"false"
    return b'{"columns":%s,"rows":[%s],"more":%s,"next":null,"position":%d}' % (
        head,
        b",".join(rows),
        more,
        position,
    )


async def stream(
    readers: Readers, request: SqlRequest, position: int, send: Send
) -> bytes:
    """Answer in pieces; returns the last one."""
    count = 0
    async with readers.flow(question(request)) as flow:
        pending = bytearray(_encode({"columns": _columns(flow), "position": position}))
        pending += b"\n"
        async for lines in _lines(flow):
            count += len(lines)
            for line in lines:
                pending += line
                pending += b"\n"
            while len(pending) > PIECE:
                await send(bytes(pending[:PIECE]))
                del pending[:PIECE]
    end = {"done": True, "rows": count, "more": flow.more}
    return bytes(pending) + _encode(end) + b"\n"


async def _lines(flow: Flow) -> AsyncIterator[list[bytes]]:
    """The rows as JSON, some at a time: few, where they are large."""
    wanted = FIRST
    while rows := await flow.fetch(wanted):
        lines = await asyncio.to_thread(_written, rows)
        yield lines
        each = sum(map(len, lines)) // len(lines) + 1
        wanted = max(1, min(MOST, PIECE // each))


def _written(rows: Rows) -> list[bytes]:
    lines = [_encode([plain(value) for value in row]) for row in rows]
    largest = max(map(len, lines))
    if largest > LARGEST:
        raise TooLarge(
            f"a row has {largest:,} bytes, and {LARGEST:,} is the most: ask for less "
            "of it, with substr() for instance"
        )
    return lines


def _columns(flow: Flow) -> list[dict[str, Any]]:
    pairs = zip(flow.names, flow.types, strict=True)
    return [{"name": name, "type": type_} for name, type_ in pairs]

"""Answering what is asked of the read model: a request in, a page as JSON out."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from events.errors import InvalidInput, TooLarge
from events.names import EVENTS, MAX_MESSAGE
from projections import queries as q
from projections.cursor import Answer
from projections.keysets import Ordering, cursor_of, values_of
from projections.projector import Projector
from projections.readers import Question
from projections.selection import Select
from projections.selects import SELECTS

PAGE = MAX_MESSAGE - 32 * 1024
"""Bytes of a page: what every server takes, with room for headers and a cursor."""

QUICK = 5.0
"""Seconds for what takes milliseconds: then something is wrong."""

HEAVY = 30.0
"""Seconds for what looks at everything."""

AS_JSON: Final = frozenset({"metadata", "filter"})
"""Fields that are JSON in the database already."""

_encode = msgspec.json.Encoder().encode


def parsed(kind: type[Any], body: bytes) -> Any:
    """Read a request; raises InvalidInput with what is wrong in it, and where."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"{kind.subject}: {error}") from error


class Desk:
    """Answers queries from what a projector keeps."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector

    async def page(self, request: q.Request) -> bytes:
        """Answer a query; raises InvalidInput, Unavailable, TooLarge."""
        select = SELECTS[type(request)](request)
        question = _question(request, select)
        position = await self.reached(request.min_position, request.wait)
        answer = await self._projector.ask(question)
        return await asyncio.to_thread(_page, request, select, answer, position)

    async def answer(self, request: q.Request | q.Ordered) -> bytes:
        """Answer a query, or carry out an order; raises WakeError."""
        if isinstance(request, q.Ordered):
            return await self._order(request)
        return await self.page(request)

    async def _order(self, request: q.Ordered) -> bytes:
        """Do what only the process can that has the file open."""
        rebuilding = isinstance(request, q.RebuildRequest)
        work = self._projector.rebuild if rebuilding else self._projector.verify
        return _encode(await work())

    async def reached(self, position: int, seconds: float) -> int:
        """Wait for a position; returns one that all that is asked next has.

        What is read is of later, never of before: it is taken before the question.
        """
        if position > self.position:
            await self._projector.reached(position, seconds=seconds)
        return self.position

    @property
    def position(self) -> int:
        """How far EVENTS is folded."""
        return self._projector.positions[EVENTS]


def _question(request: q.Request, select: Select) -> Question:
    condition, bound = "true", dict[str, Any]()
    limit = q.MOST_ITEMS
    if isinstance(request, q.Paged):
        limit = request.limit
        values = values_of(request, select.ordering)
        if values is not None:
            condition, bound = select.ordering.beyond(values)
    return Question(
        sql=select.page(condition),
        values={**select.values, **bound, "most": limit + 1},
        limit=limit,
        seconds=HEAVY if select.heavy else QUICK,
        heavy=select.heavy,
        wide=select.wide,
    )


def _page(request: q.Request, select: Select, answer: Answer, position: int) -> bytes:
    """Write down as many items as fit a message, and how to go on after them."""
    names = select.item.__struct_fields__
    where = {
        name: answer.columns.index(name) for name in names if name in answer.columns
    }
    items: list[bytes] = []
    size = 0
    for row in answer.rows:
        item = _encode(
            select.item(**{n: _value(n, row[at]) for n, at in where.items()})
        )
        size += len(item) + 1
        if size > PAGE:
            break
        items.append(item)
    if answer.rows and not items:
        raise TooLarge("the first item does not fit a message: ask for it by wake show")
    cursor = None
    if isinstance(request, q.Paged) and (answer.more or len(items) < len(answer.rows)):
        last = answer.rows[len(items) - 1]
        cursor = cursor_of(request, _keys(select.ordering, answer.columns, last))
    body = b",".join(items)
    return b'{"items":[%s],"next":%s,"position":%d}' % (body, _encode(cursor), position)


def _keys(
    ordering: Ordering, columns: Sequence[str], row: Sequence[Any]
) -> Sequence[Any]:
    return [row[columns.index(key.column.strip('"'))] for key in ordering.keys]


def _value(name: str, value: Any) -> Any:
    """A value as it stands in an item; times say that they are UTC."""
    if name in AS_JSON:
        return msgspec.Raw((value or "{}").encode())
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    return value

"""``wake ls``, ``wake usage``, ``wake search``: what there is, over all executions."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import uvloop
from msgspec.structs import replace

from events.errors import OutcomeUnknown, Unavailable
from gateway.asked import Filters
from gateway.composition import BRIEFLY, Log, Place, hold, open_log
from gateway.listing import Row, chosen, row_of, rows_of, table
from gateway.output import complain, put, put_json
from gateway.querying import NoProjector, Queries
from gateway.reading import width_of
from gateway.readmodel import ask, opened
from gateway.settings import Settings
from gateway.shown import EMPTY, NONE_LIKE, Shown, aligned
from gateway.wording import one_line
from projections import queries as q


class Where(NamedTuple):
    """Where is asked, and how it is shown: at most ``limit`` items, if any."""

    place: Place
    settings: Settings
    limit: int | None
    as_json: bool


TIMES = {
    "created_from": "--since",
    "created_to": "--until",
    "updated_from": "--updated-since",
    "updated_to": "--updated-until",
    "from_": "--since",
    "to": "--until",
}
"""The flags of times."""

# ── executions ───────────────────────────────────────────────────────────────


def ls(where: Where, filters: Filters) -> None:
    """Print the executions that are asked for; raises WakeError."""
    request = filters.request()
    if where.place.empty:
        _end(where, filters, shown=0, there=0)
        return

    async def main() -> None:
        async with open_log(held) as log:
            if log.server is not None and filters.plain:
                await _from_log(where, filters, log)
                return
            try:
                async with opened(held, log, where.settings) as (queries, tip):
                    seen = replace(request, min_position=tip)
                    await _from_model(where, filters, seen, queries)
            except Unavailable as error:
                if not filters.plain:
                    raise
                if not isinstance(error, NoProjector):
                    complain(f"wake: {one_line(str(error))}; reading the log instead")
                await _from_log(where, filters, log)

    with hold(where.place, wait=BRIEFLY) as held:
        uvloop.run(main())


async def _from_log(where: Where, filters: Filters, log: Log) -> None:
    """Fold the whole log: no read model is kept here."""
    found = await rows_of(log)
    rows = chosen(found, filters.request().status)[: where.limit]
    _put_rows(where, rows, headed=True)
    _end(where, filters, shown=len(rows), there=len(found))


async def _from_model(
    where: Where, filters: Filters, request: q.ListRequest, queries: Queries
) -> None:
    shown, cursor = 0, None
    try:
        async for page in pages(queries.list, request, where.limit):
            _put_rows(where, [row_of(one) for one in page.items], headed=not shown)
            shown, cursor = shown + len(page.items), page.next
    except Unavailable as error:
        if not shown:
            raise
        raise OutcomeUnknown(f"this is not all of the list: {error}") from error
    there = 0
    if not shown and filters.given:
        there = len((await queries.count(q.CountRequest())).items)
    _end(where, filters, shown=shown, there=there)
    _go_on(where, request, cursor)


def _put_rows(where: Where, rows: Sequence[Row], *, headed: bool) -> None:
    if where.as_json:
        for row in rows:
            put_json(row)
    elif rows:
        for line in table(rows, width_of(), headed=headed):
            put(line)


def _end(where: Where, filters: Filters, *, shown: int, there: int) -> None:
    """Say why nothing was shown, if nothing was."""
    if shown or where.as_json:
        return
    if not there:
        put(EMPTY)
    elif filters.plain:
        put(f"none is {' or '.join(filters.request().status)}")
    else:
        put(NONE_LIKE)


def _go_on(where: Where, request: Any, cursor: str | None) -> None:
    """Say how to see what comes next, if something does.

    Times are said as they were understood: an hour ago is another one by then.
    """
    if cursor is None:
        return
    times = (
        f"{flag} {at.isoformat()} "
        for field, flag in TIMES.items()
        if (at := getattr(request, field, None)) is not None
    )
    say = complain if where.as_json else put
    say(f"there are more: the same with {''.join(times)}--after {cursor}")


# ── pages ────────────────────────────────────────────────────────────────────


async def pages(
    fetch: Callable[[Any], Awaitable[q.Page[Any]]], request: Any, limit: int | None
) -> AsyncIterator[q.Page[Any]]:
    """Fetch page after page, with ``limit`` items in all or all there are."""
    left = limit
    while True:
        most = q.MOST_ITEMS if left is None else min(left, q.MOST_ITEMS)
        page = await fetch(replace(request, limit=most))
        yield page
        left = None if left is None else left - len(page.items)
        if page.next is None or left == 0:
            return
        request = replace(request, cursor=page.next)


def show(where: Where, method: str, request: Any, shown: Shown) -> None:
    """Print what a query comes to; raises WakeError."""

    async def talk(queries: Queries, tip: int) -> tuple[list[Any], str | None]:
        asked = replace(request, min_position=tip)
        fetch = getattr(queries, method)
        if not isinstance(asked, q.Paged):
            return (await fetch(asked)).items, None
        items, cursor = [], None
        async for page in pages(fetch, asked, where.limit):
            items += page.items
            cursor = page.next
        return items, cursor

    items, cursor = ask(where.place, where.settings, talk)
    if where.as_json:
        for item in items:
            put_json(item)
    elif items:
        for line in aligned([shown.heads, *map(shown.cells, items)], width_of()):
            put(line)
    else:
        put(shown.none)
    _go_on(where, request, cursor)

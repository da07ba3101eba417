"""What there is: executions, their histories, their log lines."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import takewhile

import msgspec

from events.commit import Recorded
from events.errors import InvalidInput, NotFound
from events.execution import Execution
from gateway.web import portraits, shapes
from gateway.web.finding import existing, history_of
from gateway.web.operation import Call, Result
from projections import queries as q
from services.handler import utc_now

PATIENCE = 5.0
"""Seconds that a list waits for what it is to show at least."""

SEARCH = 8
"""Parts of a user's share that a search takes: it looks at everything."""

LARGEST = 1024 * 1024
"""Bytes of commits from which on a page of them has enough."""

_NUMBER = 18
"""Digits of a version, at most."""


async def listing(call: Call) -> Result:
    """One's own executions; for an admin everybody's, or those of ``user``."""
    asked: shapes.Listing = call.query
    if not call.who.admin and asked.user not in ("", call.who.user):
        page = shapes.AgentPage(items=(), next=None, position=asked.min_position)
        return Result(payload=page)
    with call.edge.asking.of(call.who.user, SEARCH if asked.text else 1):
        if asked.min_position:
            await _check_position(call, asked.min_position)
        found = await call.edge.queries.list(_request(call, asked))
    now = utc_now()
    page = shapes.AgentPage(
        items=tuple(portraits.listed(row, now) for row in found.items),
        next=found.next,
        position=found.position,
    )
    return Result(payload=page)


async def _check_position(call: Call, position: int) -> None:
    """Raise InvalidInput for one that nothing has: waiting for it would not help."""
    end = await call.edge.live.feed.past.last()
    if position > end:
        raise InvalidInput(f"query: min_position: {position} is past the end, {end}")


def _request(call: Call, asked: shapes.Listing) -> q.ListRequest:
    user = asked.user if call.who.admin else call.who.user
    return q.ListRequest(
        user=user or None,
        status=asked.status,
        agent=asked.agent_type or None,
        model=asked.model or None,
        parent=asked.parent or None,
        text=asked.text or None,
        metadata=_metadata(asked.metadata),
        created_from=asked.created_from,
        created_to=asked.created_to,
        updated_from=asked.updated_from,
        updated_to=asked.updated_to,
        sort=asked.sort,
        order=asked.order,
        limit=asked.limit,
        cursor=asked.cursor or None,
        min_position=max(asked.min_position, call.edge.seen.of(call.who.user)),
        wait=PATIENCE,
    )


def _metadata(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [pair.partition(":") for pair in given]
    return {name: value for name, _, value in pairs}


async def one(call: Call) -> Result:
    """An execution as it is, whatever the read model has."""
    key, history = await history_of(call)
    execution = Execution.fold(key, history)
    most = call.query.logs
    lines = await call.edge.logbook.read(key, limit=most) if most else []
    return Result(payload=portraits.detail(execution, utc_now(), tuple(lines)))


async def events(call: Call) -> Result:
    """The history of an execution, commit by commit."""
    asked: shapes.After = call.query
    _, history = await history_of(call)
    rest = map(portraits.commit, history[asked.after : asked.after + asked.limit])
    items = tuple(_fitting(rest))
    end = asked.after + len(items)
    page = shapes.HistoryPage(items=items, next=end if end < len(history) else None)
    return Result(payload=page)


def _fitting(commits: Iterable[shapes.History]) -> Iterator[shapes.History]:
    """As many as fit a page; at least one."""
    size = 0
    for one in commits:
        if size > LARGEST:
            return
        yield one
        size += len(msgspec.json.encode(one))


async def state(call: Call) -> Result:
    """An execution at a version or a time, with what was said until then."""
    key, history = await history_of(call)
    until = _until(call.query.at, history)
    if not until:
        raise NotFound(f"{key.execution} was not there yet at {call.query.at}")
    return Result(payload=portraits.snapshot(Execution.fold(key, until)))


def _until(at: str, history: list[Recorded]) -> list[Recorded]:
    """The history up to a version or time; raises InvalidInput."""
    if not at:
        return history
    if at.isascii() and at.isdigit():
        if len(at) > _NUMBER or not 1 <= int(at) <= len(history):
            raise InvalidInput(f"query: at: there are the versions 1 to {len(history)}")
        return history[: int(at)]
    moment = _moment(at)
    return list(takewhile(lambda r: r.commit.at <= moment, history))


def _moment(text: str) -> datetime:
    try:
        found = msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            "query: at: write a version, or a time as 2026-12-01T09:00:00Z"
        ) from error
    if found.tzinfo is None:
        raise InvalidInput("query: at: the time needs its zone, as 09:00:00Z")
    return found


async def logs(call: Call) -> Result:
    """Log lines of an execution."""
    asked: shapes.Lines = call.query
    key = await existing(call)
    found = await call.edge.logbook.read(
        key, after=asked.after_id, level=asked.level, limit=asked.limit
    )
    page = shapes.LogPage(
        items=tuple(map(portraits.line, found)),
        next=found[-1].id if found else asked.after_id,
    )
    return Result(payload=page)


async def limits(call: Call) -> Result:
    """How far one's own limits are used."""
    report = await call.edge.admission.limits(call.who.user, call.who.tier)
    return Result(payload=report)


async def agent_types(call: Call) -> Result:
    """The kinds of agents there are."""
    registry = call.edge.registry
    kinds = (portraits.kind(registry.spec(name)) for name in registry.names())
    return Result(payload=shapes.AgentTypes(items=tuple(kinds)))


async def own_token(call: Call) -> Result:
    """A feed token for all that is one's own."""
    return _token(call, call.who.user, None)


async def token(call: Call) -> Result:
    """A feed token for one execution."""
    key = await existing(call)
    return _token(call, key.user, key.execution)


def _token(call: Call, user: str, execution: str | None) -> Result:
    minted = call.edge.tokens.mint_feed(user, execution)
    return Result(payload=shapes.Token(token=minted.token, expires_at=minted.expires))

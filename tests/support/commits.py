"""Commits made by hand, chained as a history is."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count

from events.catalog import AnyEvent, MetadataWritten
from events.commit import GENESIS, Commit, Recorded, seal
from events.journal import Journal
from events.names import Key, Route

KEY = Key("ada", "run-1")
OTHER = Key("bob", "run-2")
_ids = count(1)


def commit(
    key: Key = KEY,
    previous: Recorded | None = None,
    *,
    route: Route = "log",
    size: int = 0,
    by: str = "tester",
    facts: tuple[AnyEvent, ...] = (),
) -> Recorded:
    """Make the commit that follows ``previous``, with ``size`` bytes to carry."""
    new = Commit(
        version=previous.commit.version + 1 if previous else 1,
        id=f"c{next(_ids)}",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        by=by,
        events=facts or (MetadataWritten(notes={"pad": "x" * size}),),
    )
    chain = previous.commit.chain if previous else GENESIS
    sealed, body = seal(new, key, chain)
    return Recorded(0, key, route, sealed, body)


async def write(
    journal: Journal,
    key: Key = KEY,
    routes: Sequence[Route] = ("log",),
    *,
    previous: Recorded | None = None,
    size: int = 0,
) -> list[Recorded]:
    """Append one commit for each route, one after the other."""
    written: list[Recorded] = []
    for route in routes:
        new = commit(key, previous, route=route, size=size)
        after = previous.position if previous else 0
        previous = await journal.append(new, after=after)
        written.append(previous)
    return written

"""The read model: its service, ``wake rebuild`` and ``wake verify --read-model``."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import uvloop

from events.bulk import Login
from events.errors import NotFound
from events.logstream import JetStreamLogbook
from events.rawstream import all_streams
from events.tablestream import JetStreamTimetable
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from gateway.address import Address
from gateway.composition import BRIEFLY, Held, Log, Place, address_of, hold, open_log
from gateway.output import put, put_json
from gateway.querying import NoProjector, Queries
from gateway.settings import Settings
from projections.projector import Projector
from projections.queries import Rebuilt, Verified
from projections.queryservice import QueryService
from projections.rebuild import Sources, swap
from projections.rebuild import rebuild as build
from projections.sole import owned
from projections.store import Store
from projections.verify import verify
from services.process import tune_collector

R = TypeVar("R")


def sources_of(wire: Wire, login: Address) -> Sources:
    """What the read model is made of."""
    to_read = Login(login.url, login.user, login.password)
    return Sources(*all_streams(wire, to_read))


async def provision(wire: Wire, settings: Settings) -> None:
    """Let every stream be there that the read model is made of."""
    replicas = settings.nats.replicas
    await JetStreamLogbook.open(wire, days=settings.logs.days, replicas=replicas)
    await JetStreamTriggers.open(wire, replicas=replicas)
    await JetStreamTimetable.open(wire, replicas=replicas)


class Viewing:
    """The projector as a service, with its queries. Ask ``projector``.

    ``patient`` is for where it is not alone: what shows things ends nothing else.
    """

    def __init__(
        self, wire: Wire, login: Address, file: Path, *, patient: bool
    ) -> None:
        self._wire = wire
        self.projector = Projector(file, sources_of(wire, login), patient=patient)

    async def run(self) -> None:
        """Serve until ``stop``; raises WakeError (in a group)."""
        async with asyncio.TaskGroup() as group:
            service = QueryService(self._wire, self.projector)
            serving = group.create_task(service.serve())
            await self.projector.run()
            serving.cancel()

    async def stop(self) -> None:
        """End in order."""
        await self.projector.stop()


def rebuild(settings: Settings, *, as_json: bool) -> None:
    """Build the read model anew; the service does it if there is one."""
    here = partial(_rebuild, settings.projector.file)
    done = _done(settings, Queries.rebuild, here)
    if as_json:
        put_json(done)
        return
    seconds = max(done.seconds, 0.001)
    rate = done.messages / seconds
    put(f"rebuilt: {done.messages:,} messages in {seconds:.1f} s, {rate:,.0f} a second")


def check(settings: Settings, *, as_json: bool) -> bool:
    """Compare every row with the log, and print what differs; True if nothing does."""
    here = partial(_verify, settings.projector.file)
    report = _done(settings, Queries.verify, here)
    if as_json:
        put_json(report)
        return not report.wrong
    for difference in report.differences:
        put(difference)
    if (left := report.wrong - len(report.differences)) > 0:
        put(f"… and {left:,} more")
    put(
        f"{report.executions:,} executions, {report.rows:,} rows, "
        f"{report.lines:,} log lines up to position {report.position:,}"
        + (f", {report.aside:,} messages put aside: " if report.aside else ": ")
        + (f"{report.wrong:,} differ" if report.wrong else "all as they must be")
    )
    return not report.wrong


def _done(
    settings: Settings,
    order: Callable[[Queries], Awaitable[R]],
    here: Callable[[Sources], Awaitable[R]],
) -> R:
    """Let the projector do it; where none is, do it here."""
    url = settings.nats.url
    login = settings.nats.login
    place = Place(settings.data, None if url is None else str(url), login)
    place.check()

    async def main(held: Held) -> R:
        async with open_log(held) as log:
            if log.server is None:
                with suppress(NoProjector):
                    return await order(Queries(log.wire))
            tune_collector()
            await provision(log.wire, settings)
            return await here(sources_of(log.wire, _login(held, log)))

    with hold(place, wait=BRIEFLY) as held:
        return uvloop.run(main(held))


def _login(held: Held, log: Log) -> Address:
    if isinstance(held, Address):
        return held
    assert log.server is not None  # noqa: S101 - on a folder of our own
    return address_of(log.server)


async def _rebuild(file: Path, sources: Sources) -> Rebuilt:
    with owned(file):
        done = await build(file, sources)
        swap(file)
    return done


async def _verify(file: Path, sources: Sources) -> Verified:
    with owned(file):
        store = await asyncio.to_thread(_open, file)
        try:
            return await verify(sources, store.cursor)
        finally:
            store.close()


def _open(file: Path) -> Store:
    if not file.exists():
        raise NotFound(f"there is no read model {file}: wake rebuild makes it")
    return Store.open(file)

"""A gateway as one of the services of a process."""

from contextlib import AsyncExitStack

from events.deltastream import NatsDeltas
from events.jetstream import JetStreamJournal
from events.logstream import JetStreamLogbook
from events.names import EVENTS, EVENTS_ALL, LOGS, LOGS_ALL
from events.pinned import JetStreamInbox
from events.rawstream import JetStreamRawLog
from events.tablestream import JetStreamTimetable
from events.triggerstream import JetStreamTriggers
from events.wire import Wire
from gateway.admitting import admission
from gateway.querying import Queries
from gateway.settings import Settings
from gateway.web.app import Front, check_reach, listening
from gateway.web.desk import Desk
from gateway.web.edge import Edge
from gateway.web.guard import Guard
from gateway.web.health import Health
from gateway.web.live import Live
from gateway.web.secret import tokens_of
from projections.livefeed import LiveFeed
from services import metrics
from services.agents.registry import Registry


async def open_gateway(
    stack: AsyncExitStack, settings: Settings, wire: Wire, journal: JetStreamJournal
) -> Front:
    """Listen as configured until ``stack`` is left; raises Misconfigured."""
    listen = settings.gateway.listen
    assert listen is not None  # noqa: S101 - who asks for a gateway was asked where
    check_reach(settings)
    stack.enter_context(metrics.counted())
    edge = await _edge(stack, settings, wire, journal)
    await stack.enter_async_context(edge.live.running(edge.leaving))
    return await stack.enter_async_context(listening(edge, listen))


async def _edge(
    stack: AsyncExitStack, settings: Settings, wire: Wire, journal: JetStreamJournal
) -> Edge:
    replicas, tokens = settings.nats.replicas, tokens_of(settings, make=True)
    inbox = await JetStreamInbox.open(wire, replicas=replicas)
    triggers = await JetStreamTriggers.open(wire, replicas=replicas)
    guard = Guard(tokens.authenticate, settings.gateway.origins)
    days, queries = settings.logs.days, Queries(wire)
    return Edge(
        settings=settings,
        wire=wire,
        journal=journal,
        inbox=inbox,
        logbook=await JetStreamLogbook.open(wire, days=days, replicas=replicas),
        timetable=await JetStreamTimetable.open(wire, replicas=replicas),
        triggers=triggers,
        desk=await stack.enter_async_context(Desk.open(wire, inbox, journal, triggers)),
        queries=queries,
        admission=await admission(wire, journal, settings),
        registry=Registry.load(settings.agents.file),
        tokens=tokens,
        guard=guard,
        health=Health(wire, queries),
        live=Live(live_feed(wire), guard),
    )


def live_feed(wire: Wire) -> LiveFeed:
    """The live feed of a server, to be run."""
    events = JetStreamRawLog(wire, EVENTS, (EVENTS_ALL,))
    logs = JetStreamRawLog(wire, LOGS, (LOGS_ALL,))
    return LiveFeed(events, logs, NatsDeltas(wire))

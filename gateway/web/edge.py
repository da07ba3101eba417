"""What the handlers of the edge work with: one of these in each gateway."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from events.inbox import Inbox
from events.journal import Journal
from events.logbook import Logbook
from events.timetable import Timetable
from events.triggers import Triggers
from events.wire import Wire
from gateway.querying import Queries
from gateway.settings import Settings
from gateway.web.attending import Attendant
from gateway.web.desk import Desk
from gateway.web.guard import Guard
from gateway.web.health import Health
from gateway.web.identity import Authenticate
from gateway.web.live import Live
from gateway.web.seen import Seen
from gateway.web.share import Share
from gateway.web.tokens import Tokens
from services.admission import Admission
from services.agents.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One gateway: its connection, what it reads and asks, who may come in.

    ``leaving`` is set once it is told to end: what never ends by itself then does.
    """

    settings: Settings
    wire: Wire
    journal: Journal
    inbox: Inbox
    logbook: Logbook
    timetable: Timetable
    triggers: Triggers
    desk: Desk
    queries: Queries
    admission: Admission
    registry: Registry
    tokens: Tokens
    guard: Guard
    health: Health
    live: Live
    seen: Seen = field(default_factory=Seen)
    asking: Share = field(default_factory=Share)
    attendant: Attendant = field(default_factory=Attendant)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def authenticate(self) -> Authenticate:
        """Verify a token; prefer ``guard.login``, which counts what fails."""
        return self.tokens.authenticate


EDGE: Final = web.AppKey("edge", Edge)
"""Where an application keeps it."""


def edge_of(request: web.Request) -> Edge:
    """The gateway that a request came to."""
    return request.app[EDGE]

"""What admission costs a start: over many users, and of one who starts a great deal.

As in ``benchmarks.commands``, from before the publish to the answer; the commands
come in at the gateway's door, with a tier. Beside each figure stands the same
without admission. No execution ends, so that many users have few starts each.
"""

import asyncio
from functools import partial

import msgspec
import uvloop

from benchmarks.commands import CLIENTS, Ask, latencies, rate
from benchmarks.server import connected, fresh_server
from benchmarks.table import Figure, options, p50, show
from events.jetstream import JetStreamJournal
from events.names import ASKED_BY, TIER, Key
from events.pinned import JetStreamInbox
from events.quota import Allotment
from events.spec import AgentSpec
from events.wire import Wire
from gateway import admitting
from gateway.settings import Settings
from services.admission import Admission
from services.allowed import Allowed
from services.embedded import EmbeddedServer
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.process import tune_collector
from services.tiers import Tier, Tiers

USERS = 1_000
"""Many users: none of them has more starts than may run at a time."""

BUSY = Allotment(None, 1_000_000)
"""What one user may who starts a great deal: each start is still counted."""


class Starter:
    """A client that starts executions of users, as the gateway does."""

    def __init__(self, inbox: JetStreamInbox, prefix: str) -> None:
        self._inbox, self._prefix = inbox, prefix
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def listen(self) -> None:
        """Hear the answers to all commands of all users."""
        async with self._inbox.answers("*", "*") as answers:
            while True:
                answer = msgspec.json.decode(await answers.get())
                assert answer["accepted"], answer  # noqa: S101 - or nothing is measured
                self._waiting.pop(answer["command_id"]).set_result(None)

    async def ask(self, number: int, *, one: bool) -> None:
        """Start one, of one user or of many."""
        command = f"{self._prefix}{number}"
        user = f"{self._prefix}one" if one else f"{self._prefix}u{number % USERS}"
        self._waiting[command] = asyncio.get_running_loop().create_future()
        body = {"command_id": command, "agent_type": "bench", "input": "go"}
        await self._inbox.publish(
            Key(user, f"e{number}"),
            "start",
            msgspec.json.encode(body),
            door="gateway",
            headers={ASKED_BY: user, TIER: "busy" if one else "enterprise"},
        )
        await self._waiting[command]


async def admission(wire: Wire, journal: JetStreamJournal) -> Admission:
    """Admission as it is configured, with one tier more."""
    settings = Settings()
    tiers = admitting.tiers_of(settings.limits) | {"busy": Tier("busy", BUSY)}
    known = Tiers(tiers, await admitting.accounts(wire))
    return Admission(Handler(journal, "admission"), await admitting.quotas(wire), known)


async def measured(
    server: EmbeddedServer, count: int, *, admitting_: bool
) -> list[float]:
    """Latency and rate of many users, then of one."""
    async with connected(server) as mine, connected(server) as theirs:
        journal = await JetStreamJournal.open(mine)
        lifecycle = Lifecycle(
            Handler(journal, "lifecycle"),
            await JetStreamInbox.open(mine),
            lambda name, _: AgentSpec(name=name),
            Allowed([]),
            admission=await admission(mine, journal) if admitting_ else None,
        )
        starter = Starter(JetStreamInbox(theirs), "a" if admitting_ else "n")
        async with asyncio.TaskGroup() as group:
            group.create_task(lifecycle.run())
            listening = group.create_task(starter.listen())
            await asyncio.sleep(0)  # let it subscribe before anything is answered
            await theirs.client.flush()
            figures = []
            for first, one in ((0, False), (10 * count, True)):
                figures += await _both(partial(starter.ask, one=one), first, count)
            await lifecycle.stop()
            listening.cancel()
    return figures


async def _both(ask: Ask, first: int, count: int) -> list[float]:
    async def later(number: int) -> None:
        await ask(first + number)

    starts = await rate(ask, first + count, count)
    return [p50(await latencies(later, count // 4)), starts]


async def main() -> None:
    """Measure and print."""
    asked = options(__doc__ or "")
    count = 2_000 if asked.quick else 10_000
    async with fresh_server("always") as server:
        without = await measured(server, count, admitting_=False)
        figures = await measured(server, count, admitting_=True)
    names = [
        ("admitted start p50, many users (ms)", "ms"),
        ("admitted starts/s, many users", "starts/s"),
        ("admitted start p50, one user (ms)", "ms"),
        ("admitted starts/s, one user", "starts/s"),
    ]
    rows = [
        Figure(name, mine, unit, bare)
        for (name, unit), mine, bare in zip(names, figures, without, strict=True)
    ]
    show(f"starts with admission, {CLIENTS} clients", rows, as_json=asked.json)


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main())

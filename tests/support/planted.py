"""Bugs to plant into the production code: a simulation has to find each of them.

Each is one of the ways in which durable execution goes wrong elsewhere, or went
wrong here. ``PLANTED`` says of each what it breaks, in the auditor's words.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from events import quota
from events.commit import Recorded, seal
from events.errors import Conflict, Stale
from events.execution import Execution
from events.inbox import Order
from events.journal import Journal, Work
from events.messages import Reply
from events.register import MemoryRegister
from events.running import Running
from events.state import Call
from services.agents.loop import Drive
from services.handler import Handler
from services.lease import Holding
from services.lifecycle import Lifecycle
from services.runner import Runner

Patch = pytest.MonkeyPatch


def work_is_acknowledged_first(patch: Patch) -> None:
    """Before the commit that parks or ends the execution is in the log."""
    work = Runner._work

    async def early(self: Runner, holding: Holding) -> bool:
        await holding.work.done()
        return await work(self, holding)

    patch.setattr(Runner, "_work", early)


def old_decisions_are_rebased(patch: Patch) -> None:
    """On a conflict the same events are put behind the commit that won."""
    append = Journal.append

    async def blind(self: Journal, new: Recorded, *, after: int) -> Recorded:
        while True:
            try:
                return await append(self, new, after=after)
            except Conflict:
                last = (await self.read(new.key, at_least=await self.tip(new.key)))[-1]
                new, after = _behind(new, last), last.position

    patch.setattr(Journal, "append", blind)


def _behind(new: Recorded, last: Recorded) -> Recorded:
    bare = msgspec.structs.replace(
        new.commit, version=last.commit.version + 1, chain=""
    )
    sealed, body = seal(bare, new.key, last.commit.chain)
    return new._replace(commit=sealed, body=body)


def zombies_acknowledge(patch: Patch) -> None:
    """Who was overtaken settles the work that another holds by now."""
    settle = Runner._settle

    async def always(self: Runner, holding: Holding, *, done: bool) -> None:
        await settle(self, holding, done=done or holding.stopped != "released")

    patch.setattr(Runner, "_settle", always)


def taken_work_is_acknowledged(patch: Patch) -> None:
    """Who comes late to a work that another has begun settles it (it was so here)."""
    begin = Runner._begin

    async def lenient(self: Runner, work: Work) -> Execution | None:
        try:
            return await begin(self, work)
        except Stale:
            return None

    patch.setattr(Runner, "_begin", lenient)


def tools_run_before_it_is_recorded(patch: Patch) -> None:
    """An irreversible tool runs as soon as the model asks, and is recorded then."""

    async def eager(self: Drive, reply: Reply) -> None:
        state = self.execution.state
        soon = msgspec.structs.replace(state, steps=state.steps + 1)
        results = self._caller.at_once(state, reply.tool_calls)
        for c in reply.tool_calls:
            if (
                state.agent.effect(c.name) == "irreversible"
                and c.name in soon.agent.effects
            ):
                call = Call(id=c.id, name=c.name, arguments=c.arguments)
                results.append(await self._caller.run(soon, call, 60.0))
        await self._decide(
            partial(
                Execution.respond, attempt=self._attempt, reply=reply, results=results
            )
        )

    patch.setattr(Drive, "_take", eager)


def tool_starts_are_not_recorded(patch: Patch) -> None:
    """Nothing in the log says that an irreversible tool may have run."""
    patch.setattr(Running, "_mark_irreversible", lambda _self, _calls: None)


def applied_commands_are_forgotten(patch: Patch) -> None:
    """A command that comes again is decided again."""
    committed = Execution.committed

    def forgetful(self: Execution, recorded: Recorded) -> None:
        committed(self, recorded)
        self.state.applied.clear()

    patch.setattr(Execution, "committed", forgetful)


def own_commits_are_not_known(patch: Patch) -> None:
    """After a lost acknowledgement the own commit counts as a stranger's."""

    async def blind(_self: Journal, new: Recorded, after: int, _last: Any) -> Recorded:
        raise Conflict(f"{new.key}: something follows {after}")

    patch.setattr(Journal, "_look", blind)


def commands_are_settled_first(patch: Patch) -> None:
    """Before they are decided and answered."""
    answer = Lifecycle._answer

    async def early(self: Lifecycle, order: Order, command: str) -> bool:
        await self._inbox.done(order)
        return await answer(self, order, command)

    patch.setattr(Lifecycle, "_answer", early)


def stale_reads_decide(patch: Patch) -> None:
    """What an old state says to be so already is believed (it was so here)."""

    async def never(_self: Handler, _execution: Execution) -> bool:
        return False

    patch.setattr(Handler, "_behind", never)


def signals_rewind(patch: Patch) -> None:
    """After a signal the history is read with no care for how old the answer is."""

    async def careless(self: Drive) -> None:
        self.execution = await self._handler.load(self.execution.key)

    patch.setattr(Drive, "_reload", careless)


def starts_are_counted_each_time(patch: Patch) -> None:
    """One that comes again after a crash counts as another."""
    patch.setattr(quota, "_known", lambda _quota, _claim: False)


def quotas_are_overwritten(patch: Patch) -> None:
    """Whoever writes last wins."""
    write = MemoryRegister.write

    async def careless(
        self: MemoryRegister, key: str, value: bytes, *, after: int
    ) -> int:
        del after
        last = (await self.read(key)).revision
        return await write(self, key, value, after=last)

    patch.setattr(MemoryRegister, "write", careless)


PLANTED: dict[Callable[[Patch], None], str] = {
    work_is_acknowledged_first: "nobody holds it",
    old_decisions_are_rebased: "not lawful",
    zombies_acknowledge: "nobody holds it",
    taken_work_is_acknowledged: "nobody holds it",
    tools_run_before_it_is_recorded: "ran 2 times, it may 1",
    tool_starts_are_not_recorded: "ran 2 times, it may 1",
    applied_commands_are_forgotten: "is recorded 2 times",
    own_commits_are_not_known: "were open",
    commands_are_settled_first: "was never answered",
    stale_reads_decide: "was judged by version",
    signals_rewind: "again",
    starts_are_counted_each_time: "is counted",
    quotas_are_overwritten: "admitted or created, not both",
}

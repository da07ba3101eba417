"""Subagents: started when their parent asked, ended with it; it is told of their end.

A runner only records ``child_spawned`` and parks the parent. Everything else is
done here, from what the log says at the time: of a parent and those of its
subagents that it was not told about the histories are looked at, and what is
missing is appended. So it does not matter how much of it a reactor that died, or
another one beside this, has done already.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from events import catalog as e
from events import control, inheritance
from events.commands import Cancel, Kill
from events.commit import Recorded
from events.errors import Corrupt, Deleted, NotAllowedNow, Refused, Retryable, WakeError
from events.execution import Execution
from events.messages import Usage
from events.names import Key
from events.spec import AgentSpec
from events.state import State
from services.handler import Handler
from services.lifecycle import Resolve
from services.tools.base import clip

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Families seen to at once: bounds the histories in memory."""

RETRY = 0.5
"""Seconds until what the log did not take is tried again."""

SUMMARY = 8 * 1024
"""Bytes of what a parent's model is told of a subagent: it reads it at each step."""


ASKED, BORN = -1, 0
"""What is known of a subagent before its end; then it is the position of that."""


@dataclass(slots=True, eq=False)
class Family:
    """A parent, and those of its subagents that it may still have to be told about.

    ``seen`` is the parent's last position, ``over`` and ``killed`` tell how it ended.
    It is in somebody's hands while ``due``; when it is ``called`` meanwhile, once more.
    """

    parent: Key
    children: dict[str, int] = field(default_factory=dict)
    seen: int = 0
    over: bool = False
    killed: bool = False
    due: bool = False
    called: bool = False

    @property
    def wanting(self) -> list[str]:
        """The subagents for which something has to be done."""
        if self.over:
            return [child for child, end in self.children.items() if end <= BORN]
        return [child for child, end in self.children.items() if end != BORN]


class End(NamedTuple):
    """How a subagent ended, as its parent is told."""

    status: str
    summary: str
    usage: Usage = Usage()
    cost: float | None = None
    unpriced: int = 0


class Children:
    """Brings families on; see the top.

    The index has only subagents that run or that their parent was not told about.
    """

    def __init__(self, handler: Handler, resolve: Resolve) -> None:
        self._handler, self._resolve = handler, resolve
        self._families: dict[Key, Family] = {}
        self._family_of: dict[Key, Family] = {}
        self._due: asyncio.Queue[Family] | None = None

    # ── the index ────────────────────────────────────────────────────────────

    def see(self, recorded: Recorded) -> None:
        """Note who has subagents, and how these and their parents stand."""
        key = recorded.key
        for fact in recorded.commit.events:
            match fact:
                case e.ChildSpawned(child=child):
                    self._spawned(key, child)
                case e.ChildFinished(child=child):
                    self._drop(key, child)
                case e.Forked():
                    self._drop_all(key)  # what was copied is another's
        if (family := self._families.get(key)) is not None:
            self._seen_parent(family, recorded)
        if (family := self._family_of.get(key)) is not None:
            self._seen_child(family, recorded)

    def _spawned(self, parent: Key, child: str) -> None:
        key = Key(parent.user, child)
        if key not in self._family_of:  # else a copy that names those of its source
            family = self._families.setdefault(parent, Family(parent))
            family.children[child] = ASKED
            self._family_of[key] = family

    def _seen_parent(self, family: Family, recorded: Recorded) -> None:
        family.seen, family.over = recorded.position, recorded.route == "finished"
        family.killed = any(
            isinstance(fact, e.Cancelled) and fact.forced
            for fact in recorded.commit.events
        )
        for child, end in list(family.children.items()):
            if end > BORN and family.over:  # nobody is left to be told
                self._drop(family.parent, child)
        self._call(family)

    def _seen_child(self, family: Family, recorded: Recorded) -> None:
        child = recorded.key.execution
        family.children[child] = max(BORN, family.children[child])
        if recorded.route == "finished" or _foreign(recorded, family.parent):
            family.children[child] = recorded.position
            if family.over:
                self._drop(family.parent, child)
            self._call(family)

    def _drop(self, parent: Key, child: str) -> None:
        """Be done with a subagent; asking twice is fine."""
        family = self._families.get(parent)
        if family is None or child not in family.children:
            return
        del family.children[child]
        del self._family_of[Key(parent.user, child)]
        if not family.children:
            del self._families[parent]

    def _drop_all(self, parent: Key) -> None:
        family = self._families.get(parent)
        for child in list(family.children) if family else ():
            self._drop(parent, child)

    def _call(self, family: Family) -> None:
        """Let somebody see to a family, once everything of before has been seen."""
        if self._due is None or not family.wanting:
            return
        family.called = True
        if not family.due:
            family.due = True
            self._due.put_nowait(family)

    # ── what is done ─────────────────────────────────────────────────────────

    async def run(self) -> None:
        """See to every family that wants something."""
        self._due = asyncio.Queue()
        for family in self._families.values():
            self._call(family)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work(self._due))

    async def _work(self, due: asyncio.Queue[Family]) -> None:
        while True:
            family = await due.get()
            family.called = False
            await self._see_to(family)
            family.due = False
            if family.called:
                self._call(family)

    async def _see_to(self, family: Family) -> None:
        """Do what a family wants; try until the log has said yes or no."""
        while family.wanting:
            try:
                await self._bring_on(family)
            except Retryable as error:
                logger.warning("subagents of %s: %s", family.parent, error)
                await asyncio.sleep(RETRY)
            except WakeError as error:
                logger.error("subagents of %s: %s", family.parent, error)  # noqa: TRY400
                return
            else:
                return

    async def _bring_on(self, family: Family) -> None:
        """Look at the parent, and do for each subagent what is missing."""
        parent = await self._handler.load(family.parent, at_least=family.seen)
        for child in family.wanting:
            if parent.state.final:
                await self._end(family, parent.state, child)
            elif _waits_for(parent.state, child):
                end = await self._attend(family, parent.state, child)
                if end is not None:
                    parent = await self._tell(parent, child, end)

    async def _end(self, family: Family, parent: State, child: str) -> None:
        """End a subagent with its parent; one that did not begin never will."""
        why = f"its parent {parent.id} {_VERBS.get(parent.status, parent.status)}"
        kind = Kill if family.killed else Cancel

        def decide(execution: Execution) -> None:
            execution.abandon()
            state = execution.state
            if inheritance.is_child(state, family.parent) and not state.final:
                kind(reason=why).decide(execution)

        key = Key(parent.user, child)
        try:
            execution = await self._handler.handle(
                key, decide, cause=f"ended-with-{parent.id}"
            )
        except (
            Corrupt,
            Deleted,
        ) as error:  # its brothers and sisters must not go on for it
            logger.error("%s does not end: %s", key, error)  # noqa: TRY400
            return
        state = execution.state
        if state.final or not inheritance.is_child(state, family.parent):
            self._drop(family.parent, child)

    async def _attend(self, family: Family, parent: State, child: str) -> End | None:
        """Start a subagent, or say how it ended; None while it is under way."""
        key = Key(parent.user, child)
        try:
            known = await self._handler.load(
                key, at_least=family.children.get(child, 0)
            )
            execution = await self._begun(parent, key, known)
        except (Corrupt, Deleted) as error:
            return End("failed", f"It cannot be read any more: {error}")
        state = execution.state
        if not inheritance.is_child(state, family.parent):
            return End("failed", f"Its id {child} belongs to another execution.")
        return _end_of(state) if state.final else None

    async def _begun(self, parent: State, key: Key, known: Execution) -> Execution:
        """Begin its history, unless that is done; what cannot run fails at once."""
        if known.state.version:
            return known
        child, failed = parent.children[key.execution], None
        try:
            agent = self._agent(parent, child.agent)
        except Refused as error:
            agent = AgentSpec(name=child.agent)
            failed = e.Failed(error=error.code, message=str(error), retryable=False)
        created = inheritance.created(parent, child, agent)
        return await self._handler.handle(
            key,
            partial(Execution.beget, created=created, failed=failed),
            cause=f"spawned-{key.execution}",
            known=known,
        )

    def _agent(self, parent: State, name: str) -> AgentSpec:
        """The agent of a subagent; raises Refused."""
        now = self._handler.clock()
        spent = inheritance.spent(parent, now)
        if spent:
            raise NotAllowedNow(f"nothing is left of its parent's {spent}")
        return inheritance.heir(self._resolve(name, None), parent, now)

    async def _tell(self, parent: Execution, child: str, end: End) -> Execution:
        """Tell a parent how a subagent ended; returns the parent after it."""
        return await self._handler.handle(
            parent.key,
            partial(Execution.finish_child, child=child, **end._asdict()),
            cause=f"ended-{child}",
            known=parent,
        )


def _foreign(recorded: Recorded, parent: Key) -> bool:
    """Whether this begins an execution that is nobody's subagent, or another's."""
    first = recorded.commit.events[0]
    if not isinstance(first, e.Created):
        return False
    return first.parent is None or first.parent.execution != parent.execution


def _waits_for(parent: State, child: str) -> bool:
    """Whether a parent has to be told about it; a copy names those of its source."""
    known = parent.children.get(child)
    if known is None or known.status != "running":
        return False
    own = control.child_id(parent.user, parent.id, parent.steps, known.call_id)
    return child == own


_VERBS = {"cancelled": "was cancelled"}


def _end_of(state: State) -> End:
    summary = clip(_summary(state), SUMMARY)
    return End(state.status, summary, state.usage, state.cost, state.unpriced)


def _summary(state: State) -> str:
    """What a parent's model is told: the answer, or why there is none."""
    if state.failure is not None:
        return f"The subagent failed: {state.failure.error}: {state.failure.message}"
    if state.status == "cancelled":
        why = f": {state.cancel_reason}" if state.cancel_reason else "."
        return f"The subagent was cancelled{why}"
    if state.finish_reason == "final_answer":
        return state.output or "The subagent ended without a word."
    return (
        f"The subagent ended at its limit ({state.finish_reason}), so this may be "
        f"incomplete: {state.output}"
    )

"""What a subagent gets from its parent: never more than its parent has left.

Tokens and money that a subagent uses count on its parent in the end, so those
that run side by side share what is left. Steps and running time do not add up:
each may have as much as its parent has left.
"""

from datetime import datetime

import msgspec

from events.catalog import Created, Parent
from events.names import Key
from events.spec import AgentSpec, Limits
from events.state import Child, State

INHERITED = AgentSpec(name="").model
"""The model of a type that names none: its subagents work with their parent's."""


def left(state: State, now: datetime) -> Limits:
    """What is left of an execution's limits; 0 or less: nothing."""
    limits = state.agent.limits
    cost = limits.max_cost
    return msgspec.structs.replace(
        limits,
        max_steps=limits.max_steps - state.steps,
        max_tokens=limits.max_tokens - state.usage.total,
        max_cost=None if cost is None else cost - state.cost,
        timeout=limits.timeout - state.running_time(now),
    )


def spent(state: State, now: datetime) -> str | None:
    """The name of a limit of which nothing is left."""
    rest = left(state, now)
    for name in ("max_steps", "max_tokens", "max_cost", "timeout"):
        value = getattr(rest, name)
        if value is not None and value <= 0:
            return name
    return None


def share(own: Limits, parent: State, now: datetime) -> Limits:
    """The limits of one of the subagents that run; ``spent`` must be None."""
    rest = left(parent, now)
    count = max(1, sum(c.status == "running" for c in parent.children.values()))
    cost = None if rest.max_cost is None else rest.max_cost / count
    return msgspec.structs.replace(
        own,
        max_steps=min(own.max_steps, rest.max_steps),
        max_tokens=min(own.max_tokens, max(1, rest.max_tokens // count)),
        max_cost=_least(own.max_cost, cost),
        timeout=min(own.timeout, rest.timeout),
    )


def heir(own: AgentSpec, parent: State, now: datetime) -> AgentSpec:
    """The agent of a subagent: its type, and no freer than its parent.

    What a person has to approve for the parent, they approve for it too. It goes no
    deeper, and works with its parent's model unless its type names one.
    """
    above = parent.agent
    approvals = dict.fromkeys((*own.approvals, *above.approvals))
    return msgspec.structs.replace(
        own,
        model=above.model if own.model == INHERITED else own.model,
        approvals=tuple(name for name in approvals if name in own.tools),
        limits=share(own.limits, parent, now),
        max_depth=min(own.max_depth, above.max_depth),
    )


def created(parent: State, child: Child, agent: AgentSpec) -> Created:
    """How the history of a subagent begins."""
    above = parent.parent
    urgent = parent.lane == "agents_priority"
    return Created(
        agent=agent,
        input=child.prompt,
        lane=parent.lane if urgent else agent.lane,
        workspace=parent.workspace,
        parent=Parent(
            execution=parent.id,
            call_id=child.call_id,
            depth=(above.depth if above else 0) + 1,
            root=(above and above.root) or parent.id,
        ),
    )


def is_child(state: State, parent: Key) -> bool:
    """Whether this execution is a subagent of that one."""
    above = state.parent
    return above is not None and Key(state.user, above.execution) == parent


def _least(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return min(known, default=None)

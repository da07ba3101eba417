"""What ``wake run`` was asked for, checked: nothing is appended before all is well."""

from abc import ABC, abstractmethod
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from events.catalog import Created
from events.commands import Resume
from events.errors import InvalidInput, NotFound
from events.execution import Execution
from events.journal import Journal
from events.names import Key, check_id
from events.spec import AgentSpec
from events.state import State
from gateway.composition import Bench, Log
from services.agents.loop import Means
from services.agents.open import open_model
from services.agents.registry import Registry
from services.handler import Decision, utc_now
from services.ids import new_id
from services.tools.toolbox import TOOLS
from services.tools.workspace import Workspace

DEFAULT_AGENT = "explorer"

NEED_A_SERVICE = ("spawn_agent", "await_event")
"""Tools that wait for what a reactor brings; ``wake run`` alone has none."""

MAX_PROMPT = 256 * 1024
"""Bytes of a prompt: it is told to the model again with every step."""


@dataclass(frozen=True)
class Plan:
    """What is to be done: a decision about an execution, or only to look at it."""

    key: Key
    decide: Decision | None
    said: tuple[str, ...] = ()


class Order(ABC):
    """Something that ``wake run`` can do; ``user`` is on whose behalf."""

    user: str

    @abstractmethod
    async def plan(self, log: Log, bench: Bench, means: Means) -> Plan:
        """Check all that needs the log and the tools; appends nothing."""


class Start(Order):
    """A new execution; raises what is wrong with it when it is made."""

    def __init__(
        self, prompt: str, *, agent: str, model: str | None, workspace: Path, user: str
    ) -> None:
        self.user = check_id(user, "user")
        self._registry = Registry.load()
        self._agent, self._model, self._prompt = agent, model, _said(prompt)
        self._workspace = _directory(workspace)
        spec = self._registry.spec(agent)
        self._opened = open_model(model or spec.model)

    def _created(self, spec: AgentSpec) -> Created:
        return Created(
            agent=spec, input=self._prompt, lane=spec.lane, workspace=self._workspace
        )

    async def plan(self, log: Log, bench: Bench, means: Means) -> Plan:
        """Give it an id and the tools that there are."""
        spec = self._registry.resolve(
            self._agent, model=self._model, effects=TOOLS, offered=bench.tools
        )
        said = _lacking(bench, self._registry.spec(self._agent).tools)
        if log.server is not None:
            spec, alone = _alone(spec)
            said += alone
        means.models[spec.model] = self._opened
        return Plan(
            key=Key(self.user, new_id(utc_now())),
            decide=partial(Execution.create, created=self._created(spec)),
            said=said,
        )


class Resumption(Order):
    """An execution that is there already, to be brought to its end."""

    def __init__(self, execution: str, *, user: str) -> None:
        self.user = check_id(user, "user")
        self._id = check_id(execution)

    async def plan(self, log: Log, bench: Bench, means: Means) -> Plan:
        """Find out what it needs. Raises NotFound, InvalidInput, Misconfigured."""
        key = await find(log.journal, self._id, user=self.user)
        execution = Execution.fold(key, await log.journal.read(key))
        state = execution.state
        if state.final or state.status in ("awaiting_input", "awaiting_event"):
            return Plan(key, None)
        _check_workspace(state)
        await means.model(state.agent.model)
        lacking = _lacking(bench, state.agent.tools)
        if state.status == "paused":
            return Plan(key, Resume().decide, lacking)
        if log.server is None:
            return Plan(key, None, (*lacking, _leased(state)))
        # We hold the data folder, so whoever worked on it there is gone.
        recover = partial(
            Execution.recover, attempt=state.attempt, reason="its process was gone"
        )
        return Plan(key, recover, lacking)


def ordered(
    prompt: str | None,
    *,
    resume: str | None,
    agent: str | None,
    model: str | None,
    workspace: Path | None,
    user: str,
) -> Order:
    """The order that these flags mean; raises InvalidInput if they mean none."""
    if resume is None:
        if prompt is None:
            raise InvalidInput(
                'say what the agent is to do: wake run "PROMPT"; or go on with an '
                "execution: wake run --resume ID"
            )
        where = workspace or Path()
        name = agent or DEFAULT_AGENT
        return Start(prompt, agent=name, model=model, workspace=where, user=user)
    given = {"prompt": prompt, "--agent": agent, "--model": model}
    given["--workspace"] = str(workspace) if workspace else None
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise InvalidInput(
            f"--resume goes on with what was asked: leave out {' and '.join(names)}, "
            "or start anew without --resume"
        )
    return Resumption(resume, user=user)


async def find(journal: Journal, execution: str, *, user: str = "local") -> Key:
    """The key of an execution: of this user's, else whoever's it is.

    Raises NotFound, and InvalidInput when several users have one of this id.
    """
    own = Key(user, check_id(execution))
    if await journal.tip(own):
        return own
    found: set[Key] = set()
    async with aclosing(journal.follow(live=False, whole=False)) as runs:
        async for run in runs:
            found |= {r.key for r in run if r.key.execution == execution}
    if not found:
        raise NotFound(
            f"there is no execution {execution!r} here: wake ls shows those there are"
        )
    if len(found) > 1:
        users = ", ".join(sorted(key.user for key in found))
        raise InvalidInput(f"several users have {execution!r}: name one of {users}")
    return found.pop()


def _said(prompt: str) -> str:
    if not prompt.strip():
        raise InvalidInput("the prompt is empty: say what the agent is to do")
    try:
        size = len(prompt.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("the prompt is not UTF-8: write it in UTF-8") from error
    if size > MAX_PROMPT:
        raise InvalidInput(
            f"the prompt is too long: {size:,} bytes, at most {MAX_PROMPT:,}; put it "
            "into a file of the workspace and name that file"
        )
    return prompt


def _directory(path: Path) -> str:
    """The workspace's absolute path, once it was seen to be usable."""
    with Workspace(path) as workspace:
        found = str(workspace.root)
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"the workspace {found!r} has a name that is not UTF-8: rename it"
        ) from error
    return found


def _check_workspace(state: State) -> None:
    """Raise InvalidInput unless the directory of the history is still there."""
    if state.workspace is None:
        raise InvalidInput(
            f"{state.id} names no workspace: it was not started by wake run, and "
            "can only go on where it was"
        )
    try:
        Workspace(Path(state.workspace)).close()
    except InvalidInput as error:
        raise InvalidInput(
            f"{state.id} works in {state.workspace!r}, which is not there any more: "
            "bring it back, then resume"
        ) from error


def _lacking(bench: Bench, wanted: tuple[str, ...]) -> tuple[str, ...]:
    if bench.lacking is None or "bash" not in wanted:
        return ()
    return (f"bash is not offered: {bench.lacking}",)


def _alone(spec: AgentSpec) -> tuple[AgentSpec, tuple[str, ...]]:
    """Take from an agent what only a service can wake, and say so."""
    taken = [tool for tool in spec.tools if tool in NEED_A_SERVICE]
    if not taken:
        return spec, ()
    left = tuple(tool for tool in spec.tools if tool not in taken)
    said = (
        f"not offered: {', '.join(taken)}; what it waits for needs a service, wake up"
    )
    return msgspec.structs.replace(spec, tools=left, subagents=()), (said,)


def _leased(state: State) -> str:
    if state.status != "running":
        return "it is waiting for a runner"
    return (
        f"the runner {state.runner} may still hold it; if that is gone, its lease "
        "runs out within 30 s and the work comes back by itself"
    )

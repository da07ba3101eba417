"""Housekeeping: executions that ended long ago are archived if asked, and deleted.

The order makes a crash harmless: the archive is on the disk before ``purged`` is
appended; then the workspace and the log lines go, then the history, oldest commit
first. ``purged`` goes last: whoever finds it goes on. A subagent goes with its
parent, after it; nothing goes while one of the family has not ended.

One deletion at a time: more are hardly faster, since the server syncs each, and
whoever writes meanwhile waits longer behind them. After each a pause as long as it
took: half of the time the log is the writers' alone (``docs/adr/0016``).
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import msgspec

from events import inheritance
from events.commit import Blob, Recorded, unseal
from events.errors import (
    Deleted,
    Misconfigured,
    NotAllowedNow,
    NotFound,
    Retryable,
    WakeError,
)
from events.execution import Execution
from events.logbook import Logbook
from events.names import Key
from events.state import State
from services.archive import Archive
from services.handler import Decision, Handler
from services.remains import has_remains, remove

logger = logging.getLogger(__name__)

REASON = "retention"


class Swept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An execution that was deleted, or would be; ``bytes`` are its history's.

    ``status`` is None for the rest of one whose deletion was interrupted. With a
    ``problem`` it is still there.
    """

    user: str
    execution: str
    status: str | None = None
    ended: datetime | None = None
    commits: int = 0
    bytes: int = 0
    workspace: bool = False
    workspace_bytes: int = 0
    log_lines: int = 0
    archive: str | None = None
    deleted: bool = False
    problem: str | None = None


class Janitor:
    """Deletes what is old; ``handler`` must be one of a user who may.

    Executions that named no directory have theirs below ``workspaces``; None: not
    on this machine. With ``logbook`` their log lines go too, else by their age.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        workspaces: Path | None = None,
        archive: Archive | None = None,
        logbook: Logbook | None = None,
    ) -> None:
        self._handler, self._journal = handler, handler.journal
        self._workspaces, self._archive = workspaces, archive
        self._logbook = logbook

    async def clean(
        self, before: datetime, *, dry_run: bool = False
    ) -> AsyncGenerator[Swept]:
        """Delete what ended before a moment; yields what was, or would be, deleted.

        Asking twice, or two at once, is fine. Close it (``contextlib.aclosing``)
        when done. Raises Retryable when the log is out of reach and Misconfigured
        when the archive is: what was not yielded may be there still.
        """
        async with aclosing(self._ends(before)) as ends:
            async for last in ends:
                began = time.monotonic()
                swept = await self._see_to(last, before, dry_run=dry_run)
                took = time.monotonic() - began
                for one in swept:
                    yield one
                if any(one.deleted for one in swept):
                    await asyncio.sleep(took)

    async def _ends(self, before: datetime) -> AsyncGenerator[Recorded]:
        """Every commit by which one ended in time, or was about to be deleted."""
        followed = self._journal.follow(routes=("finished",), live=False, whole=False)
        async with aclosing(followed) as runs:
            async for run in runs:
                for recorded in run:
                    if recorded.commit.at <= before or recorded.commit.purges:
                        yield recorded

    async def _see_to(
        self, last: Recorded, before: datetime, *, dry_run: bool
    ) -> list[Swept]:
        """Delete an execution and its subagents, if that was their end."""
        try:
            if await self._journal.tip(last.key) != last.position:
                return []
            family = await self._family(last.key, before)
            return [one async for one in self._sweep_all(family, dry_run=dry_run)]
        except Deleted:
            return [await self._go_on(last.key, dry_run=dry_run)]
        except (Retryable, Misconfigured):
            raise
        except WakeError as error:
            if await self._journal.last(last.key) is None:
                return []  # another one was faster, and read in parts it looks damaged
            logger.warning("%s is not deleted: %s", last.key, error)
            return [_left(last.key, str(error))]

    # ── who may go ───────────────────────────────────────────────────────────

    async def _family(self, key: Key, before: datetime) -> list[Key]:
        """An execution and all below it, parents first; none if one must stay."""
        state = (await self._handler.load(key)).state
        above = state.parent
        if above and await self._journal.tip(Key(key.user, above.execution)):
            return []  # it goes with its parent
        if not _may_go(state, before):
            return []
        family, left = [key], _children(state)
        while left:
            child, parent = left.pop(0)
            state = await self._there(child)
            if not inheritance.is_child(state, parent):
                continue
            if not _may_go(state, before):
                return []
            family.append(child)
            left += _children(state)
        return family

    async def _there(self, key: Key) -> State:
        try:
            return (await self._handler.load(key)).state
        except Deleted:  # its own last commit says so too
            return Execution(key).state

    # ── what goes ────────────────────────────────────────────────────────────

    async def _sweep_all(
        self, family: list[Key], *, dry_run: bool
    ) -> AsyncIterator[Swept]:
        """Delete a family; no further than to one that has to stay."""
        for key in family:
            swept = await self._sweep(key, dry_run=dry_run)
            if swept is not None:
                yield swept
                if swept.problem is not None:
                    return

    async def _sweep(self, key: Key, *, dry_run: bool) -> Swept | None:
        """Delete an execution with all that belongs to it; None if another did."""
        try:
            history = await self._journal.read(key)
            execution = Execution.fold(key, history)
            swept = self._described(execution.state, history)
            if dry_run or not history:
                return swept if history else None
            file = await self._kept(history)
            await self._handler.handle(
                key, _purge(execution.state.version), known=execution
            )
            return await self._remove(swept, file, execution.state)
        except Deleted:
            return await self._go_on(key, dry_run=dry_run)
        except NotFound:
            return None

    async def _remove(self, swept: Swept, file: Path | None, state: State) -> Swept:
        """Delete what is about to be deleted, the history last."""
        key = Key(state.user, state.id)
        try:
            freed = await self._cleared(state)
        except OSError as error:
            logger.warning("%s: its workspace cannot be removed: %s", key, error)
            return _left(key, f"its workspace cannot be removed: {error}")
        lines = await self._logbook.forget(key) if self._logbook else 0
        await self._journal.erase(key)
        return msgspec.structs.replace(
            swept,
            workspace_bytes=freed,
            log_lines=lines,
            archive=None if file is None else str(file),
            deleted=True,
        )

    async def _kept(self, history: list[Recorded]) -> Path | None:
        """Archive it if that is asked, as it was before it was to be deleted."""
        if self._archive is None:
            return None
        lasting = history[:-1] if history[-1].commit.purges else history
        contents = await self._journal.contents(lasting[0].key, _blobs(lasting))
        return await asyncio.to_thread(self._archive.keep, lasting, contents)

    async def _cleared(self, state: State) -> int:
        """Remove the directory that is its own and nobody's else; returns its bytes."""
        if self._workspaces is None or not _has_own(state):
            return 0
        return await asyncio.to_thread(remove, self._workspaces, state.user, state.id)

    async def _go_on(self, key: Key, *, dry_run: bool) -> Swept:
        """Delete what an interrupted deletion has left of a history."""
        size = 0 if dry_run else await self._journal.erase(key)
        return Swept(
            user=key.user, execution=key.execution, bytes=size, deleted=not dry_run
        )

    def _described(self, state: State, history: list[Recorded]) -> Swept:
        root = self._workspaces if _has_own(state) else None
        return Swept(
            user=state.user,
            execution=state.id,
            status=state.status,
            ended=state.completed_at,
            commits=len(history),
            bytes=sum(len(recorded.body) for recorded in history)
            + sum(blob.size for blob in _blobs(history)),
            workspace=root is not None and has_remains(root, state.user, state.id),
        )


def _purge(version: int) -> Decision:
    """Decide that it is about to be deleted, as it was archived and as nothing else."""

    def decide(execution: Execution) -> None:
        if execution.state.purged:
            return
        if execution.state.version != version:
            raise NotAllowedNow(f"{execution.key} went on meanwhile")
        execution.purge(REASON)

    return decide


def _may_go(state: State, before: datetime) -> bool:
    ended = state.completed_at
    return state.purged or (ended is not None and state.final and ended <= before)


def _has_own(state: State) -> bool:
    """Whether it had a directory of its own: none that was named, nor its parent's."""
    return state.workspace is None and not (state.parent and state.parent.root)


def _left(key: Key, problem: str) -> Swept:
    return Swept(user=key.user, execution=key.execution, problem=problem)


def _blobs(history: list[Recorded]) -> list[Blob]:
    """What lies beside the log, once each; a history that was read has it inside."""
    found = {b.sha256: b for r in history for b in unseal(r.body, r.key).blobs}
    return list(found.values())


def _children(state: State) -> list[tuple[Key, Key]]:
    """Its subagents, each with its parent."""
    parent = Key(state.user, state.id)
    return [(Key(state.user, child), parent) for child in state.children]

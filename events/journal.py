"""The port of the log: append, read, follow; and the work that it hands out.

Two adapters stand behind it, ``memory.py`` and ``jetstream.py``; one test
suite runs on both. What is the same for every log stands here: the
unknown-outcome protocol of an append, and the check of what was read.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import NamedTuple, TypeVar

from events.blobs import unpack
from events.commit import Blob, Recorded, leftover
from events.errors import (
    Conflict,
    Corrupt,
    Deleted,
    NotAllowedNow,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
    WakeError,
)
from events.faults import crash_point
from events.names import MAX_COMMIT, ROUTES, Key, Route, blob_name
from events.spec import Lane

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds an append is retried: a lost leader costs 4 to 9, no setting less."""

REREADS = 5
"""How often a history with a gap is read again: a commit may land between reads."""


def unheeded() -> None:
    """Make nothing of it."""


class WrongPosition(WakeError):
    """The expected position was not the last one; ``last`` is, if the log said so."""

    def __init__(self, message: str = "", *, last: int | None = None) -> None:
        super().__init__(message)
        self.last = last


class Last(NamedTuple):
    """The last commit of a history: where it stands, and who has to act on it."""

    position: int
    route: Route


class Work(ABC):
    """A commit that a runner has to act upon, leased to whoever fetched it."""

    recorded: Recorded
    deliveries: int
    behind: int
    """How much there was in its lane that nobody had been given yet."""

    @abstractmethod
    async def renew(self) -> None:
        """Hold the lease for another term; raises Unavailable if not confirmed."""

    @abstractmethod
    async def done(self) -> None:
        """Never hand it out again; raises Unavailable if not confirmed."""

    @abstractmethod
    async def give_back(self, delay: float = 0.0) -> None:
        """Let another runner have it, after ``delay`` seconds."""


class WorkQueue(ABC):
    """The work of one lane; several runners may fetch from it.

    ``lease``: seconds after which unsettled work is handed out again.
    """

    lease: float

    @abstractmethod
    async def fetch(self, limit: int, wait: float) -> list[Work]:
        """Lease up to ``limit`` works; none only after ``wait`` seconds (≤ 5)."""

    @abstractmethod
    async def close(self) -> None:
        """Stop asking and give back what arrived unasked."""


class Journal(ABC):
    """The log of all executions; ``patience`` bounds an append, in seconds."""

    patience: float = PATIENCE

    async def append(self, new: Recorded, *, after: int) -> Recorded:
        """Store a commit if ``after`` is still the last position of its history.

        Whatever the log answers or fails to answer, this finds out whether the
        commit was stored, and stores it once. Returns it with its position.
        Raises Conflict if another commit follows ``after``, TooLarge, Corrupt
        if the log lost what it had, and OutcomeUnknown when it stayed silent
        until the deadline.
        """
        _check_size(new)
        crash_point("append.before")
        stored = await self._insist(partial(self._attempt, new, after))
        crash_point("append.after")
        return stored

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, as long as patience lasts."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        pause = 0.05
        while True:
            try:
                return await ask()
            except (OutcomeUnknown, Unavailable):
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)

    async def _attempt(self, new: Recorded, after: int) -> Recorded:
        """Try once, and look who was first if it was not the place to append."""
        try:
            position = await self._publish(new, after)
        except WrongPosition as error:
            return await self._look(new, after, error.last)
        return Recorded(position, *new[1:])

    async def _look(self, new: Recorded, after: int, last: int | None) -> Recorded:
        """Return what follows ``after`` if it is ours; raises Conflict if it is not."""
        found = await self._following(new.key, after)
        if found is None:
            _check_end(new.key, after, last)
            raise OutcomeUnknown(f"the log did not store {new.key}: try again")
        if found.commit.id == new.commit.id:
            return found
        raise Conflict(
            f"{new.key}: version {found.commit.version} was appended first, "
            f"by {found.commit.by}"
        )

    async def read(self, key: Key, *, at_least: int = 0) -> list[Recorded]:
        """Load a whole history, oldest first; empty if there is none.

        ``at_least``: a position that is known to be in it. Raises Deleted while
        it is being deleted, Corrupt if versions are missing and stay missing,
        Unavailable if what answers is behind and stays behind.
        """
        history: list[Recorded] = []
        damage: Corrupt | None = None
        whole = False
        for attempt in range(REREADS):
            await asyncio.sleep(0.02 * attempt)
            history = sorted(await self._read(key), key=lambda r: r.commit.version)
            tip = history[-1].position if history else 0
            whole |= _contiguous(history)
            if tip >= at_least and _contiguous(history):
                try:
                    return [
                        await self._unpacked(r) if r.commit.blobs else r
                        for r in history
                    ]
                except Corrupt as error:  # or it is just being deleted: look again
                    damage = error
            if history and leftover(history):
                raise Deleted(f"{key} was deleted")
        if damage is not None:
            raise damage
        # A gap counts as damage only if it was there each time: one may be a commit
        # that landed between the reads, after answers that were merely behind.
        if whole and await self.tip(key) >= at_least:
            raise Unavailable(f"{key}: its newest commits cannot be read yet")
        raise Corrupt(
            f"history of {key} is incomplete: versions "
            f"{_missing(history)} are missing; restore EVENTS from a backup"
        )

    def follow(
        self,
        *,
        after: int = 0,
        key: Key | None = None,
        routes: Sequence[Route] = ROUTES,
        live: bool = True,
        whole: bool = True,
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        """Yield every commit beyond ``after``, in order, none twice, in runs.

        ``key`` and ``routes`` restrict it to one history, to some routes.
        ``live=False`` ends at what was the end of the log when it began. With
        ``whole=False`` blobs are left where they are, which is cheaper for who
        needs no texts; one that is missing or damaged is always left, since one
        history must not stop who follows them all: ``commit.blobs`` names it.
        Close it (``contextlib.aclosing``) when done.
        """
        runs = self._follow(after=after, key=key, routes=routes, live=live)
        return self._filled(runs) if whole else runs

    async def _filled(
        self, runs: AsyncGenerator[Sequence[Recorded], None]
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        async with aclosing(runs):
            async for run in runs:
                if not any(recorded.commit.blobs for recorded in run):
                    yield run
                    continue
                for recorded in run:  # one by one: blobs may be large
                    yield [await self._as_whole_as_can_be(recorded)]

    async def _as_whole_as_can_be(self, recorded: Recorded) -> Recorded:
        try:
            return await self._insist(partial(self._unpacked, recorded))
        except Corrupt as error:
            logger.warning("%s", error)
            return recorded

    # ── blobs ────────────────────────────────────────────────────────────────

    async def keep(self, key: Key, contents: Mapping[str, bytes]) -> None:
        """Store what a commit of ``key`` is about to name, by SHA-256.

        What is there already is left alone. Raises OutcomeUnknown or Unavailable
        when the log stayed silent until the deadline.
        """
        for sha256, content in contents.items():
            store = partial(self._store_blob, blob_name(key, sha256), content)
            await self._insist(store)

    async def _unpacked(self, recorded: Recorded) -> Recorded:
        """Return a commit with all its strings; raises Corrupt, Unavailable."""
        blobs = recorded.commit.blobs
        return unpack(recorded, await self.contents(recorded.key, blobs))

    async def contents(
        self, key: Key, blobs: Iterable[Blob]
    ) -> dict[str, bytes | None]:
        """Return what was taken out of a commit, by SHA-256; None: it is not there."""
        return {
            blob.sha256: await self._load_blob(blob_name(key, blob.sha256))
            for blob in blobs
        }

    async def erase(self, key: Key) -> int:
        """Delete a history that ends with ``purged``; returns the bytes it had.

        Only a janitor may. The oldest commit goes first, ``purged`` last and blobs
        before it, so that what is left tells what it is: asking again goes on. Raises
        NotAllowedNow for any other history, Unavailable if it cannot go on.
        """
        left = sorted(await self._read(key), key=lambda r: r.position)
        tip = await self.tip(key)
        if tip > (left[-1].position if left else 0):
            raise Unavailable(f"{key}: its newest commits cannot be read yet")
        if not left:
            return 0
        if not left[-1].commit.purges:
            raise NotAllowedNow(f"{key} was not purged: it may not be deleted")
        blobs = {b.sha256: b.size for r in left for b in r.commit.blobs}
        for recorded in left[:-1]:
            await self._insist_on_deleting(partial(self._delete, recorded.position))
        for name in await self.blobs_of(key):
            await self._insist_on_deleting(partial(self.delete_blob, name))
        await self._insist_on_deleting(partial(self._delete, left[-1].position))
        return sum(len(r.body) for r in left) + sum(blobs.values())

    async def _insist_on_deleting(self, delete: Callable[[], Awaitable[None]]) -> None:
        """Delete one thing; to delete it twice is harmless, so silence means again."""
        try:
            await self._insist(delete)
        except (OutcomeUnknown, Unavailable) as error:
            raise Unavailable(
                f"nothing is deleted now: {error}; if that goes on, this user may not "
                "(see nats.janitor_user)"
            ) from error

    # ── what an adapter provides ─────────────────────────────────────────────

    @abstractmethod
    async def _publish(self, new: Recorded, after: int) -> int:
        """Store it and return its position; raise WrongPosition or OutcomeUnknown."""

    @abstractmethod
    async def _following(self, key: Key, after: int) -> Recorded | None:
        """Return the first commit of ``key`` beyond ``after``, never a stale answer."""

    @abstractmethod
    async def _read(self, key: Key) -> list[Recorded]:
        """Return the commits of ``key``, in any order; may miss the newest."""

    @abstractmethod
    async def _delete(self, position: int) -> None:
        """Remove a commit; one that is gone is fine. Raises OutcomeUnknown."""

    @abstractmethod
    async def tip(self, key: Key) -> int:
        """Return the last position of ``key`` (0: none), never a stale answer."""

    @abstractmethod
    async def last(self, key: Key) -> "Last | None":
        """Return where the last commit of ``key`` stands, never a stale answer.

        Of a history that cannot be read any more too.
        """

    @abstractmethod
    async def end(self, routes: Sequence[Route] = ROUTES) -> int:
        """Return the position of the last commit on some routes (0: none).

        Never a stale answer.
        """

    @abstractmethod
    def _follow(
        self, *, after: int, key: Key | None, routes: Sequence[Route], live: bool
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        """Yield every commit beyond ``after`` as it is stored; see ``follow``."""

    @abstractmethod
    async def _store_blob(self, name: str, content: bytes) -> None:
        """Store a blob unless it is there; once this returns it is, durably.

        Raises OutcomeUnknown; asked again it goes on where it stopped.
        """

    @abstractmethod
    async def _load_blob(self, name: str) -> bytes | None:
        """Return a blob; None if it is not there, or not all of it.

        Raises Unavailable.
        """

    @abstractmethod
    async def blobs_of(self, key: Key) -> list[str]:
        """Return the names of all blobs of ``key``, also of those no commit names.

        A blob is stored before its commit, which may then be refused. Raises
        Unavailable.
        """

    @abstractmethod
    async def delete_blob(self, name: str) -> None:
        """Delete a blob, or what there is of it; twice is fine. Raises Unavailable."""

    @abstractmethod
    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> WorkQueue:
        """Open the work of a lane, or only that of one execution."""

    @abstractmethod
    async def handed_out(self, lane: Lane, *, key: Key | None = None) -> int:
        """Return the position of the newest work that was ever leased (0: none)."""

    async def settled(self, lane: Lane) -> int:  # noqa: ARG002 - the port's
        """Return a position up to which all work of a lane is settled for good.

        What is beyond it may be handed out once more. 0 if that cannot be told.
        """
        return 0

    @abstractmethod
    def hear(
        self, heard: Callable[[Recorded], None], missed: Callable[[], None] = unheeded
    ) -> AbstractAsyncContextManager[None]:
        """Call ``heard`` with each signal and each end, as appended; best effort.

        ``missed`` is called when some may not have been heard.
        """

    @abstractmethod
    def hear_work(
        self, lanes: Sequence[Lane], heard: "WorkHeard"
    ) -> AbstractAsyncContextManager[None]:
        """Call ``heard`` with each work of some lanes, as appended; best effort."""


WorkHeard = Callable[[Lane, str, int], None]
"""Takes the lane, the user and the position of a new work."""


def _check_size(new: Recorded) -> None:
    if len(new.body) > MAX_COMMIT:
        raise TooLarge(
            f"{new.key}: a commit of {len(new.body):,} bytes is larger than "
            f"{MAX_COMMIT:,}"
        )


def _check_end(key: Key, after: int, last: int | None) -> None:
    """Raise Corrupt if nothing follows ``after`` and yet it is not the last."""
    if last is None or last == after:
        return
    if last > after:
        what = f"position {last} is there and cannot be read"
    else:
        what = f"it ends at position {last}, and position {after} was acknowledged"
    raise Corrupt(f"history of {key} is damaged: {what}; restore EVENTS from a backup")


def _contiguous(history: Sequence[Recorded]) -> bool:
    return all(r.commit.version == n for n, r in enumerate(history, 1))


def _missing(history: Sequence[Recorded]) -> str:
    there = {r.commit.version for r in history}
    last = max(there, default=0)
    missing = sorted(set(range(1, last)) - there) or [last + 1]
    return ", ".join(map(str, missing[:5]))

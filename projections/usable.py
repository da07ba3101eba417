"""Whether a read model that is there can be gone on with, and where it stands.

It can if it was made by the rules of today, and from this log: a position that was
kept means nothing in another stream, nor in one that ends before it.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from events.rawlog import Extent
from projections.database import Outdated
from projections.fold import Fold
from projections.rebuild import Sources
from projections.store import Checkpoint, Store
from projections.threads import in_thread

logger = logging.getLogger(__name__)


async def usable(path: Path, sources: Sources, writer: Executor) -> Store | None:
    """Open the file at ``path``; None if it has to be made anew.

    Raises Misconfigured for one that is damaged or none of ours, and Unavailable.
    """
    store = await in_thread(writer, partial(_opened, path), undo=_close)
    if store is None:
        return None
    try:
        checkpoints = await in_thread(writer, store.checkpoints)
        why = _mismatch(checkpoints, await sources.extents())
    except BaseException:
        store.close()
        raise
    if why is None:
        return store
    logger.warning("the read model is rebuilt: %s", why)
    store.close()
    return None


def _opened(path: Path) -> Store | None:
    """Open it, if there is one that was made by the rules of today."""
    if not path.exists():
        return None
    try:
        return Store.open(path)
    except Outdated:
        logger.warning("the read model is rebuilt: another version made it")
        return None


def _close(store: Store | None) -> None:
    if store is not None:
        store.close()


def _mismatch(
    checkpoints: Mapping[str, Checkpoint], extents: Mapping[str, Extent]
) -> str | None:
    """Say why positions that were kept mean nothing any more, if so."""
    if checkpoints.keys() != extents.keys():
        return "it was made of other streams"
    for name, extent in extents.items():
        kept = checkpoints[name]
        if kept.made != extent.made:
            return f"{name} is another stream, made {extent.made}"
        if kept.position > extent.last:
            return f"{name} ends at {extent.last}, before what was folded"
    return None


def standing(store: Store) -> Fold:
    """Go on where a file stands; for the thread that writes."""
    checkpoints = store.checkpoints()
    positions = {name: one.position for name, one in checkpoints.items()}
    return Fold(positions, store.live(), store.schedules())

"""The last word of a history: it is about to be deleted, and its rows with it."""

from events.catalog import Purged
from events.commit import unseal
from events.errors import WakeError
from events.names import Key
from events.rawlog import Raw

_TAG = str(Purged.__struct_config__.tag).encode()


def is_purge(raw: Raw, key: Key) -> bool:
    """Whether a commit says that its history is about to be deleted."""
    if _TAG not in raw.body:
        return False
    try:
        return unseal(raw.body, key).purges
    except WakeError:
        return False

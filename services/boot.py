"""What a dead process held, put back when everything starts together.

Only for an embedded server: whoever holds the data folder knows that nobody
else works on what is in it. Everywhere else the reactor sees to dead runners,
and leases run out by themselves.
"""

from events.names import Key
from services import metrics
from services.handler import Handler
from services.stuck import find_stuck, put_back

REASON = "its process was gone"


async def recover_all(handler: Handler) -> list[Key]:
    """Put back every execution that was held or handed out; returns them.

    Asked twice, it finds again what nobody has started since. Damaged histories
    are left as they are: whoever asks for them is told.
    """
    found = [stuck async for stuck in find_stuck(handler, set(), 0.0)]
    keys = [stuck.key for stuck in found if await put_back(handler, stuck, REASON)]
    metrics.recovered("boot", len(keys))
    return keys

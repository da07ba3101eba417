"""The execution that a request is about, if who asks may know of it.

Of what is another's it is said that it is not there, in the same words as of what
is nobody's.
"""

import re
from typing import Final

from events.commit import Recorded
from events.direct import ask_leader
from events.errors import NotFound
from events.names import EVENTS, EVERYBODY, Key, anybodys_filter, split_subject
from gateway.web.operation import Call

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_id(text: str) -> bool:
    """Whether it can be the id of anything."""
    return _ID.fullmatch(text) is not None


def nothing(execution: str) -> NotFound:
    """What is said of an execution that is not there, or is another's."""
    return NotFound(f"there is no execution {execution!r:.80}")


async def key_of(call: Call) -> Key:
    """The key of the execution a call is about, whether it exists or not.

    One's own; for an admin the one of ``user``, or else whoever's it is.
    Raises NotFound.
    """
    if not is_id(call.id):
        raise nothing(call.id)
    named: str = call.query.user
    if not call.who.admin:
        if named not in ("", call.who.user):
            raise nothing(call.id)
        return Key(call.who.user, call.id)
    if named:
        if not is_id(named) or named == EVERYBODY:
            raise nothing(call.id)
        return Key(named, call.id)
    return await _anybodys(call)


async def _anybodys(call: Call) -> Key:
    own = Key(call.who.user, call.id)
    if await call.edge.journal.tip(own):
        return own
    query = {"last_by_subj": anybodys_filter(call.id)}
    stored = await ask_leader(call.edge.wire, EVENTS, query)
    return own if stored is None else split_subject(stored.subject)[0]


async def existing(call: Call) -> Key:
    """The key of an execution that exists, be it damaged; raises NotFound."""
    key = await key_of(call)
    if await call.edge.journal.last(key) is None:
        raise nothing(call.id)
    return key


async def history_of(call: Call) -> tuple[Key, list[Recorded]]:
    """All of an execution's history, as of now; raises NotFound."""
    key = await key_of(call)
    journal = call.edge.journal
    tip = await journal.tip(key)
    if not tip:
        raise nothing(call.id)
    return key, await journal.read(key, at_least=tip)

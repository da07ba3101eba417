"""Triggers on JetStream: one message each, for a week, in bounded space.

A storm of them pushes out the oldest: they were offered to everybody who waited,
unless no reactor ran meanwhile. To refuse new ones instead would let one sender
shut out all others for days, and to have no bound would let it fill the disk
under EVENTS (``docs/adr/0014``).
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

import msgspec

from events.client import Client
from events.delivery import delivery
from events.direct import NOT_FOUND, NOTHING_THERE, StoredMessage, ask_leader
from events.errors import OutcomeUnknown, ServerUnsuitable, Unavailable
from events.feed import Feed, Source, reading
from events.names import (
    MAX_MESSAGE,
    MESSAGE_ID,
    TRIGGERS,
    TRIGGERS_ALL,
    trigger_subject,
)
from events.provisioning import NO_STREAM, provision_bounded
from events.triggers import REMEMBERED, Posted, Triggers, check_body
from events.wire import ApiError, Nobody, Wire, raise_problem

if TYPE_CHECKING:
    from nats.aio.msg import Msg

WEEK = 7 * 24 * 3600

SPACE = 1024**3
"""Bytes that triggers may have: some millions of them, or 4,000 of the largest."""

SPACES = (SPACE, SPACE // 8, SPACE // 64, SPACE // 512)
"""What is tried one after the other in a store that has no room for so much."""

AT_A_TIME = 100
"""Triggers asked for at a time: at their largest, 50 MB in memory."""

TAKEN = 5
"""Ids that a trigger may have, should others have taken them."""


NOBODY = (
    "the trigger was not stored, there is no stream of triggers on this nats-server: "
    "start a service with wake up, or wake service reactor"
)

_stream: dict[str, Any] = {
    "name": TRIGGERS,
    "description": "wakestream: what happened outside",
    "subjects": [TRIGGERS_ALL],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_age": int(WEEK * 1e9),
    "max_msg_size": MAX_MESSAGE,
    "duplicate_window": int(REMEMBERED * 1e9),  # costs for what has a name only
    "allow_direct": True,
}

_latest: dict[str, Any] = {
    "stream_name": TRIGGERS,
    "config": {
        "deliver_policy": "last_per_subject",
        "ack_policy": "none",
        "filter_subjects": [TRIGGERS_ALL],
        "headers_only": True,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": int(60e9),
    },
}


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False


class _State(msgspec.Struct):
    last_seq: int


class _Info(msgspec.Struct):
    state: _State


_ack = msgspec.json.Decoder(_Ack)
_info = msgspec.json.Decoder(_Info)


class JetStreamTriggers(Triggers):
    """The triggers of one account of a nats-server or cluster."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @classmethod
    async def open(cls, wire: Wire, *, replicas: int | None = None) -> Self:
        """Provision the stream; asking again is fine.

        Limits that an operator set besides are left alone. Raises
        ServerUnsuitable and Unavailable.
        """
        try:
            await provision_bounded(wire, _stream, replicas=replicas, spaces=SPACES)
        except ApiError as error:
            raise ServerUnsuitable(
                f"this nats-server cannot hold the triggers: {error}"
            ) from error
        except OutcomeUnknown as error:
            raise Unavailable(f"the triggers cannot be opened now: {error}") from error
        return cls(wire)

    async def publish(
        self,
        user: str,
        event_type: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Store a trigger and return its position."""
        return (await self._store(user, event_type, body, headers)).seq

    async def publish_once(
        self,
        user: str,
        event_type: str,
        body: bytes,
        *,
        name: str,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Store a trigger unless one of this name is; the server remembers them.

        It remembers ids of messages, whoever made them up: one that another user
        has taken says nothing of ours, and ours goes under the next.
        """
        for number in range(TAKEN):
            named = {**(headers or {}), MESSAGE_ID: _digest(name, number)}
            ack = await self._store(user, event_type, body, named)
            if not ack.duplicate:
                return True
            if await self._user_at(ack.seq) in (user, None):
                return False
        raise Unavailable("the trigger was not stored: others have taken all its ids")

    async def _user_at(self, position: int) -> str | None:
        """Whose trigger is stored there; None if none is."""
        found = await self._ask({"seq": position})
        return found.subject.split(".")[1] if found else None

    async def _store(
        self, user: str, event_type: str, body: bytes, headers: Mapping[str, str] | None
    ) -> _Ack:
        subject = trigger_subject(user, event_type)
        check_body(body)
        try:
            answer = await self._wire.request(subject, body, headers=headers)
            raise_problem(answer.data)
        except Nobody as error:
            raise Unavailable(NOBODY) from error
        except ApiError as error:
            raise Unavailable(f"the trigger was not stored: {error}") from error
        except OutcomeUnknown as error:
            raise Unavailable(
                f"nobody said whether the trigger was stored ({error}): look before "
                "you send it again, or send a CloudEvent, which wakes once"
            ) from error
        return _ack.decode(answer.data)

    async def last(self) -> int:
        """Return the last position that was given, as the leader knows it."""
        try:
            answer = await self._wire.api(f"STREAM.INFO.{TRIGGERS}")
        except ApiError as error:
            if error.number == NO_STREAM:
                return 0
            raise _out_of_reach(error) from error
        except OutcomeUnknown as error:
            raise _out_of_reach(error) from error
        return _info.decode(answer).state.last_seq

    async def beyond(self, user: str, event_type: str, after: int) -> Posted | None:
        """Return the first trigger of this user and type, as the leader knows it."""
        query = {"seq": after + 1, "next_by_subj": trigger_subject(user, event_type)}
        found = await self._ask(query, absent=NOTHING_THERE)
        if found is None:
            return None
        return Posted(found.seq, found.subject, found.data, _headers(found.hdrs))

    async def _ask(
        self, query: dict[str, Any], absent: Collection[int] = (NOT_FOUND,)
    ) -> StoredMessage | None:
        try:
            return await ask_leader(self._wire, TRIGGERS, query, absent=absent)
        except OutcomeUnknown as error:
            raise _out_of_reach(error) from error

    async def latest(self) -> dict[str, int]:
        """Return the last position of each subject there is."""
        positions: dict[str, int] = {}
        try:
            async with aclosing(reading(self._wire, TRIGGERS, _latest)) as runs:
                async for run in runs:
                    positions |= {m.subject: delivery(m)[1] for m in run}
        except (ApiError, OutcomeUnknown, TimeoutError) as error:
            raise _out_of_reach(error) from error
        return positions

    async def follow(self, *, after: int) -> AsyncGenerator[Sequence[Posted], None]:
        """Yield every trigger beyond ``after``, in runs, for ever."""
        source = Source(TRIGGERS, [TRIGGERS_ALL], _posted)
        feed = Feed(self._wire, source, after, AT_A_TIME)
        async with aclosing(feed.runs(None)) as runs:
            async for run in runs:
                yield run


def _digest(name: str, number: int = 0) -> str:
    """Make a header's value of any name."""
    salt = number.to_bytes(1, "big")
    text = name.encode(errors="surrogatepass")
    return blake2b(text, digest_size=16, salt=salt).hexdigest()


def _posted(message: "Msg") -> Posted:
    position = delivery(message)[1]
    return Posted(position, message.subject, message.data, message.headers or {})


def _headers(block: bytes) -> dict[str, str]:
    """Read headers as they are stored, as those that are delivered are read."""
    return Client._parse_header_lines(block.partition(b"\r\n")[2])  # noqa: SLF001 - ours


def _out_of_reach(error: Exception) -> Unavailable:
    return Unavailable(f"the triggers are out of reach: {str(error) or 'no answer'}")

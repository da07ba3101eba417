"""The log on NATS JetStream: one stream, one message per commit.

Reads ask for literal subjects only, one batched direct get per route, all in
flight at once: a wildcard costs ten times as much (``docs/adr/0002``).
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import msgspec

from events.bucket import Bucket, bucket_stream
from events.commit import Recorded, unseal
from events.delivery import heard_from, work_heard_from
from events.direct import ask_leader, read_subject
from events.errors import OutcomeUnknown, ServerUnsuitable, TooLarge, Unavailable
from events.feed import Feed, commits
from events.journal import Journal, Last, WorkHeard, WrongPosition, unheeded
from events.names import (
    EVENTS,
    EVENTS_ALL,
    EXPECTED_POSITION,
    EXPECTED_SUBJECT,
    FEED_ALL,
    FEED_FINISHED,
    FEED_SIGNALS,
    MAX_MESSAGE,
    ROUTES,
    TRACE,
    Key,
    Route,
    commit_subject,
    feed_filter,
    history_filter,
    lane_consumer,
    lane_filter,
    split_subject,
)
from events.provisioning import provision
from events.pull import JetStreamQueue
from events.spec import Lane
from events.together import together
from events.wire import ApiError, Nobody, Wire, raise_problem

if TYPE_CHECKING:
    from nats.aio.msg import Msg

TRY = 2.0
"""Seconds one try of an append waits for its ack."""

WRONG_LAST_SEQUENCE = 10071
GONE = (10037, 10043, 10057)
NO_JETSTREAM = (10039, 10076)
NO_STREAMS = (
    "this nats-server has no JetStream for this user: start it with jetstream enabled "
    "(see nats.conf)"
)

_stream: dict[str, Any] = {
    "name": EVENTS,
    "description": "wakestream: every commit of every execution",
    "subjects": [EVENTS_ALL],
    "retention": "limits",
    "storage": "file",
    "discard": "new",
    "max_msg_size": MAX_MESSAGE,
    "duplicate_window": int(100e6),
    "allow_direct": True,
    "deny_purge": True,
    "republish": {"src": EVENTS_ALL, "dest": FEED_ALL},
}


class _Ack(msgspec.Struct):
    seq: int = 0


_TRACE = re.compile(rb"\r\n%b: *([^\r\n]*)" % TRACE.encode())


class _Reached(msgspec.Struct, frozen=True):
    stream_seq: int = 0


class _Lane(msgspec.Struct):
    delivered: _Reached = _Reached()
    ack_floor: _Reached = _Reached()
    num_ack_pending: int = 0


_lane = msgspec.json.Decoder(_Lane)
_ack = msgspec.json.Decoder(_Ack)


class JetStreamJournal(Journal):
    """The log of one account of a nats-server or cluster."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._bucket = Bucket(wire)

    @classmethod
    async def open(cls, wire: Wire, *, replicas: int | None = None) -> Self:
        """Provision the stream, and the bucket beside it; asking again is fine.

        Raises ServerUnsuitable, and Unavailable when the server stays silent.
        """
        try:
            for config in (_stream, bucket_stream):
                await provision(wire, config, replicas=replicas)
        except ApiError as error:
            raise _unsuitable(error) from error
        except Nobody as error:
            raise ServerUnsuitable(NO_STREAMS) from error
        except OutcomeUnknown as error:
            raise Unavailable(f"the log cannot be opened now: {error}") from error
        return cls(wire)

    async def _publish(self, new: Recorded, after: int) -> int:
        headers = {
            EXPECTED_POSITION: str(after),
            EXPECTED_SUBJECT: history_filter(new.key),
        }
        if new.trace:
            headers[TRACE] = new.trace
        answer = await self.wire.request(
            commit_subject(new.key, new.route), new.body, headers=headers, wait=TRY
        )
        try:
            raise_problem(answer.data)
        except ApiError as error:
            raise _append_error(error) from error
        return _ack.decode(answer.data).seq

    async def _following(self, key: Key, after: int) -> Recorded | None:
        return await self._get({"seq": after + 1, "next_by_subj": history_filter(key)})

    async def _delete(self, position: int) -> None:
        # Not overwritten: that costs the writers more, and is no erasure either
        # where there are backups.
        query = {"seq": position, "no_erase": True}
        try:
            await self.wire.api(f"STREAM.MSG.DELETE.{EVENTS}", query)
        except ApiError as error:
            if error.number not in GONE:
                raise OutcomeUnknown(str(error)) from error

    async def tip(self, key: Key) -> int:
        """Return the last position of ``key`` as the leader knows it."""
        last = await self._get({"last_by_subj": history_filter(key)})
        return last.position if last else 0

    async def last(self, key: Key) -> Last | None:
        """Return where the last commit of ``key`` stands, as the leader knows it."""
        query = {"last_by_subj": history_filter(key)}
        stored = await ask_leader(self.wire, EVENTS, query)
        if stored is None:
            return None
        return Last(stored.seq, split_subject(stored.subject)[1])

    async def _get(self, query: dict[str, Any]) -> Recorded | None:
        """Ask the leader for one commit."""
        stored = await ask_leader(self.wire, EVENTS, query)
        if stored is None:
            return None
        key, route = split_subject(stored.subject)
        commit, trace = unseal(stored.data, key), _trace(stored.hdrs)
        return Recorded(stored.seq, key, route, commit, stored.data, trace)

    async def _read(self, key: Key) -> list[Recorded]:
        routes = await together(*(self._read_route(key, route) for route in ROUTES))
        return [recorded for route in routes for recorded in route]

    async def _read_route(self, key: Key, route: Route) -> list[Recorded]:
        stored = await read_subject(self.wire, EVENTS, commit_subject(key, route))
        return [
            Recorded(
                position,
                key,
                route,
                unseal(message.data, key),
                message.data,
                (message.headers or {}).get(TRACE, ""),
            )
            for position, message in stored
        ]

    async def _store_blob(self, name: str, content: bytes) -> None:
        await self._bucket.put(name, content)

    async def _load_blob(self, name: str) -> bytes | None:
        return await self._bucket.get(name)

    async def blobs_of(self, key: Key) -> list[str]:
        """Return the names of all blobs of ``key``."""
        return await self._bucket.names(key)

    async def delete_blob(self, name: str) -> None:
        """Delete a blob; only a janitor may."""
        await self._bucket.delete(name)

    async def _follow(
        self, *, after: int, key: Key | None, routes: Sequence[Route], live: bool
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        source = commits(key, routes)
        end = None if live else await self._end(source.subjects)
        async with aclosing(Feed(self.wire, source, after).runs(end)) as runs:
            async for run in runs:
                yield run

    async def end(self, routes: Sequence[Route] = ROUTES) -> int:
        """Return the position of the last commit on some routes, as of the leader."""
        return await self._end(commits(None, routes).subjects)

    async def _end(self, subjects: Sequence[str]) -> int:
        asked = [self._get({"last_by_subj": subject}) for subject in subjects]
        return max(
            last.position if last else 0 for last in await asyncio.gather(*asked)
        )

    async def handed_out(self, lane: Lane, *, key: Key | None = None) -> int:
        """Return the position of the newest work that was ever leased."""
        return (await self._lane(lane, key)).delivered.stream_seq

    async def settled(self, lane: Lane) -> int:
        """Return the position up to which the lane's consumer had every ack."""
        lane_now = await self._lane(lane, None)
        if not lane_now.num_ack_pending:
            return lane_now.delivered.stream_seq
        return lane_now.ack_floor.stream_seq

    async def _lane(self, lane: Lane, key: Key | None) -> "_Lane":
        """Ask how far the consumer of a lane is."""
        try:
            answer = await self.wire.api(
                f"CONSUMER.INFO.{EVENTS}.{lane_consumer(lane, key)}"
            )
        except ApiError:
            return _Lane()  # nobody ever opened that lane
        return _lane.decode(answer)

    async def work(
        self, lane: Lane, *, lease: float = 30.0, key: Key | None = None
    ) -> JetStreamQueue:
        """Open the work of a lane: a durable consumer that all its runners share."""
        name = lane_consumer(lane, key)
        config = {
            "durable_name": name,
            "filter_subject": lane_filter(lane, key),
            "ack_policy": "explicit",
            "ack_wait": int(lease * 1e9),
            "max_ack_pending": -1,  # the default stalls the whole fleet at 1,000
            "max_deliver": -1,  # who gives up is decided by the execution's limits
        }
        try:
            await self.wire.api(
                f"CONSUMER.CREATE.{EVENTS}.{name}.{config['filter_subject']}",
                {"stream_name": EVENTS, "config": config},
            )
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"cannot open the lane {lane}: {error}") from error
        return JetStreamQueue(self.wire, name, lease)

    @asynccontextmanager
    async def hear(
        self, heard: Callable[[Recorded], None], missed: Callable[[], None] = unheeded
    ) -> AsyncIterator[None]:
        """Call ``heard`` with each signal and end, ``missed`` after each reconnect."""
        take = partial(heard_from, heard=heard)
        self.wire.watch(missed)
        try:
            async with self._listening((FEED_SIGNALS, FEED_FINISHED), take):
                yield
        finally:
            self.wire.unwatch(missed)

    def hear_work(
        self, lanes: Sequence[Lane], heard: WorkHeard
    ) -> AbstractAsyncContextManager[None]:
        """Call ``heard`` with each work of some lanes as it is appended."""
        take = partial(work_heard_from, heard=heard)
        return self._listening([feed_filter(lane) for lane in lanes], take)

    @asynccontextmanager
    async def _listening(
        self, subjects: Sequence[str], take: "Callable[[Msg], None]"
    ) -> AsyncIterator[None]:
        subscriptions = [await self.wire.subscribe(s, take) for s in subjects]
        try:
            yield
        finally:
            for subscription in subscriptions:
                await self.wire.unsubscribe(subscription)


def _trace(headers: bytes) -> str:
    """Find the ``traceparent`` among headers as they are stored."""
    found = _TRACE.search(headers)
    return found[1].decode(errors="replace") if found else ""


def _append_error(error: ApiError) -> Exception:
    """Tell a lost race from a refusal, and both from not knowing."""
    if error.number == WRONG_LAST_SEQUENCE:
        last = re.search(r"(\d+)$", str(error))
        return WrongPosition(str(error), last=int(last[1]) if last else None)
    if error.number == 10054:  # noqa: PLR2004 - message size exceeds maximum
        return TooLarge(str(error))
    return OutcomeUnknown(str(error))


def _unsuitable(error: ApiError) -> ServerUnsuitable:
    if error.number in NO_JETSTREAM:
        return ServerUnsuitable(NO_STREAMS)
    return ServerUnsuitable(f"this nats-server cannot hold the log: {error}")

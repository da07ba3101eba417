"""Buckets of values on JetStream: NATS key-value (ADR-8), readable by any client.

Each value is one message, the last of its subject, and its revision the sequence of
that. What is decided on is read from the leader, so it is never stale.
"""

import asyncio
from typing import Any, Self

import msgspec

from events.direct import NOTHING_THERE, ask_leader, subjects_of
from events.errors import (
    Conflict,
    OutcomeUnknown,
    ServerUnsuitable,
    TooLarge,
    Unavailable,
)
from events.names import EXPECTED_POSITION, bucket_stream, bucket_subject
from events.provisioning import provision_bounded
from events.register import Held, Register
from events.wire import ApiError, Nobody, Wire, raise_problem

MAX_VALUE = 256 * 1024
"""Bytes of a value with its headers; what is written is bounded well below."""

SPACE = 256 * 1024 * 1024
"""Bytes of a bucket: some hundred thousand users. What is beyond is refused."""

SPACES = (SPACE, SPACE // 32, SPACE // 512)
"""What is tried one after the other in a store that has no room for so much: it has
to do for more buckets than one."""

TRY = 2.0
"""Seconds one try to write waits for its ack."""

AT_ONCE = 64
"""Values read at once."""

DELETED = {"KV-Operation": "DEL"}
"""What a value without content says to other clients."""

WRONG_LAST_SEQUENCE = 10071
TOO_LARGE = 10054
FULL = 10077


class _Ack(msgspec.Struct):
    seq: int = 0


_ack = msgspec.json.Decoder(_Ack)


def bucket_config(bucket: str, about: str) -> dict[str, Any]:
    """What a bucket's stream is like.

    No rollup, unlike what clients make: who may write one key could erase all others.
    """
    return {
        "name": bucket_stream(bucket),
        "description": f"wakestream: {about}",
        "subjects": [bucket_subject(bucket, ">")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_msg_size": MAX_VALUE,
        "duplicate_window": int(100e6),
        "deny_delete": True,
        "allow_direct": True,
    }


class JetStreamRegister(Register):
    """One bucket of one account."""

    def __init__(self, wire: Wire, bucket: str) -> None:
        self._wire, self._bucket = wire, bucket
        self._stream = bucket_stream(bucket)

    @classmethod
    async def open(
        cls, wire: Wire, bucket: str, about: str, *, replicas: int | None = None
    ) -> Self:
        """Provision the bucket; asking again is fine.

        Raises ServerUnsuitable, Unavailable.
        """
        described = bucket_config(bucket, about)
        try:
            await provision_bounded(wire, described, replicas=replicas, spaces=SPACES)
        except ApiError as error:
            raise ServerUnsuitable(
                f"this nats-server cannot keep the bucket {bucket}: {error}"
            ) from error
        except OutcomeUnknown as error:
            raise Unavailable(
                f"the bucket {bucket} cannot be opened now: {error}"
            ) from error
        return cls(wire, bucket)

    async def read(self, key: str) -> Held:
        """Return the value of a key, as the leader knows it."""
        query = {"last_by_subj": bucket_subject(self._bucket, key)}
        try:
            found = await ask_leader(
                self._wire, self._stream, query, absent=NOTHING_THERE
            )
        except OutcomeUnknown as error:
            raise self._unreachable(error) from error
        return Held(found.data, found.seq) if found else Held()

    async def write(self, key: str, value: bytes, *, after: int) -> int:
        """Replace the value of a key, if ``after`` is still its revision."""
        subject = bucket_subject(self._bucket, key)
        headers = {EXPECTED_POSITION: str(after), **({} if value else DELETED)}
        try:
            answer = await self._wire.request(subject, value, headers=headers, wait=TRY)
            raise_problem(answer.data)
        except ApiError as error:
            raise self._not_written(key, error) from error
        except Nobody as error:
            raise Unavailable(
                f"there is no bucket {self._bucket} on this nats-server: start a "
                "service with wake up, or wake service lifecycle"
            ) from error
        return _ack.decode(answer.data).seq

    def _not_written(self, key: str, error: ApiError) -> Exception:
        what = f"{key} was not written in the bucket {self._bucket}"
        match error.number:
            case n if n == WRONG_LAST_SEQUENCE:
                return Conflict(f"{what}: it was changed meanwhile")
            case n if n == TOO_LARGE:
                return TooLarge(f"{what}: a value has at most {MAX_VALUE:,} bytes")
            case n if n == FULL:
                return Unavailable(
                    f"{what}: it is full; raise max_bytes of the stream "
                    f"{self._stream}, or delete keys that nobody needs"
                )
            case _:  # what else replicas answer says nothing of whether it is stored
                return OutcomeUnknown(f"{what}: {error}")

    async def keys(self) -> list[str]:
        """Return the keys that have a value."""
        reading = asyncio.Semaphore(AT_ONCE)

        async def held(key: str) -> bool:
            async with reading:
                return bool((await self.read(key)).value)

        written = sorted(await self._written())
        there = await asyncio.gather(*map(held, written))
        return [key for key, is_there in zip(written, there, strict=True) if is_there]

    async def _written(self) -> set[str]:
        """Every key that ever had a value."""
        prefix = bucket_subject(self._bucket, "")
        try:
            written = await subjects_of(
                self._wire, self._stream, f"{prefix}>", absent=NOTHING_THERE
            )
        except OutcomeUnknown as error:
            raise self._unreachable(error) from error
        return {subject.removeprefix(prefix) for subject in written}

    def _unreachable(self, error: Exception) -> Unavailable:
        return Unavailable(f"the bucket {self._bucket} cannot be read now: {error}")

"""The bucket of blobs: a NATS object store (ADR-20) of what the log has no room for.

Any object store client can read it. It is written here, since nats-py's own
``put`` and ``get`` are not safe: two that put one name may delete each other's
pieces, and a ``get`` of what has lost a piece waits for ever. A blob is named
after its content, so its pieces have one place of their own, each is appended
behind the one before as commits are, and who was cut off goes on where it
stopped. The info comes last: without it there is no blob.
"""

import asyncio
import re
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from events.direct import ask_leader, read_subject, subjects_of
from events.errors import Corrupt, OutcomeUnknown, Unavailable
from events.names import (
    BLOBS,
    BLOBS_CHUNKS,
    BLOBS_INFOS,
    BLOBS_STREAM,
    EXPECTED_POSITION,
    MAX_MESSAGE,
    Key,
    blob_chunks,
    blob_info,
    blobs_filter,
)
from events.wire import ApiError, Wire, raise_problem

CHUNK = 128 * 1024
"""Bytes of a piece: what every client takes, and far below any max_payload."""

TRY = 2.0
"""Seconds one try to store a piece waits for its ack."""

REREADS = 5
"""How often pieces that are missing are looked for: a replica may lag behind."""

bucket_stream: dict[str, Any] = {
    "name": BLOBS_STREAM,
    "description": "wakestream: strings too long for a commit",
    "subjects": [f"{BLOBS_CHUNKS}.>", f"{BLOBS_INFOS}.>"],
    "retention": "limits",
    "storage": "file",
    "discard": "new",
    "max_msg_size": MAX_MESSAGE,
    "duplicate_window": int(100e6),
    "allow_direct": True,
}
"""No rollup, unlike a bucket that clients make: who may write could erase with it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Info(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an object store says of an object (ADR-20)."""

    name: str
    bucket: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: str = ""
    options: dict[str, Any] = {}
    deleted: bool = False


class _Ack(msgspec.Struct):
    seq: int = 0


_info = msgspec.json.Decoder(_Info)
_ack = msgspec.json.Decoder(_Ack)


class Bucket:
    """The blobs of one account; names are ``<user>/<execution>/<sha-256>``."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def put(self, name: str, content: bytes) -> None:
        """Store a blob unless it is there; raises OutcomeUnknown and Corrupt."""
        position, info = await self._look(name)
        if info is not None and info.size == len(content):
            return
        pieces = await self._put_pieces(name, content)
        about = _encoded(name, content, pieces)
        await self._append(blob_info(name), about, after=position)

    async def _look(self, name: str) -> tuple[int, _Info | None]:
        """Return what is said of a blob, and where that stands."""
        query = {"last_by_subj": blob_info(name)}
        stored = await ask_leader(self._wire, BLOBS_STREAM, query)
        if stored is None:
            return 0, None
        try:
            info = _info.decode(stored.data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return stored.seq, None  # somebody else's; put stores it anew
        return stored.seq, None if info.deleted else info

    async def _put_pieces(self, name: str, content: bytes) -> int:
        """Append the pieces that are not there yet; returns how many there are."""
        stored = await self._pieces(blob_chunks(name))
        written = b"".join(stored.values())
        if not content.startswith(written):
            raise Corrupt(
                f"the pieces of the blob {name} are damaged: delete it from {BLOBS}, "
                "then try again"
            )
        last, number = max(stored, default=0), len(stored)
        for start in range(len(written), len(content), CHUNK):
            piece = content[start : start + CHUNK]
            last = await self._append(blob_chunks(name), piece, after=last)
            number += 1
        return number

    async def _append(self, subject: str, payload: bytes, *, after: int) -> int:
        """Store a message if ``after`` is the last of its subject.

        If it is not, somebody else stores the same: that is for the next try.
        """
        headers = {EXPECTED_POSITION: str(after)}
        answer = await self._wire.request(subject, payload, headers=headers, wait=TRY)
        try:
            raise_problem(answer.data)
        except ApiError as error:
            raise OutcomeUnknown(f"a blob was not stored: {error}") from error
        return _ack.decode(answer.data).seq

    async def get(self, name: str) -> bytes | None:
        """Return a blob; None if it is not there, or not whole. Raises Unavailable."""
        for attempt in range(REREADS):
            await asyncio.sleep(0.02 * attempt)
            try:
                _, info = await self._look(name)
            except OutcomeUnknown as error:
                raise Unavailable(f"a blob cannot be read now: {error}") from error
            if info is None:
                return None
            pieces = await self._pieces(f"{BLOBS_CHUNKS}.{info.nuid}")
            content = b"".join(pieces.values())
            if len(content) == info.size:
                return content
        return None

    async def _pieces(self, subject: str) -> dict[int, bytes]:
        """Return the pieces by their positions, in order; maybe not the newest."""
        stored = await read_subject(self._wire, BLOBS_STREAM, subject)
        return {position: message.data for position, message in stored}

    async def names(self, key: Key) -> list[str]:
        """Return the names of all blobs of ``key``, whole or not.

        Raises Unavailable.
        """
        try:
            subjects = await subjects_of(self._wire, BLOBS_STREAM, blobs_filter(key))
        except OutcomeUnknown as error:
            raise Unavailable(f"blobs cannot be listed now: {error}") from error
        digests = (subject.rpartition(".")[2] for subject in subjects)
        return [f"{key.user}/{key.execution}/{d}" for d in digests if _is_digest(d)]

    async def delete(self, name: str) -> None:
        """Delete a blob; without its info first, it is none. Raises Unavailable."""
        for subject in (blob_info(name), blob_chunks(name)):
            try:
                await self._wire.api(
                    f"STREAM.PURGE.{BLOBS_STREAM}", {"filter": subject}
                )
            except (ApiError, OutcomeUnknown) as error:
                raise Unavailable(f"{name} was not deleted: {error}") from error


def _is_digest(token: str) -> bool:
    return _SHA256.fullmatch(token) is not None


def _encoded(name: str, content: bytes, pieces: int) -> bytes:
    digest = urlsafe_b64encode(sha256(content).digest()).decode()
    info = _Info(
        name=name,
        bucket=BLOBS,
        nuid=blob_chunks(name).removeprefix(f"{BLOBS_CHUNKS}."),
        size=len(content),
        chunks=pieces,
        digest=f"SHA-256={digest}",
        mtime=datetime.now(UTC).isoformat(),
        options={"max_chunk_size": CHUNK},
    )
    return msgspec.json.encode(info)

"""Reading very many messages at once: a connection of its own, without a client.

For who rebuilds something from the whole log, in a thread. It speaks the NATS
protocol as far as that needs: nats-py takes ten times as long for a message. Like
a feed, it counts what the consumer delivered, and a number that is missing means
that messages were lost: then there is nothing to go on with, and it says so.
"""

import secrets
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import msgspec

from events.errors import Unavailable
from events.rawlog import Raw

BATCH = 10_000
"""Messages asked for at a time."""

BATCH_BYTES = 16 * 1024 * 1024
"""Bytes asked for at a time: a server cuts off who takes more than it may hold."""

AHEAD = 2
"""Requests that are open at once, so that the server never waits for one."""

SILENCE = 15.0
"""Seconds without a word after which the server is given up."""

CHUNK = 1024 * 1024
"""Bytes read from the socket at a time."""

SERVED = (b"MaxBytes", b"Batch Completed")
"""What a request that was served ends with; anything else ends it all."""

SHORT_ACK = 8
"""Dots in the older form of an ack subject; the newer ends in one token more."""


class Login(NamedTuple):
    """A nats-server, and who talks to it."""

    url: str
    user: str | None = None
    password: str | None = None


class BulkReader:
    """One pass over a stream; iterate once, then ``close``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._inbox = f"_INBOX.{secrets.token_hex(12)}"
        self._consumer = f"bulk-{secrets.token_hex(8)}"
        self._stream = ""
        self._open: dict[bytes, int] = {}
        self._asked = 0

    @classmethod
    def connect(cls, login: Login) -> Self:
        """Connect; raises Unavailable."""
        url = urlsplit(login.url)
        host, port = url.hostname or "127.0.0.1", url.port or 4222
        user = login.user or (unquote(url.username) if url.username else None)
        word = login.password or (unquote(url.password) if url.password else None)
        try:
            reader = cls(socket.create_connection((host, port), SILENCE))
        except OSError as error:
            raise Unavailable(f"no nats-server answers: {error}") from error
        try:
            reader._greet(host, user, word, tls=url.scheme == "tls")
        except OSError as error:
            reader.close()
            raise Unavailable(f"no nats-server answers: {error}") from error
        except Unavailable:
            reader.close()
            raise
        return reader

    def _greet(
        self, host: str, user: str | None, word: str | None, *, tls: bool
    ) -> None:
        info = msgspec.json.decode(self._line().partition(b" ")[2])
        if tls or info.get("tls_required"):
            secure = ssl.create_default_context()
            self._connection = secure.wrap_socket(
                self._connection, server_hostname=host
            )
        hello = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
            "protocol": 1,
            "lang": "python",
            "version": "1",
            "name": "wakestream-bulk",
            **({"user": user, "pass": word} if user else {}),
        }
        self._send(b"CONNECT " + msgspec.json.encode(hello) + b"\r\nPING\r\n")
        self._until_pong()

    def _until_pong(self) -> None:
        while (line := self._line()) != b"PONG":
            if line.startswith(b"-ERR"):
                raise Unavailable(f"nats-server refused: {line[5:].decode()}")

    def close(self) -> None:
        """Let the server forget the consumer, and hang up."""
        with suppress(OSError):
            if self._stream:
                gone = f"CONSUMER.DELETE.{self._stream}.{self._consumer}"
                self._ask_api(gone, b"")
        self._connection.close()

    # ── reading ──────────────────────────────────────────────────────────────

    def read(
        self, stream: str, subjects: Sequence[str], after: int, upto: int
    ) -> Iterator[list[Raw]]:
        """Give all messages beyond ``after``, up to ``upto``; raises Unavailable."""
        self._stream = stream
        try:
            left = self._begin(subjects, after)
            expected = 1
            while left:
                self._top_up()
                run, expected, left = self._take(expected, left)
                if run and run[-1].position >= upto:
                    yield [raw for raw in run if raw.position <= upto]
                    return
                if run:
                    yield run
        except OSError as error:
            raise Unavailable(f"nats-server was lost: {error}") from error

    def _begin(self, subjects: Sequence[str], after: int) -> int:
        """Make the consumer; returns how much there is to read."""
        self._send(f"SUB {self._inbox}.* 1\r\n".encode())
        config = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "filter_subjects": list(subjects),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(60e9),
        }
        body = {"stream_name": self._stream, "config": config}
        self._ask_api(
            f"CONSUMER.CREATE.{self._stream}.{self._consumer}",
            msgspec.json.encode(body),
        )
        answer = msgspec.json.decode(self._answer())
        if "error" in answer:
            raise Unavailable(f"the log cannot be read now: {answer['error']}")
        return int(answer.get("num_pending", 0))

    def _answer(self) -> bytes:
        while True:
            line = self._line()
            if line.startswith((b"MSG ", b"HMSG ")):
                words = line.split(b" ")
                total = int(words[-1])
                head = int(words[-2]) if words[0] == b"HMSG" else 0
                return self._exactly(total + 2)[head:total]
            self._control(line)

    def _top_up(self) -> None:
        """Ask for more, unless enough is asked for."""
        while len(self._open) < AHEAD:
            self._asked += 1
            reply = f"{self._inbox}.{self._asked}"
            body = {
                "batch": BATCH,
                "max_bytes": BATCH_BYTES,
                "expires": int(SILENCE * 1e9 / 2),
            }
            subject = f"CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            self._ask_api(subject, msgspec.json.encode(body), str(self._asked))
            self._open[reply.encode()] = BATCH

    def _take(self, expected: int, left: int) -> tuple[list[Raw], int, int]:
        """Read what the socket has, as far as it is whole."""
        buffer, run, place = self._more(), [], 0
        while True:
            end = buffer.find(b"\r\n", place)
            if end < 0:
                break
            words = buffer[place:end].split(b" ")
            if words[0] not in (b"MSG", b"HMSG"):
                self._control(buffer[place:end])
                place = end + 2
                continue
            total = int(words[-1])
            following = end + 2 + total + 2
            if len(buffer) < following:
                break
            head = int(words[-2]) if words[0] == b"HMSG" else 0
            reply = words[3] if len(words) == 5 + (words[0] == b"HMSG") else b""
            if reply.startswith(b"$JS.ACK"):
                position, number, left = _delivery(reply)
                if number != expected:
                    raise Unavailable(f"message {expected} of the log was lost")
                expected += 1
                body = buffer[end + 2 + head : end + 2 + total]
                subject = words[1].decode(errors="backslashreplace")
                run.append(_make(Raw, (position, subject, body)))
                self._count()
            else:
                self._over(words[1], buffer[end + 2 : end + 2 + head])
            place = following
            if not left:
                break
        self._buffer = buffer[place:]
        return run, expected, left

    def _count(self) -> None:
        """One of what was asked for is here; requests are served in their order."""
        first = next(iter(self._open), None)
        if first is not None:
            self._open[first] -= 1
            if not self._open[first]:
                del self._open[first]

    def _over(self, reply: bytes, head: bytes) -> None:
        """A request is over before all that it asked for has come."""
        self._open.pop(reply, None)
        if b" 409" in head[:16] and not any(word in head for word in SERVED):
            raise Unavailable(f"the log cannot be read on: {head.decode()}")

    # ── the connection ───────────────────────────────────────────────────────

    def _more(self) -> bytes:
        """What is left and what is new; waits only if nothing whole is left."""
        received = self._connection.recv(CHUNK)
        if not received:
            raise Unavailable("nats-server closed the connection")
        return self._buffer + received

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._buffer = self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer = self._more()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _control(self, line: bytes) -> None:
        if line == b"PING":
            self._send(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            raise Unavailable(f"nats-server refused: {line[5:].decode()}")

    def _ask_api(self, subject: str, body: bytes, reply: str = "0") -> None:
        head = f"PUB $JS.API.{subject} {self._inbox}.{reply} {len(body)}\r\n"
        self._send(head.encode() + body + b"\r\n")

    def _send(self, data: bytes) -> None:
        self._connection.sendall(data)


_make: Any = tuple.__new__
"""A named tuple's own way takes three times as long."""


def _delivery(reply: bytes) -> tuple[int, int, int]:
    """Position, number and how many are left, of an ack subject (NATS ADR-15)."""
    extra = 0 if reply.count(b".") == SHORT_ACK else 1
    parts: list[Any] = reply.rsplit(b".", 4 + extra)
    return int(parts[1]), int(parts[2]), int(parts[4])

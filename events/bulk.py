"""Reading very many messages at once: a connection of its own, without a client.

For who rebuilds something from the whole log, in a thread. It speaks the NATS
protocol as far as that needs: nats-py takes ten times as long for a message. Like
a feed, it counts what the consumer delivered, and a number that is missing means
that messages were lost: then there is nothing to go on with, and it says so.
"""

import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Self
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

CHUNK = 64 * 1024
"""Bytes read from the socket at a time."""

SERVED = (b"MaxBytes", b"Batch Completed")
"""What a request that was served ends with; anything else ends it all."""

PLAIN = 5
"""Words of the line before a message that has a reply; one more with headers."""

PARTS, LONG_ACK = 4, 11
"""Words at the end of an ack subject (NATS ADR-15): the positions in the stream and
among the deliveries, the time, and how many are left. One more follows where it is
longer than so many."""

NOWHERE = -2
"""No position, nor is one next to it."""


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
        self._asked = self._taken = self._left = 0
        self._parts, self._position = PARTS, NOWHERE

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

    def read(self, stream: str, after: int, upto: int) -> Iterator[list[Raw]]:
        """Give all messages beyond ``after``, up to ``upto``; raises Unavailable."""
        self._stream = stream
        try:
            self._left = self._begin(after)
            while self._left:
                self._top_up()
                run = self._take()
                if run and run[-1].position >= upto:
                    yield [raw for raw in run if raw.position <= upto]
                    return
                if run:
                    yield run
        except OSError as error:
            raise Unavailable(f"nats-server was lost: {error}") from error

    def _begin(self, after: int) -> int:
        """Make the consumer; returns how much there is to read.

        It has no filter: one that lets all pass costs the server a tenth more.
        """
        self._send(f"SUB {self._inbox}.* 1\r\n".encode())
        config = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
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

    def _take(self) -> list[Raw]:
        """Read what the socket has, as far as it is whole."""
        buffer, run, place, reply = self._more(), [], 0, b""
        find, size, parts = buffer.find, len(buffer), self._parts
        number, position = self._taken, self._position
        while (end := find(b"\r", place)) >= 0:  # a line has no other
            words, start = buffer[place:end].split(b" "), end + 2
            kind, head, expected = words[0], 0, PLAIN
            if kind == b"HMSG":
                head, expected = int(words[-2]), PLAIN + 1
            elif kind != b"MSG":
                if start > size:
                    break
                self._control(buffer[place:end])
                place = start
                continue
            stop = start + int(words[-1])
            if stop + 2 > size:
                break
            place = stop + 2
            if len(words) != expected:
                self._over(words[1], buffer[start : start + head])
                continue
            number, reply = number + 1, words[3]
            ack = reply.rsplit(b".", parts)
            before, position = position, int(ack[1])
            if position != before + 1:
                parts, position = self._leap(reply, number)
            subject = words[1].decode(errors="backslashreplace")
            run.append(Raw(position, subject, buffer[start + head : stop]))
        self._buffer = buffer[place:]
        if run:
            self._count(number - self._taken)
            self._taken, self._position = number, position
            self._left = int(reply.rsplit(b".", parts)[4])
        return run

    def _leap(self, reply: bytes, number: int) -> tuple[int, int]:
        """Where a delivery stands that is not next to the one before.

        Between neighbours there is nothing that could be lost. Else the consumer's
        numbers tell messages that are deleted from those that did not come.
        """
        self._parts = PARTS + (reply.count(b".") + 1 > LONG_ACK)
        ack = reply.rsplit(b".", self._parts)
        if int(ack[2]) != number:
            raise Unavailable(f"message {number} of the log was lost")
        return self._parts, int(ack[1])

    def _count(self, taken: int) -> None:
        """So many of what was asked for are here; requests are served in order."""
        for reply in list(self._open):
            served = min(taken, self._open[reply])
            self._open[reply] -= served
            taken -= served
            if not self._open[reply]:
                del self._open[reply]

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

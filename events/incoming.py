"""Messages read as they arrive, in the callback of the connection itself.

nats-py lets a task wait for bytes, matches each line against one pattern after the
other, and cuts each message off the front of what is left. Here a line is split
where the server puts its blanks, and a message goes to its subscription without a
task in between: three fifths of the time for who follows the log, and little more than
half for a request and its answer. All else (control lines, messages for who waits,
what looks wrong) goes on to nats-py, whole.
"""

from collections.abc import Callable

Deliver = Callable[[int, bytes, bytes, bytes, bytes | None], bool]
"""Takes subscription, subject, reply, body and headers; or says that it does not."""

PLAIN, HEADED = b"MSG", b"HMSG"
"""How a message begins; its line is ``MSG subject sid [reply] size``, and with
headers ``HMSG subject sid [reply] size-of-headers size``."""


_BARE, _WITH_REPLY = 2, 3
"""Words of a line but its kind and sizes."""


class Incoming:
    """The messages of one connection; ``feed`` takes bytes as they come."""

    def __init__(self, deliver: Deliver, pass_on: Callable[[bytes], None]) -> None:
        self._deliver, self._pass_on = deliver, pass_on
        self._parts: list[bytes] = []
        self._size = self._needed = 0

    def feed(self, data: bytes) -> None:
        """Take what came; what is not whole yet is kept."""
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return
            data = b"".join(self._parts)
        place = self._read(data)
        self._parts = [data[place:]] if place < len(data) else []
        self._size = len(data) - place

    def _read(self, data: bytes) -> int:
        """Read all that is whole; returns where that ends."""
        place, size, find = 0, len(data), data.find
        self._needed = 0
        while (end := find(b"\r\n", place)) >= 0:
            words = data[place:end].split(b" ")
            start = end + 2
            if words[0] not in (PLAIN, HEADED) or not words[-1].isdigit():
                self._pass_on(data[place:start])
                place = start
                continue
            stop = start + int(words[-1])
            if stop + 2 > size:
                self._needed = stop + 2 - place
                break
            if not self._told(words, data, start, stop):
                self._pass_on(data[place : stop + 2])
            place = stop + 2
        return place

    def _told(self, words: list[bytes], data: bytes, start: int, stop: int) -> bool:
        """Deliver a message, unless that is for nats-py."""
        if words[0] == PLAIN:
            headers, others = None, words[1:-1]
        elif words[-2].isdigit():
            body = start + int(words[-2])
            headers, others = data[start:body], words[1:-2]
            start = body
        else:
            return False
        if len(others) == _BARE:
            others.append(b"")  # no reply
        if len(others) != _WITH_REPLY or not others[1].isdigit():
            return False
        subject, number, reply = others
        return self._deliver(int(number), subject, reply, data[start:stop], headers)

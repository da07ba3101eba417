"""What ``wake`` prints on stdout and stderr, a line at a time."""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import msgspec

from events.errors import Misconfigured
from gateway.wording import printable


def whole(stream: TextIO | None) -> TextIO:
    """The stream as one that writes all of what it is given, in any locale.

    One that was closed before we began (None) takes everything and keeps nothing.
    With ``PYTHONUNBUFFERED`` Python's own makes one write(2) of a text, and loses
    what that does not take: a pipe takes less if the process is stopped in it.
    """
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # No terminal's encoding may stop a run because of a check mark.
    stream.reconfigure(errors="replace")
    if not isinstance(stream.buffer, io.RawIOBase):
        return stream
    file, encoding = stream.fileno(), stream.encoding
    return open(
        file, "w", buffering=1, encoding=encoding, errors="replace", closefd=False
    )


@contextmanager
def room() -> Iterator[None]:
    """Say in our words that stdout takes no more; raises Misconfigured.

    That nobody reads it (BrokenPipeError) is no failure, and passes.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Misconfigured(
            f"stdout cannot be written: {error.strerror or error}: make room where "
            "it goes to"
        ) from error


def put(line: str) -> None:
    """Print a line for a person on stdout."""
    with room():
        print(printable(line))  # noqa: T201 - the one place that prints


def put_bytes(data: bytes) -> None:
    """Print what is encoded already, as it is."""
    with room():
        sys.stdout.buffer.write(data)


def flush() -> None:
    """Let all that was printed be written now."""
    with room():
        sys.stdout.flush()


def mute() -> None:
    """Let go nowhere what stdout did not take: it is flushed again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(line: str) -> None:
    """Print a line on stderr, after all that went to stdout; raises Misconfigured."""
    flush()
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - see put


def put_json(value: Any) -> None:
    """Print a value, or JSON that is there already, as one line for programs.

    To a terminal everything unprintable in it goes escaped: the same value.
    """
    encoded = value if isinstance(value, bytes) else msgspec.json.encode(value)
    if sys.stdout.isatty():
        encoded = _escaped(encoded.decode()).encode()
    flush()
    put_bytes(encoded + b"\n")  # JSON is UTF-8, whatever the locale
    flush()


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)

"""What is kept of a history before it is deleted: a file that proves itself.

``DIR/<user>/<execution>-<chain>.jsonl``: a line about it, then the commits exactly
as they were stored, a line each, then the texts that lay beside the log. The name
has the end of the chain, so an id that was used again overwrites nothing, and
archiving twice gives the same file.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from events.blobs import unpack
from events.commit import Recorded, unseal
from events.errors import Corrupt, InvalidInput, Misconfigured
from events.execution import Execution
from events.names import Key, Route

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
KIND: Final = "wakestream.archive.v1"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: what is not in the commits' own bytes."""

    kind: Literal["wakestream.archive.v1"] = KIND
    user: str
    execution: str
    status: str
    chain: str
    positions: tuple[int, ...]
    routes: tuple[Route, ...]
    texts: int = 0


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken out of a commit; a blob is always text."""

    sha256: str
    text: str


class Archive:
    """Histories as files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def open(cls, folder: Path, *, closed: Path | None = None) -> "Archive":
        """See that it can be written, making it if need be; raises InvalidInput.

        It may not be in ``closed``: what is there is deleted.
        """
        if not folder.is_absolute():
            raise InvalidInput(
                f"the archive {str(folder)!r:.200} is relative: name it in full, as "
                f"{str(folder.absolute())!r:.200}"
            )
        try:
            _check_outside(folder, closed)
            folder.mkdir(mode=0o700, exist_ok=True)
            probe = folder / f".wake-{secrets.token_hex(8)}"
            probe.touch(0o600)
            probe.unlink()
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidInput(
                f"the archive {str(folder)!r:.200} cannot be written ({error}): make "
                "it a directory that the janitor may write"
            ) from error
        return cls(folder)

    def keep(
        self,
        history: Sequence[Recorded],
        contents: Mapping[str, bytes | None] = MappingProxyType({}),
    ) -> Path:
        """Write a history, and read it back; returns the file. Blocks.

        ``contents`` are those of its blobs, by SHA-256.
        When this returns it is on the disk, and was seen to be what it should be.
        Raises Misconfigured when it cannot be, Corrupt if it is not.
        """
        key = history[0].key
        execution = Execution.fold(key, history)
        chain = execution.state.chain
        file = self._folder / key.user / f"{key.execution}-{chain[:16]}.jsonl"
        try:
            file.parent.mkdir(mode=0o700, exist_ok=True)
            _write(file, _lines(history, contents, execution))
            _sync(file.parent)
            _sync(self._folder)
            found = read(file)
        except OSError as error:
            raise Misconfigured(
                f"{key} is not deleted, its archive {file} cannot be written: {error}"
            ) from error
        if found != list(history):
            raise Corrupt(f"{key} is not deleted, its archive {file} is not like it")
        return file


def _check_outside(folder: Path, closed: Path | None) -> None:
    if closed is not None and folder.resolve().is_relative_to(closed.resolve()):
        raise InvalidInput(
            f"the archive {str(folder)!r:.200} is among the workspaces, which are "
            "deleted: name another directory"
        )


def read(file: Path) -> list[Recorded]:
    """The history in a file; raises Corrupt unless it is whole, OSError."""
    first, *lines = file.read_bytes().rstrip(b"\n").split(b"\n")
    try:
        about = msgspec.json.decode(first, type=About)
        bodies, rest = lines[: len(about.positions)], lines[len(about.positions) :]
        texts = [msgspec.json.decode(line, type=Text) for line in rest]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Corrupt(f"{file} is no archive of a history: {error}") from error
    key = Key(about.user, about.execution)
    if not len(bodies) == len(about.positions) == len(about.routes) or (
        len(texts) != about.texts
    ):
        raise Corrupt(f"{file} is not whole: {len(bodies)} commits are left")
    contents = {text.sha256: text.text.encode() for text in texts}
    history = [
        _recorded(Recorded(position, key, route, unseal(body, key), body), contents)
        for position, route, body in zip(
            about.positions, about.routes, bodies, strict=True
        )
    ]
    if Execution.fold(key, history).state.chain != about.chain:
        raise Corrupt(f"{file} does not end as it says")
    return history


def _recorded(recorded: Recorded, contents: Mapping[str, bytes]) -> Recorded:
    return unpack(recorded, contents) if recorded.commit.blobs else recorded


def _lines(
    history: Sequence[Recorded],
    contents: Mapping[str, bytes | None],
    execution: Execution,
) -> list[bytes]:
    texts = [
        msgspec.json.encode(Text(sha256=name, text=content.decode()))
        for name, content in contents.items()
        if content is not None
    ]
    about = About(
        user=execution.key.user,
        execution=execution.key.execution,
        status=execution.state.status,
        chain=execution.state.chain,
        positions=tuple(r.position for r in history),
        routes=tuple(r.route for r in history),
        texts=len(texts),
    )
    return [msgspec.json.encode(about), *(r.body for r in history), *texts]


def _write(file: Path, lines: Sequence[bytes]) -> None:
    """Write beside it and rename: whoever looks sees all of it or nothing."""
    draft = file.with_name(f".wake-{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, _NEW, 0o600), "wb") as out:
            out.writelines(line + b"\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def _sync(folder: Path) -> None:
    """Let a new name in a directory last."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

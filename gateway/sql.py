"""``wake sql``: rows of the read model on stdout, or in a file that was not there."""

import errno
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

import msgspec

from events.errors import InvalidInput, Misconfigured, WakeError
from gateway.asked import made
from gateway.composition import Place
from gateway.exits import Exit, Interrupted
from gateway.output import complain, put_bytes
from gateway.querying import Queries
from gateway.reading import width_of
from gateway.readmodel import ask
from gateway.settings import Settings
from gateway.sqlformats import Csv, Format, Json, Numbered, Table, Write, named
from projections import parquet
from projections.queries import Column, SqlRequest

Kind = Literal["table", "json", "csv", "parquet"]

SUFFIXES: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "table",
}
"""What a file's name says of its format."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What says that it is the disk, and not the name."""


def sql(
    place: Place,
    settings: Settings,
    query: str,
    *,
    limit: int,
    timeout: float,
    kind: str | None,
    output: Path | None,
    force: bool,
) -> None:
    """Print what a query comes to, or write it to a file; raises WakeError."""
    form = _kind(kind, output)
    request = made(SqlRequest, sql=query, limit=limit, timeout=timeout, stream=True)

    def run(made_of: Callable[[Write], Format], write: Write) -> Format:
        return ask(place, settings, partial(_filled, request, made_of(write)))

    if output is None:
        filled = run(_formats(form), put_bytes)
    else:
        filled = _into(output, form, run, force=force)
    if filled.more:
        complain(f"there are more than {limit:,} rows: raise --limit to have them")


def _kind(kind: str | None, output: Path | None) -> Kind:
    """The format that was asked for, or that the file's name says."""
    if kind is None:
        kind = SUFFIXES.get(output.suffix.lower(), "table") if output else "table"
    if kind not in get_args(Kind):
        raise InvalidInput(
            f"--format {kind!r:.40}: there are: {', '.join(get_args(Kind))}"
        )
    if kind == "parquet" and output is None:
        raise InvalidInput("--format parquet needs a file: name it with --output")
    return cast("Kind", kind)


def _formats(kind: Kind) -> Callable[[Write], Format]:
    kinds: dict[Kind, Callable[[Write], Format]] = {
        "table": lambda write: Table(write, width_of()),
        "json": Json,
        "csv": Csv,
        "parquet": Numbered,
    }
    return kinds[kind]


async def _filled(
    request: SqlRequest, filled: Format, queries: Queries, tip: int
) -> Format:
    """Ask, and let the rows be written as they come."""
    lines = queries.stream(msgspec.structs.replace(request, min_position=tip))
    async with aclosing(lines):
        async for line in lines:
            if isinstance(line, list):
                filled.row(line)
            elif "columns" in line:
                filled.begin(msgspec.convert(line["columns"], list[Column]))
            else:
                filled.end()
                filled.more = line["more"]
    return filled


# ── files ────────────────────────────────────────────────────────────────────

Run = Callable[[Callable[[Write], Format], Write], Format]


def _into(output: Path, kind: Kind, run: Run, *, force: bool) -> Format:
    """Write a file, which is there when all of it is; raises WakeError."""
    where = f"--output {output}"
    try:
        _check_free(output, force=force)
        # Not named like it: a name may be as long as names can be.
        part = output.with_name(f".wake-{secrets.token_hex(8)}")
        lines = part.with_suffix(".lines")
        try:
            with _ended():
                filled = _write(part, lines, kind, partial(run, _formats(kind)), where)
            _put_in_place(part, output, force=force)
        finally:
            for rest in (part, lines):
                rest.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(where, error) from error
    return filled


def _write(
    part: Path, lines: Path, kind: Kind, run: Callable[[Write], Format], where: str
) -> Format:
    """Write all of it to ``part``; what becomes Parquet goes to ``lines`` first."""
    with (lines if kind == "parquet" else part).open("xb") as file:
        filled = run(_telling(file.write, where))
    if kind == "parquet":
        parquet.write(lines, named(filled.columns), part)
    return filled


@contextmanager
def _ended() -> Iterator[None]:
    """Let SIGTERM end it as Ctrl-C does: what is half written is removed."""
    told: list[int] = []

    def end(number: int, _frame: object) -> None:
        told.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt  # a script has it in the background
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as error:
        if told:
            said = "told to end: nothing was written"
            raise Interrupted(Exit.TOLD_TO_END, said) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_free(output: Path, *, force: bool) -> None:
    """Raise unless nothing is there, or a file that is to be overwritten."""
    try:
        output.lstat()
    except FileNotFoundError:
        return
    if not force:
        raise _taken(output)
    if output.exists() and not output.is_file():  # as root one would lose /dev/null
        raise InvalidInput(f"--output {output} is no file: name one")


def _telling(write: Write, where: str) -> Write:
    """The same, but what says in our words why nothing more can be written."""

    def written(data: bytes) -> object:
        try:
            return write(data)
        except OSError as error:
            raise _unwritable(where, error) from error

    return written


def _unwritable(where: str, error: OSError) -> WakeError:
    said = f"{where} cannot be written: {error.strerror or error}"
    if error.errno in NO_ROOM:
        return Misconfigured(f"{said}: make room, or name a file somewhere else")
    return InvalidInput(f"{said}: name a file that can be")


def _put_in_place(part: Path, output: Path, *, force: bool) -> None:
    if force:
        part.replace(output)
        return
    try:
        os.link(part, output)  # unlike a rename, it replaces nothing
    except FileExistsError as error:
        raise _taken(output) from error


def _taken(output: Path) -> InvalidInput:
    return InvalidInput(f"--output {output} is there already: --force overwrites it")

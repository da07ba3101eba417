"""What is set, source by source: the file, the environment, the flags.

Each value is checked where it stands, so that every mistake names its place.
"""

import difflib
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from events.errors import Misconfigured
from gateway.keylines import line_of, lines_of
from gateway.options import OPTIONS, SECTIONS, Option
from gateway.settings import Url
from gateway.wording import one_line

FILE: Final = "wakestream.toml"
"""The file that is read from the current directory, if no other is named."""

OTHER_VARIABLES: Final = MappingProxyType(
    {
        "WAKE_CONFIG": "the configuration file, as `--config`",
        "WAKE_USER": "on whose behalf, as `--user`",
        "WAKE_CRASH": "for tests: where the process is to die",
        "WAKE_CALL_ID": "told to the commands of agents: the id of the tool call",
        "WAKE_PROCESS": "told to the commands of agents: marks their processes",
        "WAKE_NATS_STORE": "for `nats.conf`: where the server keeps its files",
    }
)
"""Variables that are no options but may be set."""

ALIASES: Final = MappingProxyType({"WAKE_NATS": "nats.url"})
"""Variables that stand for an option beside its own."""

LARGEST_FILE = 16 * 1024
"""Bytes: room for every option with comments; tomllib takes seconds on hostile ones."""

MOST_MISTAKES = 50
"""Lines of complaint that a person may still read."""

PREFIX = "WAKE_"
"""How our variables begin; an unknown one is taken for a slip."""

VARIABLES: Final = MappingProxyType(
    {option.variable: name for name, option in OPTIONS.items()} | ALIASES
)
"""The option that each variable sets."""

_LONGEST = 80

Origin = Literal["file", "variable", "flag"]


@dataclass
class Found:
    """What was found so far: values with their sources, and mistakes."""

    directory: Path
    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    file: Path | None = None

    def take(
        self, option: Option, raw: object, source: str, base: Path, origin: Origin
    ) -> None:
        """Take a value in place of an earlier one, or note what is wrong with it."""
        try:
            self.values[option.name] = _value(option, raw, base, origin)
            self.sources[option.name] = source
        except ValueError as error:
            self.wrong(source, f"{option.name} {error}")
            self.broken.add(option.name)

    def wrong(self, source: str, what: str) -> None:
        """Note a mistake."""
        self.mistakes.append(one_line(f"{source}: {what}"))

    def unknown(
        self, source: str, what: str, word: str, known: Collection[str]
    ) -> None:
        """Note a name that there is not, with the one that was probably meant."""
        if len(self.mistakes) <= MOST_MISTAKES:
            what = f"{what}; {_nearest(word[:_LONGEST], known)}"
        self.wrong(source, what)

    def check(self) -> None:
        """Raise Misconfigured if there are mistakes."""
        if self.mistakes:
            more = len(self.mistakes) - MOST_MISTAKES
            rest = [f"and {more} more mistakes"] if more > 0 else []
            raise Misconfigured("\n".join(self.mistakes[:MOST_MISTAKES] + rest))


def _value(option: Option, raw: object, base: Path, origin: Origin) -> Any:
    """The value that is meant; raises ValueError with what is wrong."""
    if option.secret and origin != "variable":
        raise ValueError(
            f"must not stand where others can read it: set {option.variable}, or "
            f"name a file with {option.name}_file"
        )
    value = option.read(raw, base, loose=origin != "file")
    if origin == "file" and isinstance(value, Url) and value.userinfo:
        raise ValueError(
            "must not hold user and password, others can read this file: leave "
            f"them out, or set {option.variable} instead"
        )
    return value


def read_file(found: Found, flag: object, environ: Mapping[str, str]) -> None:
    """Take what the configuration file says: the one named, else FILE if it exists."""
    source = "WAKE_CONFIG" if flag is None else "--config"
    named = environ.get("WAKE_CONFIG") if flag is None else str(flag)
    path = found.directory / (FILE if named is None else named)
    if named == "":
        found.wrong(source, "is empty: name a file, or leave it out")
        return
    try:
        text = text_of(path, LARGEST_FILE)
    except FileNotFoundError:
        if named is not None or path.is_symlink():
            found.wrong(named or FILE, f"there is no such file ({source})")
    except ValueError as error:
        found.wrong(named or FILE, str(error))
    else:
        found.file = path
        _read_toml(found, text, named or FILE, path.parent)
        if named is None:
            _distrust(found)


def _distrust(found: Found) -> None:
    """Refuse what a file that merely lies here may not decide."""
    if found.values.get("sandbox.mode") == "off":
        found.wrong(
            found.sources["sandbox.mode"],
            'sandbox.mode = "off" counts only from a file that is named (--config), '
            "a variable or a flag: whoever can write here could lift the sandbox",
        )


def text_of(path: Path, largest: int) -> str:
    """The text of a file; raises FileNotFoundError, or ValueError with the reason."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("is not a regular file: name one")
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise ValueError(f"is larger than {largest // 1024} KiB: name another file")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start + 1})") from error


def _read_toml(found: Found, text: str, label: str, base: Path) -> None:
    try:
        document = tomllib.loads(text)
    except RecursionError:
        found.wrong(label, "is nested too deep")
        return
    except ValueError as error:  # also of a number with too many digits
        found.wrong(label, f"not valid TOML: {error}")
        return
    lines = lines_of(text)
    for key, raw in _entries(document):
        line = line_of(key, lines)
        source = f"{label}:{line}" if line else label
        _take_written(found, key, raw, source, base)


def _entries(
    table: dict[str, Any], within: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Each key with its value, the tables that there are taken apart."""
    for key, value in table.items():
        path = (*within, key)
        if isinstance(value, dict) and "." not in key and ".".join(path) in SECTIONS:
            yield from _entries(value, path)
        else:
            yield path, value


def _take_written(
    found: Found, key: tuple[str, ...], raw: object, source: str, base: Path
) -> None:
    name = ".".join(f'"{part}"' if "." in part else part for part in key)
    if name in SECTIONS:
        found.wrong(source, f"{name} is a table: write [{name}] and its keys below")
    elif name in OPTIONS:
        found.take(OPTIONS[name], raw, source, base, "file")
    elif isinstance(raw, dict) and _holds_tables(key[:-1]):
        found.unknown(source, f"[{name:.{_LONGEST}}]: unknown table", name, SECTIONS)
    else:
        found.unknown(source, f"{name:.{_LONGEST}}: unknown key", name, OPTIONS)


def _holds_tables(within: tuple[str, ...]) -> bool:
    """Whether tables may stand there, and not only keys."""
    around = ".".join(within)
    return not within or any(name.startswith(f"{around}.") for name in SECTIONS)


def read_environment(found: Found, environ: Mapping[str, str]) -> None:
    """Take what the variables say, and refuse those that begin like ours."""
    known = {**VARIABLES, **OTHER_VARIABLES}
    for name in sorted(filter(lambda name: name.startswith(PREFIX), environ)):
        if name in VARIABLES:
            option = OPTIONS[VARIABLES[name]]
            found.take(option, environ[name], name, found.directory, "variable")
        elif name not in known:
            found.unknown(name[:_LONGEST], "unknown variable", name, known)
    for name, option_name in ALIASES.items():
        own = OPTIONS[option_name].variable
        if name in environ and own in environ:
            found.wrong(name, f"says the same as {own}: leave one of them out")


def read_flags(found: Found, flags: Mapping[str, object]) -> None:
    """Take what was given on the command line, by dotted name."""
    for name, raw in flags.items():
        if name in OPTIONS:
            option = OPTIONS[name]
            found.take(option, raw, option.flag, found.directory, "flag")
        else:
            found.unknown(f"--{name:.{_LONGEST}}", "unknown option", name, OPTIONS)


def _nearest(word: str, known: Collection[str]) -> str:
    """What was probably meant, or what there is."""
    bare = {name.removeprefix(PREFIX): name for name in known}
    last = word.removeprefix(PREFIX).rpartition(".")[2]
    close = difflib.get_close_matches(word.removeprefix(PREFIX), bare, n=1)
    close += [name for name in bare if name.rpartition(".")[2] == last]
    if close:
        return f"did you mean {bare[close[0]]}?"
    section = word.partition(".")[0] + "."
    beside = [name for name in known if name.startswith(section)]
    tables = dict.fromkeys(name.partition(".")[0] for name in known)
    return f"there are {', '.join(beside or tables)}"

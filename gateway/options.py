"""The options one by one, as the structs of the settings say them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import inspect

from gateway.settings import Secret, Settings, Url, public

_FLAGS: Final = {
    "nats.url": "--nats",
    "runner.lanes": "--lanes",
    "runner.concurrency": "--concurrency",
    "process.time_limit": "--time-limit",
    "process.memory_limit": "--memory-limit",
}
"""Flags that are shorter than the rule for their name."""

_UNPRINTABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_LONGEST = 60
_LARGEST = 10**15
_MOST = 6


@dataclass(frozen=True)
class Option:
    """One option: ``name`` is dotted, ``kind`` is the type of its value."""

    name: str
    kind: Any
    default: Any

    @property
    def section(self) -> str:
        """The table it stands in; empty at the top."""
        return self.name.rpartition(".")[0]

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "WAKE_" + self.name.replace(".", "_").upper()

    @property
    def flag(self) -> str:
        """The flag that sets it, for the commands that have it."""
        return _FLAGS.get(self.name) or "--" + re.sub("[._]", "-", self.name)

    @property
    def about(self) -> str:
        """What it is for."""
        return str(self._meta.get("description", ""))

    @cached_property
    def allowed(self) -> str:
        """What its value may be, as the end of "must be"."""
        allowed = _allowed(self._type, _choices(self.kind))
        return f"{allowed}, or empty for none" if self.optional else allowed

    @property
    def optional(self) -> bool:
        """Whether it may be nothing."""
        return isinstance(self._type, inspect.UnionType)

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return isinstance(self._type, inspect.VarTupleType)

    @property
    def secret(self) -> bool:
        """Whether its value is never to be shown, nor to be written in a file."""
        return self._holds(Secret)

    def read(self, raw: object, base: Path, *, loose: bool) -> Any:
        """The value that ``raw`` stands for; raises ValueError with what is wrong.

        Paths are taken from ``base``. With ``loose``, text may stand for a
        number, and with commas for a list.
        """
        if loose:
            raw = self._listed(raw)
        if raw == "" and self.optional:
            return None
        try:
            _check_printable(raw)
            value = msgspec.convert(
                raw, self.kind, strict=not loose, dec_hook=partial(_made, base)
            )
        except (msgspec.ValidationError, ValueError, OverflowError):
            raise ValueError(f"must be {self.allowed}{self._instead(raw)}") from None
        if value is None:  # a word of another language, "null"; none is written empty
            raise ValueError(f"must be {self.allowed}{self._instead(raw)}")
        if self.many and len(set(value)) < len(value):
            raise ValueError(f"has something twice{self._instead(raw)}")
        return value

    def _listed(self, raw: object) -> object:
        if self.many and isinstance(raw, str):
            return [item.strip() for item in raw.split(",")] if raw.strip() else []
        if isinstance(raw, tuple | list):
            return [_plain(item) for item in raw]
        return _plain(raw)

    def _instead(self, raw: object) -> str:
        """What was written, as far as it may be shown."""
        if self.secret:
            return ""
        if isinstance(raw, list) and self.many:
            return f", is [{', '.join(map(_in_words, raw[:_MOST]))}]"
        if isinstance(raw, str) and self._holds(Url):
            raw = public(raw)
        return f", is {_in_words(raw)}"

    def _holds(self, kind: type) -> bool:
        types = getattr(self._type, "types", (self._type,))
        return any(issubclass(getattr(t, "cls", object), kind) for t in types)

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return _unwrapped(self.kind)[1]

    @cached_property
    def _type(self) -> inspect.Type:
        return _unwrapped(self.kind)[0]


def _unwrapped(kind: Any) -> tuple[inspect.Type, dict[str, Any]]:
    found = inspect.type_info(kind)
    if isinstance(found, inspect.Metadata):
        return found.type, found.extra_json_schema or {}
    return found, {}


def _choices(kind: Any) -> tuple[Any, ...]:
    """The values of the Literal in a type, in the order as written."""
    within = get_args(kind)
    if get_origin(kind) is Literal:
        return within
    return next(filter(None, map(_choices, within)), ())


def _allowed(kind: inspect.Type, choices: tuple[Any, ...]) -> str:
    """What a type allows, in words."""
    match kind:
        case inspect.UnionType(types):
            return _allowed(types[0], choices)
        case inspect.VarTupleType(item_type=item, min_length=least):
            filled = "a list, not empty," if least else "a list,"
            return f"{filled} each {_allowed(item, choices)}"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, choices))}"
        case inspect.CustomType(cls):
            return getattr(cls, "allowed", "a path (with ~ written out)")
        case _:
            return _allowed_plain(kind)


def _allowed_plain(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case inspect.FloatType(ge=least, le=most):
            return f"a number from {least} to {most}"
        case inspect.BoolType():
            return "true or false"
        case _:
            return "text, not empty"


def _plain(raw: object) -> object:
    return str(raw) if isinstance(raw, Path) else raw


def _check_printable(raw: object) -> None:
    for text in raw if isinstance(raw, list) else [raw]:
        if isinstance(text, str) and _UNPRINTABLE.search(text):
            raise ValueError


def _made(base: Path, kind: type[Any], raw: object) -> Any:
    """A value of a type that msgspec does not know; raises ValueError."""
    if not isinstance(raw, str):
        raise ValueError  # noqa: TRY004 - it is told as any wrong value
    if kind is not Path:
        return kind(raw)
    if not raw or raw.startswith("~"):
        raise ValueError
    return base / raw


def _in_words(raw: object) -> str:
    match raw:
        case bool():
            return str(raw).lower()
        case int() if abs(raw) > _LARGEST:  # its digits may be more than can be shown
            return "far too large"
        case dict():
            return "a table"
        case list():
            return "a list"
        case str():
            return repr(raw[:_LONGEST])
        case _:
            return str(raw)


def _options(struct: msgspec.Struct, prefix: str = "") -> Iterator[Option]:
    for field in msgspec.structs.fields(struct):
        name, default = f"{prefix}{field.name}", getattr(struct, field.name)
        if isinstance(default, msgspec.Struct):
            yield from _options(default, f"{name}.")
        else:
            yield Option(name, field.type, default)


OPTIONS: Final = {option.name: option for option in _options(Settings())}
"""Every option by its dotted name, in the order of the settings."""

SECTIONS: Final = tuple(dict.fromkeys(o.section for o in OPTIONS.values() if o.section))
"""The tables that options stand in."""

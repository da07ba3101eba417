"""What is in force, and where each value comes from.

Later sources win: defaults, ``wakestream.toml``, variables, flags. A mistake in
any of them counts, also where a later source would have won.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from gateway.options import OPTIONS
from gateway.settings import HIDDEN, Secret, Settings, Url, public
from gateway.sources import Found, read_environment, read_file, read_flags, text_of
from gateway.wording import one_line

PASSWORDS = (
    "nats.password",
    "nats.system_password",
    "nats.janitor_password",
    "nats.gateway_password",
    "gateway.secret",
    "gateway.webhook_keys",
)
"""What may stand in a file of its own."""

LARGEST_PASSWORD = 4 * 1024
"""Bytes of a password file: more is another file by mistake."""


@dataclass(frozen=True)
class Loaded:
    """Settings in force. ``sources`` says of each option where it was set.

    A source is ``default``, ``FILE:LINE``, a variable, a flag, or for a password
    the file that holds it. ``file`` is the configuration file, if there is one.
    """

    settings: Settings
    sources: dict[str, str]
    file: Path | None


def load(
    flags: Mapping[str, object], environ: Mapping[str, str], directory: Path
) -> Loaded:
    """Put everything together that is set; reads files, changes nothing.

    ``flags`` maps dotted names to what was given on the command line; None means
    not given. ``config`` among them names the file. Relative paths count from
    the file that says them, all others from ``directory``. Raises Misconfigured
    with a line for every mistake.
    """
    given = {name: raw for name, raw in flags.items() if raw is not None}
    found = Found(directory)
    _take_defaults(found)
    read_file(found, given.pop("config", None), environ)
    read_environment(found, environ)
    read_flags(found, given)
    _settle(found)
    found.check()
    return Loaded(_built(found.values), found.sources, found.file)


def _take_defaults(found: Found) -> None:
    for name, option in OPTIONS.items():
        value = option.default
        found.values[name] = (
            value if not isinstance(value, Path) else found.directory / value
        )
        found.sources[name] = "default"


def _settle(found: Found) -> None:
    """Fill in what follows from other values, and see that they go together."""
    if found.sources["workspaces.root"] == "default":
        found.values["workspaces.root"] = found.values["data"] / "workspaces"
    if found.sources["projector.file"] == "default":
        found.values["projector.file"] = found.values["data"] / "readmodel.duckdb"
    if any(name.startswith("nats.") for name in found.broken):
        return  # what contradicts a mistake is none
    for name, what in _contradictions(found.values, found.sources):
        found.wrong(found.sources[name], f"{name} {what}")
    for name in PASSWORDS:
        if found.values[name] is None:
            _take_password(found, name)


def _take_password(found: Found, name: str) -> None:
    file = found.values[f"{name}_file"]
    if file is None:
        return
    try:
        found.values[name] = _password(file)
        found.sources[name] = str(file)
    except ValueError as error:
        source = found.sources[f"{name}_file"]
        found.wrong(source, f"{name}_file: {file} {error}")


def _contradictions(
    values: dict[str, Any], sources: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """What is fine by itself, but not beside what else is set."""
    url = values["nats.url"]
    password = "nats.password" if values["nats.password"] else "nats.password_file"
    for name in PASSWORDS:
        if values[name] and values[f"{name}_file"]:
            given = sources[name]
            yield f"{name}_file", f"says what {given} says too: leave one out"
    if url and url.userinfo and values[password]:
        given = sources[password]
        yield "nats.url", f"holds a login, and {given} a password: leave one out"
    if sources["nats.user"] != "default" and not values[password]:
        variable = OPTIONS["nats.password"].variable
        yield "nats.user", f"needs a password: set {variable} or nats.password_file"
    if values["nats.replicas"] > 1 and url is None:
        yield "nats.replicas", "needs a cluster: name one of its servers with nats.url"


def _password(file: Path) -> Secret:
    """The password in a file; raises ValueError with what is wrong."""
    try:
        text = text_of(file, LARGEST_PASSWORD).rstrip("\r\n")
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    if not text.isprintable() or not text:
        raise ValueError("must hold one line: the password")
    return Secret(text)


def _built(values: Mapping[str, Any]) -> Settings:
    built: Settings = _table(Settings, values)
    return built


def _table(kind: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """One table with those in it."""
    names = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return kind(
        **{
            name: values[prefix + name]
            if prefix + name in values
            else _table(inner, values, f"{prefix}{name}.")
            for name, inner in names.items()
        }
    )


# ── what is in force ─────────────────────────────────────────────────────────


def describe(loaded: Loaded, *, as_json: bool = False) -> str:
    """What is in force, as text to print: key, value and source of every option.

    As JSON it is one line: ``{"KEY": {"value": …, "source": …}, …}``. Secrets
    are hidden in both.
    """
    values = {name: _value_of(loaded.settings, name) for name in OPTIONS}
    if as_json:
        return json.dumps(
            {
                name: {"value": value, "source": loaded.sources[name]}
                for name, value in values.items()
            }
        )
    rows = [("KEY", "VALUE", "SOURCE")]
    rows += [(n, _cell(v), one_line(loaded.sources[n])) for n, v in values.items()]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{k:<{first}}  {v:<{second}}  {s}" for k, v, s in rows)


def _value_of(settings: Settings, name: str) -> Any:
    """A value as JSON has it, without what is secret."""
    value = attrgetter(name)(settings)
    match value:
        case Secret():
            return HIDDEN
        case Url():
            return public(value)
        case Path():
            return str(value)
        case tuple():
            return [str(item) for item in value]
        case _:
            return value


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return one_line(", ".join(value))
    text = str(value)
    return one_line(text.removesuffix(".0") if isinstance(value, float) else text)

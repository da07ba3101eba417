"""The agent types there are: built in, from plugins, from the operator's file.

All three speak the tables of ``builtin.toml``. A plugin may add types but not
change one; the operator's file may do both, key by key. Everything is checked
at once, and every mistake is one line that names its file and key.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

import msgspec

from events.control import CONTROL
from events.errors import Misconfigured, NotFound
from events.spec import AgentSpec, Chunking, Effect, Lane, Limits

TOOLS = (
    "bash",
    "read_file",
    "write_file",
    "edit_file",
    "search_files",
    "list_dir",
    "todo_write",
    "metadata_write",
    "metadata_read",
    *CONTROL,
)
"""The tools that an agent type may name unless ``load`` is told of others."""

ENTRY_POINTS = "wakestream.agents"
"""Group of the plugins: each an AgentSpec, or a callable that returns one."""

MOST = 10**9
"""The largest number a limit may be: past any use, and safe in JSON."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_POSITIVE = (
    "limits.max_steps",
    "limits.max_tokens",
    "limits.timeout",
    "limits.max_attempts",
    "chunking.steps_per_chunk",
    "chunking.max_chunks",
)
_NOT_NEGATIVE = ("limits.max_cost", "max_depth")
_CHOICES = {
    "lane": get_args(Lane),
    "effects": get_args(Effect),
    "on_doubt": ("tell", "ask"),
}

Table = dict[str, Any]
Problem = tuple[str, str]
"""A key, as it is written in the file, and what is wrong with it."""


class Registry:
    """The agent types by name; immutable once loaded."""

    def __init__(self, specs: Mapping[str, AgentSpec]) -> None:
        self._specs = dict(specs)

    @classmethod
    def load(
        cls, extra: Path | None = None, *, tools: Collection[str] = TOOLS
    ) -> "Registry":
        """Read all the types there are; ``tools`` are the names they may use.

        Raises Misconfigured with one line for every mistake.
        """
        builtin = files("services.agents").joinpath("builtin.toml")
        tables = _parse(builtin.read_text("utf-8"), "builtin.toml")
        origin = dict.fromkeys(tables, "builtin.toml")
        for point in sorted(entry_points(group=ENTRY_POINTS)):
            _add_plugin(point, tables, origin)
        if extra is not None:
            given = _parse(_read(extra), str(extra))
            tables = _overlay(tables, given)
            origin |= dict.fromkeys(given, str(extra))
        return cls(_checked(tables, origin, tools))

    def names(self) -> tuple[str, ...]:
        """Every type's name, sorted."""
        return tuple(sorted(self._specs))

    def spec(self, name: str) -> AgentSpec:
        """The type of that name as it was written; raises NotFound."""
        try:
            return self._specs[name]
        except KeyError:
            hint = _nearest(name, self._specs)
            listed = ", ".join(self.names())
            message = f"no agent type {name!r}{hint} There are: {listed}."
            raise NotFound(message) from None

    def resolve(
        self,
        name: str,
        *,
        model: str | None = None,
        effects: Mapping[str, Effect],
        offered: Collection[str],
    ) -> AgentSpec:
        """The type as an execution keeps it; raises NotFound.

        Only tools that are ``offered`` remain, in the type's order, and those
        that the core answers: they need nothing. What each does to the world
        comes from ``effects``, unless the type says so itself: its author may
        know more of how it is used.
        """
        spec = self.spec(name)
        tools = tuple(t for t in spec.tools if t in offered or t in CONTROL)
        known = {**effects, **spec.effects}
        return msgspec.structs.replace(
            spec,
            model=model or spec.model,
            tools=tools,
            effects={tool: known[tool] for tool in tools if tool in known},
            approvals=tuple(tool for tool in spec.approvals if tool in tools),
        )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path}: cannot be read: {error}") from error


def _parse(text: str, label: str) -> dict[str, Table]:
    """The ``[agents.NAME]`` tables of a file; raises Misconfigured."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{label}: not valid TOML: {error}") from error
    problems = [
        f"{label}: {key}: unknown key; write tables named [agents.NAME]"
        for key in document
        if key != "agents"
    ]
    agents = document.get("agents", {})
    tables = agents if isinstance(agents, dict) else {"": agents}
    problems += [
        f"{label}: {'.'.join(filter(None, ('agents', name)))}: must be a table"
        for name, table in tables.items()
        if not isinstance(table, dict)
    ]
    if problems:
        raise Misconfigured("\n".join(problems))
    return tables


def _add_plugin(
    point: EntryPoint, tables: dict[str, Table], origin: dict[str, str]
) -> None:
    label = f"entry point {point.name} = {point.value}"
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise Misconfigured(f"{label}: cannot be loaded: {error}") from error
    spec = found() if callable(found) else found
    if not isinstance(spec, AgentSpec):
        raise Misconfigured(f"{label}: must be or return an AgentSpec, is {spec!r:.80}")
    if spec.name in tables:
        taken = f"{label}: the name {spec.name!r} is taken by {origin[spec.name]}"
        raise Misconfigured(taken)
    tables[spec.name] = msgspec.to_builtins(spec)
    origin[spec.name] = label


def _overlay(below: Table, above: Table) -> Table:
    """``above`` over ``below``, key by key, tables within tables too."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _overlay(below[key], above[key])
    return merged


def _checked(
    tables: dict[str, Table], origin: dict[str, str], tools: Collection[str]
) -> dict[str, AgentSpec]:
    specs: dict[str, AgentSpec] = {}
    problems: list[str] = []
    for name, table in tables.items():
        found = list(_unknown_keys(name, table))
        if not found:
            try:
                specs[name] = msgspec.convert({**table, "name": name}, AgentSpec)
            except msgspec.ValidationError as error:
                found = [_conversion_problem(error)]
            else:
                found = list(_wrong_values(specs[name], tools, tables))
        problems += [
            f"{origin[name]}: {'.'.join(filter(None, ('agents', name, key)))}: {what}"
            for key, what in found
        ]
    if problems:
        raise Misconfigured("\n".join(problems))
    return specs


def _unknown_keys(name: str, table: Table) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        yield "", "a name has 1 to 64 of the characters A-Z a-z 0-9 _ -"
    if table.get("name", name) != name:
        yield "name", f"leave it out: the table's own name is {name!r}"
    shapes = (("", AgentSpec), ("limits", Limits), ("chunking", Chunking))
    for prefix, shape in shapes:
        keys = table.get(prefix) if prefix else table
        known = [field.encode_name for field in msgspec.structs.fields(shape)]
        for key in keys if isinstance(keys, dict) else ():
            if key not in known:
                where = f"{prefix}.{key}" if prefix else key
                yield where, f"unknown key{_nearest(key, known)}"


def _conversion_problem(error: msgspec.ValidationError) -> Problem:
    """Msgspec says ``Expected `int`, got `str` - at `$.limits.max_steps```."""
    message, _, path = str(error).partition(" - at `$")
    key = path.strip(".`")
    choices = _CHOICES.get(key.removesuffix("[...]"), ())
    hint = f": must be one of {', '.join(choices)}" if choices else ""
    return key, message[:1].lower() + message[1:] + hint


def _wrong_values(
    spec: AgentSpec, tools: Collection[str], agents: Collection[str]
) -> Iterator[Problem]:
    yield from _wrong_numbers(spec)
    if not spec.model.strip():
        yield "model", "must not be empty"
    names: tuple[tuple[str, Collection[str], Collection[str], str], ...] = (
        ("tools", spec.tools, tools, "unknown tool"),
        ("subagents", spec.subagents, agents, "unknown agent type"),
        ("approvals", spec.approvals, spec.tools, "not among its tools:"),
        ("effects", spec.effects, spec.tools, "not among its tools:"),
    )
    for key, given, known, complaint in names:
        for name in dict.fromkeys(given):
            if name not in known:
                yield key, f"{complaint} {name!r}{_nearest(name, known)}"
            elif list(given).count(name) > 1:
                yield key, f"{name!r} is there twice"
    if "spawn_agent" in spec.tools and not spec.subagents:
        yield "tools", "'spawn_agent' is of no use without subagents: name them"


def _wrong_numbers(spec: AgentSpec) -> Iterator[Problem]:
    for key in (*_POSITIVE, *_NOT_NEGATIVE):
        if spec.chunking is None and key.startswith("chunking."):
            continue
        value = attrgetter(key)(spec)
        if value is None:
            continue
        if not 0 <= value <= MOST or (value == 0 and key in _POSITIVE):
            least = "more than 0" if key in _POSITIVE else "0 or more"
            yield key, f"must be {least} and at most {MOST:,}, is {value}"


def _nearest(word: str, known: Collection[str]) -> str:
    """The end of a complaint: the name that was probably meant, if any."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."

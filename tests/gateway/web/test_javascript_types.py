"""The types of the client: the compiler's word, and the structs that really go out."""

import json
import re
import subprocess
from typing import Any, get_args

import msgspec
import pytest
from pages import CLIENT, SCENARIOS, node

from events.messages import Task, ToolCall
from events.names import LEVELS
from events.quota import Report, Use
from events.state import Status
from gateway.web import openapi, shapes
from projections import notices

TYPES = CLIENT.with_suffix(".d.ts").read_text()
INTERFACES = {
    "TokenUsage": shapes.TokenUsage,
    "AgentError": shapes.AgentError,
    "LogLine": shapes.LogLine,
    "Agent": shapes.Agent,
    "Asked": shapes.Asked,
    "AwaitedEvent": shapes.AwaitedEvent,
    "Task": Task,
    "AgentDetail": shapes.AgentDetail,
    "AgentPage": shapes.AgentPage,
    "Accepted": shapes.Accepted,
    "Queued": shapes.Queued,
    "LogPage": shapes.LogPage,
    "Commit": shapes.History,
    "HistoryPage": shapes.HistoryPage,
    "Use": Use,
    "Limits": Report,
    "Start": shapes.Start,
    "StartOptions": shapes.Options,
    "Listing": shapes.Listing,
    "ToolCall": ToolCall,
    "StepCompleted": notices.StepCompleted,
    "ToolCompleted": notices.ToolCompleted,
    "StatusChanged": notices.StatusChanged,
    "DeltaText": notices.DeltaText,
}
_FIELD = re.compile(r"^  (?:readonly )?(\w+)\??[:(]", re.MULTILINE)


def block(kind: str, name: str) -> tuple[str, str]:
    """What a declaration extends, and its body."""
    found = re.search(
        rf"^export {kind} {name}(?: extends (\w+))? \{{\n(.*?)^\}}",
        TYPES,
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"there is no {kind} {name}"
    return found[1] or "", found[2]


def declared(name: str) -> set[str]:
    """The fields of an interface, with those that it extends."""
    base, body = block("interface", name)
    return set(_FIELD.findall(body)) | (declared(base) if base else set())


def union(name: str) -> set[str]:
    """The strings that a type may be."""
    found = re.search(rf"^export type {name} =([^;]+);", TYPES, re.MULTILINE)
    assert found
    return set(re.findall(r'"([^"]+)"', found[1]))


@pytest.mark.parametrize(("interface", "struct"), INTERFACES.items())
def test_an_interface_has_the_fields_that_are_sent(interface: str, struct: Any) -> None:
    """No more and no fewer."""
    sent = {field.encode_name for field in msgspec.structs.fields(struct)}
    assert declared(interface) == sent


def test_names_are_those_that_are_sent() -> None:
    """Of statuses, levels, and kinds of messages."""
    assert union("Status") == set(get_args(Status))
    assert union("Level") == set(LEVELS)
    assert union("Kind") == set(notices.KINDS)


def test_the_code_is_as_the_types_say() -> None:
    """Strictly, of the client itself and of a page that uses it rightly and wrongly."""
    compiler = SCENARIOS / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        pytest.fail(
            "there is no TypeScript here: run make test, or npm ci in tests/javascript"
        )
    checked = run(str(compiler), "-p", str(SCENARIOS))
    assert checked.returncode == 0, checked.stdout


def test_the_patterns_of_the_description_are_understood() -> None:
    """By those that read it as the standard has it, by the rules of JavaScript."""
    asked = """
        const patterns = JSON.parse(process.argv[1]).map((one) => new RegExp(one, "u"));
        const names = ["ci.done", "nightly:7", "a\\n", "a b", "Z"];
        const found = patterns.map((one) => names.map((name) => one.test(name)));
        console.log(JSON.stringify(found));
    """
    patterns = sorted(patterns_in(openapi.document()))
    told = run("-e", asked, json.dumps(patterns))
    assert told.returncode == 0, told.stderr
    names = ["ci.done", "nightly:7", "a\n", "a b", "Z"]
    here = [[bool(re.search(p, name)) for name in names] for p in patterns]
    assert json.loads(told.stdout) == here
    assert len(patterns) > 2


def patterns_in(part: Any) -> set[str]:
    """All that a schema demands of texts."""
    if isinstance(part, list):
        return {p for one in part for p in patterns_in(one)}
    if not isinstance(part, dict):
        return set()
    own = {part["pattern"]} if isinstance(part.get("pattern"), str) else set()
    return own | patterns_in(list(part.values()))


def test_what_there_is_is_declared() -> None:
    """Every class that is exported, and every method of the client."""
    asked = """
        import(process.argv[1]).then((client) => console.log(JSON.stringify({
            exported: Object.keys(client),
            methods: Object.getOwnPropertyNames(client.Wakestream.prototype),
        })))
    """
    there = json.loads(run("-e", asked, CLIENT.as_uri()).stdout)
    assert set(there["exported"]) == set(re.findall(r"export class (\w+)", TYPES))
    _, body = block("class", "Wakestream")
    assert set(there["methods"]) == set(_FIELD.findall(body))


def test_the_locked_modules_come_from_the_registry_that_is_configured() -> None:
    """Each is pinned by its digest, and none by an address."""
    lock = json.loads((SCENARIOS / "package-lock.json").read_text())
    modules = [entry for name, entry in lock["packages"].items() if name]
    assert modules
    assert all(entry["integrity"].startswith("sha512-") for entry in modules)
    assert not any("resolved" in entry for entry in modules)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run node to its end."""
    return subprocess.run(
        [node(), *arguments], capture_output=True, text=True, timeout=60, check=False
    )

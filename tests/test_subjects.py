"""``docs/subjects.md`` says what is: its examples are tried, its tables complete."""

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Any, get_args

import documented
import msgspec
import pytest
from documented import Example

from events import answers as answers_
from events import errors
from events.catalog import AnyEvent, AskKind, Created
from events.commit import Commit, unseal
from events.deltas import decode_delta, encode_delta
from events.execution import Execution
from events.inbox import MemoryInbox
from events.memory import MemoryJournal
from events.messages import Reply, ToolCall, Usage
from events.names import ROUTES, Key, check_id
from events.spec import AgentSpec
from events.timetable import MemoryTimetable
from events.triggers import MemoryTriggers
from services import requests
from services.agents.registry import Registry
from services.allowed import Allowed
from services.handler import Handler
from services.lifecycle import Lifecycle
from services.reactor import Reactor
from services.schedules import Schedules
from services.tools.toolbox import TOOLS
from services.triggers import Waker

SENT = documented.examples("sent")
HEARD = documented.examples("heard")
STORED = documented.examples("stored")
TRIGGERED = documented.examples("triggered")
WOKEN = documented.examples("woken")


def subject(example: Example) -> str:
    """What a test of an example is called."""
    return example.subject


@pytest.mark.parametrize("example", SENT, ids=subject)
def test_a_command_of_the_page_is_understood(example: Example) -> None:
    """Each body parses as its verb's; only the one about unknown fields does not."""
    door, user, execution, verb = example.subject.split(".")
    assert door == "commands"
    check_id(user, "user")
    check_id(execution, "execution")
    if "reson" in example.value:
        with pytest.raises(errors.InvalidInput, match="unknown field `reson`"):
            requests.parse(verb, example.body)
    else:
        request = requests.parse(verb, example.body)
        assert request.command_id == example.value["command_id"]


def test_the_page_shows_every_verb() -> None:
    """And no other."""
    verbs = {example.subject.rpartition(".")[2] for example in SENT}
    assert verbs == set(requests.VERBS)


async def test_the_answers_of_the_page_are_those_that_are_given() -> None:
    """Sent in their order, the commands are answered to the letter."""
    answers, _ = await played()
    for example in HEARD:
        _, _, command = example.subject.split(".")
        assert answers[command] == example.value
    assert {example.value["accepted"] for example in HEARD} == {True, False}


@pytest.mark.parametrize("execution", ["report-7", "report-9"])
async def test_what_parks_is_stored_as_the_page_shows(execution: str) -> None:
    """All of the commit but what is new every time: its id, time and chain."""
    _, journal = await played()
    example = next(e for e in STORED if e.subject.split(".")[2] == execution)
    shown = example.value
    recorded = (await journal.read(Key("alice", execution)))[shown["version"] - 1]
    varies = {"id", "at", "chain"}
    stored = msgspec.json.decode(recorded.body)
    assert example.subject == f"feed.alice.{execution}.{recorded.route}"
    assert shown.keys() == stored.keys()
    assert {k: v for k, v in shown.items() if k not in varies} == {
        k: v for k, v in stored.items() if k not in varies
    }


async def test_the_triggers_of_the_page_are_answered_as_shown() -> None:
    """Sent in their order to a reactor, they wake what the page lets wait."""
    _, journal = await played()
    triggers, inbox = MemoryTriggers(), MemoryInbox()
    waker = Waker(Handler(journal, "reactor"), triggers, inbox.answer)
    reactor = Reactor(journal, [waker])
    answers = {}
    async with asyncio.TaskGroup() as group, inbox.answers("alice", "*") as heard:
        group.create_task(reactor.run())
        await waker.ready.wait()
        for example in TRIGGERED:
            await triggers.post(example.subject, example.body, example.headers)
            id_ = f"answers.alice.{example.headers['Wake-Answer']}"
            answers[id_] = msgspec.json.decode(await heard.get())
        await reactor.stop()
    assert answers == {example.subject: example.value for example in WOKEN}
    state = (await Handler(journal, "t").load(Key("alice", "release-1"))).state
    assert 'Event ci.failed: {"branch":"main","run":17}' in str(
        list(state.conversation())
    )


@pytest.mark.parametrize("example", STORED, ids=subject)
def test_a_commit_of_the_page_is_one(example: Example) -> None:
    """It decodes, and has no field that we do not know."""
    _, user, execution, route = example.subject.split(".")
    commit = unseal(example.body, Key(user, execution))
    assert route in ROUTES
    assert isinstance(commit, Commit)
    assert msgspec.json.decode(msgspec.json.encode(commit)) == example.value


def test_a_delta_of_the_page_is_one() -> None:
    """It decodes, and has every field."""
    [example] = documented.examples("delta")
    key, delta = decode_delta(example.subject, example.body)
    assert key == Key("alice", "report-4")
    assert msgspec.json.decode(encode_delta(delta)) == example.value


def test_the_table_of_codes_is_complete() -> None:
    """Every error of the tree, and whether asking again can help."""
    told = {code.strip("`"): again for code, again, _ in documented.table("code")}
    assert told.pop("limit_reached") == "later"
    kinds = {kind.code: kind for kind in tree(errors.WakeError)}
    assert kinds.pop("limit_reached").final
    assert told == {code: "no" if kind.final else "yes" for code, kind in kinds.items()}


def test_the_table_of_events_is_complete() -> None:
    """Every event by its name on the wire, in the catalogue's order."""
    told = [name.strip("`") for name, _ in documented.table("type")]
    kinds = get_args(AnyEvent)
    assert told == [kind.__struct_config__.tag for kind in kinds]


def test_the_fields_that_the_table_of_events_names_are_there() -> None:
    """A word in backticks before an explanation is a field of that event."""
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(AnyEvent)}
    values = {"success", "failed", "denied", "in_doubt", "input", "final_answer"}
    for name, text in documented.table("type"):
        kind = kinds[name.strip("`")]
        named = set(re.findall(r"`(\w+)`", text))
        assert named - values <= set(kind.__struct_fields__), name


def test_the_table_of_requests_is_complete() -> None:
    """Every kind, and every decision that answers it."""
    rows = documented.table("kind")
    assert [kind.strip("`") for kind, *_ in rows] == list(get_args(AskKind))
    for kind, _, how in rows:
        decisions = answers_.DECISIONS.get(kind.strip("`"), ())  # type: ignore[call-overload]
        assert all(f'"{decision}"' in how for decision in decisions)


def test_the_table_of_routes_is_complete() -> None:
    """Every route a commit can have."""
    rows = documented.table("route")
    told = [name for cells in rows for name in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(told) == sorted(ROUTES)


def tree(kind: type[errors.WakeError]) -> list[type[errors.WakeError]]:
    """All that ``events/errors.py`` defines below a class."""
    below = [k for k in kind.__subclasses__() if k.__module__ == errors.__name__]
    return below + [deeper for k in below for deeper in tree(k)]


def resolve(agent: str, model: str | None) -> AgentSpec:
    """Find an agent type as the service does."""
    return Registry.load().resolve(agent, model=model, effects=TOOLS, offered=TOOLS)


async def played() -> tuple[dict[str, Any], MemoryJournal]:
    """Send the commands of the page to a lifecycle; what it answered, by command."""
    inbox, journal = MemoryInbox(), MemoryJournal()
    handler = Handler(journal, "lifecycle")
    schedules = Schedules(MemoryTimetable())
    lifecycle = Lifecycle(
        handler, inbox, resolve, Allowed([Path("/srv")]), schedules=schedules
    )
    answers = {}
    async with asyncio.TaskGroup() as group, inbox.answers("alice", "*") as heard:
        group.create_task(lifecycle.run())
        for example in SENT:
            _, user, execution, verb = example.subject.split(".")
            if execution == "report-9" and not await journal.tip(Key(user, execution)):
                await asking(journal, Key(user, execution))
            await inbox.publish(Key(user, execution), verb, example.body)
            answer = msgspec.json.decode(await heard.get())
            answers[answer["command_id"]] = answer
        await lifecycle.stop()
    return answers, journal


async def asking(journal: MemoryJournal, key: Key) -> None:
    """Let an agent ask whether it may run a command, as the page shows it."""
    agent = AgentSpec(name="careful", tools=("bash",), approvals=("bash",))
    arguments = '{"command":"rm -r build"}'
    tool_call = ToolCall(id="s1-1", name="bash", arguments=arguments)
    reply = Reply(
        model="scripted",
        tool_calls=(tool_call,),
        usage=Usage(input=3, output=7),
        cost=0.0,
        latency_ms=50.0,
    )

    def respond(execution: Execution) -> None:
        execution.parameters = {
            "bash": {
                "type": "object",
                "properties": {"command": {"type": "string"}},
                "required": ["command"],
            }
        }
        execution.respond(1, reply)

    handler = Handler(journal, "runner:host-26319")
    created = Created(agent=agent, input="Clean up.")
    await handler.handle(key, partial(Execution.create, created=created))
    await handler.handle(key, lambda x: x.begin("host-26319", 1))
    await handler.handle(key, respond)

"""Answers of people over the wire: what is none is refused, and it goes on waiting."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clerks import KEY, START, Clerk, begin, clerk
from fake_model import FakeModel, says, use, wants
from fake_tools import World, agent
from inboxes import JetStreamBox
from logs import JetStreamLog
from nats_server import NatsServer
from running import means, order, runner, start, until

from events.commands import Input
from events.errors import InvalidInput
from events.execution import Execution
from events.memory import MemoryJournal
from events.messages import Reply, ToolCall
from events.names import Key
from events.state import State
from services.requests import Answer

COLOUR = {
    "type": "object",
    "required": ["colour"],
    "properties": {"colour": {"enum": ["red", "blue"]}},
}
DEEP = b'{"a":' * 90 + b"1" + b"}" * 90


@pytest.fixture
async def to(
    jetstream_log: JetStreamLog, nats_server: NatsServer
) -> AsyncIterator[Clerk]:
    """A clerk with a lifecycle on a real server."""
    async with (
        JetStreamBox.empty(nats_server.url) as box,
        clerk(
            await box.client(),
            await jetstream_log.again(),
            to_inbox=box.inbox,
            to_journal=jetstream_log.journal,
        ) as one,
    ):
        yield one


async def asked(to: Clerk, schema: dict[str, Any] | None, key: Key = KEY) -> None:
    """Start an execution that asks; the request is ``1-question-c1``."""
    arguments = msgspec.json.encode({"question": "Which?", "schema": schema}).decode()
    call = ToolCall(id="c1", name="ask_user", arguments=arguments)
    assert (await to.start(key)).accepted
    ask = partial(
        Execution.respond, attempt=1, reply=Reply(model="m", tool_calls=(call,))
    )
    await to.decide(begin, ask, key=key)


async def sent(to: Clerk, body: bytes, key: Key = KEY) -> Answer:
    """Publish an input as it is, and hear what is answered."""
    await to.inbox.publish(key, "input", body)
    return await to.hear()


HOSTILE: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "invalid_input", "missing required field `request`"),
    "no answer": (b'{"request": "1-question-c1"}', "invalid_input", "field `answer`"),
    "null": (
        b'{"request": "1-question-c1", "answer": null}',
        "invalid_input",
        "None is",
    ),
    "wrong type": (
        b'{"request": "1-question-c1", "answer": 7}',
        "invalid_input",
        "7 is",
    ),
    "wrong value": (
        b'{"request": "1-question-c1", "answer": {"colour": "green"}}',
        "invalid_input",
        "at $.colour: 'green' is not one of ['red', 'blue']",
    ),
    "huge": (
        b'{"request": "1-question-c1", "answer": "' + b"x" * 200_000 + b'"}',
        "invalid_input",
        "$: at most 65,536 bytes are expected",
    ),
    "deep": (
        b'{"request": "1-question-c1", "answer": ' + DEEP + b"}",
        "invalid_input",
        "input: answer has more than 64 levels",
    ),
    "half a character": (
        b'{"request": "1-question-c1", "answer": {"colour": "\\ud800"}}',
        "invalid_input",
        "input: ",
    ),
    "no text": (b'{"request": "1-question-c1", "answer": "\xff"}', "invalid_input", ""),
    "a vast number": (
        b'{"request": "1-question-c1", "answer": ' + b"9" * 4_000 + b"}",
        "invalid_input",
        "is expected",
    ),
    "no number": (
        b'{"request": "1-question-c1", "answer": 1e999}',
        "invalid_input",
        "input: ",
    ),
    "unknown request": (
        b'{"request": "nix", "answer": 1}',
        "not_found",
        "it waits for",
    ),
    "odd request": (
        b'{"request": "\xe2\x80\xae' + b"x" * 9_000 + b'", "answer": 1}',
        "not_found",
        "it waits for '1-question-c1'",
    ),
    "request of no type": (
        b'{"request": 1, "answer": 1}',
        "invalid_input",
        "$.request",
    ),
    "unknown field": (
        b'{"request": "1-question-c1", "answer": 1, "user": "root"}',
        "invalid_input",
        "unknown field `user`",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_no_answer_is_refused(to: Clerk, name: str) -> None:
    """In a short printable line; the right one is taken afterwards."""
    body, code, said = HOSTILE[name]
    await asked(to, COLOUR)
    before = await to.story()
    answer = await sent(to, body)
    assert (answer.accepted, answer.code) == (False, code), answer
    assert said in answer.message
    assert answer.message.isprintable()
    assert len(answer.message) < 1_000
    assert await to.story() == before
    right = await to.ask("input", request="1-question-c1", answer={"colour": "red"})
    assert (right.accepted, right.status) == (True, "pending")


async def test_an_answer_is_taken_once(to: Clerk) -> None:
    """Repeated it is confirmed, and a second one is refused, whatever their order."""
    await asked(to, None)
    first = await to.ask("input", request="1-question-c1", answer="a", command_id="a-1")
    again = await to.ask("input", request="1-question-c1", answer="a", command_id="a-1")
    other = await to.ask("input", request="1-question-c1", answer="b", command_id="a-2")
    assert (first.accepted, again.accepted, other.accepted) == (True, True, False)
    assert (again.version, other.code) == (first.version, "not_found")
    state = (await to.load()).state
    assert state.turn
    assert state.turn.calls[0].output == "a"
    assert (await to.story()).count("InputReceived") == 1


async def test_another_user_answers_nothing(to: Clerk) -> None:
    """The subject says whose execution is meant, and bob has none of that name."""
    await asked(to, None)
    async with to.inbox.answers("bob", "c-1") as heard:
        body = {"request": "1-question-c1", "answer": "x", "command_id": "c-1"}
        await to.inbox.publish(
            Key("bob", KEY.execution), "input", msgspec.json.encode(body)
        )
        answer = msgspec.json.decode(await heard.get(), type=Answer)
    assert (answer.accepted, answer.code) == (False, "not_found")
    assert answer.message == f"there is no execution bob/{KEY.execution}"
    assert (await to.load()).state.status == "awaiting_input"


BOMBS: dict[str, tuple[dict[str, Any], Any]] = {
    "many choices": ({"items": {"anyOf": [{"type": "null"}] * 190}}, ["x"] * 15_000),
    "all unlike": ({"uniqueItems": True}, [{"a": n} for n in range(6_000)]),
    "wide": ({"anyOf": [{"type": "null"}] * 199}, "x" * 65_000),
    "many names": (
        {"propertyNames": {"maxLength": 1}},
        dict.fromkeys(map(str, range(6_000))),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_costly_answer_keeps_nobody_waiting(to: Clerk, name: str) -> None:
    """Whoever is behind it in the queue is answered soon."""
    schema, answer = BOMBS[name]
    await asked(to, schema)
    await to.send("input", request="1-question-c1", answer=answer)
    await to.send("start", Key(KEY.user, "another"), **START)
    async with asyncio.timeout(30.0):
        answers = [await to.hear(), await to.hear()]
    assert [one.accepted for one in answers if one.execution == "another"] == [True]


# ── with a runner ────────────────────────────────────────────────────────────


async def parked(journal: MemoryJournal) -> State:
    """Wait until it asks."""
    return await until(journal, lambda state: state.request is not None)


@pytest.fixture
def model() -> FakeModel:
    """Launches, and is content."""
    return FakeModel(wants(use("launch", "rocket")), says("Done."))


@pytest.mark.parametrize(
    ("answer", "ran", "outcome"),
    [
        ({"decision": "approve"}, ["rocket"], "success"),
        ({"decision": "edit", "arguments": {"what": "kite"}}, ["kite"], "success"),
        ({"decision": "deny", "reason": "No!"}, [], "denied"),
    ],
    ids=["approve", "edit", "deny"],
)
async def test_what_was_decided_is_what_runs(
    model: FakeModel, tmp_path: Path, answer: Any, ran: list[str], outcome: str
) -> None:
    """Nothing before; and the model hears what came of it."""
    journal, world = MemoryJournal(), World()
    await start(journal, spec=agent(approvals=("launch",)))
    async with runner(journal, means(model, world, tmp_path), grace=5.0):
        state = await parked(journal)
        assert world.ran == []
        assert state.request
        await order(journal, Input(request=state.request.request, answer=answer))
        state = await until(journal, lambda state: state.final)
    assert [what for _, what, _ in world.ran] == ran
    (call,) = state.turns[0].calls  # type: ignore[union-attr]
    assert call.outcome == outcome
    assert state.output == "Done."


@pytest.mark.parametrize(
    "arguments", [{"what": 7}, {"when": "now"}, {"what": "x", "when": "now"}]
)
async def test_a_runner_says_what_its_tools_can_take(
    model: FakeModel, tmp_path: Path, arguments: Any
) -> None:
    """So an edit that the tool could not take is refused to whoever made it."""
    journal, world = MemoryJournal(), World()
    await start(journal, spec=agent(approvals=("launch",)))
    async with runner(journal, means(model, world, tmp_path)):
        state = await parked(journal)
        assert state.request
        edit = {"decision": "edit", "arguments": arguments}
        with pytest.raises(InvalidInput, match=r"at \$\.arguments"):
            await order(journal, Input(request=state.request.request, answer=edit))
    assert world.ran == []

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from clerks import KEY, START, Clerk, clerk
from hypothesis import given
from hypothesis import strategies as st
from inboxes import JetStreamBox
from logs import JetStreamLog
from nats_server import NatsServer

from events import commands
from events.catalog import Created
from events.errors import InvalidInput
from events.inbox import Order
from events.names import MAX_MESSAGE, Key, check_id
from events.spec import AgentSpec
from services import requests
from services.requests import DEEPEST, MAX_REASON, NEW, VERBS, Answer, Start

# ── reading ──────────────────────────────────────────────────────────────────

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *("agent_type", "input", "command_id", "idempotency_key", "metadata"),
        *("model", "limits", "workspace", "request", "answer", "reason", "x"),
    ]
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(FIELDS, JSON).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda body, more: json.dumps({**body, **more}).encode(),
        st.just({**START, "command_id": "c-1"}),
        st.dictionaries(FIELDS, JSON, max_size=3),
    ),
)


@given(verb=st.sampled_from([*VERBS, "fork", "", "START"]), body=BODIES)
def test_a_body_is_a_request_or_invalid(verb: str, body: bytes) -> None:
    """Never anything else; and what is one can be recorded and read again."""
    order = Order(
        door="commands", key=Key("ada", NEW), verb=verb, body=body, position=7
    )
    command = requests.command_id(body, 7)
    assert check_id(command) == command
    assert requests.target(order).user == "ada"
    try:
        request = requests.parse(verb, body)
    except InvalidInput:
        return
    assert isinstance(request, VERBS[verb])
    assert request.command_id in ("", command)
    if isinstance(request, Start):
        key = requests.execution_of(order.key, request, command)
        assert key == requests.target(order)
        check_id(key.execution)
        recordable(request)


def recordable(start: Start) -> None:
    """Show that what was asked can be written and read."""
    created = Created(
        agent=AgentSpec(name="x"),
        input=start.input,
        metadata=start.metadata,
        digest=start.digest,
    )
    encoded = msgspec.json.encode(created)
    again = msgspec.json.decode(encoded, type=Created)
    assert msgspec.json.encode(again) == encoded


@given(JSON, JSON)
def test_the_digest_tells_requests_apart(one: Any, other: Any) -> None:
    """By all but the id of the command, whatever the order of the keys."""
    first, second = ({**START, "metadata": {"m": value}} for value in (one, other))
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    digests = []
    for body in (first, second, dict(reversed(first.items()))):
        try:
            request = requests.parse("start", json.dumps(body).encode())
        except InvalidInput:
            return
        digests.append(request.digest)
    assert (digests[0] == digests[1]) == same
    assert digests[0] == digests[2]


def test_a_start_that_says_nothing_new_has_the_digest_it_always_had() -> None:
    """Or whoever asks again after an upgrade would be refused."""
    old = msgspec.json.decode(start(command_id="c"), type=Start)
    assert old.digest == "a7c1101818c5e11af1dfcdc2b28b8eb2"
    waits = msgspec.json.decode(start(await_event={"event_type": "a"}), type=Start)
    other = msgspec.json.decode(start(await_event={"event_type": "b"}), type=Start)
    assert len({old.digest, waits.digest, other.digest}) == 3


def start(**more: Any) -> bytes:
    """Write a start."""
    return msgspec.json.encode({**START, **more})


@pytest.mark.parametrize(
    ("verb", "body", "said"),
    [
        ("start", start(await_event={}), "missing required field `event_type`"),
        ("start", start(await_event={"event_type": "a.*"}), "at `$.await_event.event"),
        (
            "start",
            start(await_event={"event_type": "a", "where": {"x": {}}}),
            "at `$.await_event.where[...]`",
        ),
        (
            "start",
            start(await_event={"event_type": "a", "within": 0}),
            "at `$.await_event.within`",
        ),
        (
            "start",
            start(await_event={"event_type": "a", "call_id": "x"}),
            "unknown field `call_id`",
        ),
        ("fork", b"{}", "no command 'fork'; there are: start, pause"),
        ("x" * 90, b"{}", "no command"),
        ("start", b"", "missing required field `agent_type`"),
        ("start", b"nonsense", "malformed"),
        ("start", b'{"input": "\xff"}', "utf-8"),
        ("start", b"[]", "Expected `object`"),
        ("pause", b"null", "Expected `object`"),
        ("pause", b'{"commandid": "c"}', "unknown field `commandid`"),
        ("pause", b'{"command_id": 7}', "Expected `str`, got `int`"),
        ("pause", b'{"command_id": "a.b"}', "command_id 'a.b' is not allowed"),
        ("kill", b'{"command_id": "' + b"c" * 65 + b'"}', "1 to 64 of"),
        ("cancel", b'{"reason": 7}', "Expected `str`, got `int` - at `$.reason`"),
        ("input", b'{"answer": 1}', "missing required field `request`"),
        ("start", start(input=""), "at `$.input`"),
        ("start", start(input="x" * 200_001), "at `$.input`"),
        ("start", start(agent_type="x" * 129), "at `$.agent_type`"),
        ("start", start(metadata=[]), "at `$.metadata`"),
        ("start", start(workspace=7), "at `$.workspace`"),
        ("start", start(run_at="2026-12-01T09:00:00"), "timezone component"),
        ("start", start(run_at="tomorrow"), "Invalid RFC3339"),
        ("start", start(run_at=1_800_000_000), "at `$.run_at`"),
        ("start", start(limits={"max_steps": 0}), "at `$.limits.max_steps`"),
        ("start", start(limits={"max_steps": 1.5}), "at `$.limits.max_steps`"),
        ("start", start(limits={"max_tokens": 10**30}), "at `$.limits.max_tokens`"),
        ("start", start(limits={"timeout": -1}), "at `$.limits.timeout`"),
        ("start", start(limits={"max_cost": 1e300}), "at `$.limits.max_cost`"),
        ("start", start(limits={"max_attempts": 9}), "unknown field"),
        ("start", start(idempotency_key="k" * 257), "at `$.idempotency_key`"),
    ],
)
def test_what_is_wrong_is_said(verb: str, body: bytes, said: str) -> None:
    """With the field that is wrong, in one line."""
    with pytest.raises(InvalidInput) as refused:
        requests.parse(verb, body)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("depth", [DEEPEST, DEEPEST + 1, 900, 100_000])
@pytest.mark.parametrize("verb", ["start", "input"])
def test_nesting_has_an_end(verb: str, depth: int) -> None:
    """What is read here can be read from wherever it is needed."""
    value = b'{"a":[' * (depth // 2) + b"1" + b"]}" * (depth // 2)
    if depth % 2:
        value = b"[" + value + b"]"
    bodies = {
        "start": start()[:-1] + b',"metadata":{"a":' + value + b"}}",
        "input": b'{"request":"r","answer":' + value + b"}",
    }
    if depth == DEEPEST and verb == "input":
        assert isinstance(requests.parse(verb, bodies[verb]), commands.Input)
        return
    with pytest.raises(InvalidInput):
        requests.parse(verb, bodies[verb])


def test_ids_that_follow_from_a_key_are_the_user_s_own() -> None:
    """Neither another user's key nor a command's id gives the same."""
    keyed = requests.parse("start", start(idempotency_key="k"))
    plain = requests.parse("start", start())
    ids = {
        requests.execution_of(Key(user, NEW), request, command).execution
        for user in ("ada", "bob")
        for request, command in ((keyed, "c"), (plain, "k"), (plain, "c"))
    }
    assert len(ids) == 6
    explicit = requests.execution_of(KEY, plain, "c")
    assert explicit == KEY


# ── over the wire ────────────────────────────────────────────────────────────


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


ODD = {
    "malformed": (b"{", "invalid_input"),
    "no text": (b"\xff\xfe", "invalid_input"),
    "deep": (b'{"a":' * 40_000 + b"1" + b"}" * 40_000, "invalid_input"),
    "wrong type": (b'{"command_id": [1]}', "invalid_input"),
    "unknown field": (b'{"force": true}', "invalid_input"),
    "odd id": (b'{"command_id": "*"}', "invalid_input"),
    "overlong id": (b'{"command_id": "%s"}' % (b"c" * 65), "invalid_input"),
    "no id": (b"{}", "not_found"),
    "nothing": (b"", "not_found"),
}


@pytest.mark.parametrize("name", ODD)
async def test_without_a_usable_id_it_is_answered_by_its_position(
    to: Clerk, name: str
) -> None:
    """Refused, whatever it is, under seq-<position>; nothing is recorded."""
    body, code = ODD[name]
    position = await to.inbox.publish(KEY, "pause", body)
    answer = await to.hear()
    assert (answer.command_id, answer.code) == (f"seq-{position}", code)
    assert (answer.accepted, answer.execution) == (False, "run-1")
    assert answer.message.isprintable()
    assert await to.story() == []
    assert (await to.start()).accepted


@pytest.mark.parametrize("verb", ["fork", "PAUSE", "§", "start-", "x" * 200])
async def test_an_unknown_verb_is_refused(to: Clerk, verb: str) -> None:
    """With those that there are."""
    answer = await to.ask(verb)
    assert (answer.accepted, answer.code) == (False, "invalid_input")
    assert "there are: start, pause, resume, cancel" in answer.message


@pytest.mark.parametrize("execution", ["§", "x" * 65, "a$b", "new~"])
async def test_an_id_that_is_none_is_refused(to: Clerk, execution: str) -> None:
    """For a start and for a signal alike."""
    for verb, body in (("start", START), ("pause", {})):
        answer = await to.ask(verb, Key("ada", execution), **body)
        assert (answer.accepted, answer.code) == (False, "invalid_input")
        assert "use 1 to 64 of" in answer.message


@pytest.mark.parametrize("user", ["all", "bob@x", "ü", "x" * 65, "$JS"])
async def test_a_user_who_is_none_is_told_so(to: Clerk, user: str) -> None:
    """On the subject that he would be answered on; nothing is recorded."""
    async with to.inbox.answers(user, "c-1") as heard:
        body = start(command_id="c-1")
        await to.inbox.publish(Key(user, "run-1"), "start", body)
        answer = msgspec.json.decode(await heard.get(), type=Answer)
    assert (answer.accepted, answer.code) == (False, "invalid_input")
    assert await to.story(Key(user, "run-1")) == []
    assert (await to.start()).accepted


@pytest.mark.parametrize("subject", ["commands.*.>.start", "commands.a\x00b.x.start"])
async def test_a_user_who_cannot_be_answered_is_passed_over(
    to: Clerk, subject: str
) -> None:
    """Nothing is recorded or said on a subject that others hear; the next one is."""
    wire = to.inbox._wire  # type: ignore[attr-defined]
    heard: list[str] = []
    listening = await wire.subscribe("answers.>", lambda m: heard.append(m.subject))
    await wire.client._send_publish(subject, "", start(), len(start()), None)
    answer = await to.start()
    assert answer.accepted
    await wire.unsubscribe(listening)
    assert heard == [f"answers.ada.{answer.command_id}"]


async def test_what_is_too_large_is_refused_by_the_server(to: Clerk) -> None:
    """A command beyond what the stream takes is not stored; the next one is."""
    wire = to.inbox._wire  # type: ignore[attr-defined]
    body = start(input="x" * MAX_MESSAGE)
    answer = await wire.request("commands.ada.run-1.start", body)
    assert json.loads(answer.data)["error"]["err_code"] == 10054
    assert (await to.start()).accepted


async def test_a_start_that_fits_no_commit_is_refused(to: Clerk) -> None:
    """As large as a command may be, and more than a commit can hold."""
    answer = await to.start(metadata={"pad": [0] * 130_900})
    assert (answer.accepted, answer.code) == (False, "too_large")
    assert await to.story() == []


async def test_a_start_with_long_texts_is_kept_whole(to: Clerk) -> None:
    """As large as a command may be: what a commit has no room for lies beside it."""
    metadata = {"pad": "x" * 250_000}
    answer = await to.start(metadata=metadata, input="y" * 11_950)
    assert answer.accepted
    state = (await to.load()).state
    assert (state.metadata, state.input) == (metadata, "y" * 11_950)


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("start", b'{"%s": 1}' % ("ü" * 250_000).encode()),
        ("pause", b'{"reason": 1, "%s": 2}' % (b"x" * 500_000)),
        ("x" * 900, b"{}"),
    ],
    ids=["a long field", "a longer field", "a long verb"],
)
async def test_a_refusal_is_short_whatever_was_sent(
    to: Clerk, verb: str, body: bytes
) -> None:
    """It quotes what was wrong, and fits every server's messages."""
    wire = to.inbox._wire  # type: ignore[attr-defined]
    await wire.request(f"commands.ada.run-1.{verb}", body)
    answer = await to.hear()
    assert (answer.accepted, answer.code) == (False, "invalid_input")
    assert len(answer.message) <= MAX_REASON + 1
    assert (await to.start()).accepted


async def test_thousands_of_commands_at_once(to: Clerk) -> None:
    """Good and bad from many users' hands: each is answered, once, and it goes on."""
    wire = to.inbox._wire  # type: ignore[attr-defined]
    count = 10_000
    for n in range(count):
        verb, body = (
            ("start", start(command_id=f"n-{n}")),
            ("pause", msgspec.json.encode({"command_id": f"n-{n}", "x": n})),
            ("nonsense", msgspec.json.encode({"command_id": f"n-{n}"})),
            ("start", b'{"command_id": "n-%d", "agent_type": "nix"}' % n),
            ("cancel", b'{"command_id": "n-%d"' % n),
        )[n % 5]
        await wire.send(f"commands.ada.run-{n % 300}.{verb}", body)
        if n % 500 == 0:
            await asyncio.sleep(0)
    answers: dict[str, Answer] = {}
    while len(answers) < count:  # one may come again: the server was slow to hear of it
        answer = await to.hear()
        answers[answer.command_id] = answer
    named = {command for command in answers if command.startswith("n-")}
    assert len(named) == count * 4 // 5
    assert sum(a.accepted for a in answers.values()) == count // 5
    assert len({a.execution for a in answers.values() if a.accepted}) == 60
    assert (await to.start()).accepted

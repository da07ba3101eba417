"""Commits: what was changed shows, and nothing that is read can do harm."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from histories import BEGINNING, KEY, Story, call
from hypothesis import given
from hypothesis import strategies as st

from events import catalog as e
from events.commit import GENESIS, MAX_DEPTH, Commit, Recorded, check, seal, unseal
from events.errors import Corrupt, InvalidInput, UnknownEvent
from events.execution import Execution
from events.names import Key

History = list[Recorded]


def history() -> History:
    """Some commits."""
    story = Story()
    story.running()
    story.respond(call("a", "launch"), text='Said "so" {[\\')
    story.finish("a")
    return story.log


def read(key: Key, body: bytes, previous: str) -> None:
    """Do what a reader does with one body."""
    recorded = Recorded(1, key, "log", unseal(body, key), body)
    check(recorded, previous)


def sealed(**fields: Any) -> bytes:
    """Seal a commit that received an input."""
    fact = e.InputReceived(request="r", **fields)
    commit = Commit(version=1, id="c", at=BEGINNING, by="t", events=(fact,))
    return seal(commit, KEY, GENESIS)[1]


def test_a_sealed_commit_reads_back() -> None:
    """The chain is the last member of the body."""
    body = sealed(answer={"a": [1, "ü"]})
    read(KEY, body, GENESIS)
    assert list(json.loads(body))[-1] == "chain"
    assert len({GENESIS, *(r.commit.chain for r in history())}) == 5


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_any_flipped_byte_shows(mask: int) -> None:
    """Wherever it is; in an event's name it is an event that nobody knows."""
    body = sealed(answer="yes")
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= mask
        with pytest.raises((Corrupt, UnknownEvent)):
            read(KEY, bytes(changed), GENESIS)


def test_any_cut_or_addition_shows() -> None:
    """Also of white space, and of a second chain."""
    body = sealed(answer="yes")
    chain = json.loads(body)["chain"]
    twice = body[:-1] + b',"chain":"' + chain.encode() + b'"}'
    cuts = [body[:n] for n in range(len(body))] + [body[n:] for n in range(1, 9)]
    for changed in [*cuts, body + b" ", b" " + body, body + body, twice]:
        with pytest.raises(Corrupt):
            read(KEY, changed, GENESIS)


@pytest.mark.parametrize("key", [Key("eve", KEY.execution), Key(KEY.user, "run-2")])
def test_a_commit_under_another_key_shows(key: Key) -> None:
    """Nobody can pass one execution's history off as another's."""
    moved = [recorded._replace(key=key) for recorded in history()]
    with pytest.raises(Corrupt, match="restore EVENTS"):
        Execution.fold(key, moved)


CHANGES: dict[str, Callable[[History], History]] = {
    "one is missing": lambda log: [log[0], *log[2:]],
    "the first is missing": lambda log: log[1:],
    "two are swapped": lambda log: [log[0], log[2], log[1], log[3]],
    "one comes twice": lambda log: [log[0], log[0], *log[1:]],
    "all are reversed": lambda log: log[::-1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_order_shows(name: str) -> None:
    """Versions follow one another without a gap."""
    with pytest.raises(Corrupt, match="gap"):
        Execution.fold(KEY, CHANGES[name](history()))


def test_a_commit_that_follows_another_history_shows() -> None:
    """Version and key fit, its predecessor was another."""
    log = history()
    story = Story()
    story.running()
    story.respond(text="Another.")
    with pytest.raises(Corrupt, match="broken at version 4"):
        Execution.fold(KEY, [*story.log, log[3]])


def test_an_event_of_a_newer_version_is_named() -> None:
    """The message says what to do."""
    body = sealed().replace(b"input_received.v1", b"input_received.v9")
    with pytest.raises(UnknownEvent, match=r"'input_received\.v9'.*upgrade"):
        unseal(body, KEY)


DEEP = 5000
FACT = b'{"type":"input_received.v1","request":"r","answer":%b}'
COMMIT = b'{"version":1,"id":"c","at":"2026-01-01T00:00:00Z","by":"t","events":[%b]}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"events":' + b"[" * DEEP,
        COMMIT % b"",
        COMMIT.replace(b"1", b"9" * 400, 1) % b"",
        COMMIT.replace(b"2026", b"9999999") % b"",
        COMMIT % b"null",
        COMMIT % b'{"type":7}',
        COMMIT % b'{"type":"paused.v1\xff"}',
        COMMIT % b'{"type":"started.v1","runner":null,"attempt":"1"}',
        COMMIT % (FACT % (b"[" * DEEP + b"]" * DEEP)),
        COMMIT % (FACT % (b'{"a":' * DEEP + b"1" + b"}" * DEEP)),
        COMMIT % (FACT % b"1e999"),
        COMMIT % (FACT % b"9" * 5000),
        COMMIT % (FACT % b'"\\ud800"'),
        COMMIT % (FACT % (b'"' + b"x" * 1_000_000)),
    ],
    ids=repr,
)
def test_a_hostile_body_is_corrupt_and_nothing_else(body: bytes) -> None:
    """No JSON, wrong types, huge, nested deeply, no UTF-8."""
    with pytest.raises((Corrupt, UnknownEvent)):
        read(KEY, body, GENESIS)


@given(
    st.binary(max_size=60)
    | st.binary(max_size=20).map(lambda inside: COMMIT % inside)
    | st.binary(max_size=20).map(lambda inside: COMMIT % (FACT % inside))
    | st.text(max_size=20).map(
        lambda name: COMMIT % json.dumps({"type": name}).encode()
    )
)
def test_no_bytes_are_read_as_a_commit_that_was_not_sealed(body: bytes) -> None:
    """Whatever they are, reading ends in one of two errors."""
    with pytest.raises((Corrupt, UnknownEvent)):
        read(KEY, body, GENESIS)


def nested(levels: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "answer",
    ["\ud800", object(), nested(MAX_DEPTH), nested(DEEP), {1: {2: {3j}}}],
    ids=["a lone surrogate", "an object", "deep", "very deep", "a complex number"],
)
def test_what_no_reader_could_decode_is_refused(answer: Any) -> None:
    """Or the history would end there, for ever."""
    with pytest.raises(InvalidInput, match="ada/run-1: a value is"):
        sealed(answer=answer)


def test_brackets_in_a_text_are_no_nesting() -> None:
    """A tool's output may be full of them."""
    text = '{"\\' * 1000
    assert unseal(sealed(answer=text), KEY).events[0] == e.InputReceived(
        request="r", answer=text
    )


def test_a_commit_of_fields_from_a_newer_version_is_read() -> None:
    """A field that is not known is no damage; the chain is over the bytes."""
    bare = msgspec.json.encode(
        {"version": 1, "id": "c", "at": BEGINNING, "by": "t", "events": [], "new": 1}
    )
    assert unseal(bare, KEY).version == 1

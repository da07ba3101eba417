"""Blobs: what is too long for a commit is taken out, and put back unchanged."""

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from anything import one_event
from histories import BEGINNING, KEY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events import catalog as e
from events.blobs import LARGEST, PREVIEW, SMALLEST, pack, unpack
from events.commit import GENESIS, Blob, Commit, Recorded, check, seal, unseal
from events.errors import Corrupt, TooLarge
from events.messages import ToolCall
from events.names import MAX_COMMIT

LONG = st.builds(
    lambda text, times: text * times,
    st.text(min_size=1, max_size=4),
    st.sampled_from([1, 100, 2_000, 30_000, 100_000]),
)
"""Texts of every length; some of control characters, which JSON writes as six."""


def commit(*facts: e.Event) -> Commit:
    """Make a commit, as a reader sees it before it is packed."""
    new = Commit(version=1, id="c", at=BEGINNING, by="t", events=facts)  # type: ignore[arg-type]  # each is in AnyEvent
    return unseal(msgspec.json.encode(new), KEY)


def stored(packed: Commit) -> Recorded:
    """Seal a commit and read it, as everybody does."""
    _, body = seal(packed, KEY, GENESIS)
    return Recorded(1, KEY, "log", unseal(body, KEY), body)


def noted(**notes: Any) -> Commit:
    """A commit of notes: any JSON."""
    return commit(e.MetadataWritten(notes=notes))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(one_event(LONG), max_size=3))
def test_any_commit_is_packed_and_comes_back(facts: list[e.Event]) -> None:
    """It fits and decodes; with its contents it is what it was, or it is refused."""
    whole = commit(*facts)
    try:
        packed, contents = pack(whole, KEY)
    except TooLarge:
        assert _without_texts(whole) > MAX_COMMIT // 2  # twice: there, and in paths
        return
    recorded = stored(packed)
    assert len(recorded.body) <= MAX_COMMIT
    check(recorded, GENESIS)
    back = unpack(recorded, contents)
    assert msgspec.structs.replace(back.commit, chain="") == whole
    assert back.body == recorded.body


def _without_texts(node: Any) -> int:
    """Bytes that are no text's: numbers, and names, which stay where they are."""
    encoded = len(msgspec.json.encode(node))
    return encoded - _texts(msgspec.to_builtins(node))


def _texts(node: Any) -> int:
    if isinstance(node, str):
        return len(msgspec.json.encode(node))
    if isinstance(node, dict | list | tuple):
        return sum(map(_texts, node.values() if isinstance(node, dict) else node))
    return 0


def test_only_as_much_is_taken_out_as_must_be() -> None:
    """The largest first; what fits stays, and what fits whole has no blobs."""
    whole = noted(a="a" * 100_000, b="b" * 200_000, c="c" * 50_000)
    packed, contents = pack(whole, KEY)
    assert [(blob.path, blob.size) for blob in packed.blobs] == [
        ("/0/notes/b", 200_000)
    ]
    assert list(contents.values()) == [b"b" * 200_000]
    assert "blobs" not in msgspec.json.decode(seal(noted(a="a"), KEY, GENESIS)[1])


def test_what_stays_is_the_beginning_and_a_note() -> None:
    """So that who cannot read the bucket knows what it is, and how much."""
    text = "ü" * 1024 * 1024
    packed, contents = pack(noted(a=text), KEY)
    [blob], [fact] = packed.blobs, packed.events
    assert fact == e.MetadataWritten(
        notes={"a": "ü" * PREVIEW + "[…: 2,097,152 bytes in BLOBS]"}
    )
    assert blob.sha256 == sha256(text.encode()).hexdigest()
    assert contents == {blob.sha256: text.encode()}


def test_a_text_that_comes_twice_is_kept_once() -> None:
    """An answer is also the output of the execution that it ends."""
    text = "x" * 2_000_000
    whole = commit(
        e.ModelResponded(step=1, model="m", text=text),
        e.Completed(output=text, finish_reason="final_answer"),
    )
    packed, contents = pack(whole, KEY)
    assert [blob.path for blob in packed.blobs] == ["/0/text", "/1/output"]
    assert len(contents) == 1
    assert unpack(stored(packed), contents).commit.events == whole.events


def test_arguments_of_a_call_and_opaque_values_are_taken_out_too() -> None:
    """Wherever a string is: in a list, in any JSON, under a name with a slash."""
    call = ToolCall(id="a", name="t", arguments='{"x": "' + "y" * 300_000 + '"}')
    opaque = {"signed/thinking~": [{"": "z" * 300_000}]}
    whole = commit(
        e.ModelResponded(step=1, model="m", tool_calls=(call,), opaque=opaque)
    )
    packed, contents = pack(whole, KEY)
    assert {blob.path for blob in packed.blobs} == {
        "/0/tool_calls/0/arguments",
        "/0/opaque/signed~1thinking~0/0/",
    }
    assert unpack(stored(packed), contents).commit.events == whole.events


@pytest.mark.parametrize(
    "notes",
    [
        {str(n): "x" * (SMALLEST // 2) for n in range(600)},
        {"n": list(range(100_000))},
        {"x" * MAX_COMMIT: "y" * MAX_COMMIT},
        {"x" * MAX_COMMIT: 1},
    ],
    ids=["small strings", "numbers", "a long name", "a long name of little"],
)
def test_what_is_made_of_small_parts_is_too_large(notes: dict[str, Any]) -> None:
    """It says so, with the size."""
    with pytest.raises(TooLarge, match=r"ada/run-1: a commit of .* many small parts"):
        pack(noted(**notes), KEY)


def test_a_text_that_no_reader_could_hold_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bound is far above what a model can say."""
    assert LARGEST >= 16 * 1024 * 1024
    monkeypatch.setattr("events.blobs.LARGEST", 1_000_000)
    with pytest.raises(TooLarge, match="a text of 1,000,001 bytes is larger than"):
        pack(noted(a="x" * 1_000_001), KEY)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "is missing or not whole"),
        (b"", "is not what was stored"),
        (b"x" * 299_999 + b"y", "is not what was stored"),
        (b"x" * 300_001, "is not what was stored"),
    ],
    ids=["missing", "empty", "changed", "longer"],
)
def test_a_content_that_is_not_it_is_corrupt(content: bytes | None, what: str) -> None:
    """The message names the blob and what to do."""
    packed, contents = pack(noted(a="x" * 300_000), KEY)
    [digest] = contents
    told = f"ada/run-1 is damaged at version 1: the blob ada/run-1/{digest} {what}"
    with pytest.raises(Corrupt, match=f"{told}; restore BLOBS"):
        unpack(stored(packed), {} if content is None else {digest: content})


@pytest.mark.parametrize(
    "path", ["", "/", "/0", "/1/notes/a", "/0/notes/b/c", "/x/notes", "//", "/0/type"]
)
def test_a_blob_that_belongs_nowhere_is_corrupt(path: str) -> None:
    """A commit that nobody packed is no reason for any other error."""
    content = b"x" * 2000
    blob = Blob(path=path, sha256=sha256(content).hexdigest(), size=len(content))
    odd = msgspec.structs.replace(noted(a="x"), blobs=(blob,))
    with pytest.raises(Corrupt, match="no place for its blobs; restore"):
        unpack(stored(odd), {blob.sha256: content})


def test_the_chain_covers_what_is_stored() -> None:
    """Neither digest nor path can be exchanged without showing."""
    packed, contents = pack(noted(a="x" * 300_000), KEY)
    recorded = stored(packed)
    for old, new in ((b"/0/notes/a", b"/0/notes/b"), (b'"sha256":"', b'"sha256":"0')):
        body = recorded.body.replace(old, new)
        assert body != recorded.body
        with pytest.raises(Corrupt, match="broken at version 1"):
            check(Recorded(1, KEY, "log", unseal(body, KEY), body), GENESIS)
    check(unpack(recorded, contents), GENESIS)

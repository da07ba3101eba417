"""What a trigger says, and what is refused."""

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.cloudevents import Trigger, read
from events.errors import InvalidInput
from events.triggers import MAX_PAYLOAD, Posted

SUBJECT = "triggers.ada.ci.done"
EVENT = {"specversion": "1.0", "id": "17", "source": "/ci", "type": "ci.done"}
BINARY = {f"ce-{name}": value for name, value in EVENT.items()}
JSON = {"content-type": "application/cloudevents+json"}


def said(
    body: bytes | Any, headers: Mapping[str, str] | None = None, subject: str = SUBJECT
) -> Trigger:
    """Read a message; a body that is no bytes is written as JSON."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return read(Posted(7, subject, raw, headers or {}))


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b'{"ok": true, "n": 1.5}', {"ok": True, "n": 1.5}),
        (b"[1, null]", [1, None]),
        (b'"text"', "text"),
        (b"17", 17),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"null", None),
        (b"", None),
        (b'{"id": "no event", "type": "other"}', {"id": "no event", "type": "other"}),
    ],
)
def test_plain_json_is_its_own_payload(body: bytes, payload: Any) -> None:
    """Its id is where it stands: sent twice it is two."""
    assert said(body) == Trigger(7, "ada", "ci.done", "seq-7", payload)


@pytest.mark.parametrize("headers", [JSON, {}, {"Content-Type": JSON["content-type"]}])
def test_a_structured_event_is_known_by_its_type_or_its_version(
    headers: dict[str, str],
) -> None:
    """Its payload is its data; what else it says is not told to the model."""
    trigger = said({**EVENT, "subject": "x", "data": {"ok": True}}, headers)
    assert trigger.payload == {"ok": True}
    assert trigger.id.startswith("ce-")


def test_a_binary_event_has_its_attributes_in_headers() -> None:
    """However they are spelt, and percent-encoded."""
    for headers in (BINARY, {name.upper(): value for name, value in BINARY.items()}):
        assert said({"ok": True}, headers) == said({**EVENT, "data": {"ok": True}})
    encoded = {**BINARY, "ce-id": "caf%C3%A9%20%2217%22"}
    assert said(b"1", encoded).id == said({**EVENT, "id": 'café "17"', "data": 1}).id


def test_source_and_id_together_are_the_identity() -> None:
    """Wherever and however often it comes; neither alone is."""
    one = said(EVENT)
    again = read(Posted(9, SUBJECT, msgspec.json.encode(EVENT)))
    assert (one.id, again.position) == (again.id, 9)
    ids = [
        said({**EVENT, "source": source, "id": id_}).id
        for source, id_ in (("/ci", "17"), ("/ci", "18"), ("/cd", "17"), ("/ci1", "7"))
    ]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("media", "data", "payload"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/vnd.x+json; charset=utf-8", b"[1]", [1]),
        ("", b"17", 17),
        ("", b"", None),
        ("text/plain; charset=utf-8", "é".encode(), "é"),
        (
            "application/octet-stream",
            b"\x00\xff",
            base64.b64encode(b"\x00\xff").decode(),
        ),
    ],
)
def test_data_is_told_by_its_content_type(
    media: str, data: bytes, payload: Any
) -> None:
    """JSON as what it says, text as text, anything else as base64."""
    assert said(data, {**BINARY, "ce-datacontenttype": media}).payload == payload
    assert said(data, {**BINARY, "Content-Type": media}).payload == payload
    if media:
        packed = base64.b64encode(data).decode()
        whole = {**EVENT, "datacontenttype": media, "data_base64": packed}
        assert said(whole).payload == payload


def without(name: str, headers: dict[str, str] = BINARY) -> dict[str, str]:
    """Leave a header out."""
    return {key: value for key, value in headers.items() if key != name}


def of_type(media: str) -> dict[str, str]:
    """The header that says what a body is."""
    return {"content-type": f"application/{media}"}


DEEP = b"[" * 98 + b"]" * 98
REFUSED: list[tuple[str, Any, dict[str, str], str]] = [
    ("no JSON", b"{", {}, "not JSON"),
    ("no UTF-8", b'"\xff"', {}, "not JSON: 'utf-8'"),
    ("NaN", b"NaN", {}, "not JSON"),
    ("out of range", b"1e999", {}, "not JSON"),
    ("deep", DEEP, {}, "nested deeper than 97 levels"),
    ("very deep", b"[" * 100_000, {}, "not JSON|nested"),
    ("brackets", b"[" * 5_000 + b"]" * 5_000, {}, "not JSON|nested"),
    ("large", b'"' + b"x" * MAX_PAYLOAD + b'"', {}, "262,144 bytes, not 262,146"),
    ("megabyte", b"x" * 2**20, {}, "put the data somewhere else"),
    ("old version", {**EVENT, "specversion": "0.3"}, {}, "send version 1.0"),
    ("no id", {k: v for k, v in EVENT.items() if k != "id"}, {}, "field `id`"),
    ("empty id", {**EVENT, "id": ""}, {}, "must not be empty"),
    ("empty source", {**EVENT, "source": ""}, {}, "must not be empty"),
    ("id a number", {**EVENT, "id": 17}, {}, "Expected `str`, got `int`"),
    ("another type", {**EVENT, "type": "ci.failed"}, {}, "its subject says 'ci.done'"),
    ("a longer type", {**EVENT, "type": "ci.done.x"}, JSON, "its subject says"),
    ("a list", [EVENT], JSON, "not a CloudEvent: Expected `object`"),
    ("plain JSON as event", {"ok": True}, JSON, "not a CloudEvent"),
    (
        "a batch",
        [EVENT],
        {"content-type": "application/cloudevents-batch+json"},
        "one by",
    ),
    ("avro", b"\x00", {"content-type": "application/cloudevents+avro"}, "is not taken"),
    ("both", {**EVENT, "data": 1, "data_base64": "YQ=="}, {}, "not both"),
    ("no base64", {**EVENT, "data_base64": "a b!"}, {}, "no base64"),
    ("deep data", {**EVENT, "data": msgspec.Raw(DEEP)}, {}, "nested deeper"),
    ("no source header", b"1", without("ce-source"), "the header ce-source is missing"),
    ("only one header", b"1", {"ce-x": "1"}, "ce-specversion is missing"),
    ("old headers", b"1", {**BINARY, "ce-specversion": "0.3"}, "send version 1.0"),
    ("type header", b"1", {**BINARY, "ce-type": "other"}, "its type is 'other'"),
    ("bad escape", b"1", {**BINARY, "ce-id": "%ff"}, "no UTF-8"),
    ("no JSON data", b"{", BINARY, "not JSON"),
    ("no text", b"\xff", {**BINARY, "ce-datacontenttype": "text/plain"}, "no UTF-8"),
    (
        "grows",
        b"\x01" * 50_000,
        {**BINARY, "ce-datacontenttype": "text/plain"},
        "has 300,002 bytes as JSON",
    ),
    ("answer", b"1", {"Wake-Answer": "a.b"}, "Wake-Answer 'a.b' is not allowed"),
]


@pytest.mark.parametrize(
    ("body", "headers", "why"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_what_is_no_trigger_is_refused(
    body: Any, headers: dict[str, str], why: str
) -> None:
    """With what is wrong."""
    with pytest.raises(InvalidInput, match=why):
        said(body, headers)


@pytest.mark.parametrize(
    "subject",
    [
        "triggers.ada.*",
        "triggers.ada.ci.>",
        "triggers.ada.ci..done",
        "triggers.ada.ci.",
        "triggers.a*a.ci.done",
        "triggers.é.ci.done",
        "triggers.ada.\\xff",
        "triggers.ada." + "x" * 257,
        "triggers." + "x" * 65 + ".ci",
    ],
)
def test_a_subject_that_names_no_user_or_type_is_refused(subject: str) -> None:
    """A wildcard is no event type."""
    with pytest.raises(InvalidInput, match="is not allowed"):
        said(b"1", subject=subject)


def test_who_wants_an_answer_says_so_in_a_header() -> None:
    """Under an id of its own; however the header is spelt."""
    assert said(b"1", {"Wake-Answer": "t-1"}).answer == "t-1"
    assert said(b"1", {"wake-answer": "t-1"}).answer == "t-1"
    assert said(b"1").answer is None


@given(
    st.binary(max_size=200),
    st.dictionaries(
        st.sampled_from([*BINARY, "content-type", "ce-datacontenttype", "Wake-Answer"]),
        st.text(max_size=20) | st.sampled_from([*EVENT.values(), *JSON.values()]),
    ),
)
def test_nothing_that_is_sent_is_more_than_refused(
    body: bytes, headers: dict[str, str]
) -> None:
    """It is read, or InvalidInput says why not; and what was read can be written."""
    with suppress(InvalidInput):
        msgspec.json.decode(msgspec.json.encode(said(body, headers).payload))

"""``docs/live.md`` says what is: its messages decode, its tables are complete."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from gateway.web import asked, live, outlet, problems, sessions
from gateway.web.asked import Answer, order_of
from projections.feedcursor import Cursor
from projections.notices import KINDS, Payload, payload_of

ROOT = Path(__file__).parents[3]

TEXT = (ROOT / "docs/live.md").read_text()


def shown(what: str) -> list[Any]:
    """The JSON examples of a kind."""
    found = re.findall(rf"<!-- {what} -->\n```json\n(.*?)```", TEXT, re.DOTALL)
    return [json.loads(text) for text in found]


def table(header: str) -> list[str]:
    """The first cells of a table."""
    rows = TEXT.partition(f"\n| {header} |")[2].split("\n\n", 1)[0].split("\n")[2:]
    return [row.split("|")[1].strip().strip("`") for row in rows]


@pytest.mark.parametrize("message", shown("message"), ids=lambda m: m["type"])
def test_a_message_of_the_page_is_one(message: Any) -> None:
    """It has the fields that its type has, and no other."""
    assert list(message) == ["cursor", "type", "user", "execution", "at", "payload"]
    assert str(Cursor.parse(message["cursor"])) == message["cursor"]
    payload: type[Payload] = payload_of(message["type"])
    told = msgspec.convert(message["payload"], payload)
    assert json.loads(msgspec.json.encode(told)) == message["payload"]


def test_the_page_shows_every_kind_of_message() -> None:
    """And its table names them."""
    assert sorted(message["type"] for message in shown("message")) == sorted(KINDS)
    assert sorted(table("type")) == sorted(KINDS)


def test_the_page_shows_every_order() -> None:
    """Each is understood."""
    orders = [order_of(json.dumps(order)) for order in shown("order")]
    assert {type(order) for order in orders} == set(get_args(asked.Order))


def test_the_page_shows_every_answer() -> None:
    """With the fields that it has."""
    kinds = {kind.__struct_config__.tag: kind for kind in Answer.__subclasses__()}
    answers = {answer["type"]: answer for answer in shown("answer")}
    assert answers.keys() == kinds.keys()
    for name, answer in answers.items():
        told = msgspec.convert(answer, kinds[name])
        assert msgspec.to_builtins(told) == answer


def test_the_client_says_of_each_code_the_status_that_rest_has() -> None:
    """0 would say that nothing was answered."""
    source = (ROOT / "gateway/static/wakestream.js").read_text()
    listed = source.partition("const STATUSES = {")[2].partition("}")[0]
    told = {name: int(status) for name, status in re.findall(r"(\w+): (\d+)", listed)}
    codes = set(re.findall(r"[a-z_]+", " ".join(table("code"))))
    # It subscribes to nothing twice, a bad token ends its socket, and what passes
    # is asked for again.
    never = {"already_subscribed", "too_many_requests", "unavailable"}
    assert codes - never <= told.keys()
    rest = {name: problems.STATUSES.get(name, 500) for name in told}
    assert told == rest


def test_the_page_names_every_close_code() -> None:
    """Those of ours, and those of aiohttp for what is too long or no websocket."""
    ours = {
        live.GOING,
        sessions.NO_TEXT,
        sessions.VIOLATION,
        sessions.SLOW_CLIENT,
        sessions.NO_TOKEN,
        sessions.TOO_MANY,
    }
    told = ", ".join(table("closed with")).split(", ")
    assert {int(code) for code in told} == ours | {1002, 1007, 1009}


def test_the_bounds_of_the_page_are_those_that_hold() -> None:
    """Its numbers are ours."""
    assert f"{sessions.MOST} subscriptions" in TEXT
    assert f"{live.PER_USER} connections" in TEXT
    assert f"{asked.Refused.MANY} orders" in TEXT
    assert sessions.MAX_ORDER == 16 * 1024
    assert outlet.MOST_WAITING == 512 * 1024
    assert (sessions.HEARTBEAT, sessions.INTRODUCTION) == (20, 5)

"""The client in JavaScript, in a real Chromium and in node, against a gateway.

The scenarios are in tests/javascript, and run once for each platform, through a
network that is cut and with a gateway that is started anew in the middle.
"""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import uvloop
from nats_server import NatsServer
from pages import DOCUMENT, Stage, check

from projections.feedcursor import Cursor

pytestmark = pytest.mark.timeout(240)  # the first test waits for all scenarios

SCENARIOS = (
    "steps",
    "signals",
    "kill",
    "input",
    "retry",
    "list",
    "reading",
    "reconnect",
    "together",
    "silent",
    "cursors",
    "unsubscribe",
    "deltas",
    "expired",
    "renewed",
    "wrong",
    "missing",
    "limited",
    "abort",
    "tokenless",
    "again",
    "misuse",
    "documented",
    "guesses",  # the last: no wrong token is answered by 401 after it
)
FACTS = {
    "model_responded.v1": "step.completed",
    "tool_completed.v1": "tool.completed",
}


class Came:
    """What came of the scenarios on a platform."""

    def __init__(self, platform: str, stage: Stage) -> None:
        self.platform, self.failures = platform, stage.failures
        self._came = stage.came

    def __getitem__(self, scenario: str) -> Any:
        assert scenario in self._came, self.failures
        came = self._came[scenario]
        assert "error" not in came, came["error"]
        return came["value"]


@pytest.fixture(scope="module", params=["chromium", "node"])
def came(
    request: pytest.FixtureRequest,
    edge_server: NatsServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Came:
    """All scenarios, played once."""
    platform: str = request.param
    check(platform)
    stage = Stage(edge_server.url, tmp_path_factory.mktemp(platform))

    async def play() -> None:
        async with stage.open():
            await stage.play(platform, SCENARIOS)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as wake up
        runner.run(play())
    return Came(platform, stage)


def test_nothing_failed_unseen(came: Came) -> None:
    """No error of a page that no scenario caught, and all of them came to an end."""
    assert came["ended"]
    assert came.failures == []


def test_no_token_stands_in_an_address_and_no_socket_is_left(came: Came) -> None:
    """Addresses are logged everywhere; and closed is closed."""
    ended = came["ended"]
    assert len(ended["addresses"]) > len(SCENARIOS)
    tokens = re.compile("eyJ|not.a|guess")  # how those begin that were used
    assert not [address for address in ended["addresses"] if tokens.search(address)]
    assert ended["open"] == 0


def test_started_followed_and_every_step_seen_in_order(came: Came) -> None:
    """From the beginning to the end; what is read afterwards says the same."""
    steps = came["steps"]
    assert steps["started"]["status"] == "pending"
    assert steps["steps"] == [1, 2, 3, 4, 5, 6]
    assert steps["tools"] == [f"s{number}-1" for number in range(1, 6)]
    assert steps["statuses"] == ["pending", "running", "completed"]
    assert steps["end"]["payload"]["output"] == "Looked."
    assert steps["whose"] == [steps["started"]["id"]]
    agent = steps["agent"]
    assert (agent["status"], agent["step_count"]) == ("completed", 6)
    assert (agent["user"], agent["metadata"]) == (steps["user"], {"colour": "red"})


def test_paused_resumed_cancelled(came: Came) -> None:
    """The answers and the feed say the same; asked twice it is so already."""
    signals = came["signals"]
    assert signals["paused"]["id"] == signals["id"]
    assert signals["again"]["status"] == signals["standing"] == "paused"
    assert signals["resumed"]["status"] == "pending"
    assert signals["end"]["payload"]["status"] == "cancelled"
    assert signals["end"]["payload"]["reason"] == "seen enough"
    told = [s for s in signals["statuses"] if s != "pending"]
    assert told == ["running", "paused", "running", "cancelled"]


def test_killed_at_once(came: Came) -> None:
    """In the middle of a model call of a minute; and then it cannot be resumed."""
    kill = came["kill"]
    assert kill["killed"]["status"] == kill["end"]["payload"]["status"] == "cancelled"
    assert kill["end"]["payload"]["reason"] == "no time"
    assert (kill["late"]["status"], kill["late"]["code"]) == (409, "not_allowed_now")


def test_asked_and_answered(came: Came) -> None:
    """What does not fit is refused with the reason, and it waits on."""
    asked = came["input"]
    assert asked["asked"]["payload"]["request"]["question"] == "Which colour?"
    assert (asked["wrong"]["status"], asked["wrong"]["code"]) == (422, "invalid_input")
    assert "'green' is not one of" in asked["wrong"]["detail"]
    assert asked["taken"]["status"] == "pending"
    assert asked["end"]["payload"]["output"] == "Thanks."


def test_what_failed_is_tried_again(came: Came) -> None:
    """And fails again; what is done is not tried again."""
    retry = came["retry"]
    assert retry["retried"]["status"] == "pending"
    assert retry["statuses"] == ["pending", "running", "failed"] * 2
    assert (retry["refused"]["status"], retry["refused"]["code"]) == (
        409,
        "not_allowed_now",
    )


def test_listed_by_filter_and_page(came: Came) -> None:
    """In the order asked for; a filter that nothing fits gives nothing."""
    listed = came["list"]
    red = [listed["ids"][number] for number in (0, 2, 3)]
    assert listed["pages"] == [red[:2], red[2:]]
    assert listed["since"] == [[listed["user"], "completed"]] * 4
    assert listed["paused"] == []
    assert (listed["bad"]["status"], listed["bad"]["code"]) == (422, "invalid_input")


def test_history_and_lines_are_read_in_pieces(came: Came) -> None:
    """The lines are those that the feed told."""
    reading = came["reading"]
    versions = reading["versions"]
    assert versions == list(range(1, len(versions) + 1))
    assert reading["last"][-1] == "completed.v1"
    told = [{**m["payload"], "at": m["at"]} for m in reading["logged"]]
    assert told
    assert told == reading["lines"][: len(told)]


# ── the feed ─────────────────────────────────────────────────────────────────


def test_cut_off_and_restarted_nothing_is_missed_and_nothing_comes_twice(
    came: Came,
) -> None:
    """Three cuts and a gateway that comes back: all that was recorded, once."""
    seen = came["reconnect"]
    recorded = [
        [FACTS[kind], version, call]
        for version, events in seen["recorded"]
        for kind, call in events
        if kind in FACTS
    ]
    assert len(recorded) >= 120
    for watched in (seen["one"], seen["all"]):
        told = [[*fact] for fact in watched["facts"]]
        facts = [fact for fact in told if fact[0] != "status.changed"]
        assert [fact[:2] for fact in facts] == [fact[:2] for fact in recorded]
        assert [f[2] for f in facts if f[2]] == [r[2] for r in recorded if r[2]]
        assert len({(*fact,) for fact in told}) == len(told)
        assert [fact[1] for fact in told] == sorted(fact[1] for fact in told)
    assert seen["one"]["lines"] == seen["lines"]
    assert seen["begun"] == "status"
    assert seen["states"][0] == "open"
    assert seen["states"].count("lost") >= 4
    assert seen["states"][-2:] == ["open", "closed"]


def test_any_subscriptions_at_any_time_each_get_their_own_once(came: Came) -> None:
    """To one or all, from anywhere, while others come and go and the network breaks."""
    seen = came["together"]
    whole = list(zip(seen["whole"], map(Cursor.parse, seen["cursors"]), strict=True))
    assert len(whole) > 260
    for log in (False, True):
        assert part(seen["first"], log=log) == part(seen["whole"], log=log)
    for watch in seen["watches"]:
        assert watch["errors"] == []
        for log in (False, True):
            compare(watch, whole, log=log)


def part(messages: list[Any], *, log: bool) -> list[Any]:
    """The log lines, or all but those: each in an order of their own."""
    return [message for message in messages if (message[0] == "log") == log]


def compare(watch: Any, whole: list[tuple[Any, Cursor]], *, log: bool) -> None:
    """Show that a subscription got what it had to, from where it began."""
    after = Cursor.parse(watch["after"]) if watch["after"] else None
    wanted = [
        message
        for message, cursor in whole
        if (message[0] == "log") == log
        and watch["target"] in {"*", message[1]}
        and message[0] in (watch["kinds"] or {message[0]})
        and (after is None or beyond(cursor, after, log=log))
    ]
    got = part(watch["got"], log=log)
    if after is None and got:  # from now on: whenever that was
        wanted = wanted[wanted.index(got[0]) :]
    if not watch["active"]:
        wanted = wanted[: len(got)]
    assert got == (wanted if got or after else [])


def beyond(cursor: Cursor, after: Cursor, *, log: bool) -> bool:
    """Whether a message is new to whoever was at ``after``."""
    return cursor.line > after.line if log else cursor.place > after.place


def test_a_connection_that_is_silent_is_given_up(came: Came) -> None:
    """After it was asked for a sign of life; the next one goes on where it was."""
    silent = came["silent"]
    assert silent["why"] == "the feed: it is silent"
    assert silent["states"][:2] == ["open", "lost"]
    assert silent["states"][-2:] == ["open", "closed"]
    assert silent["steps"] == list(range(1, 32))


def test_another_client_goes_on_from_a_cursor(came: Came) -> None:
    """With what comes after it, and nothing else."""
    cursors = came["cursors"]
    assert cursors["whole"] == list(range(1, 12))
    assert cursors["rest"] == list(range(6, 12))


def test_unsubscribed_nothing_more_comes(came: Came) -> None:
    """Others on the same socket go on; when none is left, it is closed."""
    seen = came["unsubscribe"]
    assert seen["short"] == 0  # it left in the handler of the first step
    assert seen["whole"] == 21
    assert seen["kinds"] == ["step.completed"]
    assert (seen["active"], seen["stillActive"]) == (False, True)
    assert seen["opened"] == 1
    assert seen["states"] == ["open", "closed"]


def test_what_a_model_says_comes_as_it_says_it(came: Came) -> None:
    """Nothing twice after a cut; who begins now begins with how things stand."""
    deltas = came["deltas"]
    assert deltas["said"] == ["One 🦆", " two"]
    assert deltas["text"] == "One two three."
    assert deltas["told"] == [
        ["status", "awaiting_event"],
        ["status.changed", "pending"],
        ["status.changed", "running"],
        ["status.changed", "completed"],
    ]


# ── tokens and errors ────────────────────────────────────────────────────────


def test_a_token_that_expires_is_replaced_and_nothing_is_missed(came: Came) -> None:
    """The socket is closed by the gateway; the next one goes on."""
    expired = came["expired"]
    assert expired["asked"] == 2
    assert expired["steps"] == list(range(1, len(expired["steps"]) + 1))
    assert expired["errors"] == []


def test_calls_at_once_with_an_expired_token_ask_for_another_once(came: Came) -> None:
    """They all wait for the same new one."""
    assert came["renewed"] == {"asked": 2, "pages": 3}


def test_a_wrong_token_is_said_and_not_tried_again(came: Came) -> None:
    """By a call and by a subscription, which has ended."""
    wrong = came["wrong"]
    [error] = wrong["errors"]
    for refused in (wrong["call"], error):
        assert refused["name"] == "WakestreamError"
        assert (refused["status"], refused["code"]) == (401, "unauthorized")
        assert refused["detail"] == "the token is not one that is trusted here"
    assert wrong["active"] is False


def test_anothers_is_not_found_as_what_is_not_there(came: Came) -> None:
    """By all calls; other subscriptions on the same socket go on."""
    missing = came["missing"]
    for refused in missing["errors"]:
        for error in (refused["get"], refused["kill"], *refused["feed"]):
            assert (error["status"], error["code"]) == (404, "not_found")
        assert len(refused["feed"]) == 1
    assert missing["good"] == 0
    assert missing["path"]["name"] == "TypeError"


def test_what_is_beyond_a_limit_is_refused_with_when_to_ask_again(came: Came) -> None:
    """It is not asked again by itself; once there is room, it is taken."""
    limited = came["limited"]
    refused = limited["refused"]
    assert (refused["status"], refused["code"]) == (429, "limit_reached")
    assert refused["retryAfter"] > 0
    assert "1 at a time (free)" in refused["detail"]
    limits = limited["limits"]
    assert (limits["user"], limits["tier"]) == (limited["user"], "free")
    assert (limits["concurrent"]["used"], limits["concurrent"]["limit"]) == (1, 1)
    assert limits["hourly"]["used"] == 1
    assert limited["after"]["status"] == "pending"


def test_too_many_guesses_are_slowed_down(came: Came) -> None:
    """429 says when to come again; a good token is taken all the same."""
    guesses = came["guesses"]
    last = guesses["refusals"][-1]
    assert (last["status"], last["code"]) == (429, "too_many_requests")
    assert 0 < last["retryAfter"] <= 60
    assert guesses["items"] == []


def test_a_page_that_has_no_token_is_told_as_of_any_failure(came: Came) -> None:
    """By an error of ours, which has that of the page; nothing is asked."""
    told = came["tokenless"]
    assert (told["name"], told["status"]) == ("WakestreamError", 0)
    assert (told["code"], told["cause"]) == ("no_token", "logged out")


def test_whoever_gives_up_is_not_kept_waiting(came: Came) -> None:
    """By a signal before and during a call, by a time limit, and in the feed."""
    abort = came["abort"]
    assert (abort["before"], abort["during"]) == ("AbortError", "AbortError")
    assert abort["tokenless"] == "AbortError", "while the page looks for a token"
    assert (abort["late"]["status"], abort["late"]["code"]) == (0, "unreachable")
    assert abort["active"] is False


def test_a_start_whose_answer_is_lost_starts_once(came: Came) -> None:
    """It is asked again under its key; so is one that is asked for twice."""
    again = came["again"]
    assert again["twice"][0] == again["twice"][1]
    assert sorted(again["listed"]) == sorted({again["id"], again["twice"][0]})


def test_what_is_given_wrongly_is_said_at_once(came: Came) -> None:
    """As a TypeError that names it; nothing was sent."""
    said = came["misuse"]
    assert all(text.startswith("TypeError: ") for text in said), said
    assert "token and getToken" in said[0]
    assert "no query" in said[4]
    assert '"the fifth" is no cursor' in said[-1]


async def test_a_page_that_nobody_allowed_gets_nothing(
    edge_server: NatsServer, tmp_path: Path
) -> None:
    """In a browser, of the gateway's machine even: another name is another origin."""
    check("chromium")
    stage = Stage(edge_server.url, tmp_path)
    async with stage.open():
        await stage.play("stranger", ("stranger",))
    stranger = Came("stranger", stage)["stranger"]
    assert (stranger["call"]["status"], stranger["call"]["code"]) == (0, "unreachable")
    assert (stranger["feed"]["state"], stranger["feed"]["code"]) == (
        "lost",
        "unreachable",
    )


def test_the_documentation_is_true(came: Came) -> None:
    """What its examples print is what it says they print."""
    said = came["documented"]
    expected = re.findall(r"console\.log\(.*?\); // (.*)", DOCUMENT.read_text())
    assert expected
    for line in expected:
        assert any(re.fullmatch(pattern(line), one) for one in said), (line, said)


def pattern(line: str) -> str:
    """A printed line, where dots stand for anything."""
    return re.escape(line).replace("…", ".*")

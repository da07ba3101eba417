import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clerks import (
    KEY,
    LAST_TRIGGER,
    START,
    WORKER,
    Clerk,
    Forgetful,
    ask_a_person,
    begin,
    clerk,
    fail,
)
from inboxes import JetStreamBox, timed
from logs import JetStreamLog, Log
from nats_server import NatsServer

from events.catalog import Created
from events.errors import Unavailable
from events.execution import Execution
from events.faulty import FaultyJournal, Plan
from events.inbox import MemoryInbox, Order
from events.memory import MemoryJournal
from events.names import Key
from services import lifecycle as module
from services.allowed import Allowed
from services.handler import Handler
from services.lifecycle import AT_ONCE
from services.requests import NEW


@pytest.fixture
async def to(log: Log, nats_server: NatsServer) -> AsyncIterator[Clerk]:
    """A clerk with a lifecycle, in memory and on a real server."""
    if not isinstance(log, JetStreamLog):
        async with clerk(MemoryInbox(), log.journal) as one:
            yield one
        return
    async with JetStreamBox.empty(nats_server.url) as box:
        theirs, journal = await box.client(), await log.again()
        async with clerk(
            theirs, journal, to_inbox=box.inbox, to_journal=log.journal
        ) as c:
            yield c


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what cannot be done now be tried again at once."""
    monkeypatch.setattr(module, "PAUSES", (0.001,) * 100)


# ── each verb ────────────────────────────────────────────────────────────────


async def test_a_start_is_answered_with_what_it_made(to: Clerk) -> None:
    """Version and position are those of the commit, which says who asked and why."""
    answer = await to.start(command_id="c-1", metadata={"ticket": 7})
    assert (answer.accepted, answer.execution) == (True, "run-1")
    assert (answer.version, answer.status, answer.code) == (1, "pending", "")
    (recorded,) = await to.journal.read(KEY)
    assert recorded.position == answer.position
    assert (recorded.commit.by, recorded.commit.cause) == ("user:ada", "c-1")
    (created,) = recorded.commit.events
    assert isinstance(created, Created)
    assert (created.input, created.metadata) == ("Do it.", {"ticket": 7})
    assert created.agent.limits.max_steps == 10


async def test_a_start_may_wait_for_an_event(to: Clerk) -> None:
    """Behind the last trigger of that moment; sent again it is the same wait."""
    asked = {"event_type": "ci.done", "where": {"n": 7}, "within": 60}
    first, again = [
        await to.start(command_id=command, await_event=asked) for command in ("a", "b")
    ]
    assert (first.status, first.version) == ("awaiting_event", 1)
    assert (again.accepted, again.version) == (True, 1)
    (recorded,) = await to.journal.read(KEY)
    assert recorded.route == "parked"
    (created,) = recorded.commit.events
    assert isinstance(created, Created)
    awaited = created.awaited
    assert awaited
    assert (awaited.event_type, awaited.where) == ("ci.done", {"n": 7})
    assert awaited.after_trigger == LAST_TRIGGER
    assert awaited.deadline
    waited = (awaited.deadline - recorded.commit.at).total_seconds()
    assert 59 < waited <= 60
    other = await to.start(await_event={**asked, "where": {"n": 8}})
    assert (other.accepted, other.code) == (False, "already_exists")


async def test_signals_are_answered_with_the_status_they_lead_to(to: Clerk) -> None:
    """Before a runner has it they act at once, and what is so already is accepted."""
    await to.start()
    said = [
        await to.ask(verb, **body)
        for verb, body in (
            ("pause", {}),
            ("pause", {}),
            ("resume", {}),
            ("cancel", {"reason": "enough"}),
            ("cancel", {}),
            ("kill", {}),
        )
    ]
    assert all(answer.accepted for answer in said)
    assert [(a.version, a.status) for a in said] == [
        (2, "paused"),
        (2, "paused"),
        (3, "pending"),
        (4, "cancelled"),
        (4, "cancelled"),
        (4, "cancelled"),
    ]
    assert await to.story() == ["Created", "Paused", "Resumed", "Cancelled"]


async def test_input_and_retry(to: Clerk) -> None:
    """An answer reaches the request it names; what failed goes on."""
    await to.start()
    await to.decide(begin, ask_a_person)
    wrong = await to.ask("input", request="nix", answer=1)
    assert (wrong.accepted, wrong.code) == (False, "not_found")
    assert "it waits for '1-question-c1'" in wrong.message
    right = await to.ask("input", request="1-question-c1", answer={"x": [1]})
    assert (right.accepted, right.status) == (True, "pending")
    early = await to.ask("retry")
    assert (early.accepted, early.code) == (False, "not_allowed_now")
    await to.decide(begin, fail)
    again = await to.ask("retry")
    assert (again.accepted, again.status) == (True, "pending")


async def test_a_signal_while_a_runner_has_it_is_recorded_for_the_runner(
    to: Clerk,
) -> None:
    """Pause and cancel are requests then, a kill is the end."""
    await to.start()
    await to.decide(begin)
    assert (await to.ask("pause")).status == "running"
    assert (await to.ask("resume")).status == "running"
    assert (await to.ask("cancel")).status == "running"
    assert (await to.ask("kill", reason="now")).status == "cancelled"
    assert (await to.story())[2:] == [
        *("PauseRequested", "Resumed", "CancelRequested", "Cancelled"),
    ]


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "kill", "retry"])
async def test_what_is_not_there_or_over_is_refused(to: Clerk, verb: str) -> None:
    """An unknown id, another user's execution, and one that has ended."""
    bobs, over = Key("bob", "run-1"), Key("ada", "over")
    create = partial(Execution.create, created=Created(agent=WORKER, input="x"))
    await Handler(to.journal, "bob").handle(bobs, create)
    missing = await to.ask(verb)
    assert (missing.code, missing.version) == ("not_found", 0)
    assert "there is no execution ada/run-1" in missing.message
    await to.start(over)
    await to.decide(begin, fail, key=over)
    ended = await to.ask(verb, over)
    assert ended.accepted == (verb == "retry")
    assert ended.code == ("" if verb == "retry" else "not_allowed_now")
    assert await to.story(bobs) == ["Created"]


# ── starts ───────────────────────────────────────────────────────────────────


async def test_the_identical_start_is_the_same_execution(to: Clerk) -> None:
    """Asked again under another command id it is accepted as it stands by then."""
    first = await to.start(metadata={"a": 1, "b": 2})
    await to.ask("pause")
    again = await to.start(metadata={"b": 2, "a": 1})
    assert (again.accepted, again.status) == (True, "paused")
    assert again.version == first.version + 1
    assert await to.story() == ["Created", "Paused"]


@pytest.mark.parametrize(
    "other",
    [
        {"input": "Do that."},
        {"model": "other"},
        {"limits": {"max_steps": 3}},
        {"metadata": {"a": 1}},
    ],
)
@pytest.mark.parametrize("command", ["c-1", "c-2"])
async def test_another_start_on_the_same_id_is_refused(
    to: Clerk, other: dict[str, Any], command: str
) -> None:
    """Whatever differs, and also under the command id that was used before."""
    await to.start(command_id="c-1")
    answer = await to.start(command_id=command, **other)
    assert (answer.accepted, answer.code) == (False, "already_exists")
    assert "started by a different request" in answer.message
    assert await to.story() == ["Created"]


async def test_an_idempotency_key_stands_for_one_execution(to: Clerk) -> None:
    """Of its user: asked twice it is the same, another request is refused."""
    new = Key("ada", NEW)
    first = await to.start(new, idempotency_key="report 7/ü")
    again = await to.start(new, idempotency_key="report 7/ü")
    other = await to.start(new, idempotency_key="report 8")
    wrong = await to.start(new, idempotency_key="report 7/ü", input="Else.")
    assert first.execution == again.execution != other.execution
    assert first.position == again.position
    assert (wrong.accepted, wrong.code) == (False, "already_exists")
    both = await to.start(KEY, idempotency_key="k")
    assert (both.accepted, both.code) == (False, "invalid_input")


async def test_a_new_execution_is_named_by_its_command(to: Clerk) -> None:
    """Sent again under the same command id it is the same, under another a second."""
    new = Key("ada", NEW)
    first = await to.start(new, command_id="c-1")
    again = await to.start(new, command_id="c-1")
    second = await to.start(new, command_id="c-2")
    wrong = await to.start(new, command_id="c-1", input="Else.")
    assert first.execution == again.execution != second.execution
    assert (wrong.accepted, wrong.code) == (False, "already_exists")
    assert (await to.ask("pause", Key("ada", first.execution))).status == "paused"


async def test_a_start_stays_accepted_when_what_it_names_is_gone(
    tmp_path: Path,
) -> None:
    """It was started, whatever became of its workspace; a new one is refused."""
    gone = tmp_path / "ws"
    gone.mkdir()
    async with clerk(allowed=Allowed([tmp_path])) as to:
        first = await to.start(workspace=str(gone))
        gone.rmdir()
        again = await to.start(workspace=str(gone))
        assert (again.accepted, again.position) == (True, first.position)
        for other in ({"input": "Else."}, {"key": Key("ada", "other")}):
            refused = await to.start(workspace=str(gone), **other)
            assert (refused.accepted, refused.code) == (False, "invalid_input")


async def test_sixty_four_starts_at_a_time(to: Clerk) -> None:
    """Of different executions, all are created, and each answer is its own."""
    keys = [Key("ada", f"run-{n}") for n in range(64)]
    sent = {await to.send("start", key, **START): key for key in keys}
    answers = [await to.hear() for _ in keys]
    assert {a.command_id: Key("ada", a.execution) for a in answers} == sent
    assert len({a.position for a in answers}) == 64
    assert all(a.accepted and a.version == 1 for a in answers)


# ── limits ───────────────────────────────────────────────────────────────────


# ── starts at a time ─────────────────────────────────────────────────────────


def at(**ahead: float) -> str:
    """A time so far ahead, in a zone of its own."""
    zone = timezone(timedelta(hours=5, minutes=45))
    return (datetime.now(zone) + timedelta(**ahead)).isoformat()


async def test_a_start_at_a_time_is_there_and_is_no_work_yet(to: Clerk) -> None:
    """It is parked; asked for again it is the same."""
    when = at(hours=2)
    for _ in range(2):
        answer = await to.start(run_at=when)
        assert (answer.status, answer.version) == ("pending", 1)
    execution = await to.load()
    assert execution.state.scheduled_for == datetime.fromisoformat(when)
    assert not execution.state.runnable
    assert [r.route for r in await to.journal.read(KEY)] == ["parked"]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (at(days=-1), "is past, it was 20"),
        ("0001-01-01T00:00:00+14:00", "is past"),
        ("9999-12-31T23:59:59-14:00", "more than ten years away"),
        (at(days=4000), "more than ten years away"),
    ],
    ids=["yesterday", "the first day", "the last day", "far away"],
)
async def test_a_time_that_makes_no_sense_is_refused(
    to: Clerk, when: str, said: str
) -> None:
    """It says what to change, and nothing is there."""
    answer = await to.start(run_at=when)
    assert (answer.accepted, answer.code) == (False, "invalid_input")
    assert said in answer.message
    assert await to.journal.tip(KEY) == 0


async def test_a_moment_ago_is_as_good_as_now(to: Clerk) -> None:
    """Clocks differ; and who said --in 1s must not be refused."""
    assert (await to.start(run_at=at(seconds=-20))).accepted


async def stored(inbox: MemoryInbox, when: str, ago: float) -> None:
    """Let a start be in the log since a number of hours."""
    body = {**START, "command_id": "c1", "run_at": when}
    await inbox.publish(KEY, "start", msgspec.json.encode(body))
    then = datetime.now(UTC) - timedelta(hours=ago)
    inbox._orders = [*inbox._orders[:-1], replace(inbox._orders[-1], at=then)]


async def test_a_start_that_waited_for_a_service_is_not_too_late() -> None:
    """Its time is judged by when the command was stored."""
    inbox = MemoryInbox()
    await stored(inbox, at(hours=-1), ago=2)
    async with clerk(inbox, MemoryJournal()) as to:
        assert (await to.hear()).accepted


async def test_a_repeated_start_is_the_same_after_its_time() -> None:
    """What was accepted stays accepted."""
    inbox, when = MemoryInbox(), at(hours=-1)
    await stored(inbox, when, ago=2)
    await stored(inbox, when, ago=0)
    async with clerk(inbox, MemoryJournal()) as to:
        answers = [await to.hear() for _ in range(2)]
    assert [(a.accepted, a.version) for a in answers] == [(True, 1), (True, 1)]


@pytest.mark.parametrize("verb", ["cancel", "kill"])
async def test_a_start_at_a_time_can_be_ended_before_it(to: Clerk, verb: str) -> None:
    """At once, as nobody holds it; it is not due any more."""
    await to.start(run_at=at(hours=2))
    assert (await to.ask(verb)).status == "cancelled"
    assert (await to.load()).state.scheduled_for is None


async def test_a_start_at_a_time_can_be_paused_and_resumed_before_it(
    to: Clerk,
) -> None:
    """It still waits for its time."""
    await to.start(run_at=at(hours=2))
    assert (await to.ask("pause")).status == "paused"
    assert (await to.ask("resume")).status == "pending"
    assert not (await to.load()).state.runnable


async def test_limits_of_a_start_may_only_be_tighter(to: Clerk) -> None:
    """Lower ones are kept, higher ones refused; where there was none, any is lower."""
    lower = {"max_steps": 3, "max_tokens": 1_000, "max_cost": 0.5, "timeout": 1.5}
    assert (await to.start(limits=lower)).accepted
    limits = (await to.load()).state.agent.limits
    assert (limits.max_steps, limits.max_cost, limits.timeout) == (3, 0.5, 1.5)
    for name, value in (("max_steps", 11), ("max_tokens", 1_001), ("timeout", 60.1)):
        refused = await to.start(Key("ada", "other"), limits={name: value})
        assert (refused.accepted, refused.code) == (False, "invalid_input")
        assert f"limits.{name}: {value} is more than" in refused.message
    assert await to.story(Key("ada", "other")) == []


# ── once, however often ──────────────────────────────────────────────────────


async def test_a_command_sent_ten_times_takes_effect_once(to: Clerk) -> None:
    """Under one id, also when something else was asked in between."""
    await to.start()
    for _ in range(5):
        assert (await to.ask("pause", command_id="p")).accepted
    await to.ask("resume")
    for _ in range(5):
        answer = await to.ask("pause", command_id="p")
        assert (answer.accepted, answer.status) == (True, "pending")
    assert await to.story() == ["Created", "Paused", "Resumed"]


async def test_what_is_delivered_again_is_answered_as_before() -> None:
    """Also what changed nothing or was refused, in circumstances that are others."""
    inbox = Forgetful()
    async with clerk(inbox) as to:
        said = [await to.ask("resume"), await to.start()]
        said += [await to.ask(verb) for verb in ("pause", "pause", "resume")]
        assert [a.accepted for a in said] == [False, True, True, True, True]
        story = await to.story()
        for _ in range(3):
            inbox.forget()
            assert [await to.hear() for _ in said] == said
        assert await to.story() == story == ["Created", "Paused", "Resumed"]


async def test_a_settling_that_fails_is_tried_again_before_the_next(
    hurried: None,
) -> None:
    """So nothing that was handled is left behind when its process ends."""
    del hurried
    inbox = Forgetful(unconfirmed=3)
    async with clerk(inbox) as to:
        await to.send("start", command_id="s", **START)
        await to.send("pause", command_id="p")
        answers = [(await to.hear()).command_id for _ in range(5)]
        assert answers == ["s", "s", "s", "s", "p"]
        assert await to.story() == ["Created", "Paused"]
    assert [order.verb for order in inbox.settled] == ["start", "pause"]


@pytest.mark.parametrize("tries", [1, 7])
async def test_no_command_overtakes_one_that_the_log_did_not_take(
    hurried: None, tries: int
) -> None:
    """It is tried again in its place; others go on meanwhile."""
    del hurried
    inner = MemoryJournal()
    plan = Plan({"publish": [None, *["lost_request"] * tries]})
    log = FaultyJournal(inner, plan)
    log.patience = 0.0
    async with clerk(journal=log) as to:
        await to.start()
        sent = [await to.send(verb) for verb in ("pause", "resume", "cancel")]
        assert [(await to.hear()).command_id for _ in sent] == sent
        assert await to.story() == ["Created", "Paused", "Resumed", "Cancelled"]


async def test_an_end_does_not_wait_for_a_log_that_is_out_of_reach() -> None:
    """What could not be done is left to whoever is next, and what came after it."""
    inbox = Forgetful()
    log = FaultyJournal(MemoryJournal(), Plan({"publish": ["lost_request"] * 99}))
    log.patience = 0.0
    async with clerk(inbox, log) as to:
        for verb in ("start", "pause", "resume"):
            await to.send(verb, **(START if verb == "start" else {}))
        while not log.plan.struck:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0)
    assert inbox.settled == []
    assert await log.inner.read(KEY) == []


async def test_a_mistake_of_ours_is_refused_and_the_service_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One command that nobody thought of costs itself, not all that come after."""

    def break_down(_start: object, _user: str) -> None:
        raise ZeroDivisionError

    async with clerk() as to:
        with monkeypatch.context() as patch:
            patch.setattr(module.Lifecycle, "_created", break_down)
            answer = await to.start()
        assert (answer.accepted, answer.code) == (False, "error")
        assert "cannot be handled" in answer.message
        assert (await to.start()).accepted


async def test_two_services_race_for_the_same_commands(log: Log) -> None:
    """Whatever both do at a time is recorded once, and both say the same."""
    inboxes = [MemoryInbox(), MemoryInbox()]
    other = await log.again()
    async with (
        clerk(inboxes[0], log.journal) as one,
        clerk(inboxes[1], other, to_journal=log.journal) as two,
    ):
        for n in range(10):
            key = Key("ada", f"race-{n}")
            both = [
                await asyncio.gather(one.start(key), two.start(key)),
                await asyncio.gather(one.ask("pause", key), two.ask("pause", key)),
                await asyncio.gather(one.ask("resume", key), two.ask("resume", key)),
            ]
            assert [(a.accepted, b.accepted) for a, b in both] == [(True, True)] * 3
            assert both[0][0].position == both[0][1].position
            assert await one.story(key) == ["Created", "Paused", "Resumed"]


async def test_a_service_goes_on_where_another_was_lost() -> None:
    """The second has no memory of the first: the history alone tells it enough."""
    inbox, journal = Forgetful(), MemoryJournal()
    verbs = ("start", "pause", "resume", "cancel")
    async with clerk(inbox, journal) as to:
        said = [await to.start()] + [await to.ask(verb) for verb in verbs[1:]]
        story = await to.story()
    inbox.forget()
    async with clerk(inbox, journal) as to:
        again = [await to.hear() for _ in verbs]
        assert [a.command_id for a in again] == [a.command_id for a in said]
        assert all(answer.accepted for answer in again)
        assert await to.story() == story


async def test_a_killed_server_lets_nothing_take_effect_twice(
    own_log: JetStreamLog, own_server: NatsServer
) -> None:
    """It forgets what was settled last; what changed nothing then changes nothing."""
    keys = [Key("ada", f"run-{n}") for n in range(8)]
    with timed(lease=0.5, pin=0.5):
        async with (
            JetStreamBox.empty(own_server.url) as box,
            clerk(
                await box.client(),
                await own_log.again(),
                to_inbox=box.inbox,
                to_journal=own_log.journal,
            ) as to,
        ):
            for key in keys:
                await published(to, "start", key, **START)
            for n in range(30):
                for key in keys:
                    verb = ("pause", "pause", "resume")[n % 3]
                    await published(to, verb, key)
                if n % 10 == 9:
                    own_server.kill()
                    own_server.start()
            last = [await published(to, "cancel", key) for key in keys]
            while last:
                command = (await to.hear()).command_id
                last = [one for one in last if one != command]
            stories = [await to.story(key) for key in keys]
    rounds = ["Paused", "Resumed"] * 10
    assert stories == [["Created", *rounds, "Cancelled"]] * len(keys)


async def published(to: Clerk, verb: str, key: Key, **body: Any) -> str:
    """Send a command until the server took it; under one id, so that once is enough."""
    command = f"{verb}-{next(NUMBERS)}"
    while True:
        with suppress(Unavailable):
            return await to.send(verb, key, command_id=command, **body)
        await asyncio.sleep(0.02)


NUMBERS = count()


async def test_a_command_is_not_mistaken_for_one_that_is_sent_again_behind_it() -> None:
    """An old id that comes twice does not take the effect of what is new."""
    inbox = MemoryInbox()
    async with clerk(inbox) as to:
        await to.start()
        await to.ask("pause", command_id="old")
        await to.send("resume", command_id="new")
        await to.send("pause", command_id="old")
        assert [(await to.hear()).status for _ in range(2)] == ["pending", "pending"]
        assert await to.story() == ["Created", "Paused", "Resumed"]


# ── many, and odd ────────────────────────────────────────────────────────────


async def test_ten_thousand_commands_at_once() -> None:
    """All are answered, and no more than a bounded number is in hand at a time."""
    inbox = Counting()
    async with clerk(inbox) as to:
        await to.start()
        for n in range(10_000):
            verb = ("pause", "resume", "nonsense", "start")[n % 4]
            await inbox.publish(Key("ada", f"run-{n % 500}"), verb, b'{"x": 1}')
        answers = [await to.hear() for _ in range(10_000)]
        assert len({answer.command_id for answer in answers}) == 10_000
        assert not any(answer.accepted for answer in answers)
        assert inbox.most <= AT_ONCE
        assert (await to.ask("pause")).accepted


class Counting(MemoryInbox):
    """Counts how many are in hand at most."""

    most = 0

    async def take(self, limit: int, wait: float) -> list[Order]:
        """Take, and count."""
        taken = await super().take(limit, wait)
        self.most = max(self.most, len(self._open))
        return taken


async def test_a_full_service_stays_the_one_that_takes() -> None:
    """With all hands full it says so to the inbox, again and again."""
    inbox, journal = Limited(), MemoryJournal()
    gate = asyncio.Event()
    read = journal._read

    async def slow(key: Key) -> Any:
        await gate.wait()
        return await read(key)

    journal._read = slow  # type: ignore[method-assign]
    async with clerk(inbox, journal) as to:
        for n in range(AT_ONCE + 1):
            await to.send("pause", Key("ada", f"run-{n}"))
        while inbox.limits.count(0) < 2:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
        gate.set()
        assert {(await to.hear()).code for _ in range(AT_ONCE + 1)} == {"not_found"}


class Limited(MemoryInbox):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    async def take(self, limit: int, wait: float) -> list[Order]:
        """Take, and remember."""
        self.limits.append(limit)
        return await super().take(limit, wait)

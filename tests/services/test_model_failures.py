"""A provider's bad days, through the real client and a runner, in the log."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import stamina
from fake_anthropic import FakeAnthropic
from fake_openai import FakeOpenAI
from fake_provider import Answer, Call, FakeProvider, Refusal
from fake_tools import World, agent
from logs import Log
from running import KEY, finished, order, runner, start, story, until

from events.commands import Retry
from events.execution import Execution
from events.names import Key
from events.spec import AgentSpec, Limits
from events.state import State
from services.agents.loop import Means
from services.agents.models import open_provider_model
from services.agents.patience import EMPTY_TRIES, MODEL_TRIES

CHAT = "openai-chat:gpt-4o"
RESPONSES = "openai:gpt-5"
CLAUDE = "anthropic:claude-sonnet-5-5"
FAKES: dict[str, type[FakeProvider]] = {
    CHAT: FakeOpenAI,
    RESPONSES: FakeOpenAI,
    CLAUDE: FakeAnthropic,
}
DONE = Answer(text=("All is done.",), tokens=(10, 5))
EMPTY = Answer(tokens=(7, 1))

every_provider = pytest.mark.parametrize("name", FAKES)


@pytest.fixture(autouse=True)
def _without_waiting() -> Iterator[None]:
    """Retries wait for nothing, unless a test is about the waiting."""
    with stamina.set_testing(True, attempts=MODEL_TRIES):
        yield


@dataclass
class Told:
    """What the execution's log was told: kinds and messages."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(
        self, _key: Key, _level: str, kind: str, message: str, /, **_more: Any
    ) -> None:
        """Remember it."""
        self.lines.append((kind, message))
        if kind == "model.unavailable":
            self.news.set()


@dataclass
class Agency:
    """A provider, and runners whose executions ask it."""

    provider: FakeProvider
    means: Means
    model: str
    told: Told

    async def run(self, log: Log, **limits: Any) -> State:
        """Let one execution come to its end."""
        await start(log.journal, spec=self.limited(**limits))
        async with runner(log.journal, self.means):
            return await finished(log.journal)

    def limited(self, **limits: Any) -> AgentSpec:
        """The agent, with limits of its own."""
        spec = agent(limits=Limits(**limits))
        return msgspec.structs.replace(spec, model=self.model)


Hire = Callable[..., Any]


@pytest.fixture
async def hire(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hire]:
    """Have a provider that answers by a script, and what a runner needs to ask it."""
    async with AsyncExitStack() as stack:

        async def hired(
            name: str, *script: Answer | Refusal, silence: float = 60.0
        ) -> Agency:
            provider = await stack.enter_async_context(FAKES[name](*script))
            variable = name.partition(":")[0].partition("-")[0].upper()
            monkeypatch.setenv(f"{variable}_BASE_URL", provider.url)
            monkeypatch.setenv(f"{variable}_API_KEY", "sk-test-0123456789")
            told = Told()
            means = Means(
                open_model=partial(open_provider_model, silence=silence),
                tools=World().tools(),
                workspaces=tmp_path,
                tell=told,
            )
            stack.push_async_callback(means.close)
            return Agency(provider, means, name, told)

        yield hired


def refusal(status: int, said: str = "because", **headers: str) -> Refusal:
    """An HTTP error as both providers tell it."""
    body = {"error": {"type": "some_error", "message": said}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refusal(status=status, body=body, headers=named)


# ── what passes ──────────────────────────────────────────────────────────────


@every_provider
@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_trouble_that_passes_is_waited_out(
    log: Log, hire: Hire, name: str, status: int
) -> None:
    """The model is asked again; the history holds the one answer, the log the rest."""
    agency = await hire(name, refusal(status), refusal(status), DONE)
    state = await agency.run(log)
    assert (state.status, state.output) == ("completed", "All is done.")
    assert (state.steps, state.attempt) == (1, 1)
    assert len(agency.provider.requests) == 3
    told = [message for kind, message in agency.told.lines if "unavailable" in kind]
    assert told == [f"{name} is unavailable ({status}): because"] * 2
    assert await story(log.journal) == [
        ["Created"],
        ["Started"],
        ["ModelResponded", "Completed"],
    ]


async def test_the_provider_says_how_long(log: Log, hire: Hire) -> None:
    """Retry-After is honoured: not asked before, and soon after."""
    stamina.set_testing(False)
    agency = await hire(CHAT, refusal(429, Retry_After="2"), DONE)
    state = await agency.run(log)
    first, second = agency.provider.at
    assert state.status == "completed"
    assert 2.0 <= second - first < 10.0


async def test_at_once_is_not_taken_at_its_word(log: Log, hire: Hire) -> None:
    """Retry-After: 0 from a busy provider is followed by our own pause."""
    stamina.set_testing(False)
    agency = await hire(CHAT, refusal(429, Retry_After="0"), DONE)
    await agency.run(log)
    first, second = agency.provider.at
    assert second - first >= 0.5


@every_provider
async def test_a_wait_beyond_the_executions_time_ends_it_in_time(
    log: Log, hire: Hire, name: str
) -> None:
    """It ends by its timeout when that is over, not when the provider's wait is."""
    stamina.set_testing(False)
    agency = await hire(name, refusal(429, Retry_After="30"), DONE)
    began = asyncio.get_running_loop().time()
    state = await agency.run(log, timeout=2.0)
    took = asyncio.get_running_loop().time() - began
    assert (state.status, state.finish_reason) == ("completed", "timeout")
    assert took < 15
    assert len(agency.provider.requests) == 1


@every_provider
async def test_a_provider_that_is_down_and_comes_back(
    log: Log, hire: Hire, name: str
) -> None:
    """Refused connections are retried until somebody listens again."""
    agency = await hire(name, DONE)
    await agency.provider._runner.cleanup()
    stamina.set_testing(False)
    await start(log.journal, spec=agency.limited())
    async with runner(log.journal, agency.means):
        await agency.told.news.wait()
        async with FAKES[name](DONE, port=agency.provider.port) as back:
            state = await finished(log.journal)
            assert len(back.requests) == 1
    assert (state.status, state.steps) == ("completed", 1)


@every_provider
async def test_silence_is_retried(log: Log, hire: Hire, name: str) -> None:
    """A provider that stops in the middle of a sentence is asked again."""
    hanging = Answer(text=("All is",), ending="hang")
    agency = await hire(name, hanging, DONE, silence=1.5)
    state = await agency.run(log)
    assert state.output == "All is done."
    assert len(agency.provider.requests) == 2


@every_provider
@pytest.mark.parametrize("ending", ["drop", "end", "garbage", "error"])
async def test_a_stream_cut_in_the_middle_is_not_recorded_half(
    log: Log, hire: Hire, name: str, ending: Any
) -> None:
    """Neither its text nor a call of it reaches the history; it is asked for again."""
    failure = {"type": "overloaded_error", "code": "server_error", "message": "busy"}
    cut = Answer(text=("I will",), ending=ending, failure=failure)
    agency = await hire(name, cut, cut, DONE)
    state = await agency.run(log)
    assert (state.output, state.steps, state.usage.total) == ("All is done.", 1, 15)
    bodies = [r.body for r in await log.journal.read(KEY)]
    assert not any(b"I will" in body for body in bodies)


async def test_trouble_that_does_not_pass_fails_it(log: Log, hire: Hire) -> None:
    """After so many tries, with the provider's own words; a retry may help."""
    agency = await hire(CHAT, *[refusal(503, "down for the day")] * MODEL_TRIES)
    state = await agency.run(log)
    assert state.status == "failed"
    assert state.failure is not None
    assert state.failure.error == "model_unavailable"
    assert state.failure.message == f"{CHAT} is unavailable (503): down for the day"
    assert state.failure.retryable
    assert len(agency.provider.requests) == MODEL_TRIES


# ── what does not pass ───────────────────────────────────────────────────────


@every_provider
@pytest.mark.parametrize("status", [400, 401])
async def test_a_final_error_fails_it_at_once(
    log: Log, hire: Hire, name: str, status: int
) -> None:
    """With type and message, asked once, and said not to be worth a retry as it is."""
    agency = await hire(name, refusal(status, "no such key"))
    state = await agency.run(log)
    assert state.status == "failed"
    assert state.failure is not None
    assert state.failure.error == "model_refused"
    assert state.failure.message == f"{name} refused ({status}): no such key"
    assert not state.failure.retryable
    assert len(agency.provider.requests) == 1
    kind, message = agency.told.lines[-2]
    assert (kind, message) == ("failed.model_refused", state.failure.message)


async def test_a_retry_asks_for_the_step_that_failed_only(log: Log, hire: Hire) -> None:
    """Once the key is right it goes on; what was recorded before is not asked again."""
    look = Call(id="c1", name="look", arguments=("{}",))
    agency = await hire(
        CHAT, Answer(text=("Looking.",), calls=(look,)), refusal(401), DONE
    )
    await start(log.journal, spec=agency.limited())
    async with runner(log.journal, agency.means):
        failed = await finished(log.journal)
        await order(log.journal, Retry(reason="the key is right now"))
        state = await until(log.journal, lambda s: s.status == "completed")
    assert (failed.status, failed.steps) == ("failed", 1)
    assert (state.output, state.steps, state.failure) == ("All is done.", 2, None)
    roles = [[m["role"] for m in r["messages"]] for r in agency.provider.requests]
    assert roles[1] == roles[2] == [*roles[0], "assistant", "tool"]
    assert len(agency.provider.requests) == 3


# ── what the model gets wrong ────────────────────────────────────────────────


@every_provider
async def test_a_wrong_call_is_told_to_the_model(
    log: Log, hire: Hire, name: str
) -> None:
    """Arguments that are no JSON, and a tool that there is not, end nothing."""
    broken = Call(id="c1", name="look", arguments=('{"what": "x', ""))
    invented = Call(id="c2", name="teleport", arguments=("{}",))
    wrong = Call(id="c3", name="look", arguments=('{"where": 1}',))
    agency = await hire(name, Answer(calls=(broken, invented, wrong)), DONE)
    state = await agency.run(log)
    assert (state.status, state.output, state.steps) == (
        "completed",
        "All is done.",
        2,
    )
    told = str(agency.provider.last)
    assert "invalid arguments for look: Input data was truncated" in told
    assert "teleport'; there are: look, write, launch, note" in told.replace("\\", "")
    assert "Object contains unknown field `where`" in told


# ── answers with nothing in them ─────────────────────────────────────────────


@every_provider
@pytest.mark.parametrize("empty", [EMPTY, Answer(text=(" ", "\n"), tokens=(7, 1))])
async def test_an_empty_answer_is_no_answer(
    log: Log, hire: Hire, name: str, empty: Answer
) -> None:
    """It is asked for again; what the empty ones took is counted all the same."""
    agency = await hire(name, empty, empty, DONE)
    state = await agency.run(log)
    assert (state.status, state.output, state.steps) == (
        "completed",
        "All is done.",
        1,
    )
    assert (state.usage.input, state.usage.output) == (10 + 2 * 7, 5 + 2 * 1)


@every_provider
async def test_only_empty_answers_fail_it(log: Log, hire: Hire, name: str) -> None:
    """Never a completion without a word: it fails, and says what came."""
    agency = await hire(name, *[EMPTY] * EMPTY_TRIES)
    state = await agency.run(log)
    assert (state.status, state.output) == ("failed", None)
    assert state.failure is not None
    assert state.failure.error == "model_unavailable"
    assert state.failure.message == (
        f"{name} answered with neither text nor calls, and the reason 'stop' "
        f"({EMPTY_TRIES} of {EMPTY_TRIES} times)"
    )
    assert state.failure.retryable
    assert len(agency.provider.requests) == EMPTY_TRIES


async def test_an_empty_answer_after_work_does_not_end_it(log: Log, hire: Hire) -> None:
    """What was said along with a call is no last word."""
    look = Call(id="c1", name="look", arguments=("{}",))
    agency = await hire(CLAUDE, Answer(text=("Looking.",), calls=(look,)), EMPTY, DONE)
    state = await agency.run(log)
    assert (state.output, state.steps) == ("All is done.", 2)


async def test_the_price_of_empty_answers(log: Log, hire: Hire) -> None:
    """Money too: three calls were paid, and the history says so."""
    agency = await hire(CHAT, EMPTY, DONE)
    state = await agency.run(log)
    paid = (7 * 2.5 + 1 * 10) + (10 * 2.5 + 5 * 10)
    assert state.cost == pytest.approx(paid / 1e6)
    assert state.unpriced == 0


# ── much in them ─────────────────────────────────────────────────────────────


@every_provider
async def test_an_answer_of_two_megabytes(log: Log, hire: Hire, name: str) -> None:
    """It is recorded whole, also beside a call, and told again in the next step."""
    piece = "wörter " * 150
    look = Call(id="c1", name="look", arguments=("{}",))
    agency = await hire(name, Answer(text=(piece,) * 2000, calls=(look,)), DONE)
    state = await agency.run(log)
    assert (state.status, state.output, state.steps) == (
        "completed",
        "All is done.",
        2,
    )
    told = json.dumps(agency.provider.last, ensure_ascii=False)
    assert piece * 2000 in told
    loaded = Execution.fold(KEY, await log.journal.read(KEY))
    assert loaded.state.turns[0].text == piece * 2000

"""What is counted, and what counting costs."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stamina
from clerks import KEY as ADA
from clerks import clerk
from fake_model import FakeModel, says, use, wants
from fake_tools import World
from logs import MemoryLog
from numbers_of import read
from rationing import Office
from registers import MemoryBuckets
from running import finished, means, runner, start

from events.errors import (
    LimitReached,
    Misconfigured,
    ModelRefused,
    ModelUnavailable,
)
from events.messages import Reply, ToolCall, Usage
from events.names import Key
from services import metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shown() -> Iterator[Callable[[], dict[str, float]]]:
    """Count; gives a function that reads the numbers as Prometheus does."""
    with metrics.served("127.0.0.1", 0) as url:
        yield lambda: read(url)


async def test_the_numbers_of_a_run(
    shown: Callable[[], dict[str, float]], memory_log: MemoryLog, tmp_path: Path
) -> None:
    """Steps, tokens, money, tools, attempts, and what failed."""
    usage = Usage(input=100, output=10)
    look = Reply(model="m", tool_calls=(use("look"),), usage=usage, cost=0.5)
    broken = wants(use("launch", "boom"), ToolCall(id="x", name="made-up"))
    busy = [ModelUnavailable("busy"), broken]
    work = means(FakeModel(look, busy, says()), World(boom=_fail), tmp_path)
    await start(memory_log.journal)
    with stamina.set_testing(True, attempts=3):
        async with runner(memory_log.journal, work):
            await finished(memory_log.journal)
    numbers = shown()
    assert numbers["wake_steps_total"] == 3
    assert numbers['wake_tokens_total{direction="input"}'] == 101
    assert numbers['wake_tokens_total{direction="output"}'] == 11
    assert numbers["wake_cost_dollars_total"] == 0.5
    assert numbers["wake_model_seconds_count"] == 3
    assert numbers['wake_model_failures_total{code="model_unavailable"}'] == 1
    assert numbers['wake_tool_seconds_count{tool="look"}'] == 1
    assert numbers['wake_tool_failures_total{tool="launch"}'] == 1
    assert numbers['wake_attempts_total{status="completed"}'] == 1
    assert numbers["wake_executions_held"] == 0
    assert "made-up" not in str(numbers)


async def _fail(_: object) -> None:
    raise ZeroDivisionError


async def test_an_execution_is_held_while_it_is_worked_on(
    shown: Callable[[], dict[str, float]], memory_log: MemoryLog, tmp_path: Path
) -> None:
    """The gauge goes up with the work and down with its end."""
    seen: list[float] = []

    async def reply() -> Reply:
        seen.append(shown()["wake_executions_held"])
        return says()

    await start(memory_log.journal)
    work = means(FakeModel(reply), World(), tmp_path)
    async with runner(memory_log.journal, work):
        await finished(memory_log.journal)
    assert seen == [1]
    assert shown()["wake_executions_held"] == 0


async def test_a_final_error_of_a_model_is_counted(
    shown: Callable[[], dict[str, float]], memory_log: MemoryLog, tmp_path: Path
) -> None:
    """As the try that it was, and as an attempt that failed."""
    await start(memory_log.journal)
    work = means(FakeModel(ModelRefused("no")), World(), tmp_path)
    async with runner(memory_log.journal, work):
        await finished(memory_log.journal)
    numbers = shown()
    assert numbers['wake_model_failures_total{code="model_refused"}'] == 1
    assert numbers['wake_attempts_total{status="failed"}'] == 1


async def test_the_numbers_of_commands(shown: Callable[[], dict[str, float]]) -> None:
    """What was accepted by its verb; what was refused by its code alone."""
    async with clerk() as ada:
        await ada.start()
        await ada.ask("pause")
        await ada.ask("resume", Key(ADA.user, "nowhere"))
        await ada.ask("sing-a-song")
    numbers = shown()
    assert numbers['wake_commands_total{verb="start"}'] == 1
    assert numbers['wake_commands_total{verb="pause"}'] == 1
    assert numbers['wake_refusals_total{code="not_found"}'] == 1
    assert numbers['wake_refusals_total{code="invalid_input"}'] == 1
    assert "sing" not in str(numbers)


async def test_the_number_of_limits_that_are_reached(
    shown: Callable[[], dict[str, float]],
    memory_log: MemoryLog,
    memory_buckets: MemoryBuckets,
) -> None:
    """By the limit alone: nothing of who met it."""
    office = Office(memory_log.journal, memory_buckets)
    await office.start("one")
    for name in ("two", "three"):
        with pytest.raises(LimitReached):
            await office.start(name)
    numbers = shown()
    assert numbers['wake_limits_reached_total{limit="concurrent"}'] == 2
    assert "ada" not in str(numbers)


def test_a_process_tells_of_itself(shown: Callable[[], dict[str, float]]) -> None:
    """Its memory, which the memory limit is about."""
    assert shown()["process_resident_memory_bytes"] > 1024 * 1024


def test_a_port_in_use_is_said() -> None:
    """In one line that names the option."""
    with metrics.served("127.0.0.1", 0) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        with (
            pytest.raises(
                Misconfigured, match=r"metrics\.address: .* in use"
            ) as caught,
            metrics.served("127.0.0.1", port),
        ):
            raise AssertionError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_an_address_of_another_machine_is_said(host: str) -> None:
    """A host that is not ours cannot be listened on."""
    with pytest.raises(Misconfigured, match="cannot listen"), metrics.served(host, 0):
        raise AssertionError


def test_after_its_end_nothing_listens_and_nothing_counts() -> None:
    """The port is free again, and facts go nowhere."""
    with metrics.served("127.0.0.1", 0) as url:
        read(url)
    metrics.dropped("stale")
    with pytest.raises(OSError, match="refused"):
        read(url)


def test_counting_is_cheap() -> None:
    """On and off, a fact costs microseconds: nothing beside a step's 300."""

    def each(count: int = 20_000) -> float:
        began = time.thread_time()  # others' turns on the processor are no cost of ours
        for _ in range(count):
            metrics.dropped("stale")
        return (time.thread_time() - began) / count * 1e6

    off = min(each() for _ in range(3))
    with metrics.served("127.0.0.1", 0):
        on = min(each() for _ in range(3))
    assert off < 2
    assert on < 20


def test_who_does_not_ask_pays_nothing() -> None:
    """The library is not even imported by what counts."""
    code = (
        "import sys, gateway.up, services.runner, services.metrics\n"
        "print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"

"""Runner, lifecycle and journal in simulated worlds: every seed is another bad day.

What a world is made of stands in ``tests/support/simworld.py``. A seed that
fails is told with the command that replays it, the same in any process.
"""

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from planted import PLANTED
from simworld import Found, World

ROOT = Path(__file__).parents[2]
SHORT, LONG = 200, 10_000
"""How many worlds are simulated, in the short and the long form."""

BLOCK = 50
"""Worlds that one test simulates."""

MOST = 2_000
"""Worlds in which a planted bug has to show."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Share the seeds out: one that was asked for, or all of them in blocks."""
    if "seeds" not in metafunc.fixturenames:
        return
    one, number = (metafunc.config.getoption(name) for name in ("--seed", "--seeds"))
    if one is not None:
        blocks = [range(one, one + 1)]
    else:
        end = number or (LONG if metafunc.config.getoption("--long") else SHORT)
        blocks = [range(n, min(end, n + BLOCK)) for n in range(0, end, BLOCK)]
    metafunc.parametrize("seeds", blocks, ids=[f"{b[0]}-{b[-1]}" for b in blocks])


@pytest.fixture(autouse=True)
def _in_silence(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nobody reads the logs of hundreds of worlds; of one that is replayed, maybe."""
    before = logging.root.manager.disable
    if request.config.getoption("--seed") is None:
        logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


def told(found: Found) -> str:
    """What was found, how to see it again, and what had happened."""
    findings = "".join(f"  {finding}\n" for finding in found.findings)
    again = f"python -m pytest tests/faults/test_simulation.py --seed {found.seed}"
    story = "\n".join(found.story)
    world = f"in the world of seed {found.seed}:\n{findings}"
    return f"{world}replay it with: {again}\n{story}"


def test_no_bad_day_breaks_a_promise(seeds: range) -> None:
    """Processes killed and stopped at any await, messages lost, late and twice."""
    for seed in seeds:
        found = World(seed).run()
        if found.findings:
            pytest.fail(told(found), pytrace=False)


def test_the_days_are_bad() -> None:
    """What is to be survived happens: a simulation of calm days shows nothing."""
    faults, events = Counter[str](), Counter[str]()
    for seed in range(BLOCK):
        found = World(seed).run()
        faults.update(found.faults)
        for recorded in found.log:
            events.update(type(fact).__name__ for fact in recorded.commit.events)
    assert {"killed", "stopped", "departed", "outage"} <= faults.keys()
    assert faults["killed"] > BLOCK
    for kind in ("Recovered", "ToolInDoubt", "PauseRequested", "Resumed", "Cancelled"):
        assert events[kind], kind
    assert events["Started"] > 1.5 * events["Created"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for what it is: the findings say what it breaks."""
    plant(monkeypatch)
    for seed in range(MOST):
        if any(PLANTED[plant] in finding for finding in World(seed).run().findings):
            return
    pytest.fail(f"nothing was found in {MOST} worlds")


def test_a_seed_is_the_same_in_any_process() -> None:
    """Whatever the hash seed of the process: the same commits, byte for byte."""
    here = [_summary(World(seed).run()) for seed in range(4)]
    assert len(set(here)) == 4
    for hash_seed in ("1", "2"):
        assert _elsewhere(hash_seed) == here


def _summary(found: Found) -> str:
    return f"{found.digest} {found.steps} {found.seconds}"


def _elsewhere(hash_seed: str) -> list[str]:
    code = (
        "import logging; logging.disable(50)\n"
        "from simworld import World\n"
        "for seed in range(4):\n"
        "    found = World(seed).run()\n"
        "    print(found.digest, found.steps, found.seconds)\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()

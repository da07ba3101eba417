"""``wake up`` and the commands that talk to it, as the processes that users start."""

import asyncio
import json
import os
import signal
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import waking
from nats_server import NatsServer
from waking import Ended, facts, wake

from events.jetstream import JetStreamJournal
from events.names import Key
from events.wire import Wire
from gateway import address

if TYPE_CHECKING:
    import subprocess

PLAIN = """script:
list_dir {"path": "."}
say All is done.
"""
SLOW = "scripted?delay_ms=150"
NEVER = "scripted?delay_ms=60000"
LONG = "script:\n" + 'list_dir {"path": "."}\n' * 12 + "say All is done.\n"


@contextmanager
def up(
    cwd: Path, *options: str, service: str = "", config: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Serve everything, or one service; killed at the end if it still runs."""
    command = ("service", service) if service else ("up",)
    named = ("--config", str(config)) if config else ()
    process = waking.start(cwd, *command, "--json", *named, *options)
    try:
        waking.until(process, "listening")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def started(cwd: Path, prompt: str = PLAIN, *options: str) -> str:
    """Start an execution; returns its id."""
    ended = wake(cwd, "start", prompt, "--workspace", ".", *options)
    assert ended.code == 0, ended.err
    return ended.out.strip()


def watched(cwd: Path, execution: str) -> Any:
    """Watch it to its end; returns what came of it."""
    return wake(cwd, "watch", execution, "--json").last


def stopped(process: "subprocess.Popen[str]", number: int) -> Ended:
    """Tell a service to end."""
    process.send_signal(number)
    return waking.end(process)


def test_a_start_is_done_and_seen(tmp_path: Path) -> None:
    """start, watch, ls, events --follow and logs find the service by its folder."""
    with up(tmp_path):
        execution = started(tmp_path)
        result = watched(tmp_path, execution)
        assert (result["status"], result["output"]) == ("completed", "All is done.")
        (row,) = [
            json.loads(x) for x in wake(tmp_path, "ls", "--json").out.splitlines()
        ]
        assert row["id"] == execution
        followed = waking.history(tmp_path, execution, "--follow")
        assert [c["version"] for c in followed] == list(range(1, len(followed) + 1))
        told = wake(tmp_path, "logs", execution, "--json").out.splitlines()
        kinds = [json.loads(line)["event_type"] for line in told]
    assert kinds[0] == "command.accepted"
    assert kinds[-1] == "execution.completed"


def test_the_signals_of_a_person(tmp_path: Path) -> None:
    """pause, resume and cancel are answered, and are what the history says."""
    with up(tmp_path):
        execution = started(tmp_path, LONG, "--model", "scripted?delay_ms=2000")
        for verb in ("pause", "resume", "cancel"):
            ended = wake(tmp_path, verb, execution, "--json")
            assert ended.code == 0, ended.err
            assert ended.last["accepted"] is True
        assert watched(tmp_path, execution)["status"] == "cancelled"
        kinds = [f["type"] for f in facts(waking.history(tmp_path, execution))]
        refused = wake(tmp_path, "pause", execution, "--json")
    assert "resumed.v1" in kinds
    assert kinds[-1] == "cancelled.v1"
    assert refused.code == 2
    assert refused.last["error"] == "not_allowed_now"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_gives_back_and_the_next_goes_on(
    tmp_path: Path, number: int
) -> None:
    """Work in hand is given back; the next service ends it, and repeats nothing."""
    with up(tmp_path, config=hasty(tmp_path)) as process:
        execution = started(tmp_path, LONG, "--model", SLOW)
        follower = waking.start(tmp_path, "events", execution, "--follow", "--json")
        waking.until(follower, "tool_completed")
        ended = stopped(process, number)
        follower.kill()
        follower.communicate()
    assert ended.code == 0, ended.err
    assert not (tmp_path / ".wake" / "service.json").exists()
    before = waking.history(tmp_path, execution)
    with up(tmp_path):
        assert watched(tmp_path, execution)["status"] == "completed"
        after = waking.history(tmp_path, execution)
    assert after[: len(before)] == before
    steps = [f["step"] for f in facts(after) if f["type"] == "model_responded.v1"]
    assert steps == list(range(1, 14))


def hasty(where: Path) -> Path:
    """Configure a service that gives back at once what it is working on."""
    path = where / "hasty.toml"
    path.write_text("[runner]\ndrain = 0.0\n")
    return path


def test_killed_it_puts_back_at_once_what_it_held(tmp_path: Path) -> None:
    """After kill -9 the next start does not wait for a lease of an hour."""
    config = tmp_path / "slow.toml"
    config.write_text("[runner]\nlease = 3600.0\n")
    with up(tmp_path, config=config) as process:
        execution = started(tmp_path, LONG, "--model", "scripted?delay_ms=1500")
        follower = waking.start(tmp_path, "events", execution, "--follow", "--json")
        waking.until(follower, "tool_completed")
        process.kill()
        process.communicate()
        follower.kill()
        follower.communicate()
    with up(tmp_path, config=config):
        assert watched(tmp_path, execution)["status"] == "completed"
        kinds = [f["type"] for f in facts(waking.history(tmp_path, execution))]
    assert kinds.count("recovered.v1") == 1
    assert kinds.count("started.v1") == 2


def test_the_server_killed_ends_it_with_a_word(tmp_path: Path) -> None:
    """Without its nats-server the service cannot go on, and says so."""
    with up(tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        server = next(
            int(child)
            for child in children.read_text().split()
            if "nats-server" in Path(f"/proc/{child}/comm").read_text()
        )
        os.kill(server, signal.SIGKILL)
        ended = waking.end(process)
    assert ended.code == 5
    assert "nats-server" in ended.err
    assert "Traceback" not in ended.err


def test_one_service_a_folder(tmp_path: Path) -> None:
    """A second one on the same folder is refused, and the first goes on."""
    with up(tmp_path) as first:
        second = wake(tmp_path, "up")
        assert second.code == 5
        assert f"pid {first.pid}" in second.err or str(first.pid) in second.err
        assert watched(tmp_path, started(tmp_path))["status"] == "completed"


def test_the_address_is_for_the_owner_alone(tmp_path: Path) -> None:
    """The file with the password can be read by nobody else."""
    with up(tmp_path):
        mode = (tmp_path / ".wake" / "service.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_who_watches_is_told_that_the_service_ended(tmp_path: Path) -> None:
    """Its server will listen elsewhere: nothing would ever come."""
    with up(tmp_path) as process:
        execution = started(tmp_path, LONG, "--model", "scripted?delay_ms=30000")
        watcher = waking.start(tmp_path, "watch", execution)
        waking.until(watcher, "execution")
        process.kill()
        process.communicate()
        ended = waking.end(watcher)
    assert ended.code == 5
    assert "the connection to nats-server is lost" in ended.out
    assert "has ended" in ended.err
    assert "wake up" in ended.err


def test_what_a_killed_service_left_misleads_nobody(tmp_path: Path) -> None:
    """The address of a dead process is passed over: its log is read all the same."""
    with up(tmp_path) as process:
        execution = started(tmp_path)
        watched(tmp_path, execution)
        process.kill()
        process.communicate()
    assert (tmp_path / ".wake" / "service.json").exists()
    assert waking.history(tmp_path, execution)
    ended = wake(tmp_path, "pause", execution)
    assert ended.code == 2
    assert "start one with wake up" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", "x"),
        ("pause", "some-id"),
        ("resume", "some-id"),
        ("cancel", "some-id"),
        ("kill", "some-id"),
        ("retry", "some-id"),
    ],
)
def test_without_a_service_it_is_said_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """A command that nobody would hear is refused, and nothing is made."""
    ended = wake(tmp_path, *arguments)
    assert ended.code == 2
    assert "start one with wake up" in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("service", "lifecycle"), "name it with --nats"),
        (("service", "cook", "--nats", "nats://127.0.0.1:1"), "no service 'cook'"),
        (("up", "--concurrency", "0"), "from 1 to 1024"),
        (
            ("service", "runner", "--nats", "nats://127.0.0.1:1", "--lanes", "fast"),
            "--lanes: runner.lanes must be a list",
        ),
        (("up", "--config", "nowhere.toml"), "there is no such file"),
    ],
)
def test_what_cannot_be_served(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    """A wrong order to serve is one clear line, and nothing is made."""
    ended = wake(tmp_path, *arguments)
    assert ended.code in (2, 5)
    assert said in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_limit_of_the_start_ends_it_visibly(tmp_path: Path) -> None:
    """A start may lower a limit; reached, it is no normal end."""
    with up(tmp_path):
        execution = started(tmp_path, LONG, "--max-steps", "2")
        ended = wake(tmp_path, "watch", execution, "--json")
        raised = wake(tmp_path, "start", "x", "--max-steps", "1000")
    assert ended.code == 3
    assert ended.last["finish_reason"] == "max_steps"
    assert raised.code == 2
    assert "is more than this agent type's" in raised.err


def test_asked_twice_it_is_started_once(tmp_path: Path) -> None:
    """The same idempotency key is the same execution; another request is refused."""
    key = ("--idempotency-key", "once")
    with up(tmp_path):
        first, again = started(tmp_path, PLAIN, *key), started(tmp_path, PLAIN, *key)
        other = wake(tmp_path, "start", "something else", *key, "--json")
    assert first == again
    assert other.code == 2
    assert other.last["error"] == "already_exists"


def test_services_apart_on_a_server_of_their_own(tmp_path: Path) -> None:
    """Lifecycle and two runners as processes of their own serve one nats-server."""
    server = NatsServer(tmp_path)
    server.start()
    at = ("--nats", server.url)
    config = hasty(tmp_path)
    config.write_text(f'workspaces.allowed = ["{tmp_path}"]\n')
    try:
        with (
            up(tmp_path, *at, service="lifecycle", config=config),
            up(tmp_path, *at, service="runner", config=config) as first,
            up(tmp_path, *at, service="runner", config=config) as second,
        ):
            ids = [started(tmp_path, PLAIN, *at) for _ in range(4)]
            for execution in ids:
                assert wake(tmp_path, "watch", execution, *at).code == 0
            codes = [stopped(runner, signal.SIGTERM).code for runner in (first, second)]
    finally:
        server.stop()
    assert codes == [0, 0]
    assert not (tmp_path / ".wake").exists() or not list(tmp_path.glob(".wake/*.json"))


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    """The first waits for what is in hand; the second has it given back at once."""
    config = tmp_path / "patient.toml"
    config.write_text("[runner]\ndrain = 3600.0\n")
    with up(tmp_path, config=config) as process:
        execution = started(tmp_path, PLAIN, "--model", NEVER)
        follower = waking.start(tmp_path, "events", execution, "--follow", "--json")
        waking.until(follower, "started.v1")
        process.send_signal(signal.SIGTERM)
        ended = stopped(process, signal.SIGINT)
        follower.kill()
        follower.communicate()
    assert ended.code == 0, ended.err
    with up(tmp_path):
        follower = waking.start(tmp_path, "events", execution, "--follow", "--json")
        waking.until(follower, '"attempt":2')
        follower.kill()
        follower.communicate()


def test_no_command_is_lost_with_the_service(tmp_path: Path) -> None:
    """Ended while hundreds come in: each start that was stored is done once."""
    count = 300
    config = tmp_path / "quiet.toml"  # nobody reads what it logs meanwhile
    config.write_text('logs.level = "error"\n')
    with up(tmp_path, config=config) as process:
        asyncio.run(flood(tmp_path, count))
        ended = stopped(process, signal.SIGTERM)
    assert ended.code == 0, ended.err
    with up(tmp_path, config=config):
        stories = asyncio.run(all_ended(tmp_path, count))
    assert len(stories) == count
    for kinds in stories.values():
        assert kinds.count("Created") == kinds.count("Completed") == 1


async def connected(cwd: Path) -> Wire:
    """Connect as other programs on this machine do."""
    login = address.read(cwd / ".wake")
    assert login is not None
    return await Wire.connect(login.url, user=login.user, password=login.password)


async def flood(cwd: Path, count: int) -> None:
    """Send starts without waiting for anything but that they are stored."""
    wire = await connected(cwd)
    for n in range(count):
        body = {"agent_type": "explorer", "input": "script:\nsay Done.\n"}
        await wire.send(f"commands.ada.run-{n}.start", json.dumps(body).encode())
    while True:
        info = json.loads(await wire.api("STREAM.INFO.COMMANDS"))
        if info["state"]["messages"] == count:
            break
    await wire.close()


async def all_ended(cwd: Path, count: int) -> dict[Key, list[str]]:
    """Wait for the end of so many; returns what happened in each."""
    wire = await connected(cwd)
    stories: defaultdict[Key, list[str]] = defaultdict(list)
    async with aclosing(JetStreamJournal(wire).follow()) as runs:
        async for run in runs:
            for recorded in run:
                facts = [type(fact).__name__ for fact in recorded.commit.events]
                stories[recorded.key] += facts
            if sum("Completed" in story for story in stories.values()) == count:
                break
    await wire.close()
    return stories


def test_the_read_model_follows_and_can_be_rebuilt(tmp_path: Path) -> None:
    """Verify and rebuild tell the service, or do it themselves where none is."""
    with up(tmp_path) as process:
        watched(tmp_path, started(tmp_path))
        report = wake(tmp_path, "verify", "--read-model", "--json")
        assert report.code == 0, report.err
        assert report.last["wrong"] == 0
        assert report.last["executions"] == 1
        rebuilt = wake(tmp_path, "rebuild", "--json")
        assert rebuilt.code == 0, rebuilt.err
        assert rebuilt.last["messages"] >= report.last["position"]
        assert wake(tmp_path, "verify", "--read-model").code == 0
        assert stopped(process, signal.SIGTERM).code == 0
    model = tmp_path / ".wake" / "readmodel.duckdb"
    assert stat.S_IMODE(model.stat().st_mode) == 0o600
    said = wake(tmp_path, "verify", "--read-model")
    assert said.code == 0
    assert said.out.endswith("all as they must be\n")
    model.write_bytes(b"damaged")
    said = wake(tmp_path, "verify", "--read-model")
    assert said.code == 5
    assert "wake rebuild" in said.err
    assert wake(tmp_path, "rebuild").code == 0
    assert wake(tmp_path, "verify", "--read-model").code == 0


def test_a_damaged_read_model_stops_nothing_else(tmp_path: Path) -> None:
    """The service says so and works on; an order rebuilds the model under it."""
    with up(tmp_path) as process:
        stopped(process, signal.SIGTERM)
    (tmp_path / ".wake" / "readmodel.duckdb").write_bytes(b"damaged" * 1_000)
    with up(tmp_path) as process:
        result = watched(tmp_path, started(tmp_path))
        assert result["status"] == "completed"
        rebuilt = wake(tmp_path, "rebuild", "--json")
        assert rebuilt.code == 0, rebuilt.err
        assert wake(tmp_path, "verify", "--read-model").code == 0
        ended = stopped(process, signal.SIGTERM)
    assert "nothing can be asked of the read model" in ended.err


def test_verify_without_anything_to_verify(tmp_path: Path) -> None:
    """What is to be verified has to be said, and be there."""
    assert wake(tmp_path, "verify").code == 2
    assert wake(tmp_path, "verify", "--read-model").code == 2

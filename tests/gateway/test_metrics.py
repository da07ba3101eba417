"""The numbers of services, as processes on this machine show them."""

import json
import re
from pathlib import Path

import pytest
import waking
from nats_server import NatsServer
from numbers_of import read
from waking import wake

from gateway.settings import Listen

SCRIPT = 'script:\nlist_dir {"path": "."}\nsay Done.\n'


def up(cwd: Path, *options: str, **environment: str) -> "waking.subprocess.Popen[str]":
    """Start services whose metrics are on a free port."""
    variables = {"WAKE_METRICS_ADDRESS": "0", **environment}
    return waking.start(cwd, *options, stdin=None, **variables)


def address_of(process: "waking.subprocess.Popen[str]") -> str:
    """Where it says that its numbers are."""
    line = waking.until(process, "metrics on", "stderr").splitlines()[-1]
    found = re.search(r"http://127\.0\.0\.1:\d+/metrics", json.loads(line)["event"])
    assert found, line
    return found[0]


def test_a_service_shows_numbers_that_move(tmp_path: Path) -> None:
    """Before and after an execution, read over HTTP from a real process."""
    process = up(tmp_path, "up", "--json")
    try:
        url = address_of(process)
        waking.until(process, "listening")
        before = read(url)
        execution = wake(tmp_path, "start", SCRIPT, "--workspace", ".").out.strip()
        assert wake(tmp_path, "watch", execution).code == 0
        wake(tmp_path, "pause", execution)
        after = read(url)
    finally:
        process.terminate()
        ended = waking.end(process)
    assert ended.code == 0, ended.err
    assert before["wake_steps_total"] == 0
    assert after["wake_steps_total"] == 2
    assert after['wake_commands_total{verb="start"}'] == 1
    assert after['wake_refusals_total{code="not_allowed_now"}'] == 1
    assert after['wake_tool_seconds_count{tool="list_dir"}'] == 1
    assert after['wake_attempts_total{status="completed"}'] == 1
    assert after["process_cpu_seconds_total"] > before["process_cpu_seconds_total"]


def test_a_port_in_use_is_one_line(tmp_path: Path, own_server: NatsServer) -> None:
    """The second process on the same address ends with 5, before it serves."""
    at = ("--nats", own_server.url)
    first = up(tmp_path, "service", "lifecycle", "--json", *at)
    try:
        port = address_of(first).rpartition(":")[2].partition("/")[0]
        command = ("service", "runner", *at)
        second = wake(tmp_path, *command, WAKE_METRICS_ADDRESS=port)
    finally:
        first.terminate()
        waking.end(first)
    assert second.code == 5
    (line,) = [x for x in second.err.splitlines() if x.startswith("wake: ")]
    assert line.startswith(f"wake: metrics.address: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in second.err


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9464", "127.0.0.1", 9464),
        ("0", "127.0.0.1", 0),
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("0.0.0.0:1", "0.0.0.0", 1),  # noqa: S104 - told so
        ("localhost:65535", "localhost", 65535),
        ("[::1]:9464", "::1", 9464),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    """Loopback unless another host is written."""
    address = Listen(text)
    assert (address.host, address.port, str(address)) == (host, port, text)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":9464", "host", "host:", "host:x", "host:99999", "host:-1", "::1:9464"),
        *("http://host:1", "host:1/metrics", "host:1 ", "[::1]", "[x]:1", "a b:1"),
        *("h:" + "9" * 5000, "h" * 5000, "host:\u0661"),
    ],
)
def test_what_is_no_address(tmp_path: Path, text: str) -> None:
    """It is refused with the right form."""
    with pytest.raises(ValueError, match=r"^$"):
        Listen(text)
    if text:
        ended = wake(tmp_path, "config", WAKE_METRICS_ADDRESS=text)
        assert ended.code == 5
        assert "metrics.address must be an address as HOST:PORT" in ended.err

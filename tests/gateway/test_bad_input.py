import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats_server import NatsServer
from waking import Terminal, start, until, wake

from gateway.cli import main
from services.folder import DataFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a workspace in it and no settings around."""
    (tmp_path / "ws").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "WAKE_NATS", "WAKE_USER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Refusal:
    """How a command was refused: code, the line on stderr, the object on stdout."""

    def __init__(self, code: Any, out: str, err: str) -> None:
        self.code, self.line = code, err
        self.object = json.loads(out.splitlines()[-1])


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., Refusal]:
    """Run a command in this process that must be refused in one line."""

    def run(*arguments: str) -> Refusal:
        with pytest.raises(SystemExit) as ended:
            main([arguments[0], "--json", *arguments[1:]])
        out, err = capsys.readouterr()
        refusal = Refusal(ended.value.code, out, err)
        assert err.startswith("wake: ")
        assert err.count("\n") == 1
        assert err.strip().isprintable()
        assert refusal.object["message"] == err.strip().removeprefix("wake: ")
        return refusal

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("",), 2, "the prompt is empty: say what"),
        ((" \n\t",), 2, "the prompt is empty: say what"),
        ((), 2, "say what the agent is to do"),
        (("bad \udcff bytes",), 2, "the prompt is not UTF-8"),
        (("x" * 300_000,), 2, "put it into a file of the workspace"),
        (("ü" * 140_000,), 2, "280,000 bytes, at most 262,144"),
        (("Hi", "--agent", "explorr"), 2, "did you mean 'explorer'?"),
        (("Hi", "--agent", "\x1b[2J"), 2, "no agent type"),
        (("Hi", "--model", "gpt-5"), 2, "write openai:gpt-5"),
        (("Hi", "--model", "scripted?delay_ms=x"), 2, "write scripted"),
        (("Hi", "--model", "openai:gpt-5"), 5, "set OPENAI_API_KEY"),
        (("Hi", "--model", "cassette:nix.jsonl"), 5, "nix.jsonl"),
        (("Hi", "--user", "a.b"), 2, "user 'a.b' is not allowed"),
        (("Hi", "--user", "*"), 2, "user '*' is not allowed"),
        (("Hi", "--user", ">"), 2, "user '>' is not allowed"),
        (("Hi", "--user", ""), 2, "user '' is not allowed"),
        (("Hi", "--user", "x" * 65), 2, "1 to 64 of"),
        (("Hi", "--workspace", "nix"), 2, "create it first, or name another"),
        (("Hi", "--workspace", "/etc/passwd"), 2, "is not a directory"),
        (("Hi", "--resume", "e1"), 2, "leave out prompt"),
        (
            ("--resume", "e1", "--agent", "coder", "--model", "m", "--workspace", "ws"),
            2,
            "leave out --agent and --model and --workspace",
        ),
        (("--resume", "e1"), 2, "there is no wakestream data in .wake"),
        (("--resume", "a.*"), 2, "id 'a.*' is not allowed"),
        (("--resume", ""), 2, "id '' is not allowed"),
        (("--resume", "e1", "--user", "a b"), 2, "user 'a b' is not allowed"),
        (("Hi", "--nats", "nonsense"), 2, "is no NATS address"),
        (("Hi", "--nats", "http://localhost:4222"), 2, "is no NATS address"),
        (("Hi", "--nats", "nats://h:99999"), 2, "is no NATS address"),
        (("Hi", "--nats", ""), 2, "is no NATS address"),
    ],
)
def test_a_wrong_order_is_refused_before_anything_exists(
    place: Path,
    refused: Callable[..., Refusal],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    """One line says what to change; there is not even a data folder afterwards."""
    refusal = refused("run", *arguments)
    assert refusal.code == code
    assert said in refusal.line
    assert {path.name for path in place.iterdir()} == {"ws"}


@pytest.mark.parametrize("command", ["show", "events"])
@pytest.mark.parametrize("name", ["a.b", "*", ">", "", "x" * 65, "a b", "\x1b[2J"])
def test_an_id_that_is_none_is_refused(
    place: Path, refused: Callable[..., Refusal], command: str, name: str
) -> None:
    """What could be a wildcard never becomes part of a subject."""
    refusal = refused(command, name)
    assert refusal.code == 2
    assert "is not allowed: use 1 to 64 of" in refusal.line
    assert not (place / ".wake").exists()


@pytest.mark.parametrize("command", ["show", "events"])
def test_reading_makes_nothing(
    place: Path, refused: Callable[..., Refusal], command: str
) -> None:
    """Where there is no data folder, a reader says so and makes none."""
    refusal = refused(command, "e1")
    assert refusal.code == 2
    assert "start here with wake run" in refusal.line
    assert not (place / ".wake").exists()


def test_an_unknown_execution(place: Path, refused: Callable[..., Refusal]) -> None:
    """An id that nobody has is refused by all who ask, and nothing is appended."""
    with DataFolder.open(place / ".wake"):
        pass
    for arguments in (("run", "--resume", "e1"), ("show", "e1"), ("events", "e1")):
        refusal = refused(*arguments)
        assert refusal.code == 2
        assert refusal.object["error"] == "not_found"
        assert "there is no execution 'e1' here" in refusal.line
    assert wake(place, "ls", "--json").out == ""


def test_a_data_folder_in_use(
    place: Path, refused: Callable[..., Refusal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a run has the folder, others are told who has it."""
    monkeypatch.setattr("gateway.running.PATIENCE", 0.0)
    with DataFolder.open(place / ".wake"):
        for arguments in (("run", "Hi"), ("ls",), ("show", "e1"), ("events", "e1")):
            refusal = refused(*arguments)
            assert refusal.code == 5
            assert refusal.object["error"] == "folder_in_use"
            assert f"is in use by process {os.getpid()}" in refusal.line
    assert wake(place, "ls", "--json").out == ""


def test_a_run_waits_for_the_folder_and_says_so(place: Path) -> None:
    """A folder that is let go of in time is waited for, with a word."""
    with DataFolder.open(place / ".wake"):
        process = start(place, "run", "script:\nsay Hi.", "--workspace", "ws")
        said = until(process, "waiting for up to 10 s")
    assert f"is in use by process {os.getpid()}" in said
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "\nHi.\n" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": 99, "wakestream": "9.9"}', "pip install -U wakestream"),
        ("nonsense", "is damaged"),
    ],
)
def test_a_data_folder_of_another_version(
    place: Path, refused: Callable[..., Refusal], content: str, said: str
) -> None:
    """A newer layout is left alone: upgrade, or use another folder."""
    (place / ".wake").mkdir()
    (place / ".wake" / "format.json").write_text(content)
    for arguments in (("run", "Hi"), ("ls",)):
        refusal = refused(*arguments)
        assert refusal.code == 5
        assert said in refusal.line
    assert not (place / ".wake" / "store").exists()


def test_a_folder_of_something_else(
    place: Path, refused: Callable[..., Refusal]
) -> None:
    """A folder with other files in it is no data folder."""
    (place / "ws" / "notes.txt").write_text("mine")
    for arguments in (("run", "Hi"), ("ls",)):
        refusal = refused(*arguments, "--data", "ws")
        assert refusal.code == 5
        assert "name an empty or a new folder" in refusal.line
    assert {path.name for path in (place / "ws").iterdir()} == {"notes.txt"}


# ── other people's servers ───────────────────────────────────────────────────


@pytest.fixture
def server(place: Path) -> Iterator[Callable[..., NatsServer]]:
    """Start nats-servers that others own; they end with the test."""
    started: list[NatsServer] = []

    def start_one(config: str = "", *, jetstream: bool = True) -> NatsServer:
        folder = place / "server"
        folder.mkdir()
        server = NatsServer(folder, config, jetstream=jetstream)
        started.append(server)
        server.start()
        return server

    yield start_one
    for server in started:
        server.kill()


@pytest.mark.parametrize("arguments", [("run", "Hi"), ("show", "e1")])
def test_a_server_that_is_not_there(
    place: Path, refused: Callable[..., Refusal], arguments: tuple[str, ...]
) -> None:
    """A closed port is one line with the address, and never with the password."""
    before = {path.name for path in place.iterdir()}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refusal = refused(*arguments, "--nats", f"nats://u:secret@127.0.0.1:{port}")
    assert refusal.code == 5
    assert f"no nats-server answers at nats://127.0.0.1:{port}" in refusal.line
    assert "secret" not in refusal.line
    assert {path.name for path in place.iterdir()} == before


def test_a_server_without_jetstream(
    server: Callable[..., NatsServer], refused: Callable[..., Refusal]
) -> None:
    """A nats-server without JetStream cannot hold the log, and says what to enable."""
    url = server(jetstream=False).url
    for arguments in (("run", "Hi"), ("ls",)):
        refusal = refused(*arguments, "--nats", url)
        assert refusal.code == 5
        assert refusal.object["error"] == "server_unsuitable"
        assert "start it with jetstream enabled" in refusal.line


def test_a_wrong_password_is_not_told(
    server: Callable[..., NatsServer], refused: Callable[..., Refusal]
) -> None:
    """A server that lets nobody in is said so, without what was tried."""
    url = server("authorization { user: u, password: right }").url
    refusal = refused("ls", "--nats", url.replace("nats://", "nats://u:mistaken@"))
    assert refusal.code == 5
    assert "check user and password" in refusal.line
    assert "mistaken" not in refusal.line


def test_a_run_on_another_server(
    place: Path, server: Callable[..., NatsServer]
) -> None:
    """With --nats there is no data folder, the history is there, no queue stays."""
    url = server().url
    ended = wake(place, "run", "Look.", "--workspace", "ws", "--json", WAKE_NATS=url)
    assert ended.code == 0, ended.err
    listed = wake(place, "ls", "--json", "--nats", url)
    assert listed.last["id"] == ended.last["id"]
    assert wake(place, "run", "--resume", "nobody", "--nats", url).code == 2
    streams = place / "server" / "store" / "jetstream" / "$G" / "streams"
    assert list((streams / "EVENTS" / "obs").glob("runner-*")) == []
    assert not (place / ".wake").exists()


def test_a_lost_connection_is_waited_for(
    place: Path, server: Callable[..., NatsServer]
) -> None:
    """A server that goes and comes back is told of, and the run completes."""
    nats = server()
    script = "script:\n" + 'list_dir {"path": "."}\n' * 6 + "say Done."
    process = start(
        *(place, "run", script, "--workspace", "ws", "--nats", nats.url),
        *("--model", "scripted?delay_ms=600"),
    )
    until(process, "step 2:")
    nats.kill()
    until(process, "the connection to nats-server is lost; waiting")
    nats.start()
    until(process, "connected to nats-server again")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "\nDone.\n" in out


def test_a_lost_server_is_left_by_the_third_ctrl_c(
    place: Path, server: Callable[..., NatsServer]
) -> None:
    """When nothing can be told to anybody any more, Ctrl-C still ends it."""
    nats = server()
    with Terminal(
        *(place, "run", "Look.", "--workspace", "ws", "--nats", nats.url),
        *("--model", "scripted?delay_ms=60000"),
    ) as terminal:
        terminal.until("asking the model")
        nats.kill()
        terminal.until("is lost; waiting")
        for said in ("again to kill it", "again to leave it", "leaving the execution"):
            terminal.press("\x03")
            terminal.until(said)
        assert terminal.end() == 130
    assert "go on with: wake run --resume" in terminal.text

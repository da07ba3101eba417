"""``wake up`` as a process of its own, for as long as a block runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import documented
import pytest
import waking
from nats_server import NatsServer

OPERATOR, ALICE, JANITOR = "w-operator", "a-secret", "j-secret"
GATEWAY = "g-secret"
"""Passwords; a server's configuration takes them from its environment."""


class Login(NamedTuple):
    """Where a server is, and as whom to talk to it."""

    url: str
    user: str
    password: str

    @property
    def operator(self) -> "Login":
        """The user of the service."""
        return Login(self.url, "wake", OPERATOR)

    @property
    def gateway(self) -> "Login":
        """The user that vouches for others."""
        return Login(self.url, "gateway", GATEWAY)

    @property
    def janitor(self) -> "Login":
        """The user that may delete."""
        return Login(self.url, "janitor", JANITOR)


@contextmanager
def serving(cwd: Path, *options: str, **environment: str) -> Iterator[Any]:
    """Serve; gives the JSON object that is printed once commands are taken."""
    process = waking.start(cwd, "up", "--json", *options, stdin=None, **environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate(timeout=waking.LIMIT)[1]
        yield json.loads(line)
    finally:
        process.terminate()
        ended = waking.end(process)
    assert ended.code == 0, ended.err


@contextmanager
def embedded(folder: Path) -> Iterator[Login]:
    """Serve on an embedded server; gives its only user."""
    with serving(folder, "--data", "data"):
        found = json.loads((folder / "data" / "service.json").read_bytes())
        yield Login(found["url"], found["user"], found["password"])


@contextmanager
def fenced(folder: Path) -> Iterator[Login]:
    """Serve on a server configured as docs/subjects.md says; gives the user alice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAKE_NATS_PASSWORD", OPERATOR)
        patch.setenv("ALICE_PASSWORD", ALICE)
        patch.setenv("WAKE_NATS_JANITOR_PASSWORD", JANITOR)
        patch.setenv("WAKE_NATS_GATEWAY_PASSWORD", GATEWAY)
        server = NatsServer(folder, documented.config())
        server.start()
    try:
        with serving(folder, "--nats", server.url, WAKE_NATS_PASSWORD=OPERATOR):
            yield Login(server.url, "alice", ALICE)
    finally:
        server.stop()
